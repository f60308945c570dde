"""Dense vectors for LlamaIndex."""

from functools import cached_property
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, Field

from mgte_rag import EmbeddingModel, Encodings


class MGTEEmbedding(BaseEmbedding):
    """Dense embeddings of an mgte-rag model: ``MGTEEmbedding()``, ``MGTEEmbedding(model_name="some/folder")``.

    The model is loaded on first use; instances that name the same model share its weights. Every option that changes
    a vector is a public field, so that pipeline caches see it. Unknown arguments are errors. Pickles hold no weights.
    """

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        arbitrary_types_allowed=True,
        ignored_types=(cached_property,),
    )

    model_name: str = Field(default="mini", description="Hub id or folder; 'mini' is the embedded default.")
    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts handed over together.")
    device: str | None = Field(default=None, description="Where to compute; None takes the best there is.")
    dtype: str | None = Field(default=None, description="None is bf16 where the device computes in it, else fp32.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    dim: int | None = Field(default=None, description="Components of the vectors; None is all of them.")
    max_length: int | None = Field(default=None, description="Tokens read of each text; None is the model's limit.")
    query_prompt: str | None = Field(default=None, description="Put before queries; None is the model's own.")
    document_prompt: str | None = Field(default=None, description="Put before documents; None is the model's own.")

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTEEmbedding"

    @cached_property
    def model(self) -> EmbeddingModel:
        """The core model behind this object."""
        return EmbeddingModel.load(
            self.model_name,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            local_files_only=self.local_files_only,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone; the loaded model is found again by them."""
        state = super().__getstate__()
        state["__dict__"] = {name: value for name, value in state["__dict__"].items() if name != "model"}
        return state

    def _get_query_embedding(self, query: str) -> list[float]:
        return _rows(self.model.encode_query(query, **self._options(self.query_prompt)))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _rows(self.model.encode_document(texts, **self._options(self.document_prompt)))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _rows(await self.model.aencode_query(query, **self._options(self.query_prompt)))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _rows(await self.model.aencode_document(texts, **self._options(self.document_prompt)))

    def _options(self, prompt: str | None) -> dict[str, Any]:
        return {"outputs": ("dense",), "dim": self.dim, "prompt": prompt, "max_length": self.max_length}


def _rows(encoded: Encodings) -> list[list[float]]:
    assert encoded.dense is not None  # asked for in _options
    rows: list[list[float]] = encoded.dense.tolist()
    return rows
