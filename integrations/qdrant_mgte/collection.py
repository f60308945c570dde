"""Documents in, ranked documents out."""

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from mgte_rag import ClosedError, Encodings, InputTypeError
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte.encodings import outputs_of
from qdrant_mgte.filters import Filter
from qdrant_mgte.fusion import Fusion, fusion_of
from qdrant_mgte.locations import place_of
from qdrant_mgte.manifest import Layout, Manifest, check_still_of
from qdrant_mgte.move import back_up, copy_points, migrate_documents
from qdrant_mgte.plan import Mode, Search, check_mode
from qdrant_mgte.reservations import reservations_of
from qdrant_mgte.schema import FieldType, Preset
from qdrant_mgte.searching import search_all
from qdrant_mgte.splitting import Splitting
from qdrant_mgte.store import ServerOptions, Store
from qdrant_mgte.stored import all_documents, count_documents, delete_documents, get_documents, update_documents
from qdrant_mgte.stores import STORES
from qdrant_mgte.twin import in_thread
from qdrant_mgte.types import CopyReport, EncodingModel, Hit, ScoringModel, StoredDocument, WriteReport
from qdrant_mgte.writing import write_documents

_LOCAL = ServerOptions()


class HybridCollection:
    """Documents with dense, sparse and token vectors: ``HybridCollection.open("./index", model=model)``.

    The same on a laptop and on a cluster: a folder (the embedded engine), ":memory:", or a server's URL. One process
    at a time has a folder open; its threads may share a collection, and opening it again gives another handle. A
    handle is closed by ``close()``, by leaving a ``with`` block or by the garbage collector; the last one closes the
    files. The model is the caller's and stays open. Every method that computes or waits has an async twin.
    """

    def __init__(self, store: Store, model: EncodingModel, mode: str | None) -> None:
        self._shared_store = store
        self._release = weakref.finalize(self, STORES.release, store)
        self._model = model
        try:
            self._mode: Mode = check_mode(mode, store.schema)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        model: EncodingModel,
        name: str = "documents",
        mode: str | None = None,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        dense_prefix: int | None = None,
        preset: Preset | None = None,
        tenant: str | None = None,
        indexes: Mapping[str, FieldType] | None = None,
        shards: int | None = None,
        replicas: int | None = None,
        server: ServerOptions = _LOCAL,
    ) -> Self:
        """Open a collection, or make it where there is none.

        Everything from ``outputs`` on is for a new collection; of one that is there, None means as it is.

        Args:
            location: a folder, which is made if it is not there; ":memory:"; or "http://host:6333".
            model: encodes documents and queries; an existing collection must have been written with it.
            name: of the collection on a server.
            mode: what ``search`` does unless told otherwise; None is the best the collection has.
            outputs: which of the model's outputs to store, all from one forward pass; None is all of them.
            dim: components of the dense vectors, one of ``model.dims``; None is all of them.
            token_dim: components of each token's vector, one of ``model.token_dims``; None is all of them.
            dense_prefix: also store this many first components, which find candidates for the whole vector.
            preset: "exact" (float32, every point compared), "balanced" (float16, index; the default), "compact"
                (quantized).
            tenant: metadata field that separates tenants; give it in every search's filter.
            indexes: metadata fields to index for filters, {"lang": "keyword", "year": "integer"}.
            shards: of a server's collection.
            replicas: of every shard.
            server: key, protocol, timeouts and retries.

        Raises:
            ModelMismatchError: written with another model or laid out otherwise; the message says what differs.
            CollectionLockedError: open in another process.
            CorruptCollectionError: no collection of this project, or its files cannot be read.
            CollectionError: the folder cannot be made or written, or the server does not answer.
            InvalidOptionError: an option that the model or the engine does not have.
        """
        layout = Layout(outputs, dim, token_dim, dense_prefix, preset, tenant, indexes, shards, replicas)
        _check_model(model)
        schema = layout.schema(model)
        metadata = Manifest.of(model).to_json()
        store = STORES.acquire(place_of(location), name=name, schema=schema, metadata=metadata, options=server)
        try:
            Manifest.read(store).check(store, model, layout)
        except BaseException:
            STORES.release(store)
            raise
        return cls(store, model, mode)

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Any],
        location: str | Path,
        *,
        model: EncodingModel,
        dim: int | None = None,
        split: bool | Splitting = True,
        show_progress: bool = False,
    ) -> Self:
        """``open``, then ``upsert``, for callers that must not lose a document.

        Raises:
            InvalidDocumentError: a document cannot be stored, with the reason; the others were stored, and the
                collection is closed again.
        """
        collection = cls.open(location, model=model, dim=dim)
        try:
            report = collection.upsert(documents, split=split, show_progress=show_progress)
            report.raise_for_rejected()
        except BaseException:
            collection.close()
            raise
        if report.truncated:
            warnings.warn(
                f"{len(report.truncated)} documents are longer than the model {model.identity.name!r} reads, the first "
                f"is {shown(report.truncated[0])}: their ends cannot be found. Store them with split=True.",
                stacklevel=2,
            )
        return collection

    @classmethod
    def migrate(
        cls,
        location: str | Path,
        *,
        model: EncodingModel,
        name: str = "documents",
        mode: str | None = None,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        dense_prefix: int | None = None,
        preset: Preset | None = None,
        tenant: str | None = None,
        indexes: Mapping[str, FieldType] | None = None,
        shards: int | None = None,
        replicas: int | None = None,
        server: ServerOptions = _LOCAL,
        split: bool | Splitting = True,
        show_progress: bool = False,
    ) -> Self:
        """Embed all documents again, with another model or layout, and open the result.

        A new version is filled beside the one that is served and takes its place in one step; until then searches
        go on, writers in this process wait (others' writes to a server would be lost). After an interruption the same
        call goes on where it stopped. Encodings that were given by hand are replaced by the model's. What is None
        stays as it is, but for the vectors, which are all that the model has.

        Raises:
            InvalidOptionError: there is no collection, or an option that the model or the engine does not have.
            InvalidDocumentError: a document cannot be stored with the new model; the old version stays in place.
        """
        layout = Layout(outputs, dim, token_dim, dense_prefix, preset, tenant, indexes, shards, replicas)
        _check_model(model)
        store = STORES.acquire(place_of(location), name=name, schema=None, metadata={}, options=server)
        try:
            migrate_documents(store, model, layout, split=split, show_progress=show_progress)
        except BaseException:
            STORES.release(store)
            raise
        return cls(store, model, mode)

    @property
    def _store(self) -> Store:
        if not self._release.alive:
            location = self._shared_store.location
            raise ClosedError(f"the collection {location} was closed; open it again with HybridCollection.open()")
        check_still_of(self._shared_store, self._model)
        return self._shared_store

    @property
    def model(self) -> EncodingModel:
        """The model that encodes documents and queries."""
        return self._model

    @property
    def location(self) -> str:
        """Where it is, for people."""
        return self._shared_store.location

    @property
    def mode(self) -> Mode:
        """What ``search`` does unless told otherwise."""
        return self._mode

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Which of the model's outputs are stored."""
        return outputs_of(self._shared_store.schema)

    @property
    def dim(self) -> int | None:
        """Components of the dense vectors; None where none are stored."""
        return self._shared_store.schema.dense

    @property
    def token_dim(self) -> int | None:
        """Components of each token's vector; None where none are stored."""
        return self._shared_store.schema.multi_vector

    def upsert(
        self, documents: Iterable[Any], *, split: bool | Splitting = True, show_progress: bool = False
    ) -> WriteReport:
        """Encode and store documents; one with a known id replaces what was there.

        Documents are taken from the iterable some at a time and written while the next are encoded. What was written
        stays, whatever happens to the process; documents that are there unchanged are not encoded again, nor are those
        of which only metadata changed, so an interrupted call is resumed by making it again. A document that cannot be
        stored is reported, the others are stored.

        Args:
            documents: dictionaries with "text", and optional "id" (a string of any length and script; without one it
                is made from text and metadata), "metadata" (what JSON can hold, at most 1 MB) and "encodings" (ready
                vectors, of ``encode_document`` or by hand; such a document is not split).
            split: cut a text longer than the model reads into pieces under their document, at paragraph or sentence
                ends, with overlap; ``Splitting(max_tokens=...)`` says how. False stores it whole, its end unread and
                named in the report.
            show_progress: draw a progress bar on standard error.

        Raises:
            CollectionError: the engine failed; what was written before is kept.
        """
        return write_documents(self._store, self._model, documents, split=split, show_progress=show_progress)

    def update_metadata(self, updates: Mapping[str, Mapping[str, Any]], *, replace: bool = False) -> WriteReport:
        """Change documents' metadata, {id: metadata}, without encoding: given fields are set, others stay.

        With ``replace`` the metadata given is all that there is. Ids that are not there are rejected.
        """
        return update_documents(self._store, updates, replace=replace)

    def search(
        self,
        query: str | Encodings,
        *,
        limit: int = 10,
        offset: int = 0,
        mode: str | None = None,
        filter: Filter | None = None,
        fusion: Fusion | str | None = None,
        candidates: int | None = None,
        rerank: ScoringModel | None = None,
        rerank_candidates: int | None = None,
        mmr: float | None = None,
        group_by_parent: bool = False,
        score_threshold: float | Mapping[str, float] | None = None,
        all_scores: bool = False,
        exact: bool | None = None,
    ) -> list[Hit]:
        """The documents, or pieces of documents, that answer a question best.

        Args:
            query: the question, or what ``encode_query`` made of it.
            limit: hits at most.
            offset: best hits to leave out.
            mode: "dense" (cosine), "sparse" (dot product), "hybrid" (both, fused), "late_interaction" (the best of
                these by MaxSim; of all where there are no others, or with ``exact``). None is the collection's mode.
            filter: on metadata, {"lang": "de", "year": {"gte": 2020}}, see ``qdrant_mgte.filters``; or Qdrant's own.
            fusion: of dense and sparse, and of these with late interaction: ``rrf(k, weights)``, ``dbsf()``,
                ``weighted(weights)``, or "published", all the weights that the model was published with. None is these
                for dense and sparse, else rrf(k=5); late interaction then ranks alone.
            candidates: hits of one stage that the next one scores; 100.
            rerank: a cross-encoder, for the best of these; hits then have its scores.
            rerank_candidates: how many it scores; 50.
            mmr: from 1 (like the query) to 0 (unlike each other): order for diversity by the dense vectors.
            group_by_parent: one hit for each document, its best piece.
            score_threshold: least score of the last stage, or by stage, {"dense": 0.3}; fused scores have no meaning
                of their own, so for hybrid it must be by stage.
            all_scores: the scores of every stage in each hit, at the cost of a second query.
            exact: True compares every point, without indexes, quantization and prefix.

        Returns:
            Hits, best first; equal scores by id.
        """
        search = Search.of(
            self._store.schema, self._mode if mode is None else mode, limit, offset, filter,
            fusion_of(fusion, self._model), candidates, rerank, rerank_candidates, mmr, group_by_parent,
            score_threshold, all_scores, exact,
        )  # fmt: skip
        return search_all(self._store, self._model, [query], search)[0]

    def search_batch(
        self,
        queries: Iterable[str | Encodings] | Encodings,
        *,
        limit: int = 10,
        offset: int = 0,
        mode: str | None = None,
        filter: Filter | None = None,
        fusion: Fusion | str | None = None,
        candidates: int | None = None,
        rerank: ScoringModel | None = None,
        rerank_candidates: int | None = None,
        mmr: float | None = None,
        group_by_parent: bool = False,
        score_threshold: float | Mapping[str, float] | None = None,
        all_scores: bool = False,
        exact: bool | None = None,
    ) -> list[list[Hit]]:
        """The hits of many questions, encoded in one pass and sent as one batch; arguments are those of ``search``."""
        if isinstance(queries, str) or not isinstance(queries, Iterable | Encodings):
            raise InputTypeError(
                f"queries must be a list of strings or what encode_query returned, not {shown(queries)}"
            )
        search = Search.of(
            self._store.schema, self._mode if mode is None else mode, limit, offset, filter,
            fusion_of(fusion, self._model), candidates, rerank, rerank_candidates, mmr, group_by_parent,
            score_threshold, all_scores, exact,
        )  # fmt: skip
        return search_all(self._store, self._model, queries, search)

    def get(self, ids: str | Iterable[str]) -> list[StoredDocument | None]:
        """The documents of the ids, in their order, with their whole texts; None where there is none."""
        return get_documents(self._store, ids)

    def documents(self, *, filter: Filter | None = None) -> Iterator[StoredDocument]:
        """Every document, or those that match the filter, with their whole texts, in the engine's order."""
        for page in all_documents(self._store, filter):
            yield from page

    def delete(self, ids: str | Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents, with all their pieces, by id or by filter; returns how many there were."""
        return delete_documents(self._store, ids, filter)

    def count(self, filter: Filter | None = None) -> int:
        """Number of documents; of those that match, with a filter."""
        return count_documents(self._store, filter)

    def copy_to(
        self,
        location: str | Path,
        *,
        name: str = "documents",
        server: ServerOptions = _LOCAL,
        show_progress: bool = False,
    ) -> CopyReport:
        """Copy the collection, vectors and all, to a folder or a server, from any engine to any.

        Writers in this process wait meanwhile. After an interruption the same call copies what is missing. Every
        vector is read back and compared, and at the end counts and checksums of both sides.

        Raises:
            CollectionError: the target holds another collection, or the copy is not what the original is.
        """
        place = place_of(location)
        return copy_points(self._store, place, name=name, options=server, show_progress=show_progress)

    def backup(self, folder: str | Path) -> None:
        """Copy an embedded collection's files to a new folder, which opens like the original.

        Writers wait meanwhile. The folder appears when the copy is whole.

        Raises:
            CollectionError: the folder is not empty, or cannot be written.
            InvalidOptionError: this collection is no folder; use ``copy_to``.
        """
        back_up(self._store, place_of(folder))

    def optimize(self) -> None:
        """Build indexes and merge files now; searches go on, writers wait. Worth it after many documents were added."""
        store = self._store
        with reservations_of(store).everything():
            store.optimize()

    aupsert = in_thread(upsert)
    aupdate_metadata = in_thread(update_metadata)
    asearch = in_thread(search)
    asearch_batch = in_thread(search_batch)
    aget = in_thread(get)
    adelete = in_thread(delete)
    acount = in_thread(count)
    acopy_to = in_thread(copy_to)
    abackup = in_thread(backup)
    aoptimize = in_thread(optimize)

    def close(self) -> None:
        """Give this handle back; the last one closes the files. The model stays open. Closing twice is allowed."""
        self._release()

    def __repr__(self) -> str:
        return f"HybridCollection({self.location!r}{'' if self._release.alive else ', closed'})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a reference, as files are

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} holds open files or a connection: open it in the other process instead of pickling")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_model(model: EncodingModel) -> None:
    if isinstance(model, str) or not hasattr(model, "encode_document"):
        raise InputTypeError(f"model must be a loaded model, EmbeddingModel.load(...), not {shown(model)}")
