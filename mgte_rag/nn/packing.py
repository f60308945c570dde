"""Many token sequences as one, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgte_rag.types import Integers


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring texts of equal length: a packed slice that can be viewed as [texts, length, ...] without a copy.

    Attributes:
        start: place of the first token.
        texts: number of texts.
        length: tokens of each.
        attended: tokens of each that others attend to, the first ones; None is all.
    """

    start: int
    texts: int
    length: int
    attended: int | None = None

    @property
    def tokens(self) -> slice:
        """The run's place on the packed token axis."""
        return slice(self.start, self.start + self.texts * self.length)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Token sequences one after the other.

    Attributes:
        ids: int64 [tokens].
        positions: int64 [tokens], counted from 0 in every text.
        lengths: int64 [texts], each above 0.
        runs: the texts, grouped where neighbours have the same length. Sorting by length makes few, long runs.
        attended: int64 [texts], tokens of each that others attend to, the first ones; None is all of all texts.
        types: int64 [tokens], the token types of pairs; None is 0 everywhere.
    """

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    runs: tuple[Run, ...]
    attended: Tensor | None = None
    types: Tensor | None = None

    @property
    def texts(self) -> Tensor:
        """int64 [tokens], the text each token belongs to."""
        numbers = torch.arange(len(self.lengths), device=self.lengths.device)
        return numbers.repeat_interleave(self.lengths, output_size=len(self.ids))


def pack(
    sequences: Sequence[Integers],
    device: torch.device,
    *,
    attended: Sequence[int] | None = None,
    types: Sequence[Integers] | None = None,
) -> PackedBatch:
    """Put token id sequences one after the other on a device.

    Args:
        sequences: int32 [length] each, at least one, none empty.
        device: where the tensors go.
        attended: tokens of each sequence that others attend to, the first ones; None is all.
        types: token types, int32 [length] each; None is 0 everywhere.
    """
    lengths = [len(sequence) for sequence in sequences]
    limits = [None if attended is None or attended[i] == length else attended[i] for i, length in enumerate(lengths)]
    runs: list[Run] = []
    start = 0
    for (length, limit), group in groupby(zip(lengths, limits, strict=True)):
        run = Run(start, sum(1 for _ in group), length, limit)
        runs.append(run)
        start = run.tokens.stop
    counted = None if attended is None or all(limit is None for limit in limits) else attended
    return PackedBatch(
        ids=_to_device(np.concatenate(sequences), device),
        positions=_to_device(np.concatenate([np.arange(length) for length in lengths]), device),
        lengths=_to_device(np.array(lengths), device),
        runs=tuple(runs),
        attended=None if counted is None else _to_device(np.array(counted), device),
        types=None if types is None else _to_device(np.concatenate(types), device),
    )


def _to_device(numbers: NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """int64 on the device; to a GPU from pinned memory, so that the copy does not hold up what runs there."""
    tensor = torch.from_numpy(numbers.astype(np.int64))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
