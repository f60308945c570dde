"""Checks of a search before any engine sees it."""

import dataclasses
from collections.abc import Sequence

from qdrant_client import models

from mgte_rag import InvalidOptionError
from qdrant_mgte.schema import SPARSE, Schema, vector_fault
from qdrant_mgte.store import Dbsf, Mmr, Rrf, Stage, WeightedSum

MOST_RESULTS = 2**31  # more than any collection holds, and what every engine can count to


def checked_stages(stages: Sequence[Stage], schema: Schema) -> list[Stage]:
    """The searches, their filters handed down to the stages that read points.

    Raises:
        InvalidOptionError: a query vector is malformed, or the stages do not fit together.
    """
    for stage in stages:
        _check(stage, schema)
    return [_with_filters(stage) for stage in stages]


def finds_nothing(stage: Stage) -> bool:
    """Whether a search cannot find anything: its query is a sparse vector without terms."""
    return stage.using == SPARSE and not isinstance(stage.query, Mmr | None) and not len(stage.query)  # type: ignore[arg-type]


def _check(stage: Stage, schema: Schema) -> None:
    query, prefetches = stage.query, len(stage.prefetch)
    if not 1 <= stage.limit <= MOST_RESULTS or stage.offset < 0:
        raise InvalidOptionError(
            f"a search needs a limit above 0 and an offset from 0, not {stage.limit}, {stage.offset}"
        )
    if isinstance(query, Rrf | Dbsf | WeightedSum):
        _check_fusion(query, prefetches)
    elif query is None:
        if prefetches:
            raise InvalidOptionError("a stage with prefetches needs a query that scores what they found")
    else:
        vector = query.vector if isinstance(query, Mmr) else query
        if fault := vector_fault(stage.using or "", vector, schema):
            raise InvalidOptionError(f"the query cannot be used: {fault}")
        if isinstance(query, Mmr) and not (0 <= query.relevance <= 1 and query.candidates >= 1):
            raise InvalidOptionError(
                f"Mmr needs relevance from 0 to 1 and candidates above 0, not {query.relevance}, {query.candidates}"
            )
    for inner in stage.prefetch:
        if inner.offset:
            raise InvalidOptionError("only the last stage may have an offset")
        _check(inner, schema)


def _check_fusion(query: Rrf | Dbsf | WeightedSum, prefetches: int) -> None:
    name = type(query).__name__
    if not prefetches:
        raise InvalidOptionError(f"{name} needs prefetches to fuse")
    weights = None if isinstance(query, Dbsf) else query.weights
    if weights is not None and len(weights) != prefetches:
        raise InvalidOptionError(f"{name} has {len(weights)} weights for {prefetches} prefetches; give one for each")
    if isinstance(query, Rrf) and (query.k < 1 or any(weight <= 0 for weight in weights or ())):
        raise InvalidOptionError(f"Rrf needs a k from 1 and weights above 0, not {query.k}, {weights}")


def _with_filters(stage: Stage, outer: models.Filter | None = None) -> Stage:
    """The same search with each filter where points are first read; all engines then agree on what it means."""
    combined = _both(outer, stage.filter)
    if not stage.prefetch:
        return dataclasses.replace(stage, filter=combined)
    inner = tuple(_with_filters(prefetch, combined) for prefetch in stage.prefetch)
    return dataclasses.replace(stage, prefetch=inner, filter=None)


def _both(outer: models.Filter | None, inner: models.Filter | None) -> models.Filter | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return models.Filter(must=[outer, inner])
