"""What every token goes through on its own after attention."""

from torch import Tensor, nn

from mgte_rag.config import Gate
from mgte_rag.nn.linear import GEGLULinear, GELULinear, Linear


class FeedForward(nn.Module):
    """Two projections with the exact (erf) GELU between them, plain or gated.

    Args:
        hidden: width of the residual stream.
        intermediate: width between the projections.
        gate: which half of the first projection is activated and multiplies the other: mGTE stores (up, gate) and
            activates the second, ModernBERT the first. "none": all of it is activated and nothing multiplied.
        up_bias: whether the first projection has a bias.
        down_bias: whether the second has.
    """

    def __init__(
        self, *, hidden: int, intermediate: int, gate: Gate = "none", up_bias: bool = True, down_bias: bool = True
    ) -> None:
        super().__init__()
        self.up: Linear = (
            GELULinear(hidden, intermediate, bias=up_bias)
            if gate == "none"
            else GEGLULinear(hidden, intermediate, bias=up_bias, activated=gate)
        )
        self.down = Linear(intermediate, hidden, bias=down_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        return self.down(self.up(hidden))
