"""Dense vectors for LlamaIndex."""

import hashlib
import json
from functools import cached_property
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import Field, model_validator

from llama_index_mgte.embeddings_cache import SeparatedCache, embedding_a_query
from llama_index_mgte.loading import TextOptions, warn_if_cut
from mgte_rag import Encodings
from mgte_rag.async_calls import in_thread
from mgte_rag.output_view import OutputView
from mgte_rag.types import Role


class MGTEEmbedding(TextOptions, BaseEmbedding):
    """Dense embeddings of an mgte-rag model: ``MGTEEmbedding()``, ``MGTEEmbedding(model_name="some/folder")``.

    The model is loaded on first use; instances that name the same model share its weights, and with
    ``MGTESparseEmbedding`` and ``MGTEVectorStore`` they share a forward pass for the same texts. An
    ``embeddings_cache`` is kept apart by role and model. Async calls leave the event loop free, and callers that come
    together are computed together. A document longer than the model reads is cut, with a warning.
    """

    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts handed over together.")
    dim: int | None = Field(
        default=None, frozen=True, description="Components of the vectors, one of the model's; None is all of them."
    )
    embeddings_cache: Any | None = Field(
        default=None, frozen=True, description="A key-value store for embeddings; None keeps none."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTEEmbedding"

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        return self._with_separated_cache()

    def __copy__(self) -> Self:
        return super().__copy__()._with_separated_cache()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(memo)._with_separated_cache()

    def _with_separated_cache(self) -> Self:
        given = self.embeddings_cache
        if given is not None:
            store = given.store if isinstance(given, SeparatedCache) else given
            self.__dict__["embeddings_cache"] = SeparatedCache(store, self._cache_owner)
        return self

    def _cache_owner(self, role: Role) -> str:
        options = self.query_options() if role == "query" else self.document_options()
        decides = [self.model.identity.fingerprint, self.model.dtype, self.dim, options]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]

    @cached_property
    def view(self) -> OutputView:
        """The model's dense output."""
        return self.model.view("dense", dim=self.dim)

    def get_query_embedding(self, query: str) -> list[float]:
        """The vector of one question."""
        with embedding_a_query():
            return super().get_query_embedding(query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """``get_query_embedding`` without blocking the event loop."""
        with embedding_a_query():
            return await super().aget_query_embedding(query)

    def _get_query_embedding(self, query: str) -> list[float]:
        return _rows(self.view.encode_query(query, **self.query_options()))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._documents(self.view.encode_document(texts, **self.document_options()))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await in_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await in_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await in_thread(self._get_text_embeddings, texts)

    def _documents(self, encoded: Encodings) -> list[list[float]]:
        warn_if_cut(encoded.truncated, self.model, self.max_length)
        return _rows(encoded)


def _rows(encoded: Encodings) -> list[list[float]]:
    assert encoded.dense is not None  # a view of the dense output
    rows: list[list[float]] = encoded.dense.tolist()
    return rows
