"""A search as nested stages: prefix -> dense, sparse -> fusion -> MaxSim -> MMR."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from qdrant_client import models

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte.filters import Filter, native_filter
from qdrant_mgte.fusion import Fusion
from qdrant_mgte.schema import DENSE, MULTI_VECTOR, SPARSE, Schema, Vector
from qdrant_mgte.store import Mmr, Stage, WeightedSum
from qdrant_mgte.types import ScoringModel

Mode = Literal["hybrid", "dense", "sparse", "late_interaction"]
MODES: tuple[Mode, ...] = get_args(Mode)
STAGES = (*MODES, "combined", "mmr", "rerank")

# Points that a search hands from stage to stage: Qdrant advises 100 to 200.
_CANDIDATES = 100
_RERANKED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search's options, checked.

    Attributes:
        mode: what ranks.
        limit: hits at most.
        offset: best hits to leave out.
        filter: only what matches.
        fusion: of dense and sparse.
        candidates: points that fusion hands to the next stage; each of what it fuses looks at twice as many.
        rerank: cross-encoder for the best of them.
        rerank_candidates: how many it scores.
        mmr: the usual lambda: 1 is similarity alone, 0 diversity alone.
        group_by_parent: one hit per document.
        thresholds: least score by stage.
        all_scores: scores of every stage in every hit.
        exact: compare every point.
    """

    mode: Mode
    limit: int = 10
    offset: int = 0
    filter: models.Filter | None = None
    fusion: Fusion = field(default_factory=Fusion)
    candidates: int = _CANDIDATES
    rerank: ScoringModel | None = None
    rerank_candidates: int = _RERANKED
    mmr: float | None = None
    group_by_parent: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    all_scores: bool = False
    exact: bool | None = None

    @classmethod
    def of(
        cls,
        schema: Schema,
        mode: str | None,
        limit: int,
        offset: int,
        filter: Filter | None,
        fusion: Fusion,
        candidates: int | None,
        rerank: ScoringModel | None,
        rerank_candidates: int | None,
        mmr: float | None,
        group_by_parent: bool,
        score_threshold: float | Mapping[str, float] | None,
        all_scores: bool,
        exact: bool | None,
    ) -> "Search":
        """From a caller's arguments.

        Raises:
            InvalidOptionError: one that is not allowed, or that this collection cannot do.
        """
        search = cls(
            mode=check_mode(mode, schema),
            limit=_whole("limit", limit, 1),
            offset=_whole("offset", offset, 0),
            filter=native_filter(filter),
            fusion=fusion,
            candidates=_whole("candidates", _CANDIDATES if candidates is None else candidates, 1),
            rerank=rerank,
            rerank_candidates=_whole(
                "rerank_candidates", _RERANKED if rerank_candidates is None else rerank_candidates, 1
            ),
            mmr=mmr,
            group_by_parent=group_by_parent,
            all_scores=all_scores,
            exact=exact,
        )
        if rerank is not None and (not hasattr(rerank, "score") or isinstance(rerank, type)):
            raise InvalidOptionError(f"rerank must be a loaded reranker, Reranker.load(...), not {shown(rerank)}")
        if mmr is not None:
            if not isinstance(mmr, int | float) or isinstance(mmr, bool) or not 0 <= mmr <= 1:
                raise InvalidOptionError(
                    f"mmr must be from 0 (diversity alone) to 1 (similarity alone), not {shown(mmr)}"
                )
            if schema.dense is None:
                raise InvalidOptionError("mmr compares dense vectors, and this collection has none")
        return replace(search, thresholds=_thresholds(score_threshold, search, schema))

    @property
    def last(self) -> str:
        """The engine's last stage, whose score hits have unless they are reranked."""
        if self.mmr is not None:
            return "mmr"
        return "combined" if self.combines else self.mode

    @property
    def combines(self) -> bool:
        """Whether late interaction's scores are added to those of what found the candidates."""
        return self.mode == "late_interaction" and bool(self.fusion.weights.get("late_interaction"))

    def stages(self, schema: Schema) -> tuple[str, ...]:
        """The stages that score, in order."""
        named: list[str] = [*self.legs(schema)]
        if len(named) > 1:
            named.append("hybrid")
        if self.mode == "late_interaction":
            named.append("late_interaction")
        if self.combines:
            named.append("combined")
        if self.mmr is not None:
            named.append("mmr")
        return (*named, "rerank") if self.rerank is not None else tuple(named)

    def legs(self, schema: Schema) -> tuple[Output, ...]:
        """Which of dense and sparse find the candidates."""
        there: dict[Output, bool] = {"dense": schema.dense is not None, "sparse": schema.sparse}
        if self.mode in ("dense", "sparse"):
            return (self.mode,)
        return tuple(name for name, is_there in there.items() if is_there)

    def outputs(self, schema: Schema) -> tuple[Output, ...]:
        """What the query has to be encoded to."""
        legs = self.legs(schema)
        if self.mmr is not None and "dense" not in legs:
            legs = ("dense", *legs)
        return (*legs, "multi_vector") if self.mode == "late_interaction" else legs


def default_mode(schema: Schema) -> Mode:
    """The best that a collection has."""
    if schema.dense is not None:
        return "hybrid" if schema.sparse else "dense"
    return "late_interaction" if schema.multi_vector is not None else "sparse"


