"""Rotary positions: query and key turned by an angle that grows with the position, so that scores see distances."""

import math
from functools import cache

import torch
from torch import Tensor

from mgte_rag.config import Rotary

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of a batch's angles, each fp32 [tokens, 1, 1, head_dim / 2]."""


def inverse_frequencies(rotary: Rotary, head_dim: int) -> Tensor:
    """Angle per position of each pair of components.

    Computed in fp64 from the configuration; tables inside checkpoints are never used. Scaling holds at every length.

        none    theta^(-2i/d)
        linear  theta^(-2i/d) / factor
        ntk     (theta * factor)^(-2i/d) / factor^(2/d), i = 0 .. d/2 - 1
        ntk, b  theta^(-2(m-1)/d) / exp(ln(factor) * (2m/d)^b), m = 1 .. d/2

    Returns:
        fp32 [head_dim / 2].

    Source: Su et al. 2021, arXiv 2104.09864, section 3.2.2; mGTE, arXiv 2407.19669, and Su's notes on mixed NTK.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim  # 2i / d
    if rotary.scaling == "ntk" and rotary.mixed_b is None:
        frequencies = (rotary.theta * rotary.factor) ** -exponents / rotary.factor ** (2 / head_dim)
    elif rotary.scaling == "ntk" and rotary.mixed_b is not None:
        steps = torch.arange(1, head_dim // 2 + 1, dtype=torch.float64, device="cpu") / (head_dim // 2)
        frequencies = rotary.theta**-exponents / torch.exp(math.log(rotary.factor) * steps**rotary.mixed_b)
    elif rotary.scaling == "linear":
        frequencies = rotary.theta**-exponents / rotary.factor
    else:
        frequencies = rotary.theta**-exponents
    return frequencies.float()


@cache
def _on_device(rotary: Rotary, head_dim: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may use what inference cached
        return inverse_frequencies(rotary, head_dim).to(device)


def rotation(rotary: Rotary, head_dim: int, positions: Tensor) -> Rotation:
    """Cosines and sines for every token of a batch.

    Args:
        rotary: the positions' parameters.
        head_dim: width of an attention head.
        positions: int64 [tokens], counted from 0 in every text.
    """
    angles = positions[:, None].float() * _on_device(rotary, head_dim, positions.device)
    angles = angles[:, None, None, :]
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, turn: Rotation) -> Tensor:
    """Turn the pair (i, i + head_dim / 2) of every head by its token's angle.

    Computed in fp32, returned in the dtype of the vectors.

    Args:
        vectors: [tokens, any, heads, head_dim].
        turn: of ``rotation``.
    """
    return torch.cat(_turned_halves(vectors, turn), dim=-1).to(vectors.dtype)


def rotate_in_place(vectors: Tensor, turn: Rotation) -> None:
    """``rotate`` into the vectors themselves, for inference: a third of the time."""
    halves = _turned_halves(vectors, turn)
    for place, half in zip(vectors.chunk(2, dim=-1), halves, strict=True):
        place.copy_(half)


def _turned_halves(vectors: Tensor, turn: Rotation) -> tuple[Tensor, Tensor]:
    cos, sin = turn
    first, second = vectors.float().chunk(2, dim=-1)
    return torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
