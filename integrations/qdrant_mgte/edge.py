"""The embedded engine: Qdrant Edge shards in a folder, behind the guards that they need.

Edge 0.9 damages the owner's files when a second process merely tries to load them, keeps a malformed vector in its
log where it makes the shard unloadable, applies failed batches in part, does not sync its log, and blocks every search
while it optimizes. Hence, here: our own lock before a shard is touched, every point checked before every write, a flush
after it, and optimizing in a copy.
"""

import contextlib
import dataclasses
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import qdrant_edge as edge
from qdrant_client import models

from mgte_rag import CollectionError, CollectionLockedError, InvalidOptionError
from qdrant_mgte.disk import check_room, check_room_for, folder_bytes
from qdrant_mgte.edge_filter import edge_filter
from qdrant_mgte.edge_requests import (
    as_uuid,
    edge_point,
    payload_selector,
    query_request,
    vectors_of,
)
from qdrant_mgte.edge_shards import create_shard, guarded, load_shard
from qdrant_mgte.folder import CollectionFolder, Version
from qdrant_mgte.gate import Gate
from qdrant_mgte.schema import Point, Schema, check_points
from qdrant_mgte.stages import checked_stages, finds_nothing
from qdrant_mgte.store import Found, Stage, Store
from qdrant_mgte.twins import ThreadedTwins


