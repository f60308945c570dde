"""Ranked documents for many queries, and the fusion of rankings.

Fusions are those of a collection (``qdrant_mgte.fusion``), computed here because BM25's ranking is in no collection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgte_rag.types import Floats, Integers

# Places of a ranking that are filled up where fewer documents were found.
NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The best documents of each query.

    Attributes:
        documents: int32 [queries, depth], places of documents in their set, best first, filled up with -1.
        scores: float32 [queries, depth], descending; -inf where filled up.
    """

    documents: Integers
    scores: Floats

    def top(self, depth: int) -> "Ranking":
        """The first places only."""
        return Ranking(self.documents[:, :depth], self.scores[:, :depth])

    def __len__(self) -> int:
        return len(self.documents)


def joined(rankings: Sequence[Ranking]) -> Ranking:
    """The rankings of several groups of queries as one."""
    return Ranking(
        np.concatenate([each.documents for each in rankings]), np.concatenate([each.scores for each in rankings])
    )


def best(scores: Floats, depth: int, *, above_zero: bool = False) -> Ranking:
    """The documents with the highest scores; equal ones in the order of their places.

    Args:
        scores: float32 [queries, documents].
        depth: how many at most.
        above_zero: leave out documents without a score above 0, as an inverted index does.
    """
    depth = min(depth, scores.shape[1])
    result = _empty(len(scores), depth)
    for row, line in enumerate(scores):
        least = np.partition(line, len(line) - depth)[len(line) - depth]
        candidates = np.flatnonzero((line >= least) & (line > 0) if above_zero else line >= least)
        chosen = candidates[np.argsort(-line[candidates], kind="stable")[:depth]]
        result.documents[row, : len(chosen)] = chosen
        result.scores[row, : len(chosen)] = line[chosen]
    return result


def order_again(first: Ranking, row: int, scores: Floats) -> tuple[Integers, Floats]:
    """One query's ranking after its first documents got new scores; the others keep their order behind them."""
    found = first.documents[row][first.documents[row] != NONE]
    count = len(scores)
    order = np.lexsort((found[:count], -scores))
    rest = len(found) - count
    lowest = float(scores.min()) if count else 0.0
    behind = lowest - np.arange(1, rest + 1, dtype=np.float32)
    return np.concatenate([found[:count][order], found[count:]]), np.concatenate([scores[order], behind])


def padded(rows: Sequence[tuple[Integers, Floats]], depth: int) -> Ranking:
    """Rankings of different lengths as one."""
    result = _empty(len(rows), depth)
    for row, (documents, scores) in enumerate(rows):
        result.documents[row, : len(documents)] = documents[:depth]
        result.scores[row, : len(scores)] = scores[:depth]
    return result


def rrf(rankings: Sequence[Ranking], depth: int, *, k: int) -> Ranking:
    """Reciprocal rank fusion: the sum of 1 / (rank + k - 1), rank from 1; k as Qdrant counts it, the paper's 60 is 61.

    Source: Cormack, Clarke and Buettcher, SIGIR 2009.
    """
    return _fused(
        rankings, [np.tile(1 / (np.arange(each.documents.shape[1]) + k), (len(each), 1)) for each in rankings], depth
    )


def dbsf(rankings: Sequence[Ranking], depth: int) -> Ranking:
    """Distribution-based score fusion: each query's scores scaled by mean and three deviations, then added.

    One document alone, or several with the same score, have 0.5.
    """
    return _fused(rankings, [_scaled(each) for each in rankings], depth)


def _scaled(ranking: Ranking) -> NDArray[np.float64]:
    there = ranking.documents != NONE
    count = there.sum(1, keepdims=True)
    scores = np.where(there, ranking.scores, 0).astype(np.float64)
    mean = scores.sum(1, keepdims=True) / np.maximum(count, 1)
    squares = np.where(there, (scores - mean) ** 2, 0).sum(1, keepdims=True)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    low = mean - 3 * deviation
    scaled: NDArray[np.float64] = np.where(
        deviation > 0, (scores - low) / np.where(deviation > 0, 6 * deviation, 1), 0.5
    )
    return scaled


def _fused(rankings: Sequence[Ranking], shares: Sequence[NDArray[np.float64]], depth: int) -> Ranking:
    """The documents with the highest sums of shares."""
    rows = []
    documents = np.concatenate([each.documents for each in rankings], axis=1)
    added = np.concatenate(shares, axis=1)
    for found, share in zip(documents, added, strict=True):
        there = found != NONE
        unique, inverse = np.unique(found[there], return_inverse=True)  # ascending: equal sums keep this order
        sums = np.bincount(inverse, weights=share[there], minlength=len(unique)).astype(np.float32)
        order = np.argsort(-sums, kind="stable")[:depth]
        rows.append((unique[order].astype(np.int32), sums[order]))
    return padded(rows, depth)


def _empty(queries: int, depth: int) -> Ranking:
    return Ranking(
        np.full((queries, depth), NONE, dtype=np.int32), np.full((queries, depth), -np.inf, dtype=np.float32)
    )
