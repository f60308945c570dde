"""Dense vectors for LangChain."""

from functools import cached_property
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field

from mgte_rag import EmbeddingModel, Encodings, InputTypeError
from mgte_rag.errors import shown


class MGTEEmbeddings(BaseModel, Embeddings):
    """Dense embeddings of an mgte-rag model: ``MGTEEmbeddings()``, ``MGTEEmbeddings(model="BAAI/bge-small-en-v1.5")``.

    The model is loaded on first use; instances that name the same model share its weights. Unknown arguments are
    errors. Copies and pickles are references: they hold no weights.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True, ignored_types=(cached_property,)
    )

    model_name: str | None = Field(default=None, alias="model")
    """Hub id or folder; None is the embedded default."""
    device: str | None = None
    """"cpu", "cuda", "cuda:1", "mps"; None takes the best one there is."""
    dtype: str | None = None
    """"float32", "bfloat16", "float16"; None is bf16 where the device computes in it, else fp32."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    local_files_only: bool = False
    """Never use the network."""
    dim: int | None = None
    """Components of the vectors, one of the model's sizes; None is all of them."""
    max_length: int | None = None
    """Tokens read of each text; None is the model's limit."""
    query_prompt: str | None = None
    """Put before every query; None is the model's own, "" is none."""
    document_prompt: str | None = None
    """Put before every document; None is the model's own, "" is none."""
    show_progress: bool = False
    """Draw a progress bar while documents are embedded."""

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

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        _check_list(texts)
        options = self._options(self.document_prompt)
        return _rows(self.model.encode_document(texts, show_progress=self.show_progress, **options))

    def embed_query(self, text: str) -> list[float]:
        """The vector of one question."""
        _check_question(text)
        return _rows(self.model.encode_query(text, **self._options(self.query_prompt)))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """``embed_documents`` without blocking the event loop."""
        _check_list(texts)
        options = self._options(self.document_prompt)
        return _rows(await self.model.aencode_document(texts, show_progress=self.show_progress, **options))

    async def aembed_query(self, text: str) -> list[float]:
        """``embed_query`` without blocking the event loop."""
        _check_question(text)
        return _rows(await self.model.aencode_query(text, **self._options(self.query_prompt)))[0]

    def _options(self, prompt: str | None) -> dict[str, Any]:
        return {"outputs": ("dense",), "dim": self.dim, "prompt": prompt, "max_length": self.max_length}


def _check_list(texts: object) -> None:
    if isinstance(texts, str):
        raise InputTypeError(f"texts must be a list of strings, not one string: {shown(texts)}")


def _check_question(text: object) -> None:
    if not isinstance(text, str):
        raise InputTypeError(f"a question must be a string, not {shown(text)}")


def _rows(encoded: Encodings) -> list[list[float]]:
    assert encoded.dense is not None  # asked for in _options
    rows: list[list[float]] = encoded.dense.tolist()
    return rows
