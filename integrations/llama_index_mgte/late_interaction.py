"""Late interaction as the first stage: over a collection, or over nodes without any store."""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_mgte.filters import to_filter
from llama_index_mgte.loading import warn_if_cut
from llama_index_mgte.nodes import check_nodes, scored
from llama_index_mgte.retrievers import check_collection, check_top_k, query_text
from mgte_rag import EmbeddingModel, UnsupportedOutputError
from mgte_rag.async_calls import in_thread
from mgte_rag.late_interaction import LateInteractionIndex
from qdrant_mgte import HybridCollection


class MGTELateInteractionRetriever(BaseRetriever):
    """Retrieves nodes by late interaction: every token of the question looks for its best match (MaxSim).

    Over a ``HybridCollection`` with token vectors all of its documents are compared, or with ``candidates`` that many
    of the best by dense and sparse vectors. Over a list of nodes, ``from_nodes``, nothing is stored. Scores are raw,
    summed over the question's tokens.

    Args:
        collection: where the documents are; ``close()`` closes it.
        similarity_top_k: nodes returned at most.
        candidates: None compares every document; a number, that many of the best by dense and sparse vectors.
        filters: LlamaIndex's, or a dictionary as ``HybridCollection.search`` takes it.
        callback_manager: LlamaIndex's own.

    Raises:
        InputTypeError: the collection is none.
        UnsupportedOutputError: the collection has no token vectors.
        InvalidOptionError: similarity_top_k is below 1, or filters of another kind.
    """

    _nodes: Sequence[BaseNode] = ()

    def __init__(
        self,
        collection: HybridCollection,
        *,
        similarity_top_k: int = 4,
        candidates: int | None = None,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if "multi_vector" not in check_collection(collection).outputs:
            raise UnsupportedOutputError(
                f"the collection {collection.location} stores {', '.join(collection.outputs)}; late interaction needs "
                f"multi_vector. Store it: HybridCollection.open(..., outputs=None) keeps all that the model has"
            )
        self.similarity_top_k = check_top_k(similarity_top_k)
        self._searched: HybridCollection | LateInteractionIndex = collection
        self._options: dict[str, Any] = {
            "mode": "late_interaction",
            "candidates": candidates,
            "exact": True if candidates is None else None,
            "filter": filters if isinstance(filters, Mapping) else to_filter(filters),
        }
        super().__init__(callback_manager=callback_manager)

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[BaseNode],
        *,
        model: EmbeddingModel | str | None = None,
        similarity_top_k: int = 4,
        token_dim: int | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> Self:
        """A retriever over nodes, whose token vectors are made now and kept in memory; no store is needed.

        Every question is compared with all nodes: good for some tens of thousands of passages. The nodes that are
        found are these very objects.

        Args:
            nodes: what to search; longer ones than the model reads are cut, with a warning.
            model: a loaded model, a hub id or folder, or None for the embedded default.
            similarity_top_k: nodes returned at most.
            token_dim: components of each token's vector, one of the model's; None is the largest.
            show_progress: draw a progress bar.
            callback_manager: LlamaIndex's own.

        Raises:
            InputTypeError: something is no node.
            UnsupportedOutputError: the model has no late-interaction head.
            InvalidOptionError: similarity_top_k is below 1, or a token_dim that the model does not have.
        """
        check_top_k(similarity_top_k)
        loaded = model if isinstance(model, EmbeddingModel) else EmbeddingModel.load(model)
        retriever = cls.__new__(cls)
        retriever.similarity_top_k = similarity_top_k
        retriever._nodes = check_nodes(nodes)
        texts = [node.get_content(MetadataMode.EMBED) for node in retriever._nodes]
        index = LateInteractionIndex(loaded, texts, token_dim=token_dim, show_progress=show_progress)
        warn_if_cut(index.truncated, loaded)
        retriever._searched = index
        BaseRetriever.__init__(retriever, callback_manager=callback_manager)
        return retriever

    def close(self) -> None:
        """Close the collection; the model stays open."""
        if isinstance(self._searched, HybridCollection):
            self._searched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text, searched = query_text(query_bundle), self._searched
        if isinstance(searched, HybridCollection):
            return scored(searched.search(text, limit=self.similarity_top_k, **self._options))
        best = searched.rank(text, top_k=self.similarity_top_k)
        return [NodeWithScore(node=self._nodes[one.index], score=one.score) for one in best]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await in_thread(self._retrieve, query_bundle)
