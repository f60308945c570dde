"""Scores as relevance from 0 to 1, for people and for thresholds; what sorts is the scores themselves.

Fused scores and sparse dot products have none: they say something only beside others of the same question.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Relevance = NDArray[np.float64]


def of_logits(scores: ArrayLike) -> Relevance:
    """The sigmoid of a cross-encoder's logits."""
    logits: Relevance = np.asarray(scores, dtype=np.float64).clip(-500, 500)
    return np.asarray(1 / (1 + np.exp(-logits)))


def of_max_sim(scores: ArrayLike, query_tokens: int) -> Relevance:
    """MaxSim divided by the query's tokens: the mean cosine of their best matches, below 0 counted as 0."""
    return (np.asarray(scores, dtype=np.float64) / max(1, query_tokens)).clip(0, 1)


def of_cosine(scores: ArrayLike) -> Relevance:
    """The cosine of dense vectors, below 0 counted as 0."""
    return np.asarray(scores, dtype=np.float64).clip(0, 1)
