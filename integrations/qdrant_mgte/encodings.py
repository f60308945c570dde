"""Vectors for a collection: those that a model made of many texts, and those that a caller gives by hand."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from mgte_rag import Encodings, InvalidDocumentError, InvalidOptionError, SparseVector
from mgte_rag.errors import shown
from mgte_rag.types import Floats, Output
from qdrant_mgte.schema import DENSE, MULTI_VECTOR, SPARSE, Schema, Vector, vector_fault

OUTPUTS: tuple[Output, ...] = ("dense", "sparse", "multi_vector")


def outputs_of(schema: Schema) -> tuple[Output, ...]:
    """The model outputs that a collection stores."""
    there = {DENSE: schema.dense is not None, SPARSE: schema.sparse, MULTI_VECTOR: schema.multi_vector is not None}
    return tuple(output for output in OUTPUTS if there[output])


def vectors_of(encoded: Encodings, row: int, schema: Schema) -> dict[str, Vector]:
    """The named vectors of one encoded text; a sparse vector without terms or a text without tokens has none."""
    vectors: dict[str, Vector] = {}
    if encoded.dense is not None and schema.dense is not None:
        vectors[DENSE] = encoded.dense[row]
        vectors |= prefix_vector(encoded.dense[row], schema)
    if encoded.sparse is not None and schema.sparse and len(encoded.sparse[row].indices):
        vectors[SPARSE] = encoded.sparse[row]
    if encoded.multi_vector is not None and schema.multi_vector is not None and len(encoded.multi_vector[row]):
        vectors[MULTI_VECTOR] = encoded.multi_vector[row]
    return vectors


def prefix_vector(dense: Floats, schema: Schema) -> dict[str, Vector]:
    """The first components of a dense vector, L2-normalised again, where the collection stores them."""
    if schema.prefix_name is None:
        return {}
    prefix = dense[: schema.dense_prefix]
    length = np.linalg.norm(prefix)
    return {schema.prefix_name: (prefix / length if length > 0 else prefix).astype(np.float32)}


def check_widths(encoded: Encodings, schema: Schema, name: str) -> None:
    """Check what a model gave against what the collection stores.

    Raises:
        InvalidOptionError: an output is missing or of another size.
    """
    given = {
        DENSE: None if encoded.dense is None else encoded.dense.shape[1],
        SPARSE: None if encoded.sparse is None else True,
        MULTI_VECTOR: None
        if encoded.multi_vector is None
        else next((rows.shape[1] for rows in encoded.multi_vector if rows.ndim == 2), schema.multi_vector),
    }
    wanted = {DENSE: schema.dense, SPARSE: schema.sparse or None, MULTI_VECTOR: schema.multi_vector}
    for output, size in wanted.items():
        if size is not None and given[output] is None:
            raise InvalidOptionError(f"the model {name!r} gave no {output} vectors, which the collection stores")
        if size is not None and given[output] != size:
            raise InvalidOptionError(
                f"the model {name!r} gave {output} vectors of {given[output]} components, the collection stores {size}"
            )


def ready_vectors(given: Any, schema: Schema) -> dict[str, Vector]:
    """A document's vectors as a caller gave them: ``Encodings`` of one text, or a dictionary by output.

    "dense" is [dim] numbers, "sparse" a ``SparseVector`` or {"indices": ..., "values": ...}, "multi_vector"
    [tokens, token_dim] numbers; all that the collection stores are needed.

    Raises:
        InvalidDocumentError: missing, ragged, of another size, empty, too large, NaN or infinite; the message says
            which.
    """
    if isinstance(given, Encodings):
        if len(given) != 1:
            raise InvalidDocumentError(f"encodings are of {len(given)} texts; give those of this document's text")
        rows: dict[str, Any] = {name: getattr(given, name) for name in OUTPUTS}
        given = {name: each[0] for name, each in rows.items() if each is not None and len(each)}
    if not isinstance(given, Mapping):
        raise InvalidDocumentError(f"encodings must be Encodings or a dictionary by output, not {shown(given)}")
    wanted = outputs_of(schema)
    unknown = [name for name in given if name not in OUTPUTS]
    missing = [name for name in wanted if given.get(name) is None]
    if unknown or missing:
        named = f"unknown {shown(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise InvalidDocumentError(f"encodings have {named}; this collection stores {', '.join(wanted)}")
    vectors: dict[str, Vector] = {name: _vector(name, given[name]) for name in wanted}
    for name, vector in vectors.items():
        if fault := vector_fault(name, vector, schema):
            raise InvalidDocumentError(fault)
    if DENSE in vectors:
        dense = cast(Floats, vectors[DENSE])
        if not dense.any():
            raise InvalidDocumentError("the vector 'dense' is zero everywhere and has no direction")
        vectors |= prefix_vector(dense, schema)
    if SPARSE in vectors and not len(cast(SparseVector, vectors[SPARSE]).indices):
        del vectors[SPARSE]
    return vectors


def dense_query(vector: Any) -> Encodings:
    """A question that is there as a dense vector alone, [dim] numbers.

    Raises:
        InvalidOptionError: no such vector. Its size and whether it is finite is looked at by the search.
    """
    try:
        dense = _floats(DENSE, vector)
    except InvalidDocumentError as error:
        raise InvalidOptionError(f"the query cannot be searched for: {error}") from None
    if dense.ndim != 1 or not dense.any():
        what = "zero everywhere and has no direction" if dense.ndim == 1 else f"of shape {list(dense.shape)}, not [dim]"
        raise InvalidOptionError(f"the query cannot be searched for: the vector is {what}")
    return Encodings(dense=dense[None], truncated=np.zeros(1, dtype=np.bool_), token_counts=np.zeros(1, dtype=np.int32))


def _vector(name: str, value: Any) -> Vector:
    if name != SPARSE:
        return _floats(name, value)
    if isinstance(value, SparseVector):
        indices, values = value.indices, value.values
    elif isinstance(value, Mapping) and value.keys() == {"indices", "values"}:
        indices, values = value["indices"], value["values"]
    else:
        raise InvalidDocumentError(
            f"the vector 'sparse' must be a SparseVector or {{'indices': ..., 'values': ...}}, not {shown(value)}"
        )
    weights = _floats(f"{name}.values", values)
    try:
        terms = np.asarray(indices)
    except ValueError:
        raise InvalidDocumentError(f"the indices of 'sparse' must be whole numbers, not {shown(indices)}") from None
    if terms.size == 0:
        terms = terms.astype(np.int32)
    if not np.issubdtype(terms.dtype, np.integer):
        raise InvalidDocumentError(f"the indices of 'sparse' must be whole numbers, not {shown(indices)}")
    if terms.size and (terms.min() < 0 or terms.max() >= 2**31):
        raise InvalidDocumentError(f"the indices of 'sparse' must be 0 to 2**31 - 1, not {shown(indices)}")
    if terms.ndim != 1 or terms.shape != weights.shape:
        raise InvalidDocumentError(
            f"the vector 'sparse' has indices of shape {list(terms.shape)} and values of {list(weights.shape)}"
        )
    order = np.argsort(terms, kind="stable")
    return SparseVector(terms[order].astype(np.int32), weights[order])


def _floats(name: str, value: Any) -> Floats:
    """The value as float32; what is no number at all is an error, NaN and sizes are looked at later."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        rows = {len(row) for row in value if isinstance(row, Sequence | np.ndarray)} if _is_list(value) else set()
        ragged = f"rows of {min(rows)} to {max(rows)} numbers" if len(rows) > 1 else shown(value)
        raise InvalidDocumentError(f"the vector {name!r} must be numbers in rows of one length, not {ragged}") from None
    return np.ascontiguousarray(array)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
