"""Collections as LlamaIndex retrievers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_mgte.filters import to_filter
from llama_index_mgte.nodes import scored, to_documents
from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError
from mgte_rag.async_calls import in_thread
from mgte_rag.errors import shown
from qdrant_mgte import Fusion, HybridCollection, ScoringModel


class MGTERetriever(BaseRetriever):
    """Retrieves nodes from a ``HybridCollection``, in any of its modes.

    Scores are raw, of the last stage of the search. A document longer than the model reads is found piece by piece, as
    nodes "id#0", "id#1", ... whose source it is. The question's text is what is searched for.

    Args:
        collection: where the documents are; ``close()`` closes it.
        similarity_top_k: nodes returned at most.
        mode: "hybrid", "dense", "sparse" or "late_interaction"; None is the collection's.
        filters: LlamaIndex's, or a dictionary as ``HybridCollection.search`` takes it.
        fusion: of dense and sparse, ``qdrant_mgte.rrf(...)``, ``dbsf()`` or ``weighted(...)``.
        candidates: hits of one stage that the next one scores.
        rerank: a cross-encoder for the best of them, ``Reranker.load(...)``.
        rerank_candidates: how many it scores.
        mmr: from 1 (like the query) to 0 (unlike each other): order for diversity.
        score_threshold: least score of the last stage, or by stage.
        callback_manager: LlamaIndex's own.
        objects: nodes that stand for retrievers, query engines or nodes, which are asked in their place.
        verbose: print what LlamaIndex retrieves recursively.

    Raises:
        InputTypeError: the collection is none.
        InvalidOptionError: similarity_top_k is below 1, or filters of another kind.
    """

    def __init__(
        self,
        collection: HybridCollection,
        *,
        similarity_top_k: int = 4,
        mode: str | None = None,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        fusion: Fusion | str | None = None,
        candidates: int | None = None,
        rerank: ScoringModel | None = None,
        rerank_candidates: int | None = None,
        mmr: float | None = None,
        score_threshold: float | Mapping[str, float] | None = None,
        callback_manager: CallbackManager | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        self.collection = check_collection(collection)
        self.similarity_top_k = check_top_k(similarity_top_k)
        self.options: dict[str, Any] = {
            "mode": mode,
            "filter": filters if isinstance(filters, Mapping) else to_filter(filters),
            "fusion": fusion,
            "candidates": candidates,
            "rerank": rerank,
            "rerank_candidates": rerank_candidates,
            "mmr": mmr,
            "score_threshold": score_threshold,
        }
        super().__init__(callback_manager=callback_manager, objects=objects, verbose=verbose)

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[BaseNode],
        *,
        location: str | Path,
        model: EmbeddingModel | str | None = None,
        similarity_top_k: int = 4,
        show_progress: bool = False,
    ) -> Self:
        """A retriever over a collection in a folder, with these documents or nodes added to it.

        What is encoded is what LlamaIndex embeds: the text with the metadata in front that is not excluded. What is
        already there unchanged, by id, is not encoded again. LlamaIndex gives a document without ``id_=`` a random id,
        so give ids to documents that will be added again.

        Args:
            documents: what to add; may be empty to open an existing collection.
            location: the collection's folder; it is made if it is not there.
            model: a loaded model, a hub id or folder, or None for the embedded default.
            similarity_top_k: nodes returned at most.
            show_progress: draw a progress bar.

        Raises:
            InvalidOptionError: similarity_top_k is below 1.
            InvalidDocumentError: a document cannot be stored, with the reason; the others were stored.
        """
        check_top_k(similarity_top_k)
        loaded = model if isinstance(model, EmbeddingModel) else EmbeddingModel.load(model)
        entries = to_documents(documents)
        collection = HybridCollection.from_documents(entries, location, model=loaded, show_progress=show_progress)
        return cls(collection, similarity_top_k=similarity_top_k)

    def close(self) -> None:
        """Close the collection; the model stays open."""
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text = query_text(query_bundle)
        return scored(self.collection.search(text, limit=self.similarity_top_k, **self.options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_thread(self._retrieve, query_bundle)


def check_collection(collection: HybridCollection) -> HybridCollection:
    """What a retriever searches.

    Raises:
        InputTypeError: it is none.
    """
    if not isinstance(collection, HybridCollection):
        raise InputTypeError(
            f"collection must be a HybridCollection, HybridCollection.open(...) or MGTEVectorStore(...).collection, "
            f"not {shown(collection)}"
        )
    return collection


def check_top_k(similarity_top_k: int) -> int:
    """A number of nodes to return.

    Raises:
        InvalidOptionError: it is none.
    """
    if not isinstance(similarity_top_k, int) or isinstance(similarity_top_k, bool) or similarity_top_k < 1:
        raise InvalidOptionError(f"similarity_top_k must be a whole number above 0, not {shown(similarity_top_k)}")
    return similarity_top_k


def query_text(bundle: QueryBundle) -> str:
    """What a query bundle asks. An embedding in it was made by whoever had the bundle before, with another model.

    Raises:
        InvalidOptionError: the bundle wants other strings embedded in place of the question.
    """
    if bundle.custom_embedding_strs:
        raise InvalidOptionError(
            "this retriever searches for the question itself; for custom_embedding_strs, as HyDE makes them, take "
            "VectorStoreIndex.from_vector_store(MGTEVectorStore(...)).as_retriever()"
        )
    return bundle.query_str
