"""The small interface of the three engines: embedded (a folder), in memory, and server (a URL).

Vectors go in and out as numpy arrays and ``SparseVector``; filters are ``qdrant_client.models.Filter`` on every engine.
All engines give the same results to four digits; points with equal scores may come in any order.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qdrant_client import models

from qdrant_mgte.schema import Point, Schema, Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Rrf:
    """Reciprocal rank fusion: the sum over the prefetches of 1 / ((rank + 1) / weight + k - 1), rank from 0.

    The paper's 1 / (60 + rank), rank from 1, is k=61 here.

    Attributes:
        k: a whole number from 1; the engines' default is 2. Small favours the first ranks.
        weights: one per prefetch, above 0; None weighs all 1.
    """

    k: int = 2
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Dbsf:
    """Distribution-based score fusion: each prefetch's scores scaled by their mean and three deviations, then added."""


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """The sum of weight x score over the prefetches; a point that a prefetch did not find has score 0 there.

    Attributes:
        weights: one per prefetch.
    """

    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmr:
    """Maximal marginal relevance: the nearest points to a vector that are not too near to each other.

    Attributes:
        vector: the query, of the kind of the stage's ``using``.
        relevance: the usual lambda: 1 ranks by similarity to the query alone, 0 by dissimilarity to what was chosen.
        candidates: nearest points to choose from.
    """

    vector: Vector
    relevance: float
    candidates: int


Query = Vector | Rrf | Dbsf | WeightedSum | Mmr


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One stage of a search; a whole search is the last stage with those before it as its prefetches.

    Attributes:
        query: what scores the points: a vector, or a fusion of the prefetches. None, only without prefetches, gives
            any points with score 1.
        using: name of the vector a vector or Mmr query is compared with.
        limit: most points of this stage; as a prefetch's limit it must cover the outer ``limit + offset``.
        offset: best points to leave out; of the last stage only.
        prefetch: stages whose points this one scores; none: all points.
        filter: only points that match; given on an outer stage it holds for its prefetches too.
        score_threshold: only points with at least this score in this stage.
        exact: True compares every point, without an index and quantization; None is the preset's way.
    """

    query: Query | None = None
    using: str | None = None
    limit: int
    offset: int = 0
    prefetch: tuple["Stage", ...] = ()
    filter: models.Filter | None = None
    score_threshold: float | None = None
    exact: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A point that a search found.

    Attributes:
        id: its id.
        score: of the last stage, higher is better.
        payload: the fields asked for.
        vectors: those asked for that it has; None where none were asked for.
    """

    id: uuid.UUID
    score: float
    payload: dict[str, Any]
    vectors: Mapping[str, Vector] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to reach a server. Ignored for folders and ":memory:".

    Attributes:
        api_key: sent with every request; over http:// it travels in the clear, and a warning says so.
        prefer_grpc: True or False choose; None takes gRPC where its port answers, else REST.
        grpc_port: of the same host.
        verify: TLS certificates are checked; False trusts any, a path names the authorities to trust (REST only).
        timeout: seconds for one request.
        retries: attempts after the first on 429, 5xx, timeouts and dropped connections, with growing pauses;
            a server's Retry-After is kept to.
        batch_bytes: most bytes of points in one request; a point larger than this goes alone.
    """

    api_key: str | None = None
    prefer_grpc: bool | None = None
    grpc_port: int = 6334
    verify: bool | str = True
    timeout: float = 60.0
    retries: int = 5
    batch_bytes: int = 8_000_000


class Store(Protocol):
    """One open collection. Any thread may use it.

    ``fields`` everywhere: payload fields to read, None for all, () for none. ``vectors``: names of vectors to read, ()
    for none. Engine failures are CollectionError, use after ``close()`` is ClosedError.

    A collection has versions, of which one is served. A migration fills the next one beside it:

        next = store.start_version(schema, metadata)     # again after an interruption: the same, with its points
        next.upsert(...)
        store.finish_version()                           # atomically; every handle on the store serves the new one now
    """

    @property
    def location(self) -> str:
        """The folder, ":memory:" or the URL with the collection's name, for messages."""

    @property
    def schema(self) -> Schema:
        """Of the collection that is there, whatever it was opened with."""

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON stored with the collection, as it was when last opened or set here.

        A folder written by a release with schema version 1 gives {"schema_version": 1, "model": ..., "dim": ...}.
        """

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace it, durably."""

    def upsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """Store points, replacing those with the same ids whole; durable when this returns.

        All are checked before any is written (``check_points``). Servers get them in requests of ``batch_bytes``.

        Returns:
            Points the engine refused for their own sake (too large for the server), with reasons; all others are
            stored. Empty for a folder.

        Raises:
            InvalidDocumentError: a point is malformed or an id is there twice; nothing was written.
            CollectionError: the engine failed. Of a server's several requests earlier ones may be stored; sending the
                same points again is safe.
        """

    def update_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """Set payload fields, or replace whole payloads; vectors stay. Ids that are not there do not matter."""

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points; ids that are not there do not matter."""

    def delete_where(self, filter: models.Filter) -> None:
        """Delete the points that match."""

    def retrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """Those of the points that are there."""

    def scroll(
        self,
        *,
        filter: models.Filter | None = None,
        limit: int = 256,
        after: uuid.UUID | None = None,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> tuple[list[Point], uuid.UUID | None]:
        """A page of points by ascending id, and the ``after`` of the next page; None after the last."""

    def count(self, filter: models.Filter | None = None) -> int:
        """Number of points that match, exactly."""

    def query(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """Run searches as one batch; each one's points, best first.

        Raises:
            InvalidOptionError: a query vector is malformed or the stages do not fit together.
        """

    def optimize(self) -> None:
        """Build indexes now. The embedded engine blocks until done; a server does it on its own and returns at once."""

    def start_version(self, schema: Schema, metadata: Mapping[str, Any]) -> "Store":
        """The next version, to be filled while this one is served; closed with this store.

        One that an interrupted migration left with the same schema and metadata is continued, any other begun anew.
        """

    def finish_version(self) -> None:
        """Serve the next version from now on, in one atomic step, and delete the old one."""

    def drop_version(self) -> None:
        """Delete the next version if there is one."""

    def close(self) -> None:
        """Flush and give the collection free. Closing twice is allowed."""

    async def aupsert(self, points: Sequence[Point]) -> dict[uuid.UUID, str]:
        """``upsert``."""

    async def aupdate_payload(self, payloads: Mapping[uuid.UUID, Mapping[str, Any]], *, replace: bool = False) -> None:
        """``update_payload``."""

    async def adelete(self, ids: Sequence[uuid.UUID]) -> None:
        """``delete``."""

    async def adelete_where(self, filter: models.Filter) -> None:
        """``delete_where``."""

    async def aretrieve(
        self, ids: Sequence[uuid.UUID], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> dict[uuid.UUID, Point]:
        """``retrieve``."""

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

    async def acount(self, filter: models.Filter | None = None) -> int:
        """``count``."""

    async def aquery(
        self, stages: Sequence[Stage], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> list[list[Found]]:
        """``query``."""


# How a collection's store is had, in qdrant_mgte.stores:
#   STORES.acquire(location, name=..., schema=..., metadata=..., options=ServerOptions()) -> Store
#       location: a Path (folder), ":memory:" or a URL; name: of the collection on a server, ignored elsewhere;
#       schema, metadata: what a new collection gets, an existing one keeps its own; schema None: it must be there.
#       Folders and servers' collections are shared by their handles; every ":memory:" is a new, empty one.
#   STORES.release(store): the last handle closes it.
