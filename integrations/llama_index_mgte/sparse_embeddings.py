"""Sparse vectors for LlamaIndex."""

from functools import cached_property

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from pydantic import Field

from llama_index_mgte.loading import TextOptions, warn_if_cut
from mgte_rag import Encodings, SparseVector
from mgte_rag.async_calls import in_thread
from mgte_rag.output_view import OutputView


class MGTESparseEmbedding(TextOptions, BaseSparseEmbedding):
    """Learned sparse embeddings of an mgte-rag model, {token id: weight}, compared by their dot product.

    For LlamaIndex's own ``QdrantVectorStore`` it brings the two functions that it takes::

        sparse = MGTESparseEmbedding()
        QdrantVectorStore(..., enable_hybrid=True, sparse_doc_fn=sparse.sparse_doc_fn,
                          sparse_query_fn=sparse.sparse_query_fn)

    Beside an ``MGTEEmbedding`` of the same model (and the same prompts and max_length) one forward pass makes both
    vectors of the same texts, from the first use of this object on; reading ``sparse.view`` is one. Loading, copies,
    async calls and long documents are as with ``MGTEEmbedding``.
    """

    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts handed over together.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTESparseEmbedding"

    @cached_property
    def view(self) -> OutputView:
        """The model's sparse output."""
        return self.model.view("sparse")

    def sparse_doc_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Indices and values of documents, as ``QdrantVectorStore(sparse_doc_fn=...)`` wants them."""
        return _lists(self._documents(self.view.encode_document(texts, **self.document_options())))

    def sparse_query_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Indices and values of questions, as ``QdrantVectorStore(sparse_query_fn=...)`` wants them."""
        return _lists(_vectors(self.view.encode_query(texts, **self.query_options())))

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return _weights(_vectors(self.view.encode_query(query, **self.query_options())))[0]

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return _weights(self._documents(self.view.encode_document(texts, **self.document_options())))

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return await in_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return await in_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return await in_thread(self._get_text_embeddings, texts)

    def _documents(self, encoded: Encodings) -> list[SparseVector]:
        warn_if_cut(encoded.truncated, self.model, self.max_length)
        return _vectors(encoded)


def _vectors(encoded: Encodings) -> list[SparseVector]:
    assert encoded.sparse is not None  # a view of the sparse output
    return list(encoded.sparse)


def _lists(vectors: list[SparseVector]) -> tuple[list[list[int]], list[list[float]]]:
    return [vector.indices.tolist() for vector in vectors], [vector.values.tolist() for vector in vectors]


def _weights(vectors: list[SparseVector]) -> list[dict[int, float]]:
    return [dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True)) for vector in vectors]
