"""How the rankings of several vectors become one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from qdrant_mgte.store import Dbsf, Rrf, WeightedSum

# Among small k there is little to choose (benchmarks/retrieval.py --fusions); the paper's 60 (Cormack, Clarke and
# Buettcher, SIGIR 2009) is 61 in Qdrant's counting.
DEFAULT_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """A way to fuse rankings; made by ``rrf``, ``dbsf`` and ``weighted``."""

    kind: Literal["rrf", "dbsf", "weighted"] = "rrf"
    k: int = DEFAULT_K
    weights: Mapping[str, float] = field(default_factory=dict)

    def query(self, legs: Sequence[str]) -> Rrf | Dbsf | WeightedSum:
        """For the engine: over the stages of these names."""
        if self.kind == "dbsf":
            return Dbsf()
        if self.kind == "weighted":
            return WeightedSum(tuple(self.weights.get(leg, 0.0) for leg in legs))
        return Rrf(k=self.k, weights=tuple(self.weights.get(leg, 1.0) for leg in legs) if self.weights else None)


def rrf(k: int = DEFAULT_K, weights: Mapping[str, float] | None = None) -> Fusion:
    """Reciprocal rank fusion: the sum of 1 / (rank / weight + k - 1) over the rankings, rank from 1.

    Args:
        k: as Qdrant counts it: the paper's 60 is 61 here, Qdrant's own default is 2. A small k trusts the first ranks,
            which helps where a question has one or two answers; a large one trusts agreement.
        weights: by "dense" and "sparse", above 0; one not named is 1. They are factors on the rank, not shares: change
            them together with k.

    Source: https://qdrant.tech/documentation/search/hybrid-queries/
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InvalidOptionError(f"k must be a whole number from 1, not {shown(k)}; the paper's 60 is 61 here")
    return Fusion(kind="rrf", k=k, weights=_checked(weights or {}, above_zero=True))


def dbsf() -> Fusion:
    """Distribution-based score fusion: scores scaled by each ranking's mean and three deviations, then added."""
    return Fusion(kind="dbsf")


def weighted(weights: Mapping[str, float]) -> Fusion:
    """The weighted sum of the scores, as models publish it: mGTE {"dense": 1, "sparse": 0.1}.

    A document that one of the rankings does not reach has score 0 in it.

    Args:
        weights: by "dense", "sparse", "late_interaction" and "rerank"; one not named is 0. Late interaction's counts
            where it is what ranks, beside the other two, as the mean over the query's tokens; without it late
            interaction ranks alone what they have found. The last is a factor on the raw score of a reranker, which is
            then added to the score that it was given, whatever that was made of; without it the reranker ranks alone.
    """
    if not weights:
        raise InvalidOptionError("weighted needs weights such as {'dense': 1, 'sparse': 0.1}")
    return Fusion(kind="weighted", weights=_checked(weights, above_zero=False))


def default_fusion(model: object) -> Fusion:
    """The weights of dense and sparse that a model was published with, where it was with some; else ``rrf()``.

    Late interaction then ranks alone what they have found, as its name says; "published" and ``weighted`` add it.
    """
    published: Mapping[str, float] | None = getattr(model, "hybrid_weights", None)
    fused = {} if published is None else {name: published[name] for name in ("dense", "sparse") if name in published}
    return weighted(fused) if fused else rrf()


def published_fusion(model: object) -> Fusion:
    """All the weights that a model was published with: late interaction then counts beside what found its candidates.

    Raises:
        InvalidOptionError: the model was published without weights.
    """
    published: Mapping[str, float] | None = getattr(model, "hybrid_weights", None)
    if published is None:
        raise InvalidOptionError("the model was published without weights; choose some: weighted({'dense': 1, ...})")
    stages = {"multi_vector": "late_interaction"}
    return weighted({stages.get(output, output): weight for output, weight in published.items()})


def fusion_of(given: Fusion | str | None, model: object) -> Fusion:
    """A fusion from what a caller gave: one made by a function here, "rrf", "dbsf", "published", or None."""
    if given is None:
        return default_fusion(model)
    if given == "published":
        return published_fusion(model)
    if given == "rrf":
        return rrf()
    if given == "dbsf":
        return dbsf()
    if not isinstance(given, Fusion):
        raise InvalidOptionError(
            f"fusion {shown(given)} is not supported; choose 'rrf', 'dbsf', 'published', "
            f"rrf(k=..., weights=...) or weighted(...)"
        )
    return given


def _checked(weights: Mapping[str, float], *, above_zero: bool) -> dict[str, float]:
    allowed = {"dense", "sparse"} if above_zero else {"dense", "sparse", "late_interaction", "rerank"}
    unknown = sorted(weights.keys() - allowed)
    if unknown:
        raise InvalidOptionError(f"weights name {', '.join(unknown)}; what is fused is {', '.join(sorted(allowed))}")
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
            raise InvalidOptionError(f"the weight of {name} must be a finite number, not {shown(weight)}")
        if weight < 0 or (above_zero and weight == 0):
            raise InvalidOptionError(f"the weight of {name} must be above 0, not {weight}; mode= leaves stages out")
    return dict(weights)
