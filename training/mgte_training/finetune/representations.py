"""What a model makes of a list of texts while it is trained: tensors that gradients pass through."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from mgte_rag.scoring import Terms


@dataclass(frozen=True, slots=True)
class Representations:
    """All wanted outputs of some texts; None or empty where not wanted.

    Attributes:
        texts: how many there are.
        dense: fp32 [texts, hidden], pooled, not normalised.
        weights: fp32 [terms], of every term of every text, none below 0.
        ids: int64 [terms], the vocabulary's number of each, ascending in every text.
        counts: int64 [texts], how many terms each text has.
        vectors: fp32 [vectors, size] for each size of the late-interaction heads, rows L2-normalised.
        vector_counts: int64 [texts], how many vectors each text has.
    """

    texts: int
    dense: Tensor | None = None
    weights: Tensor | None = None
    ids: Tensor | None = None
    counts: Tensor | None = None
    vectors: dict[int, Tensor] = field(default_factory=dict)
    vector_counts: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Those that gradients pass through, in a fixed order."""
        return [tensor for tensor in (self.dense, self.weights, *self.vectors.values()) if tensor is not None]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Self:
        """The same texts with other values, in the order of ``tensors``."""
        left = list(tensors)
        return replace(
            self,
            dense=None if self.dense is None else left.pop(0),
            weights=None if self.weights is None else left.pop(0),
            vectors={size: left.pop(0) for size in self.vectors},
        )

    def leaves(self) -> Self:
        """A copy that collects gradients of its own: what GradCache computes the loss on."""
        return self.with_tensors([tensor.detach().requires_grad_() for tensor in self.tensors])

    def terms(self) -> Terms:
        """The sparse vectors."""
        assert self.weights is not None, "represented without sparse vectors"
        assert self.ids is not None, "weights without the terms they are of"
        assert self.counts is not None, "weights without the texts they are of"
        texts = torch.arange(self.texts, device=self.ids.device).repeat_interleave(self.counts)
        positive = self.weights > 0
        return Terms(texts[positive], self.ids[positive], self.weights[positive], self.texts)

    def token_vectors(self, size: int) -> list[Tensor]:
        """fp32 [tokens, size] per text."""
        assert self.vector_counts is not None, "represented without token vectors"
        return list(self.vectors[size].split(self.vector_counts.tolist()))

    def picked(self, places: Sequence[int]) -> Self:
        """Some of the texts, in that order."""
        device = next(iter(self.tensors)).device
        index = torch.tensor(places, dtype=torch.int64, device=device)
        terms = None if self.counts is None else _places_of(index, self.counts)
        rows = None if self.vector_counts is None else _places_of(index, self.vector_counts)
        return replace(
            self,
            texts=len(places),
            dense=None if self.dense is None else self.dense[index],
            weights=None if self.weights is None else self.weights[terms],
            ids=None if self.ids is None else self.ids[terms],
            counts=None if self.counts is None else self.counts[index],
            vectors={size: tensor[rows] for size, tensor in self.vectors.items()},
            vector_counts=None if self.vector_counts is None else self.vector_counts[index],
        )


def joined(parts: Sequence[Representations]) -> Representations:
    """The texts of all parts, one after the other. The parts have the same outputs."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Representations(
        texts=sum(part.texts for part in parts),
        dense=_cat([part.dense for part in parts]),
        weights=_cat([part.weights for part in parts]),
        ids=_cat([part.ids for part in parts]),
        counts=_cat([part.counts for part in parts]),
        vectors={size: torch.cat([part.vectors[size] for part in parts]) for size in first.vectors},
        vector_counts=_cat([part.vector_counts for part in parts]),
    )


def gathered(own: Representations) -> Representations:
    """The texts of all processes, in the order of their ranks. Gradients find their way back to each.

    What each process computes on them may differ: on the way back a text's gradients from all processes are summed in
    the process it came from. Processes that average their parameters' gradients, as DDP does, then have the gradient
    of the mean of their losses.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    return Representations(
        texts=int(_gather(torch.tensor([own.texts], device=next(iter(own.tensors)).device)).sum()),
        dense=None if own.dense is None else _gather(own.dense),
        weights=None if own.weights is None else _gather(own.weights),
        ids=None if own.ids is None else _gather(own.ids),
        counts=None if own.counts is None else _gather(own.counts),
        vectors={size: _gather(tensor) for size, tensor in own.vectors.items()},
        vector_counts=None if own.vector_counts is None else _gather(own.vector_counts),
    )


def _gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, which may have different numbers of them."""
    rows = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.zeros_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, rows)
    longest = int(max(counts))
    padded = torch.cat([tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    if tensor.is_floating_point():
        parts = list(all_gather(padded))
    else:  # no gradient, which the differentiable gather wants
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _places_of(texts: Tensor, counts: Tensor) -> Tensor:
    """Places on the packed axis of those texts' elements, text by text."""
    starts = (counts.cumsum(0) - counts)[texts]
    lengths = counts[texts]
    before = lengths.cumsum(0) - lengths
    total = int(lengths.sum())
    return torch.arange(total, device=texts.device) + (starts - before).repeat_interleave(lengths, output_size=total)
