"""Schemas, points and searches in the embedded engine's own types."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from mgte_rag import InvalidOptionError, SparseVector
from qdrant_mgte.edge_filter import edge_filter
from qdrant_mgte.schema import DENSE, MULTI_VECTOR, SPARSE, Point, Schema, Vector
from qdrant_mgte.store import Dbsf, Mmr, Rrf, Stage, WeightedSum

# Of quantized vectors, how many times the limit are fetched and compared again in full.
OVERSAMPLING = 3.0
_INDEXES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "text": edge.PayloadSchemaType.Text,
}
_FLOAT32, _FLOAT16 = edge.VectorStorageDatatype.Float32, edge.VectorStorageDatatype.Float16
_MULTI_VECTOR_TYPE = {"exact": _FLOAT32, "balanced": _FLOAT16, "compact": edge.VectorStorageDatatype.Turbo8}
_NO_HNSW = edge.HnswIndexConfig(m=0, ef_construct=128, full_scan_threshold=10_000)
_HNSW = edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=10_000)


def edge_config(schema: Schema) -> "edge.EdgeConfig":
    """How a shard stores a schema's vectors."""
    datatype = _FLOAT32 if schema.preset == "exact" else _FLOAT16
    vectors = {}
    for name, dim in schema.dims.items():
        if name == MULTI_VECTOR:
            vectors[name] = edge.EdgeVectorParams(
                dim,
                edge.Distance.Cosine,
                datatype=_MULTI_VECTOR_TYPE[schema.preset],
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                hnsw_config=_NO_HNSW,  # scored only for what an earlier stage found, or in full
            )
            continue
        indexed = schema.preset != "exact" and (name != DENSE or schema.dense_prefix is None)
        quantized = schema.preset == "compact" and name == DENSE
        vectors[name] = edge.EdgeVectorParams(
            dim,
            edge.Distance.Cosine,
            datatype=datatype,
            hnsw_config=_HNSW if indexed else _NO_HNSW,
            quantization_config=edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4)
            if quantized
            else None,
        )
    sparse = {SPARSE: edge.EdgeSparseVectorParams(datatype=datatype)} if schema.sparse else {}
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)


def index_operations(schema: Schema) -> "list[edge.UpdateOperation]":
    """What makes a schema's payload indexes."""
    indexes: dict[str, Any] = {field: _INDEXES[kind] for field, kind in schema.indexes.items()}
    if schema.tenant is not None:
        indexes[schema.tenant] = edge.KeywordIndexParams(is_tenant=True)
    try:
        return [edge.UpdateOperation.create_field_index(field, kind) for field, kind in indexes.items()]
    except ValueError as error:
        raise InvalidOptionError(
            f'a payload field to index cannot be read: {error}; other than letters, digits, "_" and "-" need quotes'
        ) from error


def edge_point(point: Point) -> "edge.Point":
    """A point to be written; it was checked before."""
    return edge.Point(point.id, {name: _edge_vector(v) for name, v in point.vectors.items()}, dict(point.payload))


def vectors_of(found: Any) -> dict[str, Vector]:
    """A read point's vectors."""
    return {name: _vector(vector) for name, vector in found.items()} if isinstance(found, dict) else {}


def _edge_vector(vector: Vector) -> Any:
    """Arrays are taken as they are, whatever the engine's stub says."""
    return edge.SparseVector(vector.indices, vector.values) if isinstance(vector, SparseVector) else vector  # type: ignore[arg-type]


def _vector(vector: Any) -> Vector:
    if isinstance(vector, edge.SparseVector):
        indices = np.array(vector.indices, dtype=np.int32)
        order = np.argsort(indices)
        return SparseVector(indices[order], np.array(vector.values, dtype=np.float32)[order])
    return np.array(vector, dtype=np.float32)


def query_request(
    stage: Stage, schema: Schema, fields: Sequence[str] | None, vectors: Sequence[str]
) -> "edge.QueryRequest":
    """A whole search; it was checked before."""
    return edge.QueryRequest(
        limit=stage.limit,
        offset=stage.offset or None,
        query=_query(stage),
        prefetches=[_prefetch(inner, schema) for inner in stage.prefetch],
        filter=edge_filter(stage.filter),
        score_threshold=stage.score_threshold,
        params=_params(stage, schema),
        with_payload=payload_selector(fields),
        with_vector=list(vectors) or False,
    )


def payload_selector(fields: Sequence[str] | None) -> bool | list[str]:
    """The engine's way to say which payload fields are read."""
    return True if fields is None else list(fields) or False


def _prefetch(stage: Stage, schema: Schema) -> "edge.Prefetch":
    return edge.Prefetch(
        limit=stage.limit,
        query=_query(stage),
        prefetches=[_prefetch(inner, schema) for inner in stage.prefetch],
        filter=edge_filter(stage.filter),
        score_threshold=stage.score_threshold,
        params=_params(stage, schema),
    )


def _query(stage: Stage) -> Any:
    query = stage.query
    match query:
        case None:
            return None
        case Rrf():
            return edge.Fusion.Rrf(query.k, None if query.weights is None else list(query.weights))
        case Dbsf():
            return edge.Fusion.Dbsf()
        case WeightedSum():
            scores = [f"$score[{i}]" for i in range(len(query.weights))]
            terms = [
                edge.Expression.Mult([edge.Expression.Constant(weight), edge.Expression.Variable(score)])
                for weight, score in zip(query.weights, scores, strict=True)
            ]
            return edge.Formula(edge.Expression.Sum(terms), dict.fromkeys(scores, 0.0))
        case Mmr():
            return edge.Mmr(_edge_vector(query.vector), query.relevance, query.candidates, stage.using)
    return edge.Query.Nearest(_edge_vector(query), using=stage.using)


def _params(stage: Stage, schema: Schema) -> "edge.SearchParams | None":
    if stage.exact:
        return edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
    if schema.preset != "compact" or stage.using != DENSE:
        return None
    if stage.prefetch:  # the few that a stage before has found are compared in full
        return edge.SearchParams(quantization=edge.QuantizationSearchParams(ignore=True))
    return edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING))


def as_uuid(value: object) -> UUID:
    """A point's id."""
    return value if isinstance(value, UUID) else UUID(str(value))
