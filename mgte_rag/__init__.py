"""Text in, vectors and scores out: the core of mgte-rag.

>>> from mgte_rag import EmbeddingModel                                        # doctest: +SKIP
>>> model = EmbeddingModel.load()                                              # doctest: +SKIP
>>> model.similarity(model.encode_query("who?"), model.encode_document(["me"]))  # doctest: +SKIP

Importing this package loads neither torch nor numpy: each name below is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mgte_rag.errors import (
    CheckpointError,
    ClosedError,
    CollectionError,
    CollectionLockedError,
    CorruptCollectionError,
    DataError,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
    MGTEError,
    MissingExtraError,
    ModelMismatchError,
    TrainingError,
    UnknownModelError,
    UnsupportedOutputError,
)

if TYPE_CHECKING:
    from mgte_rag.embedding_model import EmbeddingModel
    from mgte_rag.reranker import Reranker
    from mgte_rag.types import Encodings, ModelIdentity, RankedDocument, Similarity, SparseVector

__version__ = "0.1.0.dev0"

__all__ = [
    "CheckpointError",
    "ClosedError",
    "CollectionError",
    "CollectionLockedError",
    "CorruptCollectionError",
    "DataError",
    "EmbeddingModel",
    "Encodings",
    "InputTypeError",
    "InvalidDocumentError",
    "InvalidOptionError",
    "MGTEError",
    "MissingExtraError",
    "ModelIdentity",
    "ModelMismatchError",
    "RankedDocument",
    "Reranker",
    "Similarity",
    "SparseVector",
    "TrainingError",
    "UnknownModelError",
    "UnsupportedOutputError",
    "__version__",
]

_LAZY = {
    "EmbeddingModel": "mgte_rag.embedding_model",
    "Encodings": "mgte_rag.types",
    "ModelIdentity": "mgte_rag.types",
    "RankedDocument": "mgte_rag.types",
    "Reranker": "mgte_rag.reranker",
    "Similarity": "mgte_rag.types",
    "SparseVector": "mgte_rag.types",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
