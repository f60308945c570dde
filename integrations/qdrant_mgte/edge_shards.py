"""Files of the embedded engine, and its errors as ours."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import qdrant_edge as edge

from mgte_rag import CollectionError, CorruptCollectionError
from qdrant_mgte.disk import check_room
from qdrant_mgte.edge_recovery import what_can_be_recovered
from qdrant_mgte.edge_requests import edge_config, index_operations
from qdrant_mgte.folder import CollectionFolder, Version


def create_shard(folder: CollectionFolder, version: Version) -> Version:
    """Make a version's engine files, its payload indexes first; what was there was never acknowledged."""
    shard_folder = folder.shard(version)
    shutil.rmtree(shard_folder, ignore_errors=True)
    check_room(0, folder.path)
    with guarded("create", folder.path):
        shard = edge.EdgeShard.create(str(shard_folder), edge_config(version.schema))
        for operation in index_operations(version.schema):
            shard.update(operation)
        shard.flush()
        shard.close()
    return dataclasses.replace(version, state="ready")


def load_shard(shard_folder: Path, location: str) -> "edge.EdgeShard":
    """Open a version's engine files; the folder must be locked by this process.

    Raises:
        CorruptCollectionError: they cannot be read; the message says what can be recovered.
    """
    try:
        with guarded("load", shard_folder):
            return edge.EdgeShard.load(str(shard_folder))
    except CollectionError as error:
        raise CorruptCollectionError(
            f"the files of the collection {location} cannot be read ({error.__cause__}). "
            f"{what_can_be_recovered(shard_folder)} Restore the folder from a copy, or delete it and index again."
        ) from error


@contextlib.contextmanager
def guarded(action: str, folder: Path) -> Iterator[None]:
    """The engine's errors as ours. It raises plain Exception, and PanicException, which is no Exception at all."""
    try:
        yield
    except BaseException as error:
        if not is_from_engine(error):
            raise
        reason = str(error)[:1500]  # copying a folder lists every file that could not be copied
        raise CollectionError(f"the embedded engine could not {action} in {folder}: {reason}") from error


def is_from_engine(error: BaseException) -> bool:
    """Whether an error is the engine's or the operating system's."""
    return (
        type(error) in (Exception, RuntimeError)
        or type(error).__name__ == "PanicException"
        or isinstance(error, OSError)
    )
