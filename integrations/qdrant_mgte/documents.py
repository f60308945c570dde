"""Caller's dictionaries to checked documents, and documents to payloads and back.

The embedded engine checks next to nothing: it stores NaN, turns large integers into floats without a word, and writes
payloads that it cannot read again. Everything is therefore checked here, before anything is written.
"""

import datetime
import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgte_rag import InvalidDocumentError
from mgte_rag.errors import shown
from qdrant_mgte.encodings import ready_vectors
from qdrant_mgte.schema import Schema, Vector
from qdrant_mgte.types import Hit

# Fixed for ever: the same id must be the same point in every collection.
_POINT_NAMESPACE = uuid.UUID("6a8c2f0e-41d5-5c8e-9f3a-2f6f1f8f4b7d")
# The engine reads many floats back with another last digit: metadata with floats is kept as text beside itself.
EXACT_METADATA = "metadata_json"
_FIELDS = {"id", "text", "metadata", "encodings"}
# The engine reads back payloads nested up to 128 deep; ours may wrap them a few levels more.
_MAX_DEPTH = 100
# Every piece of a document carries its metadata.
_MAX_METADATA_BYTES = 1024 * 1024

# The fields of a payload that say what is stored, without texts and metadata.
STATE_FIELDS = ("content_hash", "metadata_hash", "chunks", "layout", "tokens", "stale_chunks")
# Those that make a hit.
HIT_FIELDS = ("doc_id", "chunk_no", "chunks", "start", "text", "metadata", EXACT_METADATA)


@dataclass(frozen=True, slots=True)
class CheckedDocument:
    """A document that can be stored.

    Attributes:
        position: its place among those given.
        content_hash: SHA-256 of the text, and of the vectors where they were given.
        metadata_hash: SHA-256 of the metadata.
        vectors: those given with it, by name; None where the model is to make them.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    position: int
    content_hash: str
    metadata_hash: str
    vectors: Mapping[str, Vector] | None = None

    def metadata_payload(self) -> dict[str, Any]:
        """The payload fields that change with the metadata."""
        exact = json.dumps(self.metadata) if _has_float(self.metadata) else None
        return {"metadata": self.metadata, "metadata_hash": self.metadata_hash, EXACT_METADATA: exact}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A document, or a piece of one, on its way to the engine.

    Attributes:
        number: of the document's ``count`` pieces, from 0.
        start: where its text starts in the document's.
        tokens: tokens the model reads of it; 0 where vectors were given.
        layout: how the document was cut: "whole", "cut" (too long and not split), "given" or "split:tokens:overlap".
        stale: pieces that an older version has beyond ``count``, to be deleted once this one is stored.
    """

    document: CheckedDocument
    number: int
    count: int
    start: int
    text: str
    tokens: int
    layout: str
    stale: int = 0
    vectors: dict[str, Vector] = field(default_factory=dict)

    @property
    def point_id(self) -> uuid.UUID:
        """The engine's id of it."""
        return point_id(self.document.id, self.number)

    def payload(self) -> dict[str, Any]:
        """What is stored beside the vectors."""
        stored = {
            "doc_id": self.document.id,
            "chunk_no": self.number,
            "chunks": self.count,
            "start": self.start,
            "text": self.text,
            "tokens": self.tokens,
            "content_hash": self.document.content_hash,
            "layout": self.layout,
            **{name: value for name, value in self.document.metadata_payload().items() if value is not None},
        }
        if self.number == 0 and self.stale:
            stored["stale_chunks"] = self.stale
        return stored


def point_id(document_id: str, number: int = 0) -> uuid.UUID:
    """The engine's id of a document id of any length and script, or of one of its pieces."""
    first = uuid.uuid5(_POINT_NAMESPACE, document_id)
    return uuid.uuid5(first, str(number)) if number else first


def chunk_ids(document_id: str, first: int, end: int) -> list[uuid.UUID]:
    """The engine's ids of a document's pieces from one number to before another."""
    return [point_id(document_id, number) for number in range(first, end)]


