"""A collection as a LangChain vector store."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_mgte.documents import entries_of_documents, entries_of_texts, from_stored
from langchain_mgte.embeddings import MGTEEmbeddings
from langchain_mgte.models import ForeignModel, encoding_model
from langchain_mgte.store_searches import StoreSearches, check_names
from mgte_rag import InputTypeError, InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte import HybridCollection, ServerOptions, Splitting, WriteReport
from qdrant_mgte.documents import content_id
from qdrant_mgte.filters import Filter
from qdrant_mgte.schema import FieldType, Preset

_LOCAL = ServerOptions()


class MGTEVectorStore(StoreSearches):
    """A ``HybridCollection`` as a vector store: ``MGTEVectorStore(MGTEEmbeddings(), location="./index")``.

    With ``MGTEEmbeddings`` it stores all that the model makes in one forward pass, and searches in every mode; with
    any other LangChain embedding dense vectors alone. A document whose id is known replaces the one there; unchanged
    ones are not encoded again; one without an id gets one made from its text and metadata.

    Every search takes, beside ``k`` and ``filter`` (on metadata, {"lang": "de"}), what ``HybridCollection.search``
    takes: ``mode``, ``fusion``, ``candidates``, ``rerank``, ``rerank_candidates``, ``mmr``, ``group_by_parent``,
    ``score_threshold``, ``exact``, ``offset``; anything else is an error. Documents found have their ids; pieces of
    one that was split have "id#3", and "mgte_document_id" and "mgte_start" in their metadata.

    Args:
        embedding: encodes documents and questions; it stays the caller's.
        location: a folder, ":memory:", or the URL of a Qdrant server.
        name: of the collection on a server.
        mode: what a search does unless told otherwise; None is the best that there is.
        split: cut texts longer than the model reads; ``Splitting(max_tokens=...)`` says how. The texts of other
            packages' embeddings are never cut.
        outputs: which of the model's outputs a new collection stores; this and all below as ``HybridCollection.open``.
        token_dim: components of each token's vector.
        dense_prefix: first components of the dense vector that find candidates for the whole.
        preset: "exact", "balanced" or "compact".
        tenant: metadata field that separates tenants.
        indexes: metadata fields to index for filters.
        shards: of a server's collection.
        replicas: of every shard.
        server: key, protocol, timeouts and retries.

    Raises:
        ModelMismatchError: the collection there was written with another embedding.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        location: str | Path,
        name: str = "documents",
        mode: str | None = None,
        split: bool | Splitting = True,
        outputs: Sequence[Output] | None = None,
        token_dim: int | None = None,
        dense_prefix: int | None = None,
        preset: Preset | None = None,
        tenant: str | None = None,
        indexes: Mapping[str, FieldType] | None = None,
        shards: int | None = None,
        replicas: int | None = None,
        server: ServerOptions = _LOCAL,
    ) -> None:
        if not isinstance(embedding, Embeddings):
            raise InputTypeError(
                f"embedding must be one of LangChain's, such as MGTEEmbeddings(), not {shown(embedding)}"
            )
        model = encoding_model(embedding)
        if isinstance(model, ForeignModel) and isinstance(split, Splitting):
            raise InvalidOptionError(
                f"split={split!r}: the tokens of {type(embedding).__name__} are not known; use a text splitter"
            )
        self._embedding = embedding
        self._split = split
        self._collection = HybridCollection.open(
            location,
            model=model,
            name=name,
            mode=mode,
            outputs=outputs,
            dim=embedding.dim if isinstance(embedding, MGTEEmbeddings) else None,
            token_dim=token_dim,
            dense_prefix=dense_prefix,
            preset=preset,
            tenant=tenant,
            indexes=indexes,
            shards=shards,
            replicas=replicas,
            server=server,
        )

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts added; ``kwargs`` are the constructor's arguments."""
        store = cls(embedding, **kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings:
        """What encodes."""
        return self._embedding

    @property
    def collection(self) -> HybridCollection:
        """The collection behind it, for all that LangChain has no names for."""
        return self._collection

    def close(self) -> None:
        """Close the collection; the embedding stays open. Closing twice is allowed."""
        self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing. ``batch_size`` is what LangChain's ``index`` gives: the collection makes its batches by tokens.

    def add_texts(  # type: ignore[override]  # unknown arguments are errors
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Encode and store texts; returns their ids.

        Args:
            texts: any iterable, generators too.
            metadatas: one for each text.
            ids: one for each text, of any length and script; None has one made.
            batch_size: has no meaning here.
            show_progress: draw a progress bar.

        Raises:
            InvalidOptionError: not as many metadatas or ids as texts.
            InvalidDocumentError: a text cannot be stored, with the reason; the others were stored.
        """
        return self._add(entries_of_texts(texts, metadatas, ids), show_progress)

    async def aadd_texts(  # type: ignore[override]
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """``add_texts`` without blocking the event loop."""
        return await self._aadd(entries_of_texts(texts, metadatas, ids), show_progress)

    def add_documents(  # type: ignore[override]
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Encode and store documents, which are not changed; returns their ids. ``ids`` go before their own."""
        return self._add(entries_of_documents(documents, ids), show_progress)

    async def aadd_documents(  # type: ignore[override]
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """``add_documents`` without blocking the event loop."""
        return await self._aadd(entries_of_documents(documents, ids), show_progress)

    def _add(self, entries: Sequence[dict[str, Any]], show_progress: bool) -> list[str]:
        report = self._collection.upsert(entries, split=self._split, show_progress=show_progress)
        return self._ids(entries, report)

    async def _aadd(self, entries: Sequence[dict[str, Any]], show_progress: bool) -> list[str]:
        report = await self._collection.aupsert(entries, split=self._split, show_progress=show_progress)
        return self._ids(entries, report)

    def _ids(self, entries: Sequence[dict[str, Any]], report: WriteReport) -> list[str]:
        report.raise_for_rejected()
        if report.truncated:
            warnings.warn(
                f"{len(report.truncated)} documents are longer than the model reads, the first is "
                f"{shown(report.truncated[0])}: their ends cannot be found. Store them with split=True.",
                stacklevel=4,
            )
        return [entry["id"] or content_id(entry["text"], entry["metadata"]) for entry in entries]

    def delete(  # type: ignore[override]
        self, ids: list[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """Delete documents with all their pieces, by id or by filter; ids that are not there are none to delete.

        Raises:
            InvalidOptionError: neither, or both: LangChain leaves open whether that means all.
        """
        self._collection.delete(ids, filter=filter)
        return True

    async def adelete(  # type: ignore[override]
        self, ids: list[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """``delete`` without blocking the event loop."""
        await self._collection.adelete(ids, filter=filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of those ids that are there, with their whole texts."""
        return from_stored(self._collection.get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """``get_by_ids`` without blocking the event loop."""
        return from_stored(await self._collection.aget(ids))

    def as_retriever(  # type: ignore[override]
        self,
        *,
        search_type: str = "similarity",
        search_kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> VectorStoreRetriever:
        """LangChain's own retriever over this store; ``MGTERetriever`` has scores and options of its own.

        Args:
            search_type: "similarity", "mmr" or "similarity_score_threshold".
            search_kwargs: k, filter and the options of the class; for "mmr" fetch_k and lambda_mult.
            name: for tracing.
            tags: for tracing.
            metadata: for tracing.
        """
        given = dict(search_kwargs or {})
        own = {"mmr": {"fetch_k", "lambda_mult"}, "similarity_score_threshold": {"score_threshold"}}
        check_names(given.keys() - {"k", "filter"} - own.get(search_type, set()))
        options = {"name": name, "tags": tags, "metadata": metadata}
        options = {key: value for key, value in options.items() if value is not None}
        return super().as_retriever(search_type=search_type, search_kwargs=given, **options)