class EdgeStore(ThreadedTwins):
    """One version of a collection in a folder; the one that is served also owns the folder's lock.

    Any thread may use it; one process at a time.
    """

    def __init__(self, folder: CollectionFolder, version: Version, *, owns_folder: bool) -> None:
        self._folder = folder
        self._pid = os.getpid()
        self._version = version
        self._shard = load_shard(folder.shard(version), str(folder.path))
        self._write_lock = threading.RLock()
        self._gate = Gate(f"the collection {folder.path}", self._release)
        self._owns_folder = owns_folder
        self._given_away = False
        self._next: EdgeStore | None = None

    @classmethod
    def open(cls, path: Path, schema: Schema | None, metadata: Mapping[str, Any]) -> Self:
        """Open the collection of a folder, or make it where there is none.

        Args:
            path: the folder.
            schema: what a new collection gets; None: it must be there.
            metadata: what a new collection gets.

        Raises:
            CollectionLockedError: open in another process.
            CorruptCollectionError: the folder is no collection, or its files cannot be read.
            CollectionError: the folder cannot be made or written.
            InvalidOptionError: a schema that a folder cannot have, or no schema and no collection.
        """
        if schema is not None:
            _check_for_folder(schema)
        elif not path.exists():
            raise InvalidOptionError(f"there is no collection in {path}")
        folder = CollectionFolder(path)
        try:
            if folder.served is None:
                if schema is None:
                    raise InvalidOptionError(f"there is no collection in {path}")
                new = Version(number=1, state="creating", schema=schema, metadata=dict(metadata))
                with guarded("create", path):
                    folder.write(served=new, next=None)
            folder.remove_leftovers()
            assert folder.served is not None
            if folder.served.state == "creating":  # new, or the process died right here: nothing was acknowledged
                folder.write(served=create_shard(folder, folder.served), next=None)
            return cls(folder, folder.served, owns_folder=True)
        except BaseException:
            folder.release()
            raise

    @property
    def location(self) -> str:
        """The folder."""
        return str(self._folder.path)

    @property
    def schema(self) -> Schema:
        """What the points hold."""
        return self._version.schema

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's JSON."""
        return dict(self._version.metadata)

    @property
    def is_where_it_was(self) -> bool:
        """Whether the folder on the disk is still the one that was opened, not deleted or replaced."""
        return self._folder.is_where_it_was

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace it, on the disk when this returns."""
        with self._write_lock, self._operation("write the metadata"):
            self._record(dataclasses.replace(self._version, metadata=dict(metadata)))

    def _check_room_for(self, points: Sequence[Point]) -> None:
        with self._operation("write"):
            self._check_folder()
            check_room_for(points, self._folder.path)

    def _check_folder(self) -> None:
        """What is written into a deleted folder is lost, into one that replaced it, harm."""
        if not self.is_where_it_was:
            raise CollectionError(
                f"the folder {self.location} was deleted or replaced since this collection was opened: nothing was "
                f"written. Close the collection and open it again"
            )

    def _record(self, version: Version) -> None:
        """Put this store's version into the manifest."""
        self._check_folder()
        if self._owns_folder:
            self._folder.write(served=version, next=self._folder.next)
        else:
            self._folder.write(next=version)
        self._version = version

    def upsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """Store points; when this returns they are on the disk."""
        check_points(points, self.schema)
        self._check_room_for(points)
        self._write([edge.UpdateOperation.upsert_points([edge_point(point) for point in points])])
        return {}

    def update_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """Set payload fields, or replace whole payloads."""
        change = edge.UpdateOperation.overwrite_payload if replace else edge.UpdateOperation.set_payload
        with self._write_lock:
            self._check_room_for([Point(point, {}, payload) for point, payload in payloads.items()])
            there = self.retrieve(list(payloads), fields=())
            self._write([change([point], dict(payloads[point])) for point in payloads if point in there])

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points."""
        self._write([edge.UpdateOperation.delete_points(list(ids))])

    def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""
        matching = edge_filter(filter)
        assert matching is not None
        self._write([edge.UpdateOperation.delete_points_by_filter(matching)])

    def _write(self, operations: "Iterable[edge.UpdateOperation]") -> None:
        with self._write_lock, self._operation("write") as shard:
            self._check_folder()
            try:
                for operation in operations:
                    shard.update(operation)
            finally:
                shard.flush()

    def retrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """Those of the points that are there."""
        with self._operation("read") as shard:
            records = shard.retrieve(list(ids), payload_selector(fields), list(vectors) or False)
        return {point.id: point for point in map(_point, records)}

    def scroll(
        self,
        *,
        filter: models.Filter | None = None,
        limit: int = 256,
        after: uuid.UUID | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> tuple[list[Point], uuid.UUID | None]:
        """A page of points by ascending id, and where the next one starts."""
        request = edge.ScrollRequest(
            offset=after,
            limit=limit,
            filter=edge_filter(filter),
            with_payload=payload_selector(fields),
            with_vector=list(vectors) or False,
        )
        with self._operation("read") as shard:
            records, following = shard.scroll(request)
        return [_point(record) for record in records], None if following is None else as_uuid(following)

    def count(self, filter: models.Filter | None = None) -> int:
        """Number of points that match."""
        request = edge.CountRequest(exact=True, filter=edge_filter(filter))
        with self._operation("count") as shard:
            return shard.count(request)

    def query(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """Run searches as one batch."""
        schema = self.schema
        checked = checked_stages(stages, schema)
        asked = [i for i, stage in enumerate(checked) if not finds_nothing(stage)]
        requests = [query_request(checked[i], schema, fields, vectors) for i in asked]
        with self._operation("search") as shard:
            found = shard.query_batch(edge.QueryBatchRequest(requests)) if requests else []
        results: list[list[Found]] = [[] for _ in stages]
        for i, points in zip(asked, found, strict=True):
            results[i] = [
                Found(
                    as_uuid(point.id), point.score, point.payload or {}, vectors_of(point.vector) if vectors else None
                )
                for point in points
            ]
        return results

    def optimize(self) -> None:
        """Build indexes and merge files in a copy, which then takes the place of the original.

        Searches are served meanwhile, writes wait. The folder needs its size twice while this runs.
        """
        with self._write_lock:
            with self._operation("optimize") as shard:
                self._check_folder()
                shard.flush()
                number = max(v.number for v in (self._folder.served, self._folder.next) if v is not None) + 1
                version = dataclasses.replace(self._version, number=number)
                copy = self._folder.shard(version)
                check_room(2 * folder_bytes(self._folder.shard(self._version)), self._folder.path)
                try:
                    shutil.copytree(self._folder.shard(self._version), copy)
                    optimized = edge.EdgeShard.load(str(copy))
                    changed = optimized.optimize()
                    optimized.flush()
                    if changed:
                        self._record(version)
                except BaseException:
                    shutil.rmtree(copy, ignore_errors=True)
                    raise
            if changed:
                self._exchange(version, optimized)
            else:
                optimized.close()
                shutil.rmtree(copy, ignore_errors=True)

    def start_version(self, schema: Schema, metadata: Mapping[str, Any]) -> Store:
        """The next version, continued where it was begun with the same schema and metadata."""
        _check_for_folder(schema)
        with self._write_lock:
            begun = self._next or self._begun(schema, metadata)
            if begun is not None and (begun.schema, begun.metadata) == (schema, dict(metadata)):
                self._next = begun
                return begun
            if begun is not None:
                begun.close()
            self.drop_version()
            with self._operation("start a version"):
                number = self._version.number + 1
                new = Version(number=number, state="creating", schema=schema, metadata=dict(metadata))
                self._folder.write(next=new)
                self._folder.write(next=create_shard(self._folder, new))
                assert self._folder.next is not None
                self._next = EdgeStore(self._folder, self._folder.next, owns_folder=False)
            return self._next

    def _begun(self, schema: Schema, metadata: Mapping[str, Any]) -> "EdgeStore | None":
        """What an interrupted migration left, if it can be continued."""
        left = self._folder.next
        if left is None or left.state != "ready" or (left.schema, left.metadata) != (schema, dict(metadata)):
            return None
        return EdgeStore(self._folder, left, owns_folder=False)

    def finish_version(self) -> None:
        """Serve the next version from now on and delete the old one."""
        with self._write_lock:
            if self._next is None:
                raise InvalidOptionError("there is no next version; start_version() makes one")
            following = self._next
            with following._write_lock:
                with following._operation("finish a version") as shard:
                    shard.flush()
                    self._folder.write(served=following._version, next=None)
                self._next = None
                following._give_away()
            self._exchange(following._version, shard)

    def drop_version(self) -> None:
        """Delete the next version if there is one."""
        with self._write_lock, self._operation("drop a version"):
            if self._next is not None:
                self._next.close()
            self._next = None
            if self._folder.next is not None:
                self._folder.write(next=None)
                self._folder.remove_leftovers()

    def _exchange(self, version: Version, shard: "edge.EdgeShard") -> None:
        """Use another shard from now on, and delete the files of the one before."""
        with self._gate.alone(), guarded("close", self._folder.path):
            old, self._shard, self._version = self._shard, shard, version
            old.close()
        self._folder.remove_leftovers()

    def _give_away(self) -> None:
        """Close this store but not its shard, which another one has now."""
        self._given_away = True
        self._gate.close()

    def close(self) -> None:
        """Flush, close the shard and give the folder free. Closing twice is allowed.

        Operations under way in other threads are waited for, new ones are refused. Called in the middle of an
        operation of this thread, by a signal handler say, it returns at once and that operation's end closes.
        """
        if os.getpid() == self._pid:  # else a forked child: the files belong to the parent
            self._gate.close()

    def _release(self) -> None:
        try:
            if self._next is not None:
                self._next.close()
            if self.is_where_it_was and not self._given_away:  # else the files were deleted under us
                with guarded("close", self._folder.path):
                    self._shard.flush()
                    self._shard.close()
        finally:
            if self._owns_folder:
                self._folder.release()

    @contextlib.contextmanager
    def _operation(self, action: str) -> Iterator["edge.EdgeShard"]:
        """The open shard; it stays open until the block is left."""
        if os.getpid() != self._pid:
            raise CollectionLockedError(
                f"the collection {self.location} was opened by the parent process; a forked child must not touch it"
            )
        with self._gate.operation(), guarded(action, self._folder.path):
            yield self._shard


def _check_for_folder(schema: Schema) -> None:
    if schema.shards is not None or schema.replicas is not None:
        raise InvalidOptionError("a folder has no shards and replicas: leave both None, or give the URL of a server")


def _point(record: "edge.Record") -> Point:
    return Point(as_uuid(record.id), vectors_of(record.vector), record.payload or {})
