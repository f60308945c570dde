"""How large a point is on its way to an engine."""

import json

from mgte_rag import SparseVector
from qdrant_mgte.schema import Point

# A float32 as JSON writes it, "-0.8288356065750122,", and as gRPC does.
_JSON_FLOAT, _GRPC_FLOAT = 22, 4


def point_bytes(point: Point, *, grpc: bool = False) -> int:
    """About how many bytes a point is in a request, rather more than less."""
    each = _GRPC_FLOAT if grpc else _JSON_FLOAT
    size = len(json.dumps(point.payload).encode()) + 200
    for vector in point.vectors.values():
        size += len(vector) * (each + 12) if isinstance(vector, SparseVector) else vector.size * each
    return size
