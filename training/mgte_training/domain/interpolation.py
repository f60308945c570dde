"""Between two models of one architecture: the remedy for forgetting.

Source: LM-Cocktail, Xiao et al. 2023, arXiv 2311.13534.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from mgte_rag.errors import CheckpointError

T = TypeVar("T")

SHARES = tuple(round(1 - step / 10, 1) for step in range(10))
"""Shares of the tuned weights, the largest first: 1.0 to 0.1."""


def interpolated(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Each weight on the line from one model to the other: base + share * (tuned - base), in fp32.

    Args:
        base: weights by name, of any float dtype; tables of whole numbers, which must be the same, are handed on.
        tuned: likewise, the same names and shapes.
        share: 0 is exactly the base, 1 exactly the tuned model.

    Raises:
        CheckpointError: the models have other weights.
    """
    names = base.keys() ^ tuned.keys() or [name for name in base if base[name].shape != tuned[name].shape]
    if names:
        raise CheckpointError(f"the models differ in {min(names)!r}; only models of one architecture can be mixed")
    for name, tensor in base.items():
        if not tensor.is_floating_point() and not torch.equal(tensor, tuned[name]):
            raise CheckpointError(f"the models have other numbers in {name!r}, which nothing lies between")
    return {
        name: torch.lerp(tensor.float(), tuned[name].float(), share) if tensor.is_floating_point() else tensor
        for name, tensor in base.items()
    }


def largest_share(
    measured: Callable[[float], T], is_allowed: Callable[[T], bool], shares: Iterable[float] = SHARES
) -> tuple[float, dict[float, T]]:
    """The first share that is allowed, and what was measured of those tried.

    Args:
        measured: what a share gives.
        is_allowed: whether that is good enough.
        shares: the largest first; where none is allowed the share is 0, the base itself.
    """
    tried: dict[float, T] = {}
    for share in shares:
        tried[share] = measured(share)
        if is_allowed(tried[share]):
            return share, tried
    return 0.0, tried
