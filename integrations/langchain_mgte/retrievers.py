"""Collections as LangChain retrievers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field

from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError
from mgte_rag.errors import shown
from qdrant_mgte import Hit, HybridCollection

SCORE_KEY = "mgte_score"


class MGTERetriever(BaseRetriever):
    """Retrieves documents from a ``HybridCollection``.

    Each document carries its id, and its score in ``metadata["mgte_score"]``. Unknown constructor and call arguments
    are errors; ``invoke(question, k=2)`` overrides ``k`` for one call.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    collection: HybridCollection
    """Where the documents are; ``close()`` closes it."""
    k: int = Field(default=4, gt=0)
    """Documents returned at most."""

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        location: str | Path,
        model: EmbeddingModel | str | None = None,
        k: int = 4,
        show_progress: bool = False,
    ) -> Self:
        """A retriever over a collection in a folder, with these documents added to it.

        Documents that are already there unchanged are not encoded again. A document without an id gets one made
        from its text and metadata: give ids to documents whose text may change, so that the new one replaces the old.
        A document longer than the model reads is split; its pieces are found as documents "id#0", "id#1", ...

        Args:
            documents: what to add; may be empty to open an existing collection.
            location: the collection's folder; it is made if it is not there.
            model: a loaded model, a hub id or folder, or None for the embedded default.
            k: documents returned at most.
            show_progress: draw a progress bar.

        Raises:
            InvalidOptionError: k is below 1.
            InvalidDocumentError: a document cannot be stored, with the reason; the others were stored.
        """
        if k < 1:
            raise InvalidOptionError(f"k must be a whole number above 0, not {k!r}")
        loaded = model if isinstance(model, EmbeddingModel) else EmbeddingModel.load(model)
        entries = [_to_entry(position, document) for position, document in enumerate(documents)]
        collection = HybridCollection.from_documents(entries, location, model=loaded, show_progress=show_progress)
        return cls(collection=collection, k=k)

    def close(self) -> None:
        """Close the collection; the model stays open."""
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return _to_documents(self.collection.search(query, limit=self.k if k is None else k))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return _to_documents(await self.collection.asearch(query, limit=self.k if k is None else k))

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(
            ls_retriever_name="mgte",
            ls_vector_store_provider="qdrant-edge",
            ls_embedding_provider="mgte-rag",
            ls_embedding_model=self.collection.model.identity.name,
        )


def _to_entry(position: int, document: Document) -> dict[str, Any]:
    if not isinstance(document, Document):
        raise InputTypeError(f"documents[{position}] must be a langchain_core Document, not {shown(document)}")
    return {
        "id": document.id,
        "text": document.page_content,
        "metadata": document.metadata,
    }


def _to_documents(hits: Sequence[Hit]) -> list[Document]:
    return [
        Document(id=hit.chunk_id, page_content=hit.text, metadata={**hit.metadata, SCORE_KEY: hit.score})
        for hit in hits
    ]
