"""A schema as qdrant-client's collection parameters, by what the server has."""

from typing import Any

from qdrant_client import models

from qdrant_mgte.capabilities import MEMORY_TIERS, METADATA, TENANT, TURBO8, TURBO_QUANT, Capabilities
from qdrant_mgte.schema import DENSE, MULTI_VECTOR, SPARSE, Schema

METADATA_KEY = "mgte_rag"
_HNSW = models.HnswConfigDiff(m=16, ef_construct=128)
_NO_HNSW = models.HnswConfigDiff(m=0)


def collection_arguments(schema: Schema, capabilities: Capabilities) -> dict[str, Any]:
    """Arguments of ``create_collection``."""
    arguments: dict[str, Any] = {
        "vectors_config": {name: _vector(name, dim, schema, capabilities) for name, dim in schema.dims.items()},
        "sparse_vectors_config": {SPARSE: _sparse(schema)} if schema.sparse else None,
        "shard_number": schema.shards,
        "replication_factor": schema.replicas,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def index_arguments(schema: Schema, capabilities: Capabilities) -> list[dict[str, Any]]:
    """Arguments of ``create_payload_index``, one for each index."""
    indexes: dict[str, Any] = {field: models.PayloadSchemaType(kind) for field, kind in schema.indexes.items()}
    if schema.tenant is not None:
        tenant = capabilities.has(TENANT)
        indexes[schema.tenant] = models.KeywordIndexParams(
            type=models.KeywordIndexType.KEYWORD, is_tenant=True if tenant else None
        )
    return [{"field_name": field, "field_schema": kind} for field, kind in indexes.items()]


def stored_metadata(schema: Schema, metadata: dict[str, Any]) -> dict[str, Any]:
    """What is stored with a collection; a server merges metadata by key, so that all of it is one value."""
    return {METADATA_KEY: {"format": 1, "schema": schema.to_json(), "metadata": metadata}}


def has_metadata(capabilities: Capabilities) -> bool:
    """Whether collections have metadata; else a point of its own holds it."""
    return capabilities.has(METADATA)


def _vector(name: str, dim: int, schema: Schema, capabilities: Capabilities) -> models.VectorParams:
    exact = schema.preset == "exact"
    datatype = models.Datatype.FLOAT32 if exact else models.Datatype.FLOAT16
    if name == MULTI_VECTOR:
        if schema.preset == "compact" and capabilities.has(TURBO8):
            datatype = models.Datatype.TURBO8
        return models.VectorParams(
            size=dim,
            distance=models.Distance.COSINE,
            datatype=datatype,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=_NO_HNSW,  # scored only for what an earlier stage found, or in full
            **_cold(capabilities),
        )
    compact = schema.preset == "compact" and name == DENSE
    return models.VectorParams(
        size=dim,
        distance=models.Distance.COSINE,
        datatype=datatype,
        hnsw_config=_NO_HNSW if exact or (name == DENSE and schema.dense_prefix is not None) else _HNSW,
        quantization_config=_quantization(capabilities) if compact else None,
        **(_cold(capabilities) if compact else {}),
    )


def _cold(capabilities: Capabilities) -> dict[str, Any]:
    """Read from the disk where needed, not held in memory."""
    return {"memory": models.Memory.COLD} if capabilities.has(MEMORY_TIERS) else {"on_disk": True}


def _quantization(capabilities: Capabilities) -> Any:
    memory: dict[str, Any] = (
        {"memory": models.Memory.PINNED} if capabilities.has(MEMORY_TIERS) else {"always_ram": True}
    )
    if capabilities.has(TURBO_QUANT):
        bits = models.TurboQuantBitSize.BITS4
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, **memory))
    return models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, **memory)
    )


def _sparse(schema: Schema) -> models.SparseVectorParams:
    datatype = models.Datatype.FLOAT32 if schema.preset == "exact" else models.Datatype.FLOAT16
    return models.SparseVectorParams(index=models.SparseIndexParams(datatype=datatype))
