"""A hybrid collection as a LlamaIndex vector store."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import Field, PrivateAttr, field_validator
from qdrant_client import models

from llama_index_mgte.filters import all_of, to_filter
from llama_index_mgte.loading import ModelOptions, refuse_arguments
from llama_index_mgte.nodes import REF_DOC_ID, check_nodes, to_documents, to_node, to_piece
from llama_index_mgte.queries import search_options
from llama_index_mgte.vectors import VectorMaker
from mgte_rag import InputTypeError, InvalidOptionError
from mgte_rag.async_calls import in_thread
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte import Hit, HybridCollection

# Nodes whose other vectors are made together.
_WINDOW = 256
_EVERYTHING = models.Filter(must=[models.FieldCondition(key="chunk_no", range=models.Range(gte=0))])


class MGTEVectorStore(ModelOptions, BasePydanticVectorStore):
    """Nodes with dense, sparse and token vectors: ``MGTEVectorStore(location="./index")``.

    The embedding that a node brings is its dense vector, as it is; where an ``MGTEEmbedding`` of the same model made it
    while the store was open, the other vectors come from the same forward pass. ``store.open()`` opens it before the
    first ``add``, which otherwise does. A node without one is encoded whole, in pieces where it is longer
    than the model reads, and found as one node. Nodes are given back as they went in.

    Query modes: DEFAULT is ``default_mode``; SPARSE and TEXT_SEARCH look for the terms of the text; HYBRID fuses dense
    and sparse (``alpha`` weighs them); SEMANTIC_HYBRID scores the best of these by late interaction; MMR avoids
    repetition. The fitted ones (SVM, LOGISTIC_REGRESSION, LINEAR_REGRESSION) are errors. ``vector_store_kwargs`` of a
    retriever may hold candidates, exact, fusion, offset and score_threshold of ``HybridCollection.search``, and
    mmr_threshold, mmr_prefetch_k and mmr_prefetch_factor. Scores are raw.

    ``close()`` closes it, as does leaving a ``with`` block. Copies and pickles open the same location.
    """

    stores_text: bool = Field(default=True, frozen=True, description="Nodes are kept here, not in a document store.")
    is_embedding_query: bool = Field(default=True, frozen=True, description="Queries bring their embedding.")
    location: str = Field(frozen=True, description="A folder, ':memory:', or the URL of a Qdrant server.")
    name: str = Field(default="documents", frozen=True, description="Name of the collection on a server.")
    outputs: tuple[Output, ...] | None = Field(
        default=None, frozen=True, description="Which vectors a new collection stores; None is all of the model's."
    )
    dim: int | None = Field(default=None, frozen=True, description="Components of the dense vectors; None is all.")
    token_dim: int | None = Field(default=None, frozen=True, description="Components of each token's vector.")
    preset: Literal["exact", "balanced", "compact"] | None = Field(
        default=None, frozen=True, description="How a new collection is stored; None is balanced."
    )
    indexes: dict[str, Any] | None = Field(
        default=None, frozen=True, description="Metadata fields to index in a new collection, {'year': 'integer'}."
    )
    default_mode: Literal["dense", "sparse", "hybrid", "late_interaction"] | None = Field(
        default=None, frozen=True, description="What the query mode DEFAULT does; None is dense where it is stored."
    )
    _given: HybridCollection | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTEVectorStore"

    @classmethod
    def from_collection(
        cls,
        collection: HybridCollection,
        *,
        default_mode: Literal["dense", "sparse", "hybrid", "late_interaction"] | None = None,
    ) -> Self:
        """A store over an open collection, for options that ``HybridCollection.open`` has; it cannot be pickled."""
        name = collection.model.identity.name
        store = cls(location=collection.location, model_name=name, default_mode=default_mode)
        store._given = collection
        return store

    @field_validator("location", mode="before")
    @classmethod
    def _as_text(cls, location: object) -> object:
        return str(location) if isinstance(location, Path) else location

    @cached_property
    def collection(self) -> HybridCollection:
        """The collection behind this store, opened on first use."""
        if self._given is not None:
            return self._given
        return HybridCollection.open(
            self.location,
            model=self.model,
            name=self.name,
            outputs=self.outputs,
            dim=self.dim,
            token_dim=self.token_dim,
            preset=self.preset,
            indexes=self.indexes,
        )

    def open(self) -> Self:
        """Open the collection, if it is not: embeddings made from now on are passes for all of its vectors."""
        _ = self._vectors
        return self

    @property
    def client(self) -> HybridCollection:
        """The collection, which is what speaks to the engine."""
        return self.collection

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Store nodes; one with a known id replaces what was there. Returns their ids.

        Raises:
            InputTypeError: something is no node; nothing was stored.
            InvalidDocumentError: a node cannot be stored, with the reason; the message says whether the others were.
        """
        refuse_arguments(add_kwargs, "add()")
        nodes = check_nodes(nodes)
        report = self.collection.upsert(self._vectors.documents(nodes, to_documents(nodes)))
        report.raise_for_rejected()
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document, and the document itself where it was stored as a node.

        Raises:
            InputTypeError: no id.
        """
        refuse_arguments(delete_kwargs, "delete()")
        if not isinstance(ref_doc_id, str):
            raise InputTypeError(f"ref_doc_id must be the id of one document, not {shown(ref_doc_id)}")
        self.collection.delete(filter={REF_DOC_ID: ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or those of the ids that match the filter.

        Raises:
            InvalidOptionError: neither was given; ``clear`` deletes everything.
        """
        refuse_arguments(delete_kwargs, "delete_nodes()")
        if node_ids is None and not to_filter(filters):
            raise InvalidOptionError("delete_nodes needs node_ids or filters; clear() deletes everything")
        if node_ids is None or node_ids:
            self.collection.delete(filter=self._filter(node_ids, filters))

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id (in that order, without those that are not there), by filter, or all of them."""
        if node_ids is not None and not to_filter(filters):
            return [to_node(document) for document in self.collection.get(node_ids) if document is not None]
        if node_ids is not None and not node_ids:
            return []
        return [to_node(document) for document in self.collection.documents(filter=self._filter(node_ids, filters))]

    def clear(self) -> None:
        """Delete everything in the collection."""
        self.collection.delete(filter=_EVERYTHING)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes that answer a query best, with raw scores.

        Raises:
            InputTypeError: no ``VectorStoreQuery``.
            InvalidOptionError: a mode, an option or a filter that the collection does not have.
        """
        if not isinstance(query, VectorStoreQuery):
            raise InputTypeError(f"query must be VectorStoreQuery(query_str=...), not {shown(query)}")
        options = search_options(query, kwargs, self.collection, self.default_mode)
        hits = self.collection.search(self._vectors.question(query, options), **options)
        return VectorStoreQueryResult(
            nodes=self._whole(hits), similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """``add`` in a worker thread: the event loop goes on."""
        return await in_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """``delete`` in a worker thread: the event loop goes on."""
        await in_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """``delete_nodes`` in a worker thread: the event loop goes on."""
        await in_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """``get_nodes`` in a worker thread: the event loop goes on."""
        return await in_thread(self.get_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """``clear`` in a worker thread: the event loop goes on."""
        await in_thread(self.clear)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """``query`` in a worker thread: queries that come together are computed together."""
        return await in_thread(self.query, query, **kwargs)

    def close(self) -> None:
        """Close the collection; it can be opened again by its location. Closing twice is allowed."""
        if "_vectors" in self.__dict__:
            self._vectors.close()
        if self._given is not None or "collection" in self.__dict__:
            self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __copy__(self) -> Self:
        copied = super().__copy__()
        if self._given is not None or self.location == ":memory:":
            copied._given = self.collection  # there is no way to open it again
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()  # fields are fixed, and a collection is shared

    def __getstate__(self) -> dict[str, Any]:
        if self._given is not None or self.location == ":memory:":
            raise InvalidOptionError(
                f"a store over {self.location} cannot be pickled: another process could not open the same collection. "
                f"Make the store with a folder or a server's URL, MGTEVectorStore(location=...)"
            )
        return super().__getstate__()

    @cached_property
    def _vectors(self) -> VectorMaker:
        """Makes the vectors that nodes and queries do not bring."""
        return VectorMaker(self.collection)

    def _whole(self, hits: Sequence[Hit]) -> list[BaseNode]:
        """The nodes of hits; those that were split are fetched."""
        split = [hit.id for hit in hits if hit.chunks > 1]
        whole = dict(zip(split, self.collection.get(split), strict=True)) if split else {}
        return [to_node(document) if (document := whole.get(hit.id)) else to_piece(hit) for hit in hits]

    def _filter(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> dict[str, Any] | None:
        return all_of(to_filter(filters), {} if node_ids is None else {"$id": node_ids})
