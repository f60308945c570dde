"""Ways to search, each giving a ranking of documents for every query by exact search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from mgte_rag import scoring
from mgte_rag.progress import Progress
from mgte_rag.types import Floats
from mgte_training.evaluation.ranking import NONE, Ranking, best, joined, order_again, padded

Kind = Literal["bm25", "dense", "sparse", "fusion", "late_interaction", "reranker"]

# Documents of a ranking that is fused, as many as a collection takes of each; and of every ranking kept.
DEPTH = 200
# Documents that late interaction scores again where it is no first stage, and those that a reranker does.
RESCORED, RERANKED = 100, 50
# Scores held at a time, 64 MB.
_BLOCK = 16 * 1024 * 1024


class Searcher(Protocol):
    """Ranks documents for queries, given by their places in the set and the rankings of the systems it builds on."""

    def __call__(self, queries: Sequence[int], legs: Sequence[Ranking], /) -> Ranking:
        """At most ``DEPTH`` documents each."""


class PairScorer(Protocol):
    """Scores pairs of texts; ``mgte_rag.Reranker`` is one."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Floats:
        """A score for each pair of query and document, higher is better."""


class System:
    """A way to search.

    Args:
        name: for people, unique within an evaluation.
        kind: what it is.
        detail: how it is done, for the report.
        index_bytes: what its index holds, in bytes.
        encodes: whether queries go through the embedding model.
        search: ranks documents for queries.
        legs: systems whose rankings it builds on.
        timed: a search that computes anew what ``search`` may have kept; None is the same.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        detail: str,
        index_bytes: int,
        encodes: bool,
        search: Searcher,
        legs: Sequence["System"] = (),
        timed: Searcher | None = None,
    ) -> None:
        self.name, self.kind, self.detail = name, kind, detail
        self.index_bytes, self.encodes = index_bytes, encodes
        self._search, self._legs, self._timed = search, tuple(legs), timed or search
        self._all: Ranking | None = None

    def ranked(self, queries: int, documents: int, *, show_progress: bool = False) -> Ranking:
        """The rankings of all of the set's queries, computed once."""
        if self._all is None:
            step = max(1, min(512, _BLOCK // max(1, documents)))
            parts = []
            with Progress(f"searching, {self.name}", unit="queries", total=queries, show=show_progress) as progress:
                for start in range(0, queries, step):
                    rows = range(start, min(start + step, queries))
                    parts.append(self._known(rows))
                    progress.advance(len(rows), 0)
            self._all = joined(parts)
        return self._all

    def _known(self, queries: Sequence[int]) -> Ranking:
        """Rankings of some queries: of what ``ranked`` computed where it did, else computed now."""
        if self._all is None:
            return self._search(queries, [leg._known(queries) for leg in self._legs])
        return Ranking(self._all.documents[list(queries)], self._all.scores[list(queries)])

    def alone(self, queries: Sequence[int]) -> Ranking:
        """Rankings of some queries, everything computed anew: for taking its time."""
        return self._timed(queries, [leg.alone(queries) for leg in self._legs])


def by_scores(scores: Callable[[Sequence[int]], Floats], *, above_zero: bool = False) -> Searcher:
    """Search by scores of every document, float32 [queries, documents]."""
    return lambda queries, _: best(scores(queries), DEPTH, above_zero=above_zero)


def by_fusion(fuse: Callable[[Sequence[Ranking]], Ranking]) -> Searcher:
    """Search by fusing the rankings of other systems."""
    return lambda _, legs: fuse(legs)


@dataclass(frozen=True, slots=True)
class MaxSim:
    """Late interaction.

    Attributes:
        queries: float32 [tokens, token_dim] each.
        documents: the same.
    """

    queries: Sequence[Floats]
    documents: Sequence[Floats]

    def first_stage(self) -> Searcher:
        """Search among all documents."""
        documents = [torch.from_numpy(rows) for rows in self.documents]
        return by_scores(lambda queries: scoring.max_sim_ragged(self._asked(queries), documents).numpy())

    def rescoring(self) -> Searcher:
        """Score the best documents of another system again; those behind them keep their order."""

        def search(queries: Sequence[int], legs: Sequence[Ranking]) -> Ranking:
            (ranking,) = legs
            rows = []
            for row, query in enumerate(self._asked(queries)):
                chosen = [i for i in ranking.documents[row, :RESCORED] if i != NONE]
                documents = [torch.from_numpy(self.documents[i]) for i in chosen]
                scores = scoring.max_sim_ragged([query], documents).numpy()[0]
                rows.append(order_again(ranking, row, scores))
            return padded(rows, ranking.documents.shape[1])

        return search

    def _asked(self, queries: Sequence[int]) -> list[torch.Tensor]:
        return [torch.from_numpy(self.queries[i]) for i in queries]


def by_reranker(scorer: PairScorer, queries: Sequence[str], documents: Sequence[str]) -> Searcher:
    """Have a cross-encoder score the best documents of another system; those behind them keep their order."""

    def search(asked: Sequence[int], legs: Sequence[Ranking]) -> Ranking:
        (ranking,) = legs
        chosen = [[int(i) for i in found if i != NONE] for found in ranking.documents[:, :RERANKED]]
        pairs = [(queries[q], documents[i]) for q, found in zip(asked, chosen, strict=True) for i in found]
        scores = np.split(scorer.score(pairs), np.cumsum([len(found) for found in chosen])[:-1])
        rows = [order_again(ranking, row, part) for row, part in enumerate(scores)]
        return padded(rows, ranking.documents.shape[1])

    return search
