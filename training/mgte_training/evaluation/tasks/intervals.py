"""How sure a figure is."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000

Places = NDArray[np.integer[Any]]


def bootstrap_interval(
    statistic: Callable[[Places], float], examples: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % percentile interval of a statistic over examples drawn anew with replacement.

    Args:
        statistic: of the examples at these places, int64 [examples], a place as often as it was drawn. Where it is
            not defined it gives NaN, and that draw does not count.
        examples: how many there are.
        resamples: draws.
        seed: of the draws.

    Returns:
        The 2.5th and 97.5th percentile; (None, None) with fewer than two examples or where no draw counts.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    if examples < 2:
        return None, None
    chance = np.random.default_rng(seed)
    values = np.array([statistic(chance.integers(examples, size=examples)) for _ in range(resamples)])
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
