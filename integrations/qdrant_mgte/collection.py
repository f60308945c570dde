"""Documents in, ranked documents out."""

import asyncio
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mgte_rag import ClosedError, Encodings, InputTypeError, InvalidDocumentError, InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.progress import Progress
from mgte_rag.types import Floats
from qdrant_mgte.documents import CheckedDocument, check_document, check_unicode, point_id, stored_document
from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.manifest import Manifest
from qdrant_mgte.stores import STORES
from qdrant_mgte.types import EncodingModel, Hit, Rejection, StoredDocument, WriteReport

# Documents encoded and written together. What was written is on the disk before the next ones are encoded.
_BATCH = 256
_MODES = ("dense",)
# Characters of text in a batch, so that a few huge documents do not fill the memory.
_BATCH_CHARACTERS = 16 * 1024 * 1024
_MOST_HITS = 2**31  # more than any folder holds, and what the engine can count to


class HybridCollection:
    """Documents with their vectors in a folder: ``HybridCollection.open("./index", model=model)``.

    One process at a time has a folder open. Within it threads may share a collection, and opening the folder again
    gives another handle on the same files. A handle is closed by ``close()``, by leaving a ``with`` block or by the
    garbage collector; the last one closes the files. The model is the caller's and stays open.
    """

    def __init__(self, folder: Path, model: EncodingModel) -> None:
        self._shared_store = STORES.acquire(folder, Manifest.of(model))
        self._folder = folder
        self._model = model
        self._release = weakref.finalize(self, STORES.release, self._shared_store)

    @classmethod
    def open(cls, location: str | Path, *, model: EncodingModel) -> Self:
        """Open a collection, or make it where there is none.

        Args:
            location: a folder; it is made if it is not there. A folder with other files in it is refused.
            model: encodes the documents and the queries; an existing collection must have been written with it.

        Raises:
            ModelMismatchError: written with another model.
            CollectionLockedError: open in another process.
            CorruptCollectionError: the folder is no collection, or its files cannot be read.
            CollectionError: the folder cannot be made or written.
            InvalidOptionError: a location that is no folder.
        """
        if isinstance(location, str) and (location in ("", ":memory:") or "://" in location):
            raise InvalidOptionError(f"location {location!r} is not supported; give a folder")
        try:
            folder = Path(location).expanduser().resolve()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidOptionError(f"location {shown(location)} is no folder: {error}") from error
        if isinstance(model, str) or not hasattr(model, "encode_document"):
            raise InputTypeError(f"model must be a loaded model, EmbeddingModel.load(...), not {shown(model)}")
        collection = cls(folder, model)
        try:
            collection._store.manifest.check(folder, model)
        except BaseException:
            collection.close()
            raise
        return collection

    @classmethod
    def from_documents(
        cls, documents: Iterable[Any], location: str | Path, *, model: EncodingModel, show_progress: bool = False
    ) -> Self:
        """``open``, then ``upsert``, for callers that must not lose a document.

        Documents longer than the model reads are told of in a warning.

        Raises:
            InvalidDocumentError: a document cannot be stored, with the reason; the others were stored, and the
                collection is closed again.
        """
        collection = cls.open(location, model=model)
        try:
            report = collection.upsert(documents, show_progress=show_progress)
            report.raise_for_rejected()
        except BaseException:
            collection.close()
            raise
        if report.truncated:
            warnings.warn(
                f"{len(report.truncated)} documents are longer than the model {model.identity.name!r} reads, the first "
                f"is {shown(report.truncated[0])}: their ends cannot be found. Split them into passages first.",
                stacklevel=3,
            )
        return collection

    @property
    def _store(self) -> EdgeStore:
        if not self._release.alive:
            raise ClosedError(f"the collection {self._folder} was closed; open it again with HybridCollection.open()")
        return self._shared_store

    @property
    def model(self) -> EncodingModel:
        """The model that encodes documents and queries."""
        return self._model

    def upsert(self, documents: Iterable[Any], *, show_progress: bool = False) -> WriteReport:
        """Encode and store documents; one with a known id replaces what was there.

        Documents are taken from the iterable a batch at a time. Once a batch is written it stays, whatever happens to
        the process; documents that are already there unchanged are not encoded again, so an interrupted call is
        resumed by making it again. A document that cannot be stored is reported, the others are stored.

        Args:
            documents: dictionaries with "text", and optional "id" (a string of any length and script; without one it
                is made from text and metadata) and "metadata" (what JSON can hold).
            show_progress: draw a progress bar on standard error.

        Raises:
            CollectionError: the engine failed; batches written before are kept.
        """
        if not isinstance(documents, Iterable) or isinstance(documents, str | bytes | Mapping):
            raise InputTypeError(f"documents must be a list of dictionaries, not {type(documents).__name__}")
        writer = _Writer(self._store, self._model)
        total = len(documents) if isinstance(documents, Sequence) else None
        with Progress("indexing", unit="documents", total=total, show=show_progress) as progress:
            for batch, consumed in _batches(documents, writer.rejected):
                progress.advance(consumed, writer.write(batch))
        return writer.report()

    def search(self, query: str | Encodings, *, limit: int = 10, mode: str | None = None) -> list[Hit]:
        """The documents that answer a question best.

        Args:
            query: the question, or what ``encode_query`` made of it.
            limit: hits at most.
            mode: "dense", the cosine of the dense vectors; None is the best the collection has.

        Returns:
            Hits, best first; equal scores by id.
        """
        if mode is not None and mode not in _MODES:
            raise InvalidOptionError(f"mode {mode!r} is not supported; choose one of {', '.join(_MODES)}")
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise InvalidOptionError(f"limit must be a whole number above 0, not {shown(limit)}")
        found = self._store.search(self._query_vector(query), min(limit, _MOST_HITS))
        hits = []
        for _, score, payload in found:
            document = stored_document(payload)
            hits.append(Hit(document.id, document.text, document.metadata, score, {"dense": score}))
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def get(self, ids: str | Iterable[str]) -> list[StoredDocument | None]:
        """The documents of the ids, in their order; None where there is none."""
        points = [point_id(document_id) for document_id in _check_ids(ids)]
        found = self._store.payloads(points)
        return [stored_document(found[point]) if point in found else None for point in points]

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete documents; returns how many of the ids were there."""
        points = list(dict.fromkeys(point_id(document_id) for document_id in _check_ids(ids)))
        there = list(self._store.payloads(points, ["id"]))
        if there:
            self._store.delete(there)
        return len(there)

    def count(self) -> int:
        """Number of documents."""
        return self._store.count()

    async def aupsert(self, documents: Iterable[Any], *, show_progress: bool = False) -> WriteReport:
        """``upsert`` in a worker thread."""
        return await asyncio.to_thread(self.upsert, documents, show_progress=show_progress)

    async def asearch(self, query: str | Encodings, *, limit: int = 10, mode: str | None = None) -> list[Hit]:
        """``search`` in a worker thread."""
        return await asyncio.to_thread(self.search, query, limit=limit, mode=mode)

    async def aget(self, ids: str | Iterable[str]) -> list[StoredDocument | None]:
        """``get`` in a worker thread."""
        return await asyncio.to_thread(self.get, ids)

    async def adelete(self, ids: str | Iterable[str]) -> int:
        """``delete`` in a worker thread."""
        return await asyncio.to_thread(self.delete, ids)

    async def acount(self) -> int:
        """``count`` in a worker thread."""
        return await asyncio.to_thread(self.count)

    def close(self) -> None:
        """Give this handle back; the last one closes the files. The model stays open. Closing twice is allowed."""
        self._release()

    def __repr__(self) -> str:
        return f"HybridCollection({str(self._folder)!r}{'' if self._release.alive else ', closed'})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _query_vector(self, query: str | Encodings) -> Floats:
        if not isinstance(query, str | Encodings):
            raise InputTypeError(f"a query must be a string or what encode_query returned, not {shown(query)}")
        encoded = query if isinstance(query, Encodings) else self._model.encode_query(query, outputs=("dense",))
        if len(encoded) != 1:
            raise InvalidOptionError(f"search takes one query, not {len(encoded)}")
        if encoded.dense is None or encoded.dense.shape[1] != self._store.manifest.dim:
            raise InvalidOptionError(f"the query needs a dense vector of dim {self._store.manifest.dim}")
        if not np.isfinite(encoded.dense).all():
            raise InvalidOptionError("the query's dense vector holds NaN or infinity")
        vector: Floats = encoded.dense[0]
        return vector


@dataclass(slots=True)
class _Writer:
    """Writes batches and keeps the account."""

    store: EdgeStore
    model: EncodingModel
    rejected: list[Rejection] = field(default_factory=list)
    _truncated: list[str] = field(default_factory=list)
    _written: int = 0
    _unchanged: int = 0
    _tokens: int = 0

    def write(self, batch: Sequence[CheckedDocument]) -> int:
        """Encode and store those of the batch that are new or changed; returns the tokens encoded."""
        stored = self.store.payloads([document.point_id for document in batch], ["content_hash"])
        changed = [d for d in batch if stored.get(d.point_id, {}).get("content_hash") != d.content_hash]
        self._unchanged += len(batch) - len(changed)
        if not changed:
            return 0
        encoded = self.model.encode_document([document.text for document in changed], outputs=("dense",))
        if encoded.dense is None:
            raise InvalidOptionError(f"the model {self.model.identity.name!r} gave no dense vectors")
        self.store.upsert([d.point_id for d in changed], encoded.dense, [d.payload() for d in changed])
        self._written += len(changed)
        tokens = int(encoded.token_counts.sum())
        self._tokens += tokens
        self._truncated += [d.id for d, cut in zip(changed, encoded.truncated, strict=True) if cut]
        return tokens

    def report(self) -> WriteReport:
        """The account so far."""
        return WriteReport(
            written=self._written,
            unchanged=self._unchanged,
            rejected=tuple(self.rejected),
            truncated=tuple(self._truncated),
            tokens=self._tokens,
        )


def _batches(documents: Iterable[Any], rejected: list[Rejection]) -> Iterator[tuple[list[CheckedDocument], int]]:
    """Checked documents a batch at a time, and how many were taken from the iterable for it.

    No id occurs twice in a batch, so that the later of two documents with one id wins, as it would one by one.
    """
    batch: dict[str, CheckedDocument] = {}
    consumed = characters = 0
    for position, document in enumerate(documents):
        try:
            checked = check_document(document)
        except InvalidDocumentError as error:
            given = document.get("id") if isinstance(document, Mapping) else None
            rejected.append(Rejection(position, given if isinstance(given, str) else None, str(error)))
            consumed += 1
            continue
        if len(batch) == _BATCH or checked.id in batch or characters > _BATCH_CHARACTERS:
            yield list(batch.values()), consumed
            batch, consumed, characters = {}, 0, 0
        batch[checked.id] = checked
        consumed += 1
        characters += len(checked.text)
    yield list(batch.values()), consumed


def _check_ids(ids: str | Iterable[str]) -> list[str]:
    if not isinstance(ids, Iterable):
        raise InputTypeError(f"ids must be a string or a list of strings, not {type(ids).__name__}")
    listed = [ids] if isinstance(ids, str) else list(ids)
    for position, document_id in enumerate(listed):
        if not isinstance(document_id, str):
            raise InputTypeError(f"ids[{position}] must be a string, not {type(document_id).__name__}")
        check_unicode(document_id, f"ids[{position}]")
    return listed
