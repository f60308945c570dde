"""Room on the disk, looked for before the embedded engine needs it.

The engine writes through memory maps of files with holes in them. Where the disk is full, such a write ends the whole
process (SIGBUS) instead of failing: the room must be there before.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mgte_rag import CollectionError
from qdrant_mgte.schema import Point
from qdrant_mgte.sizes import point_bytes

RESERVE = 64 * 1024 * 1024
# A written point is in the log, in the storage of its vectors, in the payload and in the indexes.
_COPIES = 4


def check_room_for(points: Sequence[Point], folder: Path) -> None:
    """Check for room to write points.

    Raises:
        CollectionError: the disk has too little.
    """
    check_room(_COPIES * sum(point_bytes(point, grpc=True) for point in points), folder)


def check_room(needed: int, folder: Path) -> None:
    """Check for so many bytes, and a reserve.

    Raises:
        CollectionError: the disk has less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise CollectionError(
            f"the disk of {folder} is full: {free / 1e6:,.0f} MB are free, {(needed + RESERVE) / 1e6:,.0f} MB are "
            f"needed. Nothing was written; make room and write again"
        )


def folder_bytes(folder: Path) -> int:
    """Bytes that a copy of a folder takes, where the holes of files are filled."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
