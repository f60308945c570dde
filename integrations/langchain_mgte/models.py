"""What a collection needs of a model, from what LangChain users have."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_mgte.embeddings import MGTEEmbeddings
from mgte_rag import EmbeddingModel, Encodings, InputTypeError, InvalidOptionError, ModelIdentity
from mgte_rag.errors import shown
from mgte_rag.types import Integers, Output, Role
from qdrant_mgte import EncodingModel

# Attributes by which LangChain's embeddings name their model.
_NAMES = (
    "model",
    "model_name",
    "model_id",
    "model_path",
    "repo_id",
    "deployment",
    "deployment_name",
    "azure_deployment",
)


def encoding_model(given: EncodingModel | Embeddings | str | Path | None) -> EncodingModel:
    """The model of a collection: loaded, named, or behind a LangChain embedding.

    Raises:
        InputTypeError: none of these.
    """
    if given is None or isinstance(given, str | Path):
        return EmbeddingModel.load(given)
    if isinstance(given, MGTEEmbeddings):
        configured = ConfiguredModel(given)
        is_plain = given.max_length is None and dict(configured.prompts) == dict(given.model.prompts)
        return given.model if is_plain else configured
    if isinstance(given, Embeddings):
        return ForeignModel(given)
    if hasattr(given, "encode_document"):
        return given
    raise InputTypeError(f"an embedding must be one of LangChain's, such as MGTEEmbeddings(), not {shown(given)}")


class ConfiguredModel:
    """A model with the prompts and the length of an ``MGTEEmbeddings``, which make other vectors than its own."""

    def __init__(self, embeddings: MGTEEmbeddings) -> None:
        self._model = embeddings.model
        own = self._model.prompts
        given: dict[Role, str | None] = {"query": embeddings.query_prompt, "document": embeddings.document_prompt}
        self.prompts: Mapping[Role, str] = {role: own[role] if text is None else text for role, text in given.items()}
        self._given_length = embeddings.max_length
        self.max_length = embeddings.max_length or self._model.max_length

    @property
    def identity(self) -> ModelIdentity:
        """The model's, with a fingerprint of its own."""
        own = self._model.identity
        settings = json.dumps([own.fingerprint, dict(self.prompts), self._given_length], sort_keys=True)
        fingerprint = hashlib.sha256(settings.encode()).hexdigest()
        return ModelIdentity(name=own.name, revision=own.revision, fingerprint=fingerprint)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What it can return."""
        return self._model.outputs

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the dense vector."""
        return self._model.dims

    @property
    def token_dims(self) -> tuple[int, ...]:
        """Sizes of a token's vector."""
        return self._model.token_dims

    def encode_query(
        self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None, dim: int | None, token_dim: int | None
    ) -> Encodings:
        """Vectors of questions."""
        return self._model.encode_query(
            texts,
            outputs=outputs,
            dim=dim,
            token_dim=token_dim,
            prompt=self.prompts["query"],
            max_length=self._given_length,
        )

    def encode_document(
        self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None, dim: int | None, token_dim: int | None
    ) -> Encodings:
        """Vectors of documents."""
        return self._model.encode_document(
            texts,
            outputs=outputs,
            dim=dim,
            token_dim=token_dim,
            prompt=self.prompts["document"],
            max_length=self._given_length,
        )

    def token_offsets(self, texts: str | Iterable[str], /) -> Sequence[Integers]:
        """Where the tokens of documents are."""
        return self._model.token_offsets(texts, prompt=self.prompts["document"])


class ForeignModel:
    """Another package's LangChain embedding: dense vectors alone, of texts that nobody here can count the tokens of.

    Its identity is its class, the name it gives its model, and the size of its vectors, which is found by embedding a
    word once.
    """

    outputs: tuple[Output, ...] = ("dense",)
    token_dims: tuple[int, ...] = ()
    prompts: Mapping[Role, str] = {"query": "", "document": ""}
    max_length = sys.maxsize

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The one size of its vectors."""
        return (len(self._embeddings.embed_query("size")),)

    @cached_property
    def identity(self) -> ModelIdentity:
        """Class, name of the model, size."""
        kind = type(self._embeddings)
        named = {name: getattr(self._embeddings, name, None) for name in _NAMES}
        named = {name: value for name, value in named.items() if isinstance(value, str)}
        content = json.dumps([kind.__module__, kind.__qualname__, named, self.dims[0]], sort_keys=True)
        name = next(iter(named.values()), None)
        return ModelIdentity(
            name=f"{kind.__qualname__}({'' if name is None else repr(name)})",
            revision=None,
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        )

    def encode_query(
        self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None, dim: int | None, token_dim: int | None
    ) -> Encodings:
        """Vectors of questions."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        return self._encodings(listed, [self._embeddings.embed_query(text) for text in listed])

    def encode_document(
        self, texts: str | Iterable[str], /, *, outputs: Sequence[Output] | None, dim: int | None, token_dim: int | None
    ) -> Encodings:
        """Vectors of documents."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        return self._encodings(listed, self._embeddings.embed_documents(listed) if listed else [])

    def token_offsets(self, texts: str | Iterable[str], /) -> Sequence[Integers]:
        """No tokens: texts are not split."""
        return [np.empty((0, 2), dtype=np.int32) for _ in ([texts] if isinstance(texts, str) else texts)]

    def _encodings(self, texts: Sequence[str], vectors: Any) -> Encodings:
        """The vectors, checked: what embeds elsewhere may fail in any way.

        Raises:
            InvalidOptionError: not one vector of finite numbers, not all of them zero, for each text.
        """
        try:
            dense = np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dims[0])
        except (ValueError, TypeError):
            sizes = sorted({len(each) for each in vectors}) if isinstance(vectors, Sequence) else shown(vectors)
            raise InvalidOptionError(
                f"{self.identity.name} must give {len(texts)} vectors of {self.dims[0]} numbers, not {shown(vectors)} "
                f"of sizes {sizes}"
            ) from None
        for text, row in zip(texts, dense, strict=True):
            if not np.isfinite(row).all() or not row.any():
                fault = "zeros alone" if np.isfinite(row).all() else "NaN or infinity"
                raise InvalidOptionError(f"{self.identity.name} gave {fault} for the text {shown(text)}")
        return Encodings(
            dense=dense,
            truncated=np.zeros(len(texts), dtype=np.bool_),
            token_counts=np.zeros(len(texts), dtype=np.int32),
        )
