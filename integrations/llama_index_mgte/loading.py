"""What the classes here share: a model named by public fields, loaded on first use, never copied."""

import warnings
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.types import Bools


class LoadOptions(BaseModel):
    """How a model is loaded.

    Every option that changes an output is a public field, so that pipeline caches see it, and is fixed once the object
    is made. Unknown arguments are errors. What was loaded is no field: copies and pickles are references, which find
    the same weights again.
    """

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True, ignored_types=(cached_property,)
    )

    device: str | None = Field(default=None, frozen=True, description="Where to compute; None takes the best there is.")
    dtype: str | None = Field(
        default=None, frozen=True, description="None is bf16 where the device computes in it, else fp32."
    )
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit on the hub.")
    local_files_only: bool = Field(default=False, frozen=True, description="Never use the network.")

    def load_options(self) -> dict[str, Any]:
        """The arguments of ``load`` beside the name."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "revision": self.revision,
            "local_files_only": self.local_files_only,
        }

    def __copy__(self) -> Self:
        copied = super().__copy__()
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super(LoadOptions, self.__copy__()).__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone, of a copy: LlamaIndex takes out of this very dictionary what it cannot pickle."""
        state: dict[str, Any] = super(LoadOptions, self.__copy__()).__getstate__()
        return state


class ModelOptions(LoadOptions):
    """An embedding model and how it is loaded."""

    model_name: str = Field(
        default="mini", frozen=True, description="Hub id or folder; 'mini' is the embedded default."
    )

    @cached_property
    def model(self) -> EmbeddingModel:
        """The core model behind this object; objects that name the same one share its weights."""
        return EmbeddingModel.load(self.model_name, **self.load_options())


class TextOptions(ModelOptions):
    """How texts are read."""

    max_length: int | None = Field(
        default=None, frozen=True, description="Tokens read of each text; None is the model's limit."
    )
    query_prompt: str | None = Field(
        default=None, frozen=True, description="Put before queries; None is the model's own, '' is none."
    )
    document_prompt: str | None = Field(
        default=None, frozen=True, description="Put before documents; None is the model's own, '' is none."
    )

    def query_options(self) -> dict[str, Any]:
        """The arguments of ``encode_query``."""
        return {"prompt": self.query_prompt, "max_length": self.max_length}

    def document_options(self) -> dict[str, Any]:
        """The arguments of ``encode_document``."""
        return {"prompt": self.document_prompt, "max_length": self.max_length}


def warn_if_cut(truncated: Bools, model: EmbeddingModel, max_length: int | None = None) -> None:
    """Warn where the end of a document was not read."""
    if truncated.any():
        warnings.warn(
            f"{model.identity.name!r} reads {max_length or model.max_length} tokens of a text; at least one document "
            f"is longer, and its end cannot be found. Cut documents smaller, SentenceSplitter(chunk_size=...), or take "
            f"a model that reads more.",
            stacklevel=3,
        )


def refuse_arguments(given: dict[str, Any], where: str, allowed: tuple[str, ...] = ()) -> None:
    """An error for arguments that nobody knows, where LlamaIndex's signature lets them pass.

    Raises:
        InvalidOptionError: naming them, and what is allowed.
    """
    unknown = sorted(given.keys() - set(allowed))
    if unknown:
        known = f"takes {', '.join(allowed)}" if allowed else "takes no further arguments"
        raise InvalidOptionError(f"unknown arguments {', '.join(unknown)}: {where} {known}")
