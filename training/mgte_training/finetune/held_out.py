"""Figures of a model while it is trained: a held-out set, every head, the scores that inference computes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mgte_rag.errors import DataError
from mgte_rag.types import Output, Role
from mgte_training.data.examples import Example
from mgte_training.finetune.objective import Objective, scores_of
from mgte_training.finetune.representations import Representations, joined
from mgte_training.finetune.steps import Lengths
from mgte_training.finetune.trainable import Trainable, TrainableModel, TrainableReranker

T = TypeVar("T")

_TEXTS_AT_ONCE = 128
_CUTOFF = 10


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries whose relevant documents are known.

    Attributes:
        queries: texts.
        documents: texts, none twice.
        relevant: for each query the places of its relevant documents, at least one.
        candidates: for each query the places of the documents that a reranker scores.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    candidates: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "HeldOut":
        """All examples' documents are the corpus; each query's own are its candidates.

        Raises:
            DataError: there is no example.
        """
        places: dict[str, int] = {}
        queries, relevant, candidates = [], [], []
        for example in examples:
            own = [places.setdefault(text, len(places)) for text in (*example.positives, *example.negatives)]
            queries.append(example.query)
            relevant.append(frozenset(own[: len(example.positives)]))
            candidates.append(tuple(own))
        if not queries:
            raise DataError("the held-out set has no example")
        return cls(tuple(queries), tuple(places), tuple(relevant), tuple(candidates))


class ModelFigures:
    """Figures of every trained head on a held-out set: ``ndcg@10`` is the mean over the heads, their best sizes.

    Args:
        held_out: the set.
        objective: which heads, at which sizes.
        lengths: tokens kept of each text.
        prompts: put before queries and documents; None is the model's own.
    """

    def __init__(
        self,
        held_out: HeldOut,
        objective: Objective,
        lengths: Lengths,
        prompts: Mapping[Role, str | None] | None = None,
    ) -> None:
        self._held_out, self._objective, self._lengths = held_out, objective, lengths
        self._prompts = prompts or {"query": None, "document": None}

    def __call__(self, model: Trainable) -> dict[str, float]:
        """nDCG@10 of every head and size, and of dense and sparse scores fused, in 0..1."""
        assert isinstance(model, TrainableModel), "figures of something else"
        queries = self._represented(model, self._held_out.queries, "query")
        documents = self._represented(model, self._held_out.documents, "document")
        figures: dict[str, float] = {}
        largest: dict[Output, float] = {}
        for output, head in self._objective.heads.items():
            for size in sorted(head.sizes) or [_size(output, queries)]:
                name = f"{output}_{size}" if size else output
                scores = scores_of(output, size)(queries, documents)
                figures[f"{name}_ndcg@{_CUTOFF}"] = largest[output] = mean_ndcg(scores, self._held_out.relevant)
        return {f"ndcg@{_CUTOFF}": sum(largest.values()) / len(largest), **figures}

    def _represented(self, model: TrainableModel, texts: Sequence[str], role: Role) -> Representations:
        limit = self._lengths.query if role == "query" else self._lengths.document
        parts = []
        for some in _slices(texts):
            inputs = model.read(some, role, prompt=self._prompts[role], max_length=limit)
            parts.append(model(inputs))
        return joined(parts)


class RerankerFigures:
    """Figures of a reranker on a held-out set: each query's own candidates, ranked.

    Args:
        held_out: the set; queries with a relevant candidate alone say nothing and are left out.
        lengths: tokens kept of a pair.

    Raises:
        DataError: no query has a candidate that is not relevant.
    """

    def __init__(self, held_out: HeldOut, lengths: Lengths) -> None:
        self._lengths = lengths
        self._asked = [
            (query, [held_out.documents[place] for place in own], frozenset(range(len(relevant & set(own)))))
            for query, own, relevant in zip(held_out.queries, held_out.candidates, held_out.relevant, strict=True)
            if len(own) > len(relevant)
        ]
        if not self._asked:
            raise DataError("no held-out query has a negative; a reranker is measured on queries with candidates")

    def __call__(self, model: Trainable) -> dict[str, float]:
        """nDCG@10 over the candidates, in 0..1."""
        assert isinstance(model, TrainableReranker), "figures of something else"
        pairs = [(query, document) for query, documents, _ in self._asked for document in documents]
        logits = torch.cat([model(model.read(some, max_length=self._lengths.pair)) for some in _slices(pairs)]).split(
            [len(documents) for _, documents, _ in self._asked]
        )
        figures = [mean_ndcg(own[None], [relevant]) for own, (_, _, relevant) in zip(logits, self._asked, strict=True)]
        return {f"ndcg@{_CUTOFF}": sum(figures) / len(figures)}


def mean_ndcg(scores: Tensor, relevant: Sequence[frozenset[int]], cutoff: int = _CUTOFF) -> float:
    """NDCG with binary relevance, equal scores counted against the relevant documents.

    Args:
        scores: fp32 [queries, documents].
        relevant: the places of each query's relevant documents.
        cutoff: ranks that count.

    Returns:
        The mean over the queries, in 0..1.

    Source: Jarvelin and Kekalainen 2002; gain 1, discount log2(rank + 1).
    """
    total = 0.0
    for row, places in zip(scores, relevant, strict=True):
        own = torch.zeros(len(row), dtype=torch.bool, device=row.device)
        own[list(places)] = True
        # Irrelevant documents come first among equals: a model that scores all alike gains nothing by it.
        order = torch.argsort(own.int(), stable=True)
        ranked = own[order[torch.argsort(row[order], descending=True, stable=True)[:cutoff]]]
        discounts = 1 / torch.log2(torch.arange(2, cutoff + 2, device=row.device).float())
        ideal = discounts[: min(len(places), cutoff)].sum()
        total += float((ranked.float() * discounts[: len(ranked)]).sum() / ideal)
    return total / len(scores)


def _size(output: Output, texts: Representations) -> int:
    if output == "dense" and texts.dense is not None:
        return texts.dense.shape[1]
    return max(texts.vectors) if output == "multi_vector" else 0


def _slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _TEXTS_AT_ONCE):
        yield items[start : start + _TEXTS_AT_ONCE]
