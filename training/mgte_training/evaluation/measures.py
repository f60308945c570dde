"""How good rankings are, how sure that is, and which differences are more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from mgte_rag import MissingExtraError
from mgte_training.evaluation.ranking import NONE, Ranking
from mgte_training.evaluation.retrieval_sets import RetrievalSet

MEASURES = ("nDCG@10", "MRR@10", "R@100", "Success@5", "MAP@100")
MAIN = "nDCG@10"
_DEPTH = 100
_SAMPLES = 1_000

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def measure(ranking: Ranking, data: RetrievalSet) -> dict[str, Values]:
    """Each measure's value for each query, in the order of the set's queries; as trec_eval computes them.

    nDCG has the grades as gains and log2 discounts, MRR@10 is 0 where the first relevant document is behind the
    tenth place, R@100 and MAP@100 divide by all relevant documents.
    """
    library = _ir_measures()
    deep = {library.nDCG @ 10: "nDCG@10", library.R @ 100: "R@100", library.Success @ 5: "Success@5"}
    deep[library.AP @ 100] = "MAP@100"
    # Places as scores: the order was decided before, ties included.
    places = range(_DEPTH, 0, -1)
    run = {
        query: {data.document_ids[i]: float(at) for i, at in zip(found, places, strict=False) if i != NONE}
        for query, found in zip(data.query_ids, ranking.documents[:, :_DEPTH].tolist(), strict=True)
    }
    first_ten = {query: dict(list(found.items())[:10]) for query, found in run.items()}
    rows = {query: row for row, query in enumerate(data.query_ids)}
    values = {name: np.zeros(len(rows)) for name in MEASURES}
    for metrics, ranked in ((deep, run), ({library.RR: "MRR@10"}, first_ten)):
        for each in library.iter_calc(list(metrics), data.grades, ranked):
            values[metrics[each.measure]][rows[each.query_id]] = each.value
    return values


def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("ir-measures", "measuring rankings") from error
    return ir_measures


def estimate(values: Values, *, seed: int = 0) -> Estimate:
    """Mean and 95 % interval by the percentile bootstrap over queries, with one seed the same every time."""
    generator = np.random.default_rng(seed)
    step = max(1, 8_000_000 // max(1, len(values)))
    means = [
        values[generator.integers(len(values), size=(min(step, _SAMPLES - start), len(values)))].mean(1)
        for start in range(0, _SAMPLES, step)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high))


def significance(values: Mapping[str, Values]) -> dict[tuple[str, str], float]:
    """For every two systems the p-value of no difference: paired t-test over queries, two-sided.

    Adjusted for the number of comparisons after Benjamini and Hochberg (1995). Source for the t-test: Smucker, Allan
    and Carterette, CIKM 2007.
    """
    names = list(values)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if not pairs:
        return {}
    raw = [_paired(values[a], values[b]) for a, b in pairs]
    return {pair: float(p) for pair, p in zip(pairs, stats.false_discovery_control(raw), strict=True)}


def _paired(first: Values, second: Values) -> float:
    difference = first - second
    if len(difference) < 2 or not difference.any():
        return 1.0
    if difference.std() == 0:  # the same everywhere, and not zero
        return 0.0
    return float(stats.ttest_rel(first, second).pvalue)


def agreement(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two lists of figures; None where one of them has no order."""
    if len(first) < 2:
        return None
    tau = float(stats.kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau
