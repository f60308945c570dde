"""What every token goes through on its own after attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.config import Gate


class FeedForward(nn.Module):
    """Two projections with the exact (erf) GELU between them, plain or gated.

    Args:
        hidden: width of the residual stream.
        intermediate: width between the projections.
        gate: which half of the first projection is activated and multiplies the other: mGTE stores (up, gate) and
            activates the second, ModernBERT the first. "none": all of it is activated and nothing multiplied.
        up_bias: whether the first projection has a bias.
        down_bias: whether the second has.

    Source: Shazeer 2020, arXiv 2002.05202, equation 6 (GEGLU).
    """

    def __init__(
        self, *, hidden: int, intermediate: int, gate: Gate = "none", up_bias: bool = True, down_bias: bool = True
    ) -> None:
        super().__init__()
        self.gate = gate
        self.up = nn.Linear(hidden, intermediate * (1 if gate == "none" else 2), bias=up_bias)
        self.down = nn.Linear(intermediate, hidden, bias=down_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        inner = self.up(hidden)
        if self.gate == "none":
            return self.down(F.gelu(inner))
        first, second = inner.chunk(2, dim=-1)  # each [tokens, intermediate]
        return self.down(F.gelu(first) * second if self.gate == "first" else first * F.gelu(second))
