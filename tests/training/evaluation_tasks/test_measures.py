"""Figures against values worked out by hand, other libraries and naive loops."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from torchmetrics.functional.text import squad

from mgte_training.evaluation.tasks.answers import exact_match, f1, normalise
from mgte_training.evaluation.tasks.intervals import bootstrap_interval
from mgte_training.evaluation.tasks.measures import classification_scores, correlation_scores, mean_score
from mgte_training.evaluation.tasks.scores import TaskScore

NAMES = {"task": "t", "group": "g", "language": "en"}


def by_measure(scores: list[TaskScore]) -> dict[str, TaskScore]:
    return {score.measure: score for score in scores}


def test_correlations_of_a_small_example_are_those_worked_out_by_hand() -> None:
    scores = by_measure(correlation_scores(np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]), **NAMES))
    assert scores["spearman"].value == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum(d^2) / n (n^2 - 1)
    assert scores["pearson"].value == pytest.approx(4 / 5)
    assert scores["spearman"].examples == 4


def test_predictions_that_are_all_the_same_correlate_with_nothing() -> None:
    for score in correlation_scores(np.ones(5), np.arange(5.0), **NAMES):
        assert (score.value, score.low, score.high) == (0.0, None, None)


def test_classification_of_a_small_example_is_what_is_worked_out_by_hand() -> None:
    gold, predicted = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 1])
    scores = by_measure(classification_scores(predicted, gold, classes=("0", "1"), **NAMES))
    assert scores["accuracy"].value == pytest.approx(4 / 6)
    assert scores["F1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["macro F1"].value == pytest.approx(2 / 3)
    assert scores["matthews"].value == pytest.approx((2 * 2 - 1 * 1) / 9)


def test_classification_of_many_classes_is_what_scikit_learn_says_and_has_no_f1_of_one() -> None:
    chance = np.random.default_rng(0)
    gold, classes = chance.integers(5, size=200), ("a", "b", "c", "d", "e", "never")
    predicted = np.where(chance.random(200) < 0.6, gold, chance.integers(5, size=200))
    scores = by_measure(classification_scores(predicted, gold, classes=classes, **NAMES))
    assert scores.keys() == {"accuracy", "macro F1", "matthews"}
    assert scores["macro F1"].value == pytest.approx(metrics.f1_score(gold, predicted, average="macro"), abs=1e-6)
    assert scores["matthews"].value == pytest.approx(metrics.matthews_corrcoef(gold, predicted), abs=1e-6)
    assert all(score.low < score.value < score.high for score in scores.values())


def test_the_interval_of_a_mean_is_close_to_what_theory_says_and_its_seed_decides_it() -> None:
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap_interval(lambda places: values[places].mean(), 400)
    wide = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - wide, abs=0.004)
    assert high == pytest.approx(values.mean() + wide, abs=0.004)
    assert (low, high) == bootstrap_interval(lambda places: values[places].mean(), 400)
    assert bootstrap_interval(lambda places: 1.0, 1) == (None, None)


def test_the_interval_holds_the_true_value_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        values = chance.normal(size=60)
        low, high = bootstrap_interval(lambda places, values=values: values[places].mean(), 60, resamples=200)
        held += low <= 0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_the_mean_of_one_example_has_no_interval() -> None:
    score = mean_score(np.array([0.5]), measure="F1", **NAMES)
    assert score == TaskScore("t", "g", "en", "F1", 0.5, None, None, 1)


@pytest.mark.parametrize(
    ("found", "given", "language", "exact", "overlap"),
    [
        ("The  Cat!", ["a cat"], "en", 1, 1),
        ("black cat sat", ["black cat"], "en", 0, 0.8),  # 2 shared of 3 and of 2
        ("cat", ["dog", "the cat sat"], "en", 0, 2 / 3),  # the given answer that fits best
        ("cat cat", ["cat"], "en", 0, 2 / 3),  # a word counts as often as it is there
        ("the", ["cat"], "en", 0, 0),
        ("", ["the"], "en", 1, 1),
        ("der Hund", ["Hund"], "de", 1, 1),
        ("der Hund", ["Hund"], "en", 0, 2 / 3),
        ("the Hund", ["Hund"], "de", 0, 2 / 3),
        ("las casas", ["casas"], "es", 1, 1),
        ("الكتاب", ["كتاب"], "ar", 1, 1),
        ("北京市", ["北京"], "zh", 0, 0.8),  # characters count
        ("《北京》", ["北京"], "zh", 1, 1),
        ("กรุงเทพ", ["กรุง"], "th", 0, 8 / 11),
        ("1990 年", ["1990年"], "zh", 1, 1),
        ("$5", ["5"], "en", 1, 1),
    ],
)
def test_answers_are_compared_as_people_would(
    found: str, given: list[str], language: str, exact: float, overlap: float
) -> None:
    assert exact_match(found, given, language) == exact
    assert f1(found, given, language) == pytest.approx(overlap)


def test_english_answers_score_as_torchmetrics_squad_scores_them() -> None:
    chance = np.random.default_rng(0)
    words = ["the", "a", "an", "Cat", "dog,", "U.S.", "in-law", "5%", "café", "THE"]
    for _ in range(200):
        found = " ".join(chance.choice(words, size=chance.integers(1, 6)))
        given = [" ".join(chance.choice(words, size=chance.integers(1, 6))) for _ in range(2)]
        if not normalise(found, "en") or not all(normalise(answer, "en") for answer in given):
            continue  # of nothing at all torchmetrics gives 0
        reference = squad(
            [{"prediction_text": found, "id": "1"}],
            [{"answers": {"text": given, "answer_start": [0, 0]}, "id": "1"}],
        )
        assert exact_match(found, given, "en") * 100 == pytest.approx(float(reference["exact_match"]))
        assert f1(found, given, "en") * 100 == pytest.approx(float(reference["f1"]), abs=1e-4)


def test_correlations_with_ties_are_those_of_scipy() -> None:
    chance = np.random.default_rng(3)
    gold = chance.integers(6, size=100).astype(float)
    predicted = np.round(gold + chance.normal(size=100))
    spearman, pearson = correlation_scores(predicted, gold, **NAMES)
    ranks = [stats.rankdata(values) for values in (predicted, gold)]
    assert spearman.value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert pearson.value == pytest.approx(np.corrcoef(predicted, gold)[0, 1])
    assert spearman.low < spearman.value < spearman.high
