"""Async twins of an engine that has none of its own: the same call in a worker thread."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from mgte_rag.async_calls import in_thread
from qdrant_mgte.schema import Point
from qdrant_mgte.store import Found, Stage, Store


class ThreadedTwins(Store):
    """A store whose async methods run the others in a worker thread."""

    async def aupsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """``upsert`` in a worker thread."""
        return await in_thread(self.upsert, points)

    async def aupdate_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """``update_payload`` in a worker thread."""
        await in_thread(self.update_payload, payloads, replace=replace)

    async def adelete(self, ids: Sequence[uuid.UUID]) -> None:
        """``delete`` in a worker thread."""
        await in_thread(self.delete, ids)

    async def adelete_where(self, filter: models.Filter) -> None:
        """``delete_where`` in a worker thread."""
        await in_thread(self.delete_where, filter)

    async def aretrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """``retrieve`` in a worker thread."""
        return await in_thread(self.retrieve, ids, fields=fields, vectors=vectors)

    async def ascroll(
        self,
        *,
        filter: models.Filter | None = None,
        limit: int = 256,
        after: uuid.UUID | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> tuple[list[Point], uuid.UUID | None]:
        """``scroll`` in a worker thread."""
        return await in_thread(self.scroll, filter=filter, limit=limit, after=after, fields=fields, vectors=vectors)

    async def acount(self, filter: models.Filter | None = None) -> int:
        """``count`` in a worker thread."""
        return await in_thread(self.count, filter)

    async def aquery(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """``query`` in a worker thread."""
        return await in_thread(self.query, stages, fields=fields, vectors=vectors)
