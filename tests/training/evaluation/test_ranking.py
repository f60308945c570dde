"""Rankings and their fusion against plain loops, and against the engine that users run."""

from collections import defaultdict

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.hybrid.fusion import distribution_based_score_fusion, reciprocal_rank_fusion

from mgte_training.evaluation.ranking import NONE, Ranking, best, dbsf, order_again, rrf


def random_ranking(seed: int, queries: int = 20, documents: int = 60, depth: int = 25) -> Ranking:
    scores = np.random.default_rng(seed).normal(size=(queries, documents)).astype(np.float32)
    return best(np.where(scores > 0, scores, 0), depth, above_zero=True)


def test_the_best_are_those_of_a_stable_sort_ties_included() -> None:
    scores = np.random.default_rng(0).integers(0, 6, size=(40, 90)).astype(np.float32)
    found = best(scores, 30)
    for row, line in enumerate(scores):
        by_hand = sorted(range(90), key=lambda place: (-line[place], place))[:30]
        assert found.documents[row].tolist() == by_hand
        assert found.scores[row].tolist() == [line[place] for place in by_hand]


def test_documents_that_share_no_term_are_not_found() -> None:
    found = best(np.array([[0, 2, 0, 1]], dtype=np.float32), 3, above_zero=True)
    assert found.documents.tolist() == [[1, 3, NONE]]
    assert found.scores.tolist() == [[2, 1, -np.inf]]


def as_points(ranking: Ranking, row: int) -> list[models.ScoredPoint]:
    pairs = zip(ranking.documents[row].tolist(), ranking.scores[row].tolist(), strict=True)
    return [models.ScoredPoint(id=place, version=0, score=score) for place, score in pairs if place != NONE]


@pytest.mark.parametrize("kind", ["rrf", "dbsf"])
def test_fusions_are_those_of_qdrant(kind: str) -> None:
    first, second = random_ranking(1), random_ranking(2)
    fused = rrf([first, second], 30, k=5) if kind == "rrf" else dbsf([first, second], 30)
    for row in range(len(first)):
        legs = [as_points(each, row) for each in (first, second)]
        expected = (
            reciprocal_rank_fusion(legs, limit=30, ranking_constant_k=5)
            if kind == "rrf"
            else distribution_based_score_fusion(legs, limit=30)
        )
        scores = {point.id: point.score for point in expected}
        found = {int(place): score for place, score in zip(fused.documents[row], fused.scores[row], strict=True)}
        found.pop(NONE, None)
        assert sorted(found.values(), reverse=True) == pytest.approx([point.score for point in expected], abs=1e-6)
        both = found.keys() & scores.keys()
        assert len(both) >= len(expected) - 1  # of equal sums at the end, the two may keep different ones
        assert all(found[place] == pytest.approx(scores[place], abs=1e-6) for place in both)


def test_reciprocal_rank_fusion_by_hand() -> None:
    first = Ranking(np.array([[3, 1, NONE]], dtype=np.int32), np.array([[9, 8, -np.inf]], dtype=np.float32))
    second = Ranking(np.array([[1, 2, 3]], dtype=np.int32), np.array([[1, 0.5, 0.2]], dtype=np.float32))
    sums: dict[int, float] = defaultdict(float)
    for order in ([3, 1], [1, 2, 3]):
        for rank, place in enumerate(order, start=1):
            sums[place] += 1 / (rank + 61 - 1)  # the paper's 60
    fused = rrf([first, second], 3, k=61)
    assert fused.documents[0].tolist() == sorted(sums, key=lambda place: -sums[place]) == [1, 3, 2]
    assert fused.scores[0].tolist() == pytest.approx(sorted(sums.values(), reverse=True))


def test_one_score_alone_and_equal_scores_are_a_half_in_distribution_based_fusion() -> None:
    one = Ranking(np.array([[4, NONE]], dtype=np.int32), np.array([[7, -np.inf]], dtype=np.float32))
    same = Ranking(np.array([[5, 6]], dtype=np.int32), np.array([[2, 2]], dtype=np.float32))
    assert dbsf([one, same], 3).scores[0].tolist() == [0.5, 0.5, 0.5]


def test_documents_behind_those_scored_again_keep_their_order() -> None:
    first = Ranking(np.array([[7, 3, 9, 1, NONE]], dtype=np.int32), np.array([[5, 4, 3, 2, -np.inf]], dtype=np.float32))
    documents, scores = order_again(first, 0, np.array([-3, 2], dtype=np.float32))
    assert documents.tolist() == [3, 7, 9, 1]
    assert list(scores) == sorted(scores, reverse=True)
    assert scores[:2].tolist() == [2, -3]
