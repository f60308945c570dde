"""Document collections in Qdrant: an embedded engine in a folder, filled and searched with an mgte-rag model."""

from mgte_rag.errors import MissingExtraError

try:
    import filelock as _filelock  # noqa: F401 - both come with the extra
    import qdrant_edge as _qdrant_edge  # noqa: F401
except ImportError as error:
    raise MissingExtraError("qdrant-edge-py", "qdrant_mgte") from error

from qdrant_mgte.collection import HybridCollection
from qdrant_mgte.types import EncodingModel, Hit, Rejection, StoredDocument, WriteReport

__all__ = ["EncodingModel", "Hit", "HybridCollection", "Rejection", "StoredDocument", "WriteReport"]
