"""The writer thread: batches to the engine, in order, and the account of what became of every document."""

import queue
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from mgte_rag import InvalidDocumentError
from mgte_rag.errors import shown
from qdrant_mgte.documents import CheckedDocument, chunk_ids, point_id
from qdrant_mgte.reservations import Reservations
from qdrant_mgte.schema import Point, vector_fault
from qdrant_mgte.store import Store
from qdrant_mgte.types import Rejection, WriteReport

# Batches that are ready while one is being written, 64 MB at most: a window of token vectors is four or five.
_WAITING = 8


@dataclass(slots=True)
class Batch:
    """What is stored together.

    Attributes:
        points: to be stored.
        size: bytes of them.
        payloads: fields to set on points that are there.
        owners: ids of the documents that the points belong to.
        done: documents that are complete once this batch is stored, with how many pieces they have and how many an
            older version had beyond these.
    """

    points: list[Point] = field(default_factory=list)
    size: int = 0
    payloads: dict[uuid.UUID, Mapping[str, Any]] = field(default_factory=dict)
    owners: dict[uuid.UUID, str] = field(default_factory=dict)
    done: list[tuple[CheckedDocument, int, int]] = field(default_factory=list)

    def add(self, points: Sequence[Point], size: int, document_id: str) -> None:
        """Add points of a document."""
        self.points.extend(points)
        self.size += size
        self.owners.update((point.id, document_id) for point in points)


class Account:
    """What became of the documents so far. Any thread may write to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rejected: list[Rejection] = []
        self._cut: dict[str, None] = {}
        self._written = self._unchanged = self._metadata_only = self._chunks = self._tokens = 0

    @property
    def finished(self) -> int:
        """Documents of which it is known what became of them."""
        with self._lock:
            return self._written + self._unchanged + len(self._rejected)

    def reject(self, position: int, document_id: str | None, reason: str) -> None:
        """A document cannot be stored."""
        with self._lock:
            self._rejected.append(Rejection(position, document_id, reason))
            if document_id is not None:
                self._cut.pop(document_id, None)

    def unchanged(self) -> None:
        """A document was there already."""
        with self._lock:
            self._unchanged += 1

    def written(self, *, metadata_only: bool) -> None:
        """A document is stored."""
        with self._lock:
            self._written += 1
            self._metadata_only += metadata_only

    def encoded(self, chunks: int, tokens: int) -> None:
        """Pieces were encoded."""
        with self._lock:
            self._chunks += chunks
            self._tokens += tokens

    def cut(self, document_id: str) -> None:
        """The model did not read the end of a document."""
        with self._lock:
            self._cut[document_id] = None

    def report(self) -> WriteReport:
        """The account as it stands."""
        with self._lock:
            return WriteReport(
                written=self._written,
                unchanged=self._unchanged,
                rejected=tuple(sorted(self._rejected, key=lambda rejection: rejection.position)),
                truncated=tuple(self._cut),
                metadata_only=self._metadata_only,
                chunks=self._chunks,
                tokens=self._tokens,
            )


class Writer:
    """Stores batches in a thread of its own while the next are made; a context manager.

    Leaving the block, for whatever reason, stores what was put and gives all reservations back.
    """

    def __init__(self, store: Store, reservations: Reservations) -> None:
        self.account = Account()
        self._store = store
        self._reservations = reservations
        self._taken: set[str] = set()
        self._parts: set[str] = set()  # documents of which something was stored, not yet done
        self._refused: dict[str, str] = {}
        self._queue: queue.Queue[Batch | None] = queue.Queue(maxsize=_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mgte-writer", daemon=True)

    def take(self, ids: Collection[str]) -> None:
        """Have documents to oneself until they are written; waits for others that have them, and for own batches."""
        self._reservations.take(ids)
        self._taken.update(ids)

    def unchanged(self, document: CheckedDocument) -> None:
        """A document stays as it is."""
        self.account.unchanged()
        self._give_back([document.id])

    def put(self, batch: Batch) -> None:
        """Store a batch soon.

        Raises:
            CollectionError: an earlier batch could not be stored.
        """
        self._raise_failure()
        self._queue.put(batch)

    def finish(self) -> None:
        """Wait until all is stored.

        Raises:
            CollectionError: something could not be stored.
        """
        self._queue.join()
        self._raise_failure()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._give_back(list(self._taken))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                if self._failure is None:  # after one, the rest is dropped: order matters
                    self._store_batch(batch)
            except BaseException as error:
                self._failure = error
            finally:
                self._give_back([document.id for document, _, _ in batch.done])
                self._queue.task_done()
        self._queue.task_done()

    def _store_batch(self, batch: Batch) -> None:
        points = self._accepted(batch)
        if points:
            try:
                refused = self._store.upsert(points)
            except InvalidDocumentError:  # nothing was written: an engine refuses all for the sake of one
                points = self._sound(points, batch)
                refused = self._store.upsert(points) if points else {}
            for point, reason in refused.items():
                self._refuse(batch.owners[point], reason)
            self._parts.update(batch.owners[point.id] for point in points)
        if batch.payloads:
            self._store.update_payload(batch.payloads)
        for document, count, stale in batch.done:
            self._complete(document, count, stale)

    def _accepted(self, batch: Batch) -> list[Point]:
        """The points of documents of which nothing was refused before."""
        return [point for point in batch.points if batch.owners[point.id] not in self._refused]

    def _sound(self, points: Sequence[Point], batch: Batch) -> list[Point]:
        """The points of the documents that can be stored; the others are refused."""
        schema = self._store.schema
        for point in points:
            faults = (vector_fault(name, vector, schema) for name, vector in point.vectors.items())
            if fault := next(filter(None, faults), None):
                self._refuse(batch.owners[point.id], fault)
        return self._accepted(batch)

    def _refuse(self, document_id: str, reason: str) -> None:
        self._refused[document_id] = f"document {shown(document_id)}: {reason}"

    def _complete(self, document: CheckedDocument, count: int, stale: int) -> None:
        """A document's points are stored, or refused: remove what does not belong."""
        is_new = document.id in self._parts
        self._parts.discard(document.id)
        reason = self._refused.pop(document.id, None)
        if reason is not None:
            if is_new:  # whole or not at all
                self._store.delete(chunk_ids(document.id, 0, count + stale))
            self.account.reject(document.position, document.id, reason)
            return
        if stale:
            self._store.delete(chunk_ids(document.id, count, count + stale))
            self._store.update_payload({point_id(document.id): {"stale_chunks": None}})
        self.account.written(metadata_only=not is_new)

    def _give_back(self, ids: Collection[str]) -> None:
        self._reservations.give_back(ids)
        self._taken.difference_update(ids)
