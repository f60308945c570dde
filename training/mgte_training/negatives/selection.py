"""From ranked candidates to an example's negatives: the checks, one after the other."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mgte_rag import Reranker
from mgte_rag.types import Floats
from mgte_training.data import Example
from mgte_training.negatives.options import MiningOptions
from mgte_training.negatives.report import (
    MARGIN,
    RELATIVE_MARGIN,
    RELEVANT,
    RERANKER_MARGIN,
    SAME_LABEL,
    MiningReport,
    Sample,
)


@dataclass(slots=True)
class Selection:
    """One example's candidates on their way.

    Attributes:
        example: what negatives are looked for.
        positive: its lowest-scoring positive.
        positive_score: the model's score of it.
        positive_scores: and of every positive, in their order.
        waiting: candidates in the order in which they are taken, with their scores.
        taken: candidates that passed every check, with the model's scores.
    """

    example: Example
    positive: str
    positive_score: float
    positive_scores: tuple[float, ...]
    waiting: list[tuple[int, float]]
    taken: list[tuple[int, float]] = field(default_factory=list)


def check_scores(
    example: Example,
    candidates: NDArray[np.int32],
    scores: Floats,
    positive_scores: Sequence[float],
    *,
    documents: Sequence[str],
    labels: Mapping[int, Set[str]],
    options: MiningOptions,
    chance: np.random.Generator,
    report: MiningReport,
) -> Selection:
    """Drop the candidates that labels or the model's scores speak against, and order the others.

    Args:
        example: what negatives are looked for.
        candidates: int32 [candidates], documents in the range of ranks, the best first.
        scores: float32 [candidates].
        positive_scores: the model's scores of the positives, in their order.
        documents: texts of all documents.
        labels: of the documents that are positives of examples with one.
        options: margins and sampling.
        chance: decides the order where it is random.
        report: counts.
    """
    lowest = int(np.argmin(positive_scores))
    selection = Selection(
        example, example.positives[lowest], float(positive_scores[lowest]), tuple(map(float, positive_scores)), []
    )
    limits = {}
    if options.margin is not None:
        limits[MARGIN] = selection.positive_score - options.margin
    if options.relative_margin is not None:
        limits[RELATIVE_MARGIN] = selection.positive_score - options.relative_margin * abs(selection.positive_score)
    for document, score in zip(candidates.tolist(), scores.tolist(), strict=True):
        reason = next((name for name, limit in limits.items() if score > limit), None)
        if example.label is not None and example.label in labels.get(document, ()):
            reason = SAME_LABEL
        if reason is None:
            selection.waiting.append((document, score))
            continue
        report.dropped[reason] += 1
        report.show(
            reason,
            Sample(example.query, selection.positive, documents[document], score, selection.positive_score),
        )
    report.looked_at += len(candidates)
    if options.sampling == "random":
        selection.waiting = [selection.waiting[i] for i in chance.permutation(len(selection.waiting))]
    return selection


def check_with_reranker(
    selections: Sequence[Selection],
    reranker: Reranker,
    *,
    documents: Sequence[str],
    options: MiningOptions,
    report: MiningReport,
) -> None:
    """Take candidates that the reranker does not speak against until every example has enough or no more are waiting.

    Only as many candidates are scored as are missing, again and again.
    """
    positives = _lowest_positives(selections, reranker)
    while True:
        asked = [
            (number, candidate)
            for number, selection in enumerate(selections)
            for candidate in _next(selection, options.count)
        ]
        if not asked:
            return
        pairs = [(selections[number].example.query, documents[document]) for number, (document, _) in asked]
        for (number, candidate), score in zip(asked, reranker.score(pairs).tolist(), strict=True):
            selection = selections[number]
            positive, positive_score = positives[number]
            reason = _spoken_against(score, positive_score, options)
            if reason is None:
                selection.taken.append(candidate)
                continue
            report.dropped[reason] += 1
            report.show(
                reason,
                Sample(selection.example.query, positive, documents[candidate[0]], score, positive_score),
            )


def take(selection: Selection, options: MiningOptions) -> None:
    """Take the first waiting candidates, where no reranker checks them."""
    selection.taken += _next(selection, options.count)


def _next(selection: Selection, count: int) -> list[tuple[int, float]]:
    """As many waiting candidates as the example lacks."""
    missing = count - len(selection.taken)
    following, selection.waiting = selection.waiting[:missing], selection.waiting[missing:]
    return following


def _lowest_positives(selections: Sequence[Selection], reranker: Reranker) -> list[tuple[str, float]]:
    pairs = [(each.example.query, positive) for each in selections for positive in each.example.positives]
    scores = iter(reranker.score(pairs).tolist())
    return [
        min(((positive, next(scores)) for positive in each.example.positives), key=lambda pair: pair[1])
        for each in selections
    ]


def _spoken_against(score: float, positive_score: float, options: MiningOptions) -> str | None:
    relevance = 1 / (1 + np.exp(-np.clip(score, -500, 500)))
    if options.max_relevance is not None and relevance > options.max_relevance:
        return RELEVANT
    if options.reranker_margin is not None and score > positive_score - options.reranker_margin:
        return RERANKER_MARGIN
    return None
