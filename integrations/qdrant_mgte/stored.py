"""Documents that are there: read, count, change their metadata, delete."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

from mgte_rag import InputTypeError, InvalidDocumentError, InvalidOptionError
from mgte_rag.errors import shown
from qdrant_mgte.documents import (
    EXACT_METADATA,
    CheckedDocument,
    check_metadata,
    check_unicode,
    chunk_ids,
    metadata_hash,
    metadata_of,
    point_id,
)
from qdrant_mgte.filters import Filter, both, is_document, native_filter
from qdrant_mgte.reservations import reservations_of
from qdrant_mgte.schema import Point
from qdrant_mgte.splitting import joined
from qdrant_mgte.store import Store
from qdrant_mgte.types import StoredDocument, WriteReport
from qdrant_mgte.writer import Account

_PAGE = 256
_DOCUMENT_FIELDS = ("doc_id", "chunks", "start", "text", "metadata", EXACT_METADATA)


def get_documents(store: Store, ids: str | Iterable[str]) -> list[StoredDocument | None]:
    """The documents of the ids, in their order; None where there is none."""
    listed = check_ids(ids)
    found: dict[str, StoredDocument] = {}
    unique = list(dict.fromkeys(listed))
    for start in range(0, len(unique), _PAGE):
        page = unique[start : start + _PAGE]
        first = store.retrieve([point_id(each) for each in page], fields=_DOCUMENT_FIELDS)
        found.update((document.id, document) for document in _whole(store, first.values()))
    return [found.get(each) for each in listed]


def all_documents(store: Store, filter: Filter | None = None) -> Iterator[list[StoredDocument]]:
    """Every document, or those that match, some at a time."""
    only_first = both(models.Filter(must=[is_document()]), native_filter(filter))
    after = None
    while True:
        page, after = store.scroll(filter=only_first, limit=_PAGE, after=after, fields=_DOCUMENT_FIELDS)
        yield _whole(store, page)
        if after is None:
            return


def _whole(store: Store, first: Iterable[Point]) -> list[StoredDocument]:
    """Documents from their first pieces, their texts put together."""
    documents = []
    for point in first:
        payload = point.payload
        pieces = [(payload["start"], payload["text"])]
        rest = chunk_ids(payload["doc_id"], 1, payload["chunks"])
        for start in range(0, len(rest), _PAGE):
            page = rest[start : start + _PAGE]
            found = store.retrieve(page, fields=("start", "text"))
            pieces += [(found[each].payload["start"], found[each].payload["text"]) for each in page if each in found]
        documents.append(StoredDocument(payload["doc_id"], joined(pieces), metadata_of(payload)))
    return documents


def count_documents(store: Store, filter: Filter | None) -> int:
    """Number of documents that match."""
    return store.count(both(models.Filter(must=[is_document()]), native_filter(filter)))


def delete_documents(store: Store, ids: str | Iterable[str] | None, filter: Filter | None) -> int:
    """Delete documents with all their pieces; returns how many there were."""
    if (ids is None) == (filter is None):
        raise InvalidOptionError("delete needs ids or filter=, one of the two")
    if ids is None:
        return _delete_matching(store, native_filter(filter))
    unique = list(dict.fromkeys(check_ids(ids)))
    deleted = 0
    for start in range(0, len(unique), _PAGE):
        page = unique[start : start + _PAGE]
        with reservations_of(store).holding(page):
            there = store.retrieve([point_id(each) for each in page], fields=("doc_id", "chunks", "stale_chunks"))
            points = [
                chunk
                for point in there.values()
                for chunk in chunk_ids(
                    point.payload["doc_id"], 0, point.payload["chunks"] + (point.payload.get("stale_chunks") or 0)
                )
            ]
            if points:
                store.delete(points)
        deleted += len(there)
    return deleted


def _delete_matching(store: Store, filter: models.Filter | None) -> int:
    if filter is None:
        raise InvalidOptionError("an empty filter would delete every document; name what to delete")
    with reservations_of(store).everything():
        deleted = store.count(both(models.Filter(must=[is_document()]), filter))
        store.delete_where(filter)
    return deleted


def update_documents(store: Store, updates: Mapping[str, Mapping[str, Any]], *, replace: bool) -> WriteReport:
    """Change the metadata of documents; their texts and vectors stay."""
    if not isinstance(updates, Mapping):
        raise InputTypeError(f"updates must be a dictionary from ids to metadata, not {type(updates).__name__}")
    account = Account()
    listed = list(updates.items())
    for start in range(0, len(listed), _PAGE):
        _update(store, listed[start : start + _PAGE], start, account, replace=replace)
    return account.report()


def _update(
    store: Store, updates: Sequence[tuple[str, Mapping[str, Any]]], position: int, account: Account, *, replace: bool
) -> None:
    checked: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, (document_id, metadata) in enumerate(updates, start=position):
        try:
            (each,) = check_ids([document_id])
            checked[each] = number, check_metadata(metadata)
        except (InputTypeError, InvalidDocumentError) as error:
            account.reject(number, document_id if isinstance(document_id, str) else None, str(error))
    with reservations_of(store).holding(checked.keys()):
        fields = ("chunks", "metadata", EXACT_METADATA, "metadata_hash")
        there = store.retrieve([point_id(each) for each in checked], fields=fields)
        payloads = {}
        written = 0
        for document_id, (number, metadata) in checked.items():
            point = there.get(point_id(document_id))
            if point is None:
                account.reject(number, document_id, f"there is no document {shown(document_id)}; add it with upsert")
                continue
            merged = metadata if replace else {**metadata_of(point.payload), **metadata}
            try:
                merged = check_metadata(merged)  # each may be small enough and both together not
            except InvalidDocumentError as error:
                account.reject(number, document_id, f"document {shown(document_id)}: {error}")
                continue
            document = CheckedDocument(document_id, "", merged, number, "", metadata_hash(merged))
            if document.metadata_hash == point.payload.get("metadata_hash"):
                account.unchanged()
                continue
            written += 1
            for chunk in reversed(chunk_ids(document_id, 0, point.payload["chunks"])):
                payloads[chunk] = document.metadata_payload()
        if payloads:
            store.update_payload(payloads)
        for _ in range(written):
            account.written(metadata_only=True)


def check_ids(ids: str | Iterable[str]) -> list[str]:
    """A list of the ids; one string is a list of one.

    Raises:
        InputTypeError: something in it is not a string.
        InvalidDocumentError: an id has a lone surrogate, which no document's id has.
    """
    if not isinstance(ids, Iterable):
        raise InputTypeError(f"ids must be a string or a list of strings, not {type(ids).__name__}")
    listed = [ids] if isinstance(ids, str) else list(ids)
    for position, document_id in enumerate(listed):
        if not isinstance(document_id, str):
            raise InputTypeError(f"ids[{position}] must be a string, not {type(document_id).__name__}")
        check_unicode(document_id, f"ids[{position}]")
    return listed
