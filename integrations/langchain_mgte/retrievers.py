"""Collections as LangChain retrievers."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field, SkipValidation

from langchain_mgte.documents import entries_of_documents, from_hits
from langchain_mgte.embeddings import MGTEEmbeddings
from langchain_mgte.models import encoding_model
from langchain_mgte.rerankers import MGTEReranker
from langchain_mgte.settings import check_k
from mgte_rag import Reranker
from qdrant_mgte import EncodingModel, Fusion, HybridCollection
from qdrant_mgte.filters import Filter

Scorer = Reranker | MGTEReranker


class CollectionRetriever(BaseRetriever):
    """What retrievers over a collection share: its life, and what tracing shows of it."""

    # As references: collections and models are shared by copies.
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    k: int = Field(default=4, gt=0)
    """Documents returned at most."""
    filter: Annotated[Filter | None, SkipValidation] = None
    """On metadata, {"lang": "de", "year": {"gte": 2020}}, or Qdrant's own; a filter given with a call replaces it."""
    group_by_parent: bool = False
    """One result for each document, its best piece."""

    def close(self) -> None:
        """Close the collection; the model stays open."""
        if (collection := self._collection()) is not None:
            collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collection(self) -> HybridCollection | None:
        collection: HybridCollection | None = getattr(self, "collection", None)
        return collection

    def _common(self, k: int | None, filter: Filter | None) -> dict[str, Any]:
        return {
            "limit": self.k if k is None else check_k(k),
            "filter": self.filter if filter is None else filter,
            "group_by_parent": self.group_by_parent,
        }

    def _trace(self, name: str, model: str) -> LangSmithRetrieverParams:
        params = LangSmithRetrieverParams(
            ls_retriever_name=name,
            ls_embedding_provider="mgte-rag",
            ls_embedding_model=model,
        )
        if (collection := self._collection()) is not None:
            is_folder = not collection.location.startswith(":memory:") and "://" not in collection.location
            params["ls_vector_store_provider"] = "qdrant-edge" if is_folder else "qdrant"
        return params


class MGTERetriever(CollectionRetriever):
    """Retrieves documents from a ``HybridCollection``.

    Each document carries its id, and in its metadata "mgte_score", the score of the last stage. Where that says
    something by itself there is "relevance_score", 0 to 1: the sigmoid of a reranker's logit, the cosine of a dense
    search, or MaxSim divided by the query's tokens; fused scores have none. A piece of a document that was split has
    the id "id#3", and "mgte_document_id" and "mgte_start" in its metadata.

    Unknown constructor and call arguments are errors; ``invoke(question, k=2, filter={"lang": "de"})`` overrides for
    one call.
    """

    collection: HybridCollection
    """Where the documents are; ``close()`` closes it."""
    mode: str | None = None
    """"hybrid", "dense", "sparse" or "late_interaction"; None is the collection's own."""
    fusion: Annotated[Fusion | str | None, SkipValidation] = None
    """Of dense and sparse: ``qdrant_mgte.rrf(...)``, ``dbsf()``, ``weighted(...)``."""
    candidates: int | None = None
    """Hits of one stage that the next one scores; 100."""
    reranker: Scorer | None = None
    """A cross-encoder for the best of them."""
    rerank_candidates: int | None = None
    """How many it scores; 50."""
    mmr: float | None = None
    """From 1 (like the query) to 0 (unlike each other): order for diversity."""
    score_threshold: float | dict[str, float] | None = None
    """Least score of the last stage, or by stage, {"dense": 0.3}."""

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        location: str | Path,
        model: EncodingModel | Embeddings | str | Path | None = None,
        k: int = 4,
        filter: Filter | None = None,
        mode: str | None = None,
        reranker: Scorer | None = None,
        show_progress: bool = False,
    ) -> Self:
        """A retriever over a collection in a folder, with these documents added to it.

        Documents that are already there unchanged are not encoded again. A document without an id gets one made
        from its text and metadata: give ids to documents whose text may change, so that the new one replaces the old.
        A document longer than the model reads is split; its pieces are found as documents "id#0", "id#1", ...

        Args:
            documents: what to add; may be empty to open an existing collection.
            location: the collection's folder; it is made if it is not there.
            model: a loaded model, a LangChain embedding, a hub id or folder, or None for the embedded default.
            k: documents returned at most.
            filter: on metadata.
            mode: what ranks; None is the best that the collection has.
            reranker: a cross-encoder for the best of them.
            show_progress: draw a progress bar.

        Raises:
            InvalidOptionError: k is below 1.
            InvalidDocumentError: a document cannot be stored, with the reason; the others were stored.
        """
        check_k(k)
        entries = entries_of_documents(documents)
        collection = HybridCollection.from_documents(
            entries,
            location,
            model=encoding_model(model),
            dim=model.dim if isinstance(model, MGTEEmbeddings) else None,
            show_progress=show_progress,
        )
        try:
            return cls(collection=collection, k=k, filter=filter, mode=mode, reranker=reranker)
        except BaseException:
            collection.close()
            raise

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        hits = self.collection.search(query, **self._arguments(k, filter))
        return from_hits(hits, scored=True, grouped=self.group_by_parent)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        hits = await self.collection.asearch(query, **self._arguments(k, filter))
        return from_hits(hits, scored=True, grouped=self.group_by_parent)

    def _arguments(self, k: int | None, filter: Filter | None) -> dict[str, Any]:
        return {
            **self._common(k, filter),
            "mode": self.mode,
            "fusion": self.fusion,
            "candidates": self.candidates,
            "rerank": self.reranker,
            "rerank_candidates": self.rerank_candidates,
            "mmr": self.mmr,
            "score_threshold": self.score_threshold,
        }

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return self._trace("mgte", self.collection.model.identity.name)
