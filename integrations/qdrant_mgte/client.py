"""Collections behind a qdrant-client: one store for the in-memory engine and for servers.

A collection's name is an alias; the collection itself is called ``<name>__v<number>``. A migration fills the next
number and then moves the alias, which a server does in one step.
"""

import re
import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self

from qdrant_client import models

from mgte_rag import ClosedError, CollectionError, CorruptCollectionError, InvalidOptionError
from qdrant_mgte.client_calls import ClientCalls
from qdrant_mgte.client_schema import (
    METADATA_KEY,
    collection_arguments,
    has_metadata,
    index_arguments,
    stored_metadata,
)
from qdrant_mgte.connection import Connection, NotThereError, Result
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
        return cls(connection.run(_open(connection, name, schema, dict(metadata))), name, served=True)

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
            begun = self._run(_begin(self._calls, self._name, schema, dict(metadata)))
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
            self._run(_move_alias(new.connection, self._name, new.collection))
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
            self._run(_drop(self._calls.connection, _following(self._calls.collection, self._name)))

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


async def _open(connection: Connection, name: str, schema: Schema | None, metadata: dict[str, Any]) -> ClientCalls:
    target = await _target(connection, name)
    if target is None:
        if schema is None:
            raise InvalidOptionError(f"there is no collection {name!r} at {connection.location}")
        target = await _create_first(connection, name, schema, metadata)
    return await _read(connection, target)


async def _target(connection: Connection, name: str) -> str | None:
    """The collection that a name means, None where there is none."""
    for alias in (await connection.send("get_aliases")).aliases:
        if alias.alias_name == name:
            target: str = alias.collection_name
            return target
    return name if await connection.send("collection_exists", collection_name=name) else None


async def _create_first(connection: Connection, name: str, schema: Schema, metadata: dict[str, Any]) -> str:
    """Make a new collection and the alias that shows it; of several processes that do, the first wins."""
    first = f"{name}__v1"
    try:
        if not await connection.send("collection_exists", collection_name=first):
            await _create(connection, first, schema, metadata)
        else:  # a process died before it made the alias, or perhaps even the indexes
            await _index(await _read(connection, first))
        await _move_alias(connection, name, first)
    except CorruptCollectionError:
        raise
    except CollectionError:
        if await _target(connection, name) is None:
            raise
    return await _target(connection, name) or first


async def _create(connection: Connection, collection: str, schema: Schema, metadata: dict[str, Any]) -> ClientCalls:
    """Make a collection, its payload indexes before any point of the caller's."""
    calls = ClientCalls(connection, collection, schema, metadata)
    able = connection.capabilities
    arguments = collection_arguments(schema, able)
    if has_metadata(able):
        arguments["metadata"] = stored_metadata(schema, metadata)
    await calls.send("create_collection", **arguments)
    if not has_metadata(able):
        await calls.write_metadata()
    await _index(calls)
    return calls


async def _index(calls: ClientCalls) -> None:
    """Make the payload indexes; those that are there do not matter."""
    able = calls.connection.capabilities
    if able.is_server:
        for index in index_arguments(calls.schema, able):
            await calls.send("create_payload_index", **index, wait=True)


async def _read(connection: Connection, collection: str) -> ClientCalls:
    """An existing collection."""
    calls = ClientCalls(connection, collection, Schema(sparse=True), {})
    content = ((await calls.read_metadata()) or {}).get(METADATA_KEY)
    try:
        if not isinstance(content, Mapping):
            raise TypeError("it has no metadata of ours")
        calls.schema, calls.metadata = Schema.from_json(content["schema"]), dict(content["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCollectionError(
            f"the collection {collection} at {connection.location} was not made by this library, or its metadata was "
            f"changed ({error}). Give another name"
        ) from error
    stored = (await calls.send("get_collection")).config.params.vectors or {}
    sizes = {name: vector.size for name, vector in stored.items()} if isinstance(stored, Mapping) else {"": stored.size}
    if sizes != calls.schema.dims:
        raise CorruptCollectionError(
            f"the collection {collection} at {connection.location} has vectors {sizes}, but was made with "
            f"{calls.schema.dims}: something else changed it. Restore it or index again under another name"
        )
    return calls


async def _begin(served: ClientCalls, name: str, schema: Schema, metadata: dict[str, Any]) -> ClientCalls:
    connection, collection = served.connection, _following(served.collection, name)
    if await connection.send("collection_exists", collection_name=collection):
        try:
            begun = await _read(connection, collection)
        except CorruptCollectionError:
            begun = None
        if begun is not None and (begun.schema, begun.metadata) == (schema, metadata):
            await _index(begun)
            return begun
        await _drop(connection, collection)
    return await _create(connection, collection, schema, metadata)


def _following(collection: str, name: str) -> str:
    """Name of the version after this one."""
    match = re.fullmatch(re.escape(name) + r"__v(\d+)", collection)
    if match is None:
        raise InvalidOptionError(
            f"the collection {collection} cannot be replaced in one step, since {name!r} is no alias of ours; copy it "
            f"under another name"
        )
    return f"{name}__v{int(match[1]) + 1}"


async def _drop(connection: Connection, collection: str) -> None:
    try:
        await connection.send("delete_collection", collection_name=collection)
    except NotThereError:
        return


async def _move_alias(connection: Connection, name: str, collection: str) -> None:
    """Let a name mean a collection, in one step."""
    actions: list[Any] = [
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=name),
        )
    ]
    aliases = (await connection.send("get_aliases")).aliases
    if any(alias.alias_name == name for alias in aliases):
        actions.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)))
    await connection.send("update_collection_aliases", change_aliases_operations=actions)
