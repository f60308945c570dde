"""The embedded engine: one Qdrant Edge shard in a folder, behind the guards that it needs.

Edge 0.9 damages the owner's files when a second process merely tries to load them, keeps a malformed vector in its
log where it makes the shard unloadable, applies failed batches in part, and does not sync its log. Hence, here: our
own lock before the shard is touched, every point checked before every write, and a flush after it.
"""

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import qdrant_edge as edge
from filelock import FileLock, Timeout

from mgte_rag import ClosedError, CollectionError, CollectionLockedError, CorruptCollectionError
from mgte_rag.types import Floats
from qdrant_mgte.manifest import Manifest

DENSE = "dense"
LOCK_NAME = "collection.lock"


class EdgeStore:
    """A folder with a lock, a manifest and a shard. Any thread may use it; one process at a time.

    Args:
        folder: where the collection is or will be.
        manifest: what a new collection gets; an existing one keeps its own.

    Raises:
        CollectionLockedError: open in another process.
        CorruptCollectionError: the folder is no collection, or its files cannot be read.
        CollectionError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        _check_is_collection_or_empty(folder)
        self._folder = folder
        self._pid = os.getpid()
        self._write_lock = threading.Lock()
        self._gate = threading.Condition()  # re-entrant: a signal handler may close in the middle of anything
        self._inside: list[int] = []  # threads with an operation under way
        self._closing = False
        self._lock = self._acquire_lock()
        try:
            self.manifest, shard = self._open(manifest)
        except BaseException:
            self._lock.release()
            raise
        self._shard = shard
        self._released = False

    def _acquire_lock(self) -> FileLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / LOCK_NAME, timeout=0, thread_local=False)
            lock.acquire()
            self._lock_status = os.stat(self._folder / LOCK_NAME)
        except Timeout:
            raise CollectionLockedError(
                f"the collection {self._folder} is open in another process, and one process at a time may have it. "
                f"Close it there, answer both from one process, or copy the folder."
            ) from None
        except OSError as error:
            raise CollectionError(f"cannot open {self._folder} as a collection: {error}") from error
        return lock

    @property
    def is_where_it_was(self) -> bool:
        """Whether the folder on the disk is still the one that was opened, not deleted or replaced."""
        try:
            return os.path.samestat(os.stat(self._folder / LOCK_NAME), self._lock_status)
        except OSError:
            return False

    def _open(self, new: Manifest) -> tuple[Manifest, "edge.EdgeShard"]:
        path = self._folder / "manifest.json"
        shard_folder = self._folder / "shard"
        manifest = Manifest.read(path)
        if manifest is None:
            manifest = new
            with self._guarded("create"):
                manifest.write(path)
        if manifest.state == "creating":  # new, or the process died right here: nothing was ever acknowledged
            shutil.rmtree(shard_folder, ignore_errors=True)
            parameters = edge.EdgeVectorParams(size=manifest.dim, distance=edge.Distance.Cosine)
            config = edge.EdgeConfig(vectors={DENSE: parameters})
            with self._guarded("create"):
                shard = edge.EdgeShard.create(str(shard_folder), config)
                shard.flush()
                manifest = manifest.ready()
                manifest.write(path)
            return manifest, shard
        try:
            with self._guarded("load"):
                return manifest, edge.EdgeShard.load(str(shard_folder))
        except CollectionError as error:
            raise CorruptCollectionError(
                f"the files of the collection {self._folder} cannot be read ({error.__cause__}). Restore the folder "
                f"from a copy, or delete it and index again."
            ) from error

    def upsert(self, ids: Sequence[uuid.UUID], vectors: Floats, payloads: Sequence[dict[str, Any]]) -> None:
        """Store points; when this returns they are on the disk.

        Args:
            ids: unique.
            vectors: float32 [points, dim], finite.
            payloads: plain JSON values, checked before.

        Raises:
            CollectionError: nothing was written, or the engine failed (a full disk, say).
        """
        if vectors.shape != (len(ids), self.manifest.dim):
            raise CollectionError(
                f"vectors have shape {vectors.shape}; {len(ids)} points of dim {self.manifest.dim} are needed"
            )
        if not np.isfinite(vectors).all():
            raise CollectionError("vectors hold NaN or infinity; nothing was written")
        points = [
            edge.Point(point, {DENSE: vector}, payload)
            for point, vector, payload in zip(ids, vectors, payloads, strict=True)
        ]
        self._write(edge.UpdateOperation.upsert_points(points))

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points; ids that are not there do not matter."""
        self._write(edge.UpdateOperation.delete_points(list(ids)))

    def _write(self, operation: "edge.UpdateOperation") -> None:
        with self._operation("write") as shard, self._write_lock:
            shard.update(operation)
            shard.flush()

    def payloads(self, ids: Sequence[uuid.UUID], fields: list[str] | None = None) -> dict[uuid.UUID, dict[str, Any]]:
        """The payloads, or some fields of them, of those ids that are stored."""
        with self._operation("read") as shard:
            records = shard.retrieve(list(ids), True if fields is None else fields, False)
        return {_as_uuid(record.id): record.payload or {} for record in records}

    def search(self, vector: Floats, limit: int) -> list[tuple[uuid.UUID, float, dict[str, Any]]]:
        """The nearest points by cosine: id, score and payload, best first."""
        nearest = edge.Query.Nearest(cast(list[float], vector), using=DENSE)  # arrays are taken, whatever the stub says
        request = edge.QueryRequest(limit=limit, query=nearest, with_payload=True, with_vector=False)
        with self._operation("search") as shard:
            found = shard.query(request)
        return [(_as_uuid(point.id), point.score, point.payload or {}) for point in found]

    def count(self) -> int:
        """Number of points."""
        with self._operation("count") as shard:
            return shard.count(edge.CountRequest(exact=True))

    def close(self) -> None:
        """Flush, close the shard and give the folder free. Closing twice is allowed.

        Operations under way in other threads are waited for, new ones are refused. Called in the middle of an
        operation of this thread, by a signal handler say, it returns at once and that operation's end closes.
        """
        if os.getpid() != self._pid:
            return  # a forked child: the files belong to the parent
        with self._gate:
            self._closing = True
            self._release_if_due()
            if threading.get_ident() not in self._inside:
                self._gate.wait_for(lambda: self._released)

    def _release_if_due(self) -> None:
        """Close the shard and give the folder free, once, when that is wanted and nobody is inside any more."""
        if self._released or self._inside or not self._closing:
            return
        try:
            if self.is_where_it_was:  # else the files were deleted under us: there is nothing to flush to
                with self._guarded("close"):
                    self._shard.flush()
                    self._shard.close()
        finally:
            self._released = True
            self._lock.release()
            self._gate.notify_all()

    @contextlib.contextmanager
    def _operation(self, action: str) -> Iterator["edge.EdgeShard"]:
        """The open shard; it stays open until the block is left."""
        if os.getpid() != self._pid:
            raise CollectionLockedError(
                f"the collection {self._folder} was opened by the parent process; a forked child must not touch it"
            )
        with self._gate:
            if self._closing:
                raise ClosedError(
                    f"the collection {self._folder} was closed; open it again with HybridCollection.open()"
                )
            self._inside.append(threading.get_ident())
        try:
            with self._guarded(action):
                yield self._shard
        finally:
            with self._gate:
                self._inside.remove(threading.get_ident())
                self._release_if_due()

    @contextlib.contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        """The engine's errors as ours. It raises plain Exception, and PanicException, which is no Exception at all."""
        try:
            yield
        except BaseException as error:
            if not _is_from_engine(error):
                raise
            raise CollectionError(f"the embedded engine could not {action} in {self._folder}: {error}") from error


def _check_is_collection_or_empty(folder: Path) -> None:
    """Looks before anything is written: other people's folders stay as they are."""
    try:
        names = {item.name for item in folder.iterdir()}
    except OSError:
        return  # not there yet, or no folder at all: making it will tell
    strangers = sorted(names - {LOCK_NAME, "manifest.tmp"})  # the latter where a process died before its manifest
    if strangers and "manifest.json" not in names:
        raise CorruptCollectionError(
            f"{folder} has files ({', '.join(strangers[:3])}) but no manifest.json: it is no collection, or its "
            f"manifest was deleted. Give a folder that is empty or not there yet."
        )


def _is_from_engine(error: BaseException) -> bool:
    return (
        type(error) in (Exception, RuntimeError)
        or type(error).__name__ == "PanicException"
        or isinstance(error, OSError)
    )


def _as_uuid(value: object) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
