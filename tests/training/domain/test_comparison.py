"""Figures against hand-computed ones, the test against enumeration, rankings against a naive loop."""

import itertools
import math

import numpy as np
import pytest

from mgte_rag import EmbeddingModel
from mgte_training.domain import Judged, compare, measure
from mgte_training.domain.comparison import ndcg, randomisation_p, recall
from mgte_training.domain.forgetting import most_forgotten


def test_figures_are_those_computed_by_hand() -> None:
    rankings = np.array([[3, 1, 2], [0, 1, 2], [4, 5, 0]])
    relevant = [frozenset({1}), frozenset({0, 2, 9}), frozenset({7})]
    third = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    np.testing.assert_allclose(ndcg(rankings, relevant), [1 / math.log2(3), third, 0])
    np.testing.assert_allclose(recall(rankings, relevant), [1, 2 / 3, 0])


def test_p_is_the_share_of_sign_changes_with_as_large_a_difference() -> None:
    differences, groups = np.array([0.5, 0.3, 0.2, 0.1, -0.1, 0.4]), ["a", "a", "b", "c", "d", "e"]
    sums = np.array([0.8, 0.2, 0.1, -0.1, 0.4])
    every = [abs(float(np.array(signs) @ sums)) for signs in itertools.product((-1, 1), repeat=5)]
    exact = sum(value >= 1.4 - 1e-9 for value in every) / len(every)
    assert randomisation_p(differences, groups) == pytest.approx(exact, abs=0.01)


def test_queries_of_one_document_are_one_observation() -> None:
    differences = np.full(40, 0.1)
    assert randomisation_p(differences, [str(number) for number in range(40)]) < 0.001
    assert randomisation_p(differences, ["same"] * 40) == 1.0


def test_no_difference_is_not_significant() -> None:
    assert randomisation_p(np.zeros(5), list("abcde")) == 1.0


def test_a_comparison_has_means_counts_and_the_largest_loss() -> None:
    judged = Judged.of_pairs([("a", "x"), ("b", "y")])
    before = {"dense": (np.array([0.5, 1.0]), np.array([1.0, 1.0])), "sparse": (np.array([0.2, 0.4]),) * 2}
    after = {"dense": (np.array([1.0, 0.8]), np.array([1.0, 1.0])), "sparse": (np.array([0.1, 0.4]),) * 2}
    comparison = compare(before, after, judged)
    row = comparison.rows[0]
    assert (row.way, row.figure, row.before, row.better, row.worse) == ("dense", "nDCG@10", 0.75, 1, 1)
    assert row.after == pytest.approx(0.9)
    assert most_forgotten(comparison) == pytest.approx(0.05)
    assert "dense              nDCG@10   0.7500  0.9000 +0.1500" in str(comparison)


def test_every_way_ranks_as_a_naive_loop_does(mini_fp32: EmbeddingModel) -> None:
    texts = ["birds can fly", "cats sleep all day", "fish swim in water", "the bird sleeps", "water for cats"]
    judged = Judged(
        ("flying birds", "where do cats sleep"), tuple(texts), (frozenset({0}), frozenset({1, 4})), ("a", "b")
    )
    measured = measure(mini_fp32, judged)
    found = mini_fp32.encode_document(texts, outputs=mini_fp32.outputs)
    asked = mini_fp32.encode_query(list(judged.queries), outputs=mini_fp32.outputs)
    similarity = mini_fp32.similarity(asked, found)
    assert similarity.dense is not None
    assert similarity.sparse is not None
    naive = {
        "dense": similarity.dense,
        "sparse": similarity.sparse,
        "hybrid": similarity.dense + 0.2 * similarity.sparse,
        "late interaction": similarity.multi_vector,
    }
    assert list(measured) == list(naive)
    for way, scores in naive.items():
        assert scores is not None
        expected = []
        for row, wanted in zip(scores, judged.relevant, strict=True):
            ranked = sorted(range(len(texts)), key=lambda place: (-row[place], place))
            gain = sum(1 / math.log2(rank + 2) for rank, place in enumerate(ranked) if place in wanted)
            expected.append(gain / sum(1 / math.log2(rank + 2) for rank in range(len(wanted))))
        np.testing.assert_allclose(measured[way][0], expected, atol=1e-6)


def test_halves_are_by_group_and_share_the_corpus() -> None:
    judged = Judged(tuple("abcd"), ("x", "y"), (frozenset({0}),) * 4, ("one", "one", "two", "three"))
    first, second = judged.halves(0)
    assert sorted(first.queries + second.queries) == list("abcd")
    assert not set(first.groups) & set(second.groups)
    assert first.documents == second.documents == judged.documents