def check_mode(mode: str | None, schema: Schema) -> Mode:
    """A mode that the collection has; None is the default.

    Raises:
        InvalidOptionError: unknown, or the collection lacks what it needs.
    """
    if mode is None:
        return default_mode(schema)
    there = {
        "hybrid": schema.dense is not None and schema.sparse,
        "dense": schema.dense is not None,
        "sparse": schema.sparse,
        "late_interaction": schema.multi_vector is not None,
    }
    for known in MODES:
        if mode == known and there[known]:
            return known
    allowed = ", ".join(known for known in MODES if there[known])
    raise InvalidOptionError(f"mode {shown(mode)} is not supported by this collection; choose one of {allowed}")


def plan(vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage | None:
    """The search for one query; None where nothing can be found (a sparse query without a known term).

    The filter stands at the outermost stage and holds for all.
    """
    stage = _ranked(vectors, search, schema, limit)
    if stage is None:
        return None
    if search.mmr is not None:
        pool = max(search.candidates, limit)
        query = Mmr(vector=vectors[DENSE], relevance=float(search.mmr), candidates=pool)
        stage = Stage(query=query, using=DENSE, limit=limit, prefetch=(replace(stage, limit=pool),))
    return replace(stage, limit=limit, filter=search.filter)


def fused(vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage | None:
    """The fusion alone, with the filter: for its scores."""
    stage = _candidates(vectors, search, schema, limit)
    return None if stage is None else replace(stage, filter=search.filter)


def combined(vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage | None:
    """The combination with late interaction alone, with the filter: for its scores."""
    stage = _ranked(vectors, search, schema, limit)
    return None if stage is None else replace(stage, limit=limit, filter=search.filter)


def _ranked(vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage | None:
    if search.mode != "late_interaction":
        return _candidates(vectors, search, schema, limit)
    before = _candidates(vectors, search, schema, limit) if search.exact is not True else None
    late = Stage(
        query=vectors[MULTI_VECTOR],
        using=MULTI_VECTOR,
        limit=limit,
        prefetch=() if before is None else (before,),
        score_threshold=search.thresholds.get("late_interaction"),
        exact=search.exact,
    )
    return _combined(vectors, search, schema, late) if search.combines else late


def _combined(vectors: Mapping[str, Vector], search: Search, schema: Schema, late: Stage) -> Stage:
    """Late interaction's scores, as means over the query's tokens, added to the others', weighted."""
    each = max(2 * search.candidates, late.limit)
    names = [name for name in search.legs(schema) if name in vectors]
    legs = [_leg(name, vectors, search, schema, each) for name in names]
    weights = [search.fusion.weights.get(name, 0.0) for name in names]
    share = search.fusion.weights["late_interaction"] / max(1, len(vectors[MULTI_VECTOR]))
    late = replace(late, limit=max(search.candidates, late.limit))
    return Stage(
        query=WeightedSum((*weights, share)),
        limit=late.limit,
        prefetch=(*legs, late),
        score_threshold=search.thresholds.get("combined"),
    )


def _candidates(vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage | None:
    """Dense, sparse or both fused."""
    pool = max(search.candidates, limit)
    each = max(2 * search.candidates, limit)
    names = [name for name in search.legs(schema) if name in vectors]
    legs = tuple(_leg(name, vectors, search, schema, each) for name in names)
    if not legs:
        return None
    if len(search.legs(schema)) == 1:
        return legs[0]
    threshold = search.thresholds.get("hybrid")
    return Stage(query=search.fusion.query(names), limit=pool, prefetch=legs, score_threshold=threshold)


def _leg(name: str, vectors: Mapping[str, Vector], search: Search, schema: Schema, limit: int) -> Stage:
    before: tuple[Stage, ...] = ()
    if name == DENSE and schema.prefix_name is not None and not search.exact:
        before = (Stage(query=vectors[schema.prefix_name], using=schema.prefix_name, limit=2 * limit),)
    return Stage(
        query=vectors[name],
        using=DENSE if name == DENSE else SPARSE,
        limit=limit,
        prefetch=before,
        score_threshold=search.thresholds.get(name),
        exact=search.exact,
    )


def _thresholds(given: float | Mapping[str, float] | None, search: Search, schema: Schema) -> dict[str, float]:
    if given is None:
        return {}
    stages = [stage for stage in search.stages(schema) if stage != "mmr"]
    if not isinstance(given, Mapping):
        last = stages[-1]
        if last in ("hybrid", "combined"):
            raise InvalidOptionError(
                f"score_threshold={shown(given)}: fused scores say nothing by themselves; name the stage that it is "
                f"for, {{'dense': {shown(given)}}}"
            )
        given = {last: given}
    for stage, least in given.items():
        if stage not in stages:
            raise InvalidOptionError(f"score_threshold names {shown(stage)}; the stages here are {', '.join(stages)}")
        if not isinstance(least, int | float) or isinstance(least, bool) or not math.isfinite(least):
            raise InvalidOptionError(f"score_threshold of {stage} must be a finite number, not {shown(least)}")
    return dict(given)


def _whole(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        above = f"above {least - 1}" if least else "from 0"
        raise InvalidOptionError(f"{name} must be a whole number {above}, not {shown(value)}")
    return value
