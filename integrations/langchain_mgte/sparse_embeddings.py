"""Sparse vectors for langchain-qdrant."""

from pydantic import BaseModel

from langchain_mgte.embeddings import EncodingSettings
from langchain_mgte.settings import check_question, check_texts
from mgte_rag import Encodings
from mgte_rag.async_calls import in_thread
from mgte_rag.output_view import OutputView

try:
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
except ImportError:  # the same interface, for whatever reads indices and values

    class SparseVector(BaseModel, extra="forbid"):  # type: ignore[no-redef]
        """A sparse vector: token ids, ascending, and their weights."""

        indices: list[int]
        values: list[float]

    class SparseEmbeddings:  # type: ignore[no-redef]
        """Stands where langchain-qdrant's interface is not installed."""


class MGTESparseEmbeddings(EncodingSettings, SparseEmbeddings):
    """Sparse embeddings of an mgte-rag model, for ``langchain_qdrant.QdrantVectorStore(sparse_embedding=...)``.

    Beside an ``MGTEEmbeddings`` of the same model and settings, both take one forward pass over the same texts.
    langchain-qdrant need not be installed; where it is, this is one of its ``SparseEmbeddings``.
    """

    def _new_view(self) -> OutputView:
        return self.model.view("sparse")

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """One sparse vector per text."""
        check_texts(texts)
        return _vectors(self.view.encode_document(texts, **self._for_documents()))

    def embed_query(self, text: str) -> SparseVector:
        """The sparse vector of one question."""
        check_question(text)
        return _vectors(self.view.encode_query(text, **self._for_query()))[0]

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """``embed_documents`` without blocking the event loop."""
        return await in_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> SparseVector:
        """``embed_query`` without blocking the event loop."""
        return await in_thread(self.embed_query, text)


def _vectors(encoded: Encodings) -> list[SparseVector]:
    return [SparseVector(indices=v.indices.tolist(), values=v.values.tolist()) for v in encoded.sparse or ()]
