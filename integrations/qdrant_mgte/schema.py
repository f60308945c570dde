"""What a collection's points hold, how it is stored, and the checks every point passes before any engine sees it."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np

from mgte_rag import InvalidDocumentError, InvalidOptionError, SparseVector
from mgte_rag.errors import shown
from mgte_rag.types import Floats

DENSE = "dense"
SPARSE = "sparse"
MULTI_VECTOR = "multi_vector"

Preset = Literal["exact", "balanced", "compact"]
FieldType = Literal["keyword", "integer", "float", "bool", "datetime", "text"]
Vector = Floats | SparseVector

# Qdrant's own limits (lib/common/common/src/validation.rs); a flattened multi-vector must stay below the last.
MAX_DENSE_DIM = 65_535
MAX_MULTI_VECTOR_ELEMENTS = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a collection's points hold and how it is stored.

    Attributes:
        dense: components of the dense vector "dense". None: the collection has none; so below.
        dense_prefix: components of its Matryoshka prefix, stored as "dense_<dense_prefix>" for two-stage search.
        sparse: whether there is a sparse vector "sparse".
        multi_vector: components of a token's vector in "multi_vector".
        preset: "exact" stores float32 and compares every point; "balanced" float16 with an HNSW index;
            "compact" quantizes as well, and searches over-fetch and rescore.
        tenant: payload field that separates tenants, indexed as such; None for one tenant.
        indexes: payload fields to index, made before the first point: field -> type.
        shards: on a server, shards of the collection; None is the server's default. Elsewhere only None is allowed.
        replicas: on a server, copies of every shard; None is the server's default. Elsewhere only None is allowed.
    """

    dense: int | None = None
    dense_prefix: int | None = None
    sparse: bool = False
    multi_vector: int | None = None
    preset: Preset = "balanced"
    tenant: str | None = None
    indexes: Mapping[str, FieldType] = field(default_factory=dict)
    shards: int | None = None
    replicas: int | None = None

    def __post_init__(self) -> None:
        for name in ("dense", "dense_prefix", "multi_vector"):
            _check_positive(name, getattr(self, name), MAX_DENSE_DIM)
        for name in ("shards", "replicas"):
            _check_positive(name, getattr(self, name), 1_000)
        if self.dense is None and not self.sparse and self.multi_vector is None:
            raise InvalidOptionError("a collection needs at least one of dense, sparse and multi_vector")
        if self.dense_prefix is not None and (self.dense is None or self.dense_prefix >= self.dense):
            raise InvalidOptionError(f"dense_prefix {self.dense_prefix} must be below dense, which is {self.dense}")
        if self.preset not in get_args(Preset):
            raise InvalidOptionError(f"preset {shown(self.preset)} is not one of {', '.join(get_args(Preset))}")
        for name, kind in self.indexes.items():
            if kind not in get_args(FieldType):
                raise InvalidOptionError(
                    f"the index of {shown(name)} has type {shown(kind)}; choose one of {', '.join(get_args(FieldType))}"
                )

    @property
    def prefix_name(self) -> str | None:
        """Name of the prefix vector, "dense_<p>"."""
        return None if self.dense_prefix is None else f"{DENSE}_{self.dense_prefix}"

    @property
    def dims(self) -> dict[str, int]:
        """Components of the dense and prefix vectors and of a token's vector, by vector name; sparse has none."""
        named = {DENSE: self.dense, self.prefix_name: self.dense_prefix, MULTI_VECTOR: self.multi_vector}
        return {name: dim for name, dim in named.items() if name is not None and dim is not None}

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of all vectors."""
        return (*self.dims, *((SPARSE,) if self.sparse else ()))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "indexes": dict(self.indexes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From ``to_json``; unknown keys are a TypeError."""
        return cls(**content)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A stored or to be stored point.

    Attributes:
        id: unique in the collection.
        vectors: by name, any of the schema's: "dense" and "dense_<p>" float32 [dim], "sparse" a SparseVector,
            "multi_vector" float32 [tokens, token_dim]. Reading gives those that were asked for and are there.
        payload: what JSON can hold, normalised by the caller: finite numbers, whole numbers of 64 bits.
    """

    id: uuid.UUID
    vectors: Mapping[str, Vector]
    payload: Mapping[str, Any]


def check_points(points: Iterable[Point], schema: Schema) -> None:
    """``check_point`` for all of them, and that no id is there twice.

    Raises:
        InvalidDocumentError: the first that cannot be stored.
    """
    seen: set[uuid.UUID] = set()
    for point in points:
        if point.id in seen:
            raise InvalidDocumentError(f"point {point.id} is there twice; write one after the other")
        seen.add(point.id)
        check_point(point, schema)


def check_point(point: Point, schema: Schema) -> None:
    """Check a point's vectors by a server's rules, which the embedded engine does not apply.

    Raises:
        InvalidDocumentError: naming the point: no vector of that name, wrong shape or dim, rows of different lengths,
            NaN or infinity, no tokens, too many, duplicate or negative sparse indices.
    """
    for name, vector in point.vectors.items():
        if reason := vector_fault(name, vector, schema):
            raise InvalidDocumentError(f"point {point.id}: {reason}")


def vector_fault(name: str, vector: object, schema: Schema) -> str | None:
    """What is wrong with a vector of that name; None if nothing is. Queries follow the same rules."""
    if name not in schema.vector_names:
        return f"there is no vector {shown(name)} in this collection; it has {', '.join(schema.vector_names)}"
    if name == SPARSE:
        return _sparse_fault(vector)
    dim, axes = schema.dims[name], 2 if name == MULTI_VECTOR else 1
    shape = f"[tokens, {dim}]" if axes == 2 else f"[{dim}]"
    if not isinstance(vector, np.ndarray) or vector.dtype != np.float32:
        kind = f"an array of {vector.dtype}" if isinstance(vector, np.ndarray) else f"a {type(vector).__name__}"
        return f"the vector {name!r} must be a float32 array of shape {shape}, not {kind}"
    if vector.ndim != axes or vector.shape[-1] != dim:
        return f"the vector {name!r} has shape {list(vector.shape)}; {shape} is needed"
    if not vector.shape[0]:
        return f"the vector {name!r} has no tokens; give at least one"
    if axes == 2 and vector.size >= MAX_MULTI_VECTOR_ELEMENTS:
        most = (MAX_MULTI_VECTOR_ELEMENTS - 1) // dim
        return (
            f"the vector {name!r} has {len(vector):,} tokens; {most:,} of {dim} components are the most. Split the text"
        )
    if not np.isfinite(vector).all():
        return f"the vector {name!r} holds NaN or infinity"
    return None


def _sparse_fault(vector: object) -> str | None:
    if not isinstance(vector, SparseVector):
        return f"the vector {SPARSE!r} must be a SparseVector, not a {type(vector).__name__}"
    indices, values = np.asarray(vector.indices), np.asarray(vector.values)
    if indices.ndim != 1 or values.shape != indices.shape:
        return f"the vector {SPARSE!r} has indices of shape {indices.shape} and values of {values.shape}"
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
        return f"the vector {SPARSE!r} has indices of {indices.dtype}; whole numbers are needed"
    if indices.size and (indices.min() < 0 or indices.max() >= 2**31):
        return f"the vector {SPARSE!r} has an index outside 0 to 2**31 - 1"
    if not np.diff(np.sort(indices)).all():
        return f"the vector {SPARSE!r} has the same index more than once; add their values"
    if not np.isfinite(values).all():
        return f"the vector {SPARSE!r} holds NaN or infinity"
    return None


def _check_positive(name: str, value: object, most: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
        raise InvalidOptionError(f"{name} must be None or a whole number from 1 to {most:,}, not {shown(value)}")
