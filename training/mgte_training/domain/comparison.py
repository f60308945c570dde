"""Two models on the same queries: nDCG@10 and recall@10 by way of searching, with a paired test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mgte_rag import EmbeddingModel, scoring
from mgte_rag.types import Encodings, Floats
from mgte_training.domain.judged import Judged

Figures = NDArray[np.float64]
"""A figure of every query, float64 [queries]."""

Measured = Mapping[str, tuple[Figures, Figures]]
"""By way of searching, nDCG@10 and recall@10 of every query, in 0..1."""

_CUTOFF = 10
# Documents of the first ranking that late interaction scores.
_RESCORED = 100
_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of two models.

    Attributes:
        way: of searching.
        figure: "nDCG@10" or "R@10".
        before: the mean over the queries, 0..1.
        after: likewise.
        p: probability of a difference at least as large, either way, if the two were alike.
        better: queries with a higher figure after.
        worse: with a lower one.
    """

    way: str
    figure: str
    before: float
    after: float
    p: float
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two models' searches found.

    Attributes:
        queries: how many.
        groups: how many groups they are of, documents say: what the test takes as independent.
        documents: in the corpus.
        rows: by way and figure.
    """

    queries: int
    groups: int
    documents: int
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        head = f"{'':18} {'':8} {'before':>7} {'after':>7} {'change':>7} {'p':>8}  better  worse"
        lines = [f"{self.queries:,} queries of {self.groups:,} documents against {self.documents:,} texts", head]
        for row in self.rows:
            change = row.after - row.before
            lines.append(
                f"{row.way:18} {row.figure:8} {row.before:7.4f} {row.after:7.4f} {change:+7.4f} {row.p:8.4f}  "
                f"{row.better:6,} {row.worse:6,}"
            )
        return "\n".join(lines)


def measure(
    model: EmbeddingModel, judged: Judged, *, show_progress: bool = False
) -> dict[str, tuple[Figures, Figures]]:
    """Figures of every way of searching that the model's outputs allow, by exact search.

    "dense" and "sparse" alone; "hybrid" is their sum with the model's own weights; "late interaction" has the 100 best
    of these (hybrid, else the one there is) ranked by MaxSim, or all documents where there is nothing else. Equal
    scores rank by place in the corpus. All vectors of the corpus are in memory at once.

    Args:
        model: to measure.
        judged: on what.
        show_progress: draw a progress bar.
    """
    found = model.encode_document(judged.documents, outputs=model.outputs, show_progress=show_progress)
    asked = model.encode_query(judged.queries, outputs=model.outputs)
    return {way: figures(ranking, judged.relevant) for way, ranking in _rankings(model, asked, found).items()}


def compare(before: Measured, after: Measured, judged: Judged, *, seed: int = 0) -> Comparison:
    """Before and after, way by way, with a paired randomisation test.

    The test changes the signs of all differences of a group together (10,000 random draws): queries made of one
    document rise and fall together, and counting them as independent would make any gain look significant.

    Args:
        before: what ``measure`` gave for a model.
        after: for the other.
        judged: on which both were measured.
        seed: of the draws.

    Source: Smucker, Allan and Carterette 2007, on significance tests in retrieval.
    """
    rows = []
    for way in before:
        for figure, old, new in zip((f"nDCG@{_CUTOFF}", f"R@{_CUTOFF}"), before[way], after[way], strict=True):
            difference = new - old
            rows.append(
                Row(
                    way,
                    figure,
                    float(old.mean()),
                    float(new.mean()),
                    randomisation_p(difference, judged.groups, seed=seed),
                    int((difference > 0).sum()),
                    int((difference < 0).sum()),
                )
            )
    return Comparison(len(judged.queries), len(set(judged.groups)), len(judged.documents), tuple(rows))


def randomisation_p(differences: Figures, groups: Sequence[str], *, seed: int = 0) -> float:
    """Two-sided p of the mean difference under random signs of the groups; at least 1 / 10,001."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros(len(numbers))
    np.add.at(sums, [numbers[group] for group in groups], differences)
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(_DRAWS, len(sums)))
    as_large = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return float((1 + as_large.sum()) / (1 + _DRAWS))


def figures(rankings: NDArray[np.int64], relevant: Sequence[frozenset[int]]) -> tuple[Figures, Figures]:
    """Both figures of each query: nDCG@10 and recall@10."""
    return ndcg(rankings, relevant), recall(rankings, relevant)


def ndcg(rankings: NDArray[np.int64], relevant: Sequence[frozenset[int]]) -> Figures:
    """NDCG@10 of each query, binary relevance; rankings int64 [queries, ranks].

    Source: Jarvelin and Kekalainen 2002; gain 1, discount log2(rank + 1).
    """
    discounts = 1 / np.log2(np.arange(2, _CUTOFF + 2))
    values = []
    for ranking, wanted in zip(rankings, relevant, strict=True):
        hits = np.isin(ranking[:_CUTOFF], list(wanted))
        values.append(discounts[: len(hits)][hits].sum() / discounts[: len(wanted)].sum())
    return np.array(values, dtype=np.float64)


def recall(rankings: NDArray[np.int64], relevant: Sequence[frozenset[int]]) -> Figures:
    """The share of each query's relevant documents among the first ten; rankings int64 [queries, ranks]."""
    found = [
        np.isin(ranking[:_CUTOFF], list(wanted)).sum() / len(wanted)
        for ranking, wanted in zip(rankings, relevant, strict=True)
    ]
    return np.array(found, dtype=np.float64)


def best(scores: Floats, depth: int) -> NDArray[np.int64]:
    """The highest first, the earlier of equals: int64 [queries, at most depth]."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth]


def _rankings(model: EmbeddingModel, asked: Encodings, found: Encodings) -> dict[str, NDArray[np.int64]]:
    rankings: dict[str, NDArray[np.int64]] = {}
    if found.dense is not None or found.sparse is not None:
        sides = (replace(side, multi_vector=None) for side in (asked, found))
        scores = model.similarity(*sides)
        first = scores.hybrid
        for way, matrix in (("dense", scores.dense), ("sparse", scores.sparse)):
            if matrix is not None:
                rankings[way] = best(matrix, _CUTOFF)
        if len(rankings) == 2:
            rankings["hybrid"] = best(first, _CUTOFF)
        if asked.multi_vector is not None and found.multi_vector is not None:
            candidates = best(first, _RESCORED)
            rankings["late interaction"] = _rescored(asked.multi_vector, found.multi_vector, candidates)
    else:
        rankings["late interaction"] = best(model.similarity(asked, found).hybrid, _CUTOFF)
    return rankings


def _rescored(
    queries: Sequence[Floats], documents: Sequence[Floats], candidates: NDArray[np.int64]
) -> NDArray[np.int64]:
    ranked = []
    for query, places in zip(queries, candidates, strict=True):
        rows = [torch.from_numpy(documents[place]) for place in places]
        scores = scoring.max_sim_ragged([torch.from_numpy(query)], rows).numpy()
        ranked.append(places[best(scores, _CUTOFF)[0]])
    return np.stack(ranked)
