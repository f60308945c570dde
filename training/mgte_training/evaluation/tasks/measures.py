"""Figures of merit with their intervals, from well-kept libraries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgte_rag import MissingExtraError
from mgte_training.evaluation.tasks.intervals import Places, bootstrap_interval
from mgte_training.evaluation.tasks.scores import TaskScore

Numbers = NDArray[np.floating[Any]]


def mean_score(values: Numbers, *, task: str, group: str, language: str, measure: str) -> TaskScore:
    """The mean of one value per example, [examples]."""
    low, high = bootstrap_interval(lambda places: float(values[places].mean()), len(values))
    return TaskScore(task, group, language, measure, float(values.mean()), low, high, len(values))


def correlation_scores(predicted: Numbers, gold: Numbers, *, task: str, group: str, language: str) -> list[TaskScore]:
    """Spearman's and Pearson's correlation of predicted with gold values, [examples] each.

    Where all predicted or all gold values are the same there is no correlation, which counts as 0.
    """
    try:
        from scipy import stats  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scipy", "measuring correlations") from error
    scores = []
    for measure, correlate in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):

        def statistic(places: Places, correlate: Callable[..., Any] = correlate) -> float:
            left, right = predicted[places], gold[places]
            if np.ptp(left) == 0 or np.ptp(right) == 0:
                return float("nan")
            return float(correlate(left, right)[0])

        value = statistic(np.arange(len(gold)))
        low, high = bootstrap_interval(statistic, len(gold))
        scores.append(TaskScore(task, group, language, measure, float(np.nan_to_num(value)), low, high, len(gold)))
    return scores


def classification_scores(
    predicted: Places, gold: Places, *, classes: tuple[str, ...], task: str, group: str, language: str
) -> list[TaskScore]:
    """Accuracy, macro F1, Matthews' correlation, and F1 of the class "1" where the classes are "0" and "1".

    Args:
        predicted: places in ``classes``, int64 [examples].
        gold: the same.
        classes: every label.
        task: for the scores.
        group: for the scores.
        language: for the scores.
    """
    try:
        from torchmetrics.functional import classification
    except ImportError as error:
        raise MissingExtraError("torchmetrics", "measuring classification") from error
    measures: dict[str, Callable[..., torch.Tensor]] = {
        "accuracy": classification.multiclass_accuracy,
        "macro F1": classification.multiclass_f1_score,
        "matthews": classification.multiclass_matthews_corrcoef,
    }
    options: dict[str, dict[str, Any]] = {"accuracy": {"average": "micro"}, "macro F1": {"average": "macro"}}
    if classes == ("0", "1"):
        measures["F1"] = classification.binary_f1_score
    left, right = torch.from_numpy(predicted), torch.from_numpy(gold)
    scores = []
    for measure, function in measures.items():
        settings = options.get(measure, {}) | ({} if measure == "F1" else {"num_classes": len(classes)})

        def statistic(
            places: Places, function: Callable[..., torch.Tensor] = function, settings: dict[str, Any] = settings
        ) -> float:
            return float(function(left[places], right[places], validate_args=False, **settings))

        low, high = bootstrap_interval(statistic, len(gold))
        value = statistic(np.arange(len(gold)))
        scores.append(TaskScore(task, group, language, measure, value, low, high, len(gold)))
    return scores