def metadata_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a payload, floats to the last digit."""
    exact = payload.get(EXACT_METADATA)
    metadata: dict[str, Any] = payload["metadata"] if exact is None else json.loads(exact)
    return metadata


def hit_of(payload: Mapping[str, Any], score: float, stage: str) -> Hit:
    """The hit of a payload with ``HIT_FIELDS``."""
    return Hit(
        payload["doc_id"],
        payload["text"],
        metadata_of(payload),
        score,
        {stage: score},
        chunk_no=payload["chunk_no"],
        chunks=payload["chunks"],
        start=payload["start"],
    )


def check_document(document: Any, position: int, schema: Schema) -> CheckedDocument:
    """A document from a caller's dictionary with "text", and optional "id", "metadata" and "encodings".

    Without an id it gets one made from its text and metadata. Metadata may hold what JSON can: strings, finite
    numbers, booleans, None, lists and dictionaries with string keys; dates and times become ISO 8601 strings, paths
    and UUIDs strings, numpy scalars plain numbers.

    Raises:
        InvalidDocumentError: with the reason; the document's id is in the message where it has one.
    """
    if not isinstance(document, Mapping):
        raise InvalidDocumentError(f"a document must be a dictionary with id and text, not {type(document).__name__}")
    unknown = document.keys() - _FIELDS
    if unknown:
        raise InvalidDocumentError(
            f"unknown fields {shown(sorted(map(str, unknown)))}; a document has id, text, metadata and encodings"
        )
    document_id = document.get("id")
    if document_id is not None and (not isinstance(document_id, str) or not document_id):
        raise InvalidDocumentError(f"id must be a string that is not empty, not {shown(document_id)}")
    try:
        text, metadata = _check_text(document.get("text")), check_metadata(document.get("metadata"))
        given = document.get("encodings")
        vectors = None if given is None else ready_vectors(given, schema)
        if document_id is None:
            document_id = content_id(text, metadata)
        else:
            check_unicode(document_id, "id")
    except InvalidDocumentError as error:
        named = "" if document_id is None else f"document {shown(document_id)}: "
        raise InvalidDocumentError(f"{named}{error}") from None
    return CheckedDocument(
        document_id,
        text,
        metadata,
        position,
        content_hash=_hash(text, *_vector_bytes(vectors or {})),
        metadata_hash=metadata_hash(metadata),
        vectors=vectors,
    )


def content_id(text: str, metadata: Any) -> str:
    """The id of a document that was given none: the same for the same text and metadata.

    Raises:
        InvalidDocumentError: metadata that cannot be stored.
    """
    return _hash(json.dumps([text, check_metadata(metadata)], sort_keys=True))


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Metadata as plain JSON values; None is empty.

    Raises:
        InvalidDocumentError: it cannot be stored, with the reason and the place in it.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidDocumentError(f"metadata must be a dictionary, not {type(metadata).__name__}")
    plain: dict[str, Any] = _plain(metadata or {}, "metadata", 1)
    size = len(json.dumps(plain, ensure_ascii=False).encode())
    if size > _MAX_METADATA_BYTES:
        raise InvalidDocumentError(
            f"metadata is {size:,} bytes as JSON, {_MAX_METADATA_BYTES:,} are the most; put long values into the text, "
            f"or keep them elsewhere and store a reference"
        )
    return plain


def metadata_hash(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of plain metadata, whatever the order of its keys."""
    return _hash(json.dumps(metadata, sort_keys=True))


def _hash(text: str, *more: bytes) -> str:
    digest = hashlib.sha256(text.encode())
    for part in more:
        digest.update(part)
    return digest.hexdigest()


def _vector_bytes(vectors: Mapping[str, Vector]) -> list[bytes]:
    parts: list[bytes] = []
    for name, vector in sorted(vectors.items()):
        for array in (vector,) if isinstance(vector, np.ndarray) else (vector.indices, vector.values):
            parts += [f"{name}{array.shape}".encode(), array.tobytes()]
    return parts


def _check_text(text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidDocumentError(f"text must be a string, not {type(text).__name__}")
    return check_unicode(text, "text")


def _plain(value: Any, path: str, depth: int) -> Any:
    """A metadata value as the engine stores it and gives it back unchanged."""
    if depth > _MAX_DEPTH:
        raise InvalidDocumentError(f"metadata is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {_check_key(key, path): _plain(item, f"{path}.{key}"[:200], depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{i}]"[:200], depth + 1) for i, item in enumerate(value)]
    return _plain_scalar(value.item() if isinstance(value, np.generic) else value, path)


def _plain_scalar(value: Any, path: str) -> str | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_unicode(value, path)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidDocumentError(f"{path} is a whole number of more than 64 bits; store it as a string")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocumentError(f"{path} is {value}, which JSON cannot hold; leave it out or use None")
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | os.PathLike):
        return check_unicode(str(value), path)
    raise InvalidDocumentError(
        f"{path} is a {type(value).__name__}; allowed are strings, numbers, booleans, None, dates, lists, dictionaries"
    )


def _has_float(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(_has_float(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


def _check_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidDocumentError(f"{path} has the key {shown(key)}; keys must be strings")
    return check_unicode(key, f"a key of {path}")


def check_unicode(text: str, path: str) -> str:
    """The text itself, if every character of it is one.

    Raises:
        InvalidDocumentError: it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidDocumentError(
            f"{path} has a lone surrogate at position {error.start}, which is no character; "
            f"read the source with errors='replace'"
        ) from None
    return text
