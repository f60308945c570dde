"""Documents in, points out: check, compare with what is there, split, encode, and meanwhile write.

The caller's thread reads, splits and encodes; one writer thread stores what is ready, a few batches behind at most. A
document is stored in one batch, so that it is there whole or not at all; one larger than a batch is stored in several,
its first piece last, and counts as not there until that piece is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mgte_rag import Encodings, InputTypeError, InvalidDocumentError, SparseVector
from mgte_rag.progress import Progress
from qdrant_mgte.documents import STATE_FIELDS, CheckedDocument, Chunk, check_document, chunk_ids, point_id
from qdrant_mgte.encodings import check_widths, outputs_of, vectors_of
from qdrant_mgte.manifest import check_still_of
from qdrant_mgte.reservations import reservations_of
from qdrant_mgte.schema import Point
from qdrant_mgte.splitting import Splitting, split_texts
from qdrant_mgte.store import Store
from qdrant_mgte.types import EncodingModel, WriteReport
from qdrant_mgte.writer import Batch, Writer

# Documents looked up together, and characters of their texts, so that a few huge ones do not fill the memory.
_GROUP = 256
_GROUP_CHARACTERS = 4 * 1024 * 1024
# Pieces encoded together, and their tokens: 64k tokens of 128 float32 are 32 MB.
_WINDOW = 256
_WINDOW_TOKENS = 65_536
# Most bytes of vectors and payloads in a batch; a single point that is larger goes alone.
BATCH_BYTES = 8_000_000


def write_documents(
    store: Store,
    model: EncodingModel,
    documents: Iterable[Any],
    *,
    split: bool | Splitting,
    show_progress: bool,
) -> WriteReport:
    """Store documents; see ``HybridCollection.upsert``."""
    if not isinstance(documents, Iterable) or isinstance(documents, str | bytes | Mapping):
        raise InputTypeError(f"documents must be a list of dictionaries, not {type(documents).__name__}")
    if not isinstance(split, bool | Splitting):
        raise InputTypeError(f"split must be True, False or Splitting(max_tokens=...), not {split!r}")
    splitting = Splitting() if split is True else split or None
    total = len(documents) if isinstance(documents, Sequence) else None
    with (
        Progress("indexing", unit="documents", total=total, show=show_progress) as progress,
        Writer(store, reservations_of(store)) as writer,
    ):
        pipeline = _Pipeline(store, model, writer, progress, splitting)
        for group in _groups(documents, pipeline):
            pipeline.add(group)
        writer.finish()
        pipeline.tell_progress()
    return writer.account.report()


class _Pipeline:
    """From checked documents to batches for the writer."""

    def __init__(
        self, store: Store, model: EncodingModel, writer: Writer, progress: Progress, splitting: Splitting | None
    ) -> None:
        self.schema = store.schema
        self._store, self._model, self.writer, self._progress = store, model, writer, progress
        self._limits = None if splitting is None else splitting.resolved(model)
        self._layout = "cut" if self._limits is None else "split:{}:{}".format(*self._limits)
        self._outputs = outputs_of(self.schema)
        self._batch = Batch()
        self._held: list[Point] = []  # of the document that is being put together
        self._held_bytes = 0
        self._first: Point | None = None
        self._told = 0

    def add(self, group: Mapping[str, CheckedDocument]) -> None:
        """Write those of the group that are new or changed."""
        self.writer.take(group.keys())
        check_still_of(self._store, self._model)
        stored = self._store.retrieve([point_id(each) for each in group], fields=STATE_FIELDS)
        given: list[CheckedDocument] = []
        unread: list[CheckedDocument] = []
        stale: dict[str, int] = {}
        for document in group.values():
            point = stored.get(point_id(document.id))
            state = {} if point is None else point.payload
            chunks = state.get("chunks", 0) + (state.get("stale_chunks") or 0)
            if point is not None and not state.get("stale_chunks") and self._is_encoded(document, state):
                self._keep(document, state)
                continue
            stale[document.id] = chunks
            (unread if document.vectors is None else given).append(document)
        for document in given:
            self._put_together(self._given_chunk(document, stale[document.id]))
        for window in _windows(self._chunks(unread, stale)):
            self._encode(window)
        self._send()
        self.tell_progress()

    def _is_encoded(self, document: CheckedDocument, state: Mapping[str, Any]) -> bool:
        """Whether the vectors there are those that writing the document would make."""
        if state.get("content_hash") != document.content_hash:
            return False
        layout = state.get("layout")
        if layout == "whole":
            return self._limits is None or state.get("tokens", 0) <= self._limits[0]
        return layout in ("given", self._layout)

    def _keep(self, document: CheckedDocument, state: Mapping[str, Any]) -> None:
        if state.get("metadata_hash") == document.metadata_hash:
            self.writer.unchanged(document)
            return
        metadata = document.metadata_payload()
        for chunk in reversed(chunk_ids(document.id, 0, state["chunks"])):  # the first, which vouches for all, last
            self._batch.payloads[chunk] = metadata
        self._batch.done.append((document, state["chunks"], 0))

    def _chunks(self, documents: Sequence[CheckedDocument], stale: Mapping[str, int]) -> Iterator[Chunk]:
        texts = [document.text for document in documents]
        if self._limits is None:
            for document in documents:
                yield Chunk(document, 0, 1, 0, document.text, 0, "whole", max(0, stale[document.id] - 1))
            return
        limit, overlap = self._limits
        pieces_of = split_texts(texts, self._model, max_tokens=limit, overlap=overlap)
        for document, pieces in zip(documents, pieces_of, strict=True):
            count = len(pieces)
            layout = "whole" if count == 1 else self._layout
            for number, piece in enumerate(pieces):
                yield Chunk(
                    document,
                    number,
                    count,
                    piece.start,
                    document.text[piece.start : piece.end],
                    piece.tokens,
                    layout,
                    max(0, stale[document.id] - count),
                )

    def _given_chunk(self, document: CheckedDocument, stale: int) -> Chunk:
        vectors = dict(document.vectors or {})
        return Chunk(document, 0, 1, 0, document.text, 0, "given", max(0, stale - 1), vectors)

    def _encode(self, window: Sequence[Chunk]) -> None:
        encoded = self._model.encode_document(
            [chunk.text for chunk in window],
            outputs=self._outputs,
            dim=self.schema.dense,
            token_dim=self.schema.multi_vector,
        )
        check_widths(encoded, self.schema, self._model.identity.name)
        for row, chunk in enumerate(window):
            self._put_together(self._encoded_chunk(chunk, encoded, row))
        self._send()
        tokens = int(encoded.token_counts.sum())
        self.writer.account.encoded(len(window), tokens)
        self.tell_progress(tokens)

    def _encoded_chunk(self, chunk: Chunk, encoded: Encodings, row: int) -> Chunk:
        cut = bool(encoded.truncated[row])
        if cut:
            self.writer.account.cut(chunk.document.id)
        return Chunk(
            chunk.document,
            chunk.number,
            chunk.count,
            chunk.start,
            chunk.text,
            int(encoded.token_counts[row]),
            "cut" if cut and chunk.count == 1 else chunk.layout,
            chunk.stale,
            vectors_of(encoded, row, self.schema),
        )

    def _put_together(self, chunk: Chunk) -> None:
        """Add a document's next piece; the last one completes it."""
        point = Point(chunk.point_id, chunk.vectors, chunk.payload())
        self._held_bytes += point_bytes(point)
        if chunk.number == 0:
            self._first = point
        else:
            self._held.append(point)
        if chunk.number < chunk.count - 1:
            if self._held and self._held_bytes > BATCH_BYTES:  # a huge document
                self._send()
                self._batch.add(self._held, self._held_bytes, chunk.document.id)
                self._send()
                self._held, self._held_bytes = [], 0
            return
        assert self._first is not None  # pieces come in order
        if self._batch.size and self._batch.size + self._held_bytes > BATCH_BYTES:
            self._send()
        self._batch.add([*self._held, self._first], self._held_bytes, chunk.document.id)
        self._batch.done.append((chunk.document, chunk.count, chunk.stale))
        self._held, self._held_bytes, self._first = [], 0, None

    def _send(self) -> None:
        if self._batch.done or self._batch.points:
            self.writer.put(self._batch)
            self._batch = Batch()

    def tell_progress(self, tokens: int = 0) -> None:
        """Draw how many documents are done for good."""
        finished = self.writer.account.finished
        self._progress.advance(finished - self._told, tokens)
        self._told = finished


