"""What is done with one collection behind a qdrant-client, as coroutines that run in memory and against a server."""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from mgte_rag import CollectionError
from qdrant_mgte.client_requests import (
    batches_by_bytes,
    payload_selector,
    point_of,
    point_struct,
    query_request,
    vectors_of,
)
from qdrant_mgte.client_schema import has_metadata, stored_metadata
from qdrant_mgte.connection import Connection, NotThereError, TooLargeError
from qdrant_mgte.schema import Point, Schema
from qdrant_mgte.stages import finds_nothing
from qdrant_mgte.store import Found, Stage

# The point that holds the metadata where collections have none; it has no vectors, and no call shows it.
METADATA_POINT = str(uuid.UUID("7f1c1b1e-6b0e-5c39-8d53-0d6f0b6f6e01"))
_AT_ONCE = 1_000  # ids in one request


@dataclasses.dataclass(slots=True)
class ClientCalls:
    """The calls of one collection.

    Attributes:
        connection: sends them.
        collection: its name on the server.
        schema: what its points hold.
        metadata: the caller's JSON.
    """

    connection: Connection
    collection: str
    schema: Schema
    metadata: dict[str, Any]

    async def send(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client on this collection, or on the one that a migration put in its place meanwhile."""
        name = self.collection
        try:
            return await self.connection.send(method, collection_name=name, **arguments)
        except NotThereError as error:
            if name != self.collection:
                return await self.connection.send(method, collection_name=self.collection, **arguments)
            raise CollectionError(
                f"the collection {name} at {self.connection.location} is not there any more: it was deleted, or "
                f"another process migrated it. Open it again"
            ) from error

    async def upsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """Store checked points; those refused for their size, with reasons."""
        refused: dict[uuid.UUID, str] = {}
        connection = self.connection
        for batch in batches_by_bytes(points, connection.batch_bytes, grpc=connection.uses_grpc):
            await self._upsert_batch(batch, refused)
        return refused

    async def _upsert_batch(self, points: list[Point], refused: dict[uuid.UUID, str]) -> None:
        try:
            await self.send("upsert", points=[point_struct(point) for point in points], wait=True)
        except TooLargeError as error:
            if len(points) == 1:
                refused[points[0].id] = f"too large for the server: {error}"
                return
            middle = len(points) // 2
            await self._upsert_batch(points[:middle], refused)
            await self._upsert_batch(points[middle:], refused)

    async def update_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool) -> None:
        """Set payload fields, or replace whole payloads, of the points that are there."""
        there = await self.retrieve(list(payloads), (), ())
        operations: list[Any] = []
        for point in there:
            change = models.SetPayload(payload=dict(payloads[point]), points=[str(point)])
            operations.append(
                models.OverwritePayloadOperation(overwrite_payload=change)
                if replace
                else models.SetPayloadOperation(set_payload=change)
            )
        for start in range(0, len(operations), _AT_ONCE):
            await self.send("batch_update_points", update_operations=operations[start : start + _AT_ONCE], wait=True)

    async def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points."""
        for start in range(0, len(ids), _AT_ONCE):
            chosen = [str(point) for point in ids[start : start + _AT_ONCE]]
            await self.send("delete", points_selector=models.PointIdsList(points=list(chosen)), wait=True)

    async def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""
        selector = models.FilterSelector(filter=self._visible(filter) or filter)
        await self.send("delete", points_selector=selector, wait=True)

    async def retrieve(
        self, ids: Sequence[uuid.UUID], fields: Sequence[str] | None, vectors: Sequence[str]
    ) -> dict[uuid.UUID, Point]:
        """Those of the points that are there."""
        found: dict[uuid.UUID, Point] = {}
        for start in range(0, len(ids), _AT_ONCE):
            records = await self.send(
                "retrieve",
                ids=[str(point) for point in ids[start : start + _AT_ONCE]],
                with_payload=payload_selector(fields),
                with_vectors=list(vectors) or False,
            )
            found.update((point.id, point) for point in map(point_of, records))
        return found

    async def scroll(
        self,
        filter: models.Filter | None,
        limit: int,
        after: uuid.UUID | None,
        fields: Sequence[str] | None,
        vectors: Sequence[str],
    ) -> tuple[list[Point], uuid.UUID | None]:
        """A page of points by ascending id, and where the next one starts."""
        records, following = await self.send(
            "scroll",
            scroll_filter=self._visible(filter),
            limit=limit,
            offset=None if after is None else str(after),
            with_payload=payload_selector(fields),
            with_vectors=list(vectors) or False,
        )
        return [point_of(record) for record in records], None if following is None else uuid.UUID(str(following))

    async def count(self, filter: models.Filter | None) -> int:
        """Number of points that match."""
        number: int = (await self.send("count", count_filter=self._visible(filter), exact=True)).count
        return number

    async def query(
        self, stages: Sequence[Stage], fields: Sequence[str] | None, vectors: Sequence[str]
    ) -> list[list[Found]]:
        """Run checked searches as one batch."""
        results: list[list[Found]] = [[] for _ in stages]
        asked = [i for i, stage in enumerate(stages) if not finds_nothing(stage)]
        able = self.connection.capabilities
        requests = [query_request(self._without_metadata(stages[i]), self.schema, able, fields, vectors) for i in asked]
        responses = await self.send("query_batch_points", requests=requests) if requests else []
        for i, response in zip(asked, responses, strict=True):
            results[i] = [
                Found(
                    uuid.UUID(str(point.id)),
                    point.score,
                    point.payload or {},
                    vectors_of(point.vector) if vectors else None,
                )
                for point in response.points
            ]
        return results

    async def write_metadata(self) -> None:
        """Store schema and metadata with the collection."""
        content = stored_metadata(self.schema, self.metadata)
        if has_metadata(self.connection.capabilities):
            await self.send("update_collection", metadata=content)
        else:
            point = models.PointStruct(id=METADATA_POINT, vector={}, payload=content)
            await self.send("upsert", points=[point], wait=True)

    async def read_metadata(self) -> dict[str, Any] | None:
        """What ``write_metadata`` stored; None where there is nothing."""
        if has_metadata(self.connection.capabilities):
            stored: dict[str, Any] | None = (await self.send("get_collection")).config.metadata
            return stored
        records = await self.send("retrieve", ids=[METADATA_POINT], with_payload=True, with_vectors=False)
        return records[0].payload if records else None

    def _visible(self, filter: models.Filter | None) -> models.Filter | None:
        """The filter, without the point that holds the metadata."""
        if has_metadata(self.connection.capabilities):
            return filter
        hidden = models.HasIdCondition(has_id=[METADATA_POINT])
        return models.Filter(must=None if filter is None else [filter], must_not=[hidden])

    def _without_metadata(self, stage: Stage) -> Stage:
        """A search that reads points without a vector finds that point too; others cannot, it has no vectors."""
        if stage.query is not None or has_metadata(self.connection.capabilities):
            return stage
        return dataclasses.replace(stage, filter=self._visible(stage.filter))
