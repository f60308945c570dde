"""The collections of a client that are versions of one, and the alias that shows which is served."""

import re
from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from mgte_rag import CollectionError, CorruptCollectionError, InvalidOptionError
from qdrant_mgte.client_calls import ClientCalls
from qdrant_mgte.client_schema import (
    METADATA_KEY,
    collection_arguments,
    has_metadata,
    index_arguments,
    stored_metadata,
)
from qdrant_mgte.connection import Connection, NotThereError
from qdrant_mgte.schema import Schema


async def open_served(
    connection: Connection, name: str, schema: Schema | None, metadata: dict[str, Any]
) -> ClientCalls:
    """The version that a name means, made where there is none and a schema is given."""
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
        await move_alias(connection, name, first)
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


async def begin_version(served: ClientCalls, name: str, schema: Schema, metadata: dict[str, Any]) -> ClientCalls:
    """The version after the one that is served, continued where it was begun with the same schema and metadata."""
    connection, collection = served.connection, following_version(served.collection, name)
    if await connection.send("collection_exists", collection_name=collection):
        try:
            begun = await _read(connection, collection)
        except CorruptCollectionError:
            begun = None
        if begun is not None and (begun.schema, begun.metadata) == (schema, metadata):
            await _index(begun)
            return begun
        await drop_collection(connection, collection)
    return await _create(connection, collection, schema, metadata)


def following_version(collection: str, name: str) -> str:
    """Name of the version after this one."""
    match = re.fullmatch(re.escape(name) + r"__v(\d+)", collection)
    if match is None:
        raise InvalidOptionError(
            f"the collection {collection} cannot be replaced in one step, since {name!r} is no alias of ours; copy it "
            f"under another name"
        )
    return f"{name}__v{int(match[1]) + 1}"


async def drop_collection(connection: Connection, collection: str) -> None:
    """Delete a collection if it is there."""
    try:
        await connection.send("delete_collection", collection_name=collection)
    except NotThereError:
        return


async def move_alias(connection: Connection, name: str, collection: str) -> None:
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
