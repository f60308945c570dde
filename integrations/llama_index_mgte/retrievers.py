"""Collections as LlamaIndex retrievers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError
from mgte_rag.errors import shown
from qdrant_mgte import Hit, HybridCollection


class MGTERetriever(BaseRetriever):
    """Retrieves nodes from a ``HybridCollection``.

    Args:
        collection: where the documents are; ``close()`` closes it.
        similarity_top_k: nodes returned at most.
        callback_manager: LlamaIndex's own.

    Raises:
        InvalidOptionError: similarity_top_k is below 1.
    """

    def __init__(
        self,
        collection: HybridCollection,
        *,
        similarity_top_k: int = 4,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        _check_top_k(similarity_top_k)
        self.collection = collection
        self.similarity_top_k = similarity_top_k
        super().__init__(callback_manager=callback_manager)

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

        The text alone is stored and encoded, not the metadata in front of it, and of a node's fields id, text and
        metadata come back. What is already there unchanged, by id, is not encoded again. LlamaIndex gives a document
        without ``id_=`` a random id, so give ids to documents that will be added again. A document longer
        than the model reads is split; its pieces are found as nodes "id#0", "id#1", ...

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
        _check_top_k(similarity_top_k)
        loaded = model if isinstance(model, EmbeddingModel) else EmbeddingModel.load(model)
        entries = [_to_entry(position, node) for position, node in enumerate(documents)]
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
        return _to_nodes(self.collection.search(query_bundle.query_str, limit=self.similarity_top_k))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _to_nodes(await self.collection.asearch(query_bundle.query_str, limit=self.similarity_top_k))


def _check_top_k(similarity_top_k: int) -> None:
    if similarity_top_k < 1:
        raise InvalidOptionError(f"similarity_top_k must be a whole number above 0, not {similarity_top_k!r}")


def _to_entry(position: int, node: BaseNode) -> dict[str, Any]:
    if not isinstance(node, BaseNode):
        raise InputTypeError(f"documents[{position}] must be a LlamaIndex document or node, not {shown(node)}")
    return {"id": node.node_id, "text": node.get_content(MetadataMode.NONE), "metadata": node.metadata}


def _to_nodes(hits: Sequence[Hit]) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(id_=hit.chunk_id, text=hit.text, metadata=dict(hit.metadata)), score=hit.score)
        for hit in hits
    ]
