"""Projections, whose weights are prepared once for inference where that is faster.

On CPUs oneDNN computes with weights in blocks that suit the processor; ``F.linear`` arranges them anew at every call.
With a prepared weight the activation, or the gate, is applied before the result leaves the processor's caches.
Everywhere else, and for training, a projection is an ordinary ``nn.Linear``.
"""

from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN: Any = torch.ops.mkldnn


@cache
def can_prepare(device_type: str, dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, and this processor the instructions, for that dtype."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(_ONEDNN, operator) for operator in operators):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(_ONEDNN._is_mkldnn_bf16_supported()))


def prepare(module: nn.Module) -> None:
    """Prepare every projection of a module for inference.

    A prepared projection has no parameter ``weight`` any more, so that there is one copy of it; it can be neither
    trained nor saved. What this machine cannot prepare stays as it is.
    """
    for child in module.modules():
        if isinstance(child, Linear) and can_prepare(child.weight.device.type, child.weight.dtype):
            child.prepare()


class Linear(nn.Linear):
    """[rows, in] -> [rows, out], in the dtype of the weight."""

    _prepared: tuple[Tensor, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._prepared[0].dtype if self._prepared else self.weight.dtype

    def prepare(self) -> None:
        """Arrange the weight for the processor and let the ordinary one go."""
        self._prepared = tuple(_ONEDNN._reorder_linear_weight(part) for part in self._parts(self.weight))
        self.register_parameter("weight", None)

    def _parts(self, parameter: Tensor) -> tuple[Tensor, ...]:
        return (parameter,)

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        if self._prepared:
            return _prepared_linear(rows, self._prepared[0], self.bias, "none")
        return F.linear(rows, self.weight, self.bias)


class GELULinear(Linear):
    """A projection with the exact (erf) GELU on its result."""

    def forward(self, rows: Tensor) -> Tensor:  # noqa: D102
        if self._prepared:
            return _prepared_linear(rows, self._prepared[0], self.bias, "gelu")
        return F.gelu(F.linear(rows, self.weight, self.bias))


class GEGLULinear(Linear):
    """A projection to two halves, one of which is activated and multiplies the other.

    Args:
        hidden: width of the rows.
        intermediate: width of a half and of the result.
        bias: whether there is one.
        activated: which half of the weight's rows; mGTE activates the second, ModernBERT the first.

    Source: Shazeer 2020, arXiv 2002.05202, equation 6.
    """

    def __init__(self, hidden: int, intermediate: int, *, bias: bool, activated: Literal["first", "second"]) -> None:
        super().__init__(hidden, 2 * intermediate, bias=bias)
        self.activated = activated

    def _parts(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """The activated half and the other."""
        first, second = parameter.chunk(2)
        return (first, second) if self.activated == "first" else (second, first)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, intermediate]."""
        if self._prepared:
            biases = (None, None) if self.bias is None else self._parts(self.bias)
            activated = _prepared_linear(rows, self._prepared[0], biases[0], "gelu")
            result: Tensor = _ONEDNN._linear_pointwise.binary(rows, activated, self._prepared[1], biases[1], "mul")
            return result
        first, second = F.linear(rows, self.weight, self.bias).chunk(2, dim=-1)
        return F.gelu(first) * second if self.activated == "first" else first * F.gelu(second)


def _prepared_linear(rows: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    result: Tensor = _ONEDNN._linear_pointwise(rows, weight, bias, activation, [], "none")
    return result
