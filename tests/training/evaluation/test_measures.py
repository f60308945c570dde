"""Measures: by hand, as trec_eval has them, and how sure they are."""

import math

import numpy as np
import pytest
import pytrec_eval
from scipy import stats

from mgte_training.evaluation.measures import MEASURES, agreement, estimate, measure, significance
from mgte_training.evaluation.ranking import Ranking, best
from mgte_training.evaluation.retrieval_sets import Judgment, RetrievalSet, Row


def make_set(documents: int, grades: dict[str, dict[str, int]]) -> RetrievalSet:
    rows = [Row(f"d{i}", f"text {i}", None, "") for i in range(documents)]
    queries = [Row(query, query, None, "") for query in grades]
    judgments = [Judgment(q, d, grade, "") for q, found in grades.items() for d, grade in found.items()]
    return RetrievalSet.build("made", rows, queries, judgments)


def test_each_measure_is_what_one_computes_by_hand() -> None:
    data = make_set(40, {"q": {"d1": 2, "d2": 1, "d3": 1, "d4": 0}})
    place = {key: i for i, key in enumerate(data.document_ids)}
    order = ["d9", "d1", "d4", "d2", *(f"d{i}" for i in range(10, 30)), "d3"]  # relevant at ranks 2, 4 and 25
    documents = np.array([[place[key] for key in order]], dtype=np.int32)
    values = measure(Ranking(documents, -np.arange(len(order), dtype=np.float32)[None]), data)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    by_hand = {
        "nDCG@10": (2 / math.log2(3) + 1 / math.log2(5)) / ideal,
        "MRR@10": 1 / 2,
        "R@100": 1.0,
        "Success@5": 1.0,
        "MAP@100": (1 / 2 + 2 / 4 + 3 / 25) / 3,
    }
    assert {name: float(each[0]) for name, each in values.items()} == pytest.approx(by_hand)


def test_the_reciprocal_rank_is_zero_behind_the_tenth_place() -> None:
    data = make_set(20, {"q": {"d5": 1}})
    place = data.document_ids.index("d5")
    others = [i for i in range(20) if i != place]
    for rank, expected in ((10, 0.1), (11, 0.0)):
        order = np.array([[*others[: rank - 1], place, *others[rank - 1 :]]], dtype=np.int32)
        assert measure(Ranking(order, -np.arange(20, dtype=np.float32)[None]), data)["MRR@10"][0] == expected


@pytest.mark.parametrize("seed", range(5))
def test_random_runs_with_ties_measure_as_in_trec_eval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    documents, queries = 150, 30
    grades = {
        f"q{q}": {f"d{d}": int(generator.integers(0, 4)) for d in generator.choice(documents, 25, replace=False)}
        for q in range(queries)
    }
    data = make_set(documents, grades)
    scores = generator.integers(0, 12, size=(len(data.queries), documents)).astype(np.float32)  # ties everywhere
    values = measure(best(scores, 100), data)
    run = {
        query: {key: float(score) for key, score in zip(data.document_ids, row, strict=True)}
        for query, row in zip(data.query_ids, scores, strict=True)
    }
    names = {"nDCG@10": "ndcg_cut_10", "R@100": "recall_100", "Success@5": "success_5", "MAP@100": "map_cut_100"}
    expected = pytrec_eval.RelevanceEvaluator(dict(data.grades), {*names.values(), "recip_rank"}).evaluate(run)
    for row, query in enumerate(data.query_ids):
        for name, theirs in names.items():
            assert values[name][row] == pytest.approx(expected[query][theirs], abs=1e-12)
        rank = expected[query]["recip_rank"]
        assert values["MRR@10"][row] == pytest.approx(rank if rank >= 0.0999 else 0, abs=1e-12)


def test_a_query_for_which_nothing_was_found_has_zero_everywhere() -> None:
    data = make_set(5, {"q": {"d1": 1}, "p": {"d2": 1}})
    nothing = best(np.zeros((2, 5), dtype=np.float32), 5, above_zero=True)
    assert all(not each.any() and len(each) == 2 for each in measure(nothing, data).values())
    assert set(measure(nothing, data)) == set(MEASURES)


def test_intervals_hold_the_mean_shrink_with_more_queries_and_are_the_same_every_time() -> None:
    generator = np.random.default_rng(0)
    few, many = generator.random(50), generator.random(5_000)
    for values in (few, many):
        found = estimate(values)
        assert found.low < found.value < found.high
        assert found == estimate(values)
        by_theory = 1.96 * values.std() / math.sqrt(len(values))
        assert found.high - found.low == pytest.approx(2 * by_theory, rel=0.1)


def test_significance_is_the_paired_t_test_adjusted_for_its_repetitions() -> None:
    generator = np.random.default_rng(1)
    a = generator.random(80)
    values = {"a": a, "b": a + generator.normal(0.02, 0.05, 80), "c": a + generator.normal(0, 0.05, 80), "same": a}
    found = significance(values)
    assert len(found) == 6
    raw = sorted([stats.ttest_rel(values[x], values[y]).pvalue if (x, y) != ("a", "same") else 1.0 for x, y in found])
    by_hand = [min(p * 6 / rank for rank, p in enumerate(raw[i:], start=i + 1)) for i in range(6)]
    assert sorted(found.values()) == pytest.approx(by_hand)
    assert found["a", "same"] == 1.0
    assert found["a", "b"] < 0.05 < found["a", "c"]
    assert significance({"a": a}) == {}


def test_agreement_is_one_for_one_order_and_minus_one_for_its_reverse() -> None:
    assert agreement([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert agreement([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)  # two of three pairs agree, one does not
    assert agreement([1, 1], [1, 2]) is None
    assert agreement([1], [1]) is None
