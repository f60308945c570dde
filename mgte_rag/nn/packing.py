"""Many token sequences as one, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mgte_rag.types import Integers


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring texts of equal length: a packed slice that can be viewed as [texts, length, ...] without a copy."""

    start: int
    texts: int
    length: int

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
    """

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    runs: tuple[Run, ...]


def pack(sequences: Sequence[Integers], device: torch.device) -> PackedBatch:
    """Put token id sequences one after the other on a device.

    Args:
        sequences: int32 [length] each, at least one, none empty.
        device: where the tensors go.
    """
    lengths = [len(sequence) for sequence in sequences]
    runs: list[Run] = []
    start = 0
    for length, group in groupby(lengths):
        run = Run(start, sum(1 for _ in group), length)
        runs.append(run)
        start = run.tokens.stop
    positions = np.concatenate([np.arange(length) for length in lengths])
    return PackedBatch(
        ids=torch.from_numpy(np.concatenate(sequences).astype(np.int64)).to(device),
        positions=torch.from_numpy(positions.astype(np.int64)).to(device),
        lengths=torch.tensor(lengths, device=device),
        runs=tuple(runs),
    )
