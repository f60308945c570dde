"""Collections behind a qdrant-client: one store for the in-memory engine and for servers.

A collection's name is an alias; the collection itself is called ``<name>__v<number>``. A migration fills the next
number and then moves the alias, which a server does in one step.
"""

import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self

from qdrant_client import models

from mgte_rag import ClosedError, InvalidOptionError
from qdrant_mgte.client_calls import ClientCalls
from qdrant_mgte.client_versions import begin_version, drop_collection, following_version, move_alias, open_served
from qdrant_mgte.connection import Connection, Result
from qdrant_mgte.schema import Point, Schema, check_points
from qdrant_mgte.stages import checked_stages
from qdrant_mgte.store import Found, Stage, Store


class ClientStore(Store):
    """One version of a collection; the one that is served also owns the connection."""

    def __init__(self, calls: ClientCalls, name: str, *, served: bool) -> None:
        self._calls = calls
        self._name = name
        self._served = served
        self._closed = False
        self._next: ClientStore | None = None
        self._version_lock = threading.RLock()

    @classmethod
    def open(cls, connection: Connection, name: str, schema: Schema | None, metadata: Mapping[str, Any]) -> Self:
        """Open a collection, or make it where there is none.

        Raises:
            InvalidOptionError: no schema and no collection.
            CorruptCollectionError: another program made the collection, or changed it.
            CollectionError: the server failed.
        """
        return cls(connection.run(open_served(connection, name, schema, dict(metadata))), name, served=True)

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return f"{self._calls.connection.location}, collection {self._name!r}"

    @property
    def schema(self) -> Schema:
        """What the points hold."""
        return self._calls.schema

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's JSON."""
        return dict(self._calls.metadata)

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace it."""
        with self._version_lock:
            self._calls.metadata = dict(metadata)
            self._run(self._calls.write_metadata())

    def optimize(self) -> None:
        """Nothing: a server builds its indexes on its own, memory has none."""

    def start_version(self, schema: Schema, metadata: Mapping[str, Any]) -> Store:
        """The next version, continued where it was begun with the same schema and metadata."""
        with self._version_lock:
            begun = self._run(begin_version(self._calls, self._name, schema, dict(metadata)))
            if self._next is None or self._next._closed or self._next._calls.collection != begun.collection:
                self._next = ClientStore(begun, self._name, served=False)
            self._next._calls = begun
            return self._next

    def finish_version(self) -> None:
        """Move the alias to the next version and delete the old one."""
        with self._version_lock:
            if self._next is None:
                raise InvalidOptionError("there is no next version; start_version() makes one")
            old, new = self._calls.collection, self._next._calls
            self._run(move_alias(new.connection, self._name, new.collection))
            self._next.close()
            self._next = None
            self._calls.schema, self._calls.metadata, self._calls.collection = new.schema, new.metadata, new.collection
            self._run(new.connection.send("delete_collection", collection_name=old))

    def drop_version(self) -> None:
        """Delete the next version if there is one."""
        with self._version_lock:
            if self._next is not None:
                self._next.close()
            self._next = None
            self._run(drop_collection(self._calls.connection, following_version(self._calls.collection, self._name)))

    def close(self) -> None:
        """Close the connection, once calls under way have ended. Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        if self._next is not None:
            self._next.close()
        if self._served:
            self._calls.connection.close()

    def upsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """Store points, in requests of bounded size."""
        check_points(points, self.schema)
        return self._run(self._calls.upsert(points))

    async def aupsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """``upsert``."""
        check_points(points, self.schema)
        return await self._arun(self._calls.upsert(points))

    def update_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """Set payload fields, or replace whole payloads."""
        self._run(self._calls.update_payload(payloads, replace=replace))

    async def aupdate_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """``update_payload``."""
        await self._arun(self._calls.update_payload(payloads, replace=replace))

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points."""
        self._run(self._calls.delete(ids))

    async def adelete(self, ids: Sequence[uuid.UUID]) -> None:
        """``delete``."""
        await self._arun(self._calls.delete(ids))

    def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""
        self._run(self._calls.delete_where(filter))

    async def adelete_where(self, filter: models.Filter) -> None:
        """``delete_where``."""
        await self._arun(self._calls.delete_where(filter))

    def retrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """Those of the points that are there."""
        return self._run(self._calls.retrieve(ids, fields, vectors))

    async def aretrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """``retrieve``."""
        return await self._arun(self._calls.retrieve(ids, fields, vectors))

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
        return self._run(self._calls.scroll(filter, limit, after, fields, vectors))

    async def ascroll(
        self,
        *,
        filter: models.Filter | None = None,
        limit: int = 256,
        after: uuid.UUID | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> tuple[list[Point], uuid.UUID | None]:
        """``scroll``."""
        return await self._arun(self._calls.scroll(filter, limit, after, fields, vectors))

    def count(self, filter: models.Filter | None = None) -> int:
        """Number of points that match."""
        return self._run(self._calls.count(filter))

    async def acount(self, filter: models.Filter | None = None) -> int:
        """``count``."""
        return await self._arun(self._calls.count(filter))

    def query(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """Run searches as one batch."""
        return self._run(self._calls.query(checked_stages(stages, self.schema), fields, vectors))

    async def aquery(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """``query``."""
        return await self._arun(self._calls.query(checked_stages(stages, self.schema), fields, vectors))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        self._check_open(work)
        return self._calls.connection.run(work)

    async def _arun(self, work: Coroutine[Any, Any, Result]) -> Result:
        self._check_open(work)
        return await self._calls.connection.arun(work)

    def _check_open(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._closed:
            work.close()
            raise ClosedError(f"the collection {self.location} was closed; open it again with HybridCollection.open()")
