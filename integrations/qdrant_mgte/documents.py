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
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgte_rag import InvalidDocumentError
from mgte_rag.errors import shown
from qdrant_mgte.types import StoredDocument

# Fixed for ever: the same id must be the same point in every collection.
_POINT_NAMESPACE = uuid.UUID("6a8c2f0e-41d5-5c8e-9f3a-2f6f1f8f4b7d")
# The engine reads many floats back with another last digit: metadata with floats is kept as text beside itself.
_EXACT = "metadata_json"
_FIELDS = {"id", "text", "metadata"}
# The engine reads back payloads nested up to 128 deep; ours may wrap them a few levels more.
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class CheckedDocument:
    """A document that can be stored.

    Attributes:
        point_id: the engine's id of it, a UUID made from the document's id.
        content_hash: SHA-256 of text and metadata.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    point_id: uuid.UUID
    content_hash: str

    def payload(self) -> dict[str, Any]:
        """What is stored beside the vectors."""
        stored = {"id": self.id, "text": self.text, "metadata": self.metadata, "content_hash": self.content_hash}
        if _has_float(self.metadata):
            stored[_EXACT] = json.dumps(self.metadata)
        return stored


def stored_document(payload: Mapping[str, Any]) -> StoredDocument:
    """The document of a payload."""
    metadata = json.loads(payload[_EXACT]) if _EXACT in payload else payload["metadata"]
    return StoredDocument(payload["id"], payload["text"], metadata)


def point_id(document_id: str) -> uuid.UUID:
    """The engine's id of a document id of any length and script."""
    return uuid.uuid5(_POINT_NAMESPACE, document_id)


def check_document(document: Any) -> CheckedDocument:
    """A document from a caller's dictionary with "text", and optional "id" and "metadata".

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
            f"unknown fields {shown(sorted(map(str, unknown)))}; a document has id, text and metadata"
        )
    document_id = document.get("id")
    if document_id is not None and (not isinstance(document_id, str) or not document_id):
        raise InvalidDocumentError(f"id must be a string that is not empty, not {shown(document_id)}")
    try:
        text, metadata = _check_content(document)
        content = json.dumps([text, metadata], ensure_ascii=True, sort_keys=True)
        content_hash = hashlib.sha256(content.encode()).hexdigest()
        document_id = content_hash if document_id is None else check_unicode(document_id, "id")
    except InvalidDocumentError as error:
        raise InvalidDocumentError(f"document {shown(document_id)}: {error}") from None
    return CheckedDocument(document_id, text, metadata, point_id(document_id), content_hash)


def _check_content(document: Mapping[Any, Any]) -> tuple[str, dict[str, Any]]:
    text, metadata = document.get("text"), document.get("metadata")
    if not isinstance(text, str):
        raise InvalidDocumentError(f"text must be a string, not {type(text).__name__}")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidDocumentError(f"metadata must be a dictionary, not {type(metadata).__name__}")
    return check_unicode(text, "text"), _plain(metadata or {}, "metadata", 1)


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
