"""Points and searches in qdrant-client's types."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from mgte_rag import SparseVector
from qdrant_mgte import capabilities as features
from qdrant_mgte.capabilities import Capabilities
from qdrant_mgte.schema import DENSE, Point, Schema, Vector
from qdrant_mgte.sizes import point_bytes
from qdrant_mgte.store import Dbsf, Mmr, Rrf, Stage, WeightedSum

# Of quantized vectors, how many times the limit are fetched and compared again in full.
OVERSAMPLING = 3.0


def point_struct(point: Point) -> models.PointStruct:
    """A point to be written; it was checked before."""
    vectors = {name: _client_vector(vector) for name, vector in point.vectors.items()}
    return models.PointStruct.model_construct(id=str(point.id), vector=vectors, payload=dict(point.payload))


def batches_by_bytes(points: Sequence[Point], most: int, *, grpc: bool) -> Iterator[list[Point]]:
    """The points in order, in batches of at most so many bytes; a larger point is a batch of its own."""
    batch: list[Point] = []
    size = 0
    for point in points:
        more = point_bytes(point, grpc=grpc)
        if batch and size + more > most:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += more
    if batch:
        yield batch


def point_of(record: Any) -> Point:
    """A read point."""
    return Point(uuid.UUID(str(record.id)), vectors_of(record.vector), record.payload or {})


def vectors_of(found: Any) -> dict[str, Vector]:
    """A read point's vectors."""
    return {name: _vector(vector) for name, vector in found.items()} if isinstance(found, Mapping) else {}


def query_request(
    stage: Stage, schema: Schema, able: Capabilities, fields: Sequence[str] | None, vectors: Sequence[str]
) -> models.QueryRequest:
    """A whole search; it was checked before.

    Raises:
        InvalidOptionError: the server's version lacks something that it needs.
    """
    return models.QueryRequest(
        limit=stage.limit,
        offset=stage.offset or None,
        query=_query(stage, able),
        using=stage.using,
        prefetch=[_prefetch(inner, schema, able) for inner in stage.prefetch] or None,
        filter=stage.filter,
        score_threshold=stage.score_threshold,
        params=_params(stage, schema, able),
        with_payload=payload_selector(fields),
        with_vector=list(vectors) or False,
    )


def payload_selector(fields: Sequence[str] | None) -> bool | list[str]:
    """Which payload fields are read."""
    return True if fields is None else list(fields) or False


def _prefetch(stage: Stage, schema: Schema, able: Capabilities) -> models.Prefetch:
    return models.Prefetch(
        limit=stage.limit,
        query=_query(stage, able),
        using=stage.using,
        prefetch=[_prefetch(inner, schema, able) for inner in stage.prefetch] or None,
        filter=stage.filter,
        score_threshold=stage.score_threshold,
        params=_params(stage, schema, able),
    )


def _query(stage: Stage, able: Capabilities) -> Any:
    query = stage.query
    match query:
        case None:
            return None
        case Rrf():
            return _rrf(query, able)
        case Dbsf():
            able.require(features.DBSF)
            return models.FusionQuery(fusion=models.Fusion.DBSF)
        case WeightedSum():
            able.require(features.FORMULA)
            scores = [f"$score[{i}]" for i in range(len(query.weights))]
            terms = [
                models.MultExpression(mult=[weight, score]) for weight, score in zip(query.weights, scores, strict=True)
            ]
            return models.FormulaQuery(
                formula=models.SumExpression(sum=list(terms)), defaults=dict.fromkeys(scores, 0.0)
            )
        case Mmr():
            able.require(features.MMR)
            mmr = models.Mmr(diversity=1.0 - query.relevance, candidates_limit=query.candidates)
            return models.NearestQuery(nearest=_client_vector(query.vector), mmr=mmr)
    return models.NearestQuery(nearest=_client_vector(query))


def _rrf(query: Rrf, able: Capabilities) -> Any:
    if query.weights is not None:
        able.require(features.RRF_WEIGHTS)
    elif query.k == 2:
        return models.FusionQuery(fusion=models.Fusion.RRF)
    able.require(features.RRF_K)
    return models.RrfQuery(rrf=models.Rrf(k=query.k, weights=None if query.weights is None else list(query.weights)))


def _params(stage: Stage, schema: Schema, able: Capabilities) -> models.SearchParams | None:
    if not able.is_server:
        return None  # it compares every point exactly, whatever it is asked
    if stage.exact:
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    if schema.preset != "compact" or stage.using != DENSE:
        return None
    if stage.prefetch:  # the few that a stage before has found are compared in full
        return models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))
    return models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING))


def _client_vector(vector: Vector) -> Any:
    if isinstance(vector, SparseVector):
        return models.SparseVector.model_construct(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


def _vector(vector: Any) -> Vector:
    if isinstance(vector, models.SparseVector):
        indices = np.array(vector.indices, dtype=np.int32)
        order = np.argsort(indices)
        return SparseVector(indices[order], np.array(vector.values, dtype=np.float32)[order])
    return np.array(vector, dtype=np.float32)
