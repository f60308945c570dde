"""Which model an adapter uses, and where it computes."""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError, Reranker
from mgte_rag.errors import shown


class ModelSettings(BaseModel):
    """Fields of every adapter that loads a model, on first use.

    Adapters that name the same model share its weights. Unknown arguments are errors. Copies and pickles are
    references: they hold no weights.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        populate_by_name=True,
        arbitrary_types_allowed=True,
        ignored_types=(cached_property,),
    )

    device: str | None = None
    """"cpu", "cuda", "cuda:1", "mps"; None takes the best one there is."""
    dtype: str | None = None
    """"float32", "bfloat16", "float16"; None is bf16 where the device computes in it, else fp32."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    local_files_only: bool = False
    """Never use the network."""

    @model_validator(mode="after")
    def _check_not_loaded_twice(self) -> Self:
        given = [name for name in ModelSettings.model_fields if name in self.model_fields_set]
        if given and isinstance(getattr(self, "source", None), EmbeddingModel | Reranker):
            raise ValueError(f"{', '.join(given)}: the model given is loaded already; say so to its load()")
        return self

    def _loading(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ModelSettings.model_fields}

    # What is cached (the model, and views of it) is left out of copies and pickles, and made again on use: a copy may
    # have other settings.

    def __copy__(self) -> Self:
        return self._without_cached(super().__copy__())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()  # everything in it is immutable or a handle

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {name: state["__dict__"][name] for name in type(self).model_fields}}

    def _without_cached(self, copied: Self) -> Self:
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class EmbeddingSettings(ModelSettings):
    """Fields of adapters that embed."""

    source: str | Path | EmbeddingModel | None = Field(default=None, alias="model")
    """Hub id, folder or a loaded model; None is the embedded default."""

    @cached_property
    def model(self) -> EmbeddingModel:
        """The core model behind this object."""
        if isinstance(self.source, EmbeddingModel):
            return self.source
        return EmbeddingModel.load(self.source, **self._loading())


class RerankerSettings(ModelSettings):
    """Fields of adapters that score pairs."""

    source: str | Path | Reranker | None = Field(default=None, alias="model")
    """Hub id, folder or a loaded reranker; None is the embedded default's."""
    max_length: int | None = None
    """Tokens read of a pair; None is the model's limit."""

    @cached_property
    def model(self) -> Reranker:
        """The core reranker behind this object."""
        if isinstance(self.source, Reranker):
            return self.source
        return Reranker.load(self.source, **self._loading())


def check_texts(texts: object) -> None:
    """Check what should be a list of texts.

    Raises:
        InputTypeError: one string, which would be taken for a list of its letters.
    """
    if isinstance(texts, str):
        raise InputTypeError(f"texts must be a list of strings, not one string: {shown(texts)}")


def check_question(text: object) -> None:
    """Check what should be one question.

    Raises:
        InputTypeError: not a string.
    """
    if not isinstance(text, str):
        raise InputTypeError(f"a question must be a string, not {shown(text)}")


def check_k(k: int) -> int:
    """The number itself, if so many results can be asked for.

    Raises:
        InvalidOptionError: below 1, or no whole number.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InvalidOptionError(f"k must be a whole number above 0, not {shown(k)}")
    return k
