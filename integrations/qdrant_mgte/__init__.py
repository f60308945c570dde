"""Document collections in Qdrant, in a folder, in memory or on a server, filled and searched with one model."""

from mgte_rag.errors import MissingExtraError

try:
    import filelock as _filelock  # noqa: F401 - comes with the extra
    import qdrant_edge as _qdrant_edge  # noqa: F401
except ImportError as error:
    raise MissingExtraError("qdrant-edge-py", "qdrant_mgte") from error
try:
    import qdrant_client as _qdrant_client  # noqa: F401
except ImportError as error:
    raise MissingExtraError("qdrant-client", "qdrant_mgte") from error

from qdrant_mgte.collection import HybridCollection
from qdrant_mgte.fusion import Fusion, dbsf, rrf, weighted
from qdrant_mgte.splitting import Splitting
from qdrant_mgte.store import ServerOptions
from qdrant_mgte.types import (
    CopyReport,
    EncodingModel,
    Hit,
    Rejection,
    ScoringModel,
    StoredDocument,
    WriteReport,
)

__all__ = [
    "CopyReport",
    "EncodingModel",
    "Fusion",
    "Hit",
    "HybridCollection",
    "Rejection",
    "ScoringModel",
    "ServerOptions",
    "Splitting",
    "StoredDocument",
    "WriteReport",
    "dbsf",
    "rrf",
    "weighted",
]