def point_bytes(point: Point) -> int:
    """About what a point takes in a request: its vectors, and its text and metadata."""
    vectors = sum(
        vector.indices.nbytes + vector.values.nbytes if isinstance(vector, SparseVector) else vector.nbytes
        for vector in point.vectors.values()
    )
    return vectors + _json_bytes(point.payload)


def _json_bytes(value: Any) -> int:
    """About how long a value is as JSON."""
    if isinstance(value, str):
        return len(value) if value.isascii() else 3 * len(value)
    if isinstance(value, Mapping):
        return sum(len(key) + 4 + _json_bytes(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(2 + _json_bytes(item) for item in value)
    return 12


def _groups(documents: Iterable[Any], pipeline: _Pipeline) -> Iterator[dict[str, CheckedDocument]]:
    """Checked documents by id, some at a time.

    No id occurs twice in a group, so that the later of two documents with one id wins, as it would one by one.
    """
    group: dict[str, CheckedDocument] = {}
    characters = 0
    for position, document in enumerate(documents):
        try:
            checked = check_document(document, position, pipeline.schema)
        except InvalidDocumentError as error:
            given = document.get("id") if isinstance(document, Mapping) else None
            pipeline.writer.account.reject(position, given if isinstance(given, str) else None, str(error))
            continue
        if len(group) == _GROUP or checked.id in group or characters > _GROUP_CHARACTERS:
            yield group
            group, characters = {}, 0
        group[checked.id] = checked
        characters += len(checked.text)
    if group:
        yield group


def _windows(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Pieces to encode together."""
    window: list[Chunk] = []
    tokens = 0
    for chunk in chunks:
        if window and (len(window) == _WINDOW or tokens + chunk.tokens > _WINDOW_TOKENS):
            yield window
            window, tokens = [], 0
        window.append(chunk)
        tokens += chunk.tokens
    if window:
        yield window
