"""What a reranker makes of the best that a model finds, beside values by hand."""

import numpy as np
import pytest

from mgte_rag import EmbeddingModel, Reranker
from mgte_training.domain import Judged, measure
from mgte_training.domain.reranking import ALONE, BESIDE, Candidates

JUDGED = Judged.of_pairs([("flying birds", "birds can fly"), ("cats", "cats sleep"), ("fish", "fish swim")])


def by_hand(scores: list[float]) -> Candidates:
    """One query whose second of three documents is the answer."""
    judged = Judged(("q",), ("a", "b", "c"), (frozenset({1}),), ("q",))
    return Candidates(judged, np.array([[0, 1, 2]]), np.array([scores], dtype=np.float32))


def test_the_candidates_are_the_hybrid_ranking(mini_fp32: EmbeddingModel) -> None:
    candidates = Candidates.find(mini_fp32, JUDGED)
    assert candidates.places.shape == candidates.scores.shape == (3, 3)
    assert (np.diff(candidates.scores) <= 0).all()
    hybrid = measure(mini_fp32, JUDGED)["hybrid"]
    for figures in candidates.measure(None).values():
        np.testing.assert_allclose(figures, hybrid)


def test_scores_stay_with_their_candidates(mini_fp32: EmbeddingModel) -> None:
    candidates = Candidates.find(mini_fp32, JUDGED)
    with Reranker.load(dtype="float32") as reranker:
        scores = candidates.score(reranker)
        for query, places, row in zip(JUDGED.queries, candidates.places, scores, strict=True):
            alone = reranker.score([(query, JUDGED.documents[place]) for place in places])
            np.testing.assert_allclose(row, alone, atol=1e-4)


def test_a_reranker_ranks_alone_and_with_equal_say() -> None:
    candidates = by_hand([3, 2, 1])
    assert candidates.measure(None)[ALONE][0] == pytest.approx(1 / np.log2(3))
    doubting = np.array([[-10, -20, 30]], dtype=np.float32)
    weight = np.std([3, 2, 1]) / np.std([-10, -20, 30])
    assert candidates.weight(doubting) == pytest.approx(weight)
    found = candidates.measure(doubting)  # alone c, a, b; with equal say a, c, b
    assert found[ALONE][0] == found[BESIDE][0] == pytest.approx(1 / np.log2(4))
    sure = candidates.measure(np.array([[0, 9, -1]], dtype=np.float32))  # b first either way
    assert sure[ALONE][0] == sure[BESIDE][0] == 1
    unsure = candidates.measure(np.array([[1.9, 2.0, -9]], dtype=np.float32))  # b first alone, a with equal say
    assert (float(unsure[ALONE][0][0]), float(unsure[BESIDE][0][0])) == pytest.approx((1, 1 / np.log2(3)))


def test_a_reranker_that_tells_nothing_apart_changes_nothing() -> None:
    candidates = by_hand([3, 2, 1])
    same = np.full((1, 3), 7, dtype=np.float32)
    assert candidates.weight(same) == 0
    np.testing.assert_array_equal(candidates.measure(same)[BESIDE], candidates.measure(None)[BESIDE])
