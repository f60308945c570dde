"""The in-memory engine: qdrant-client's local mode, for tests and as an oracle.

It is not thread-safe, writers break readers and each other, so that one call at a time reaches it.
"""

from collections.abc import Coroutine, Mapping
from typing import Any

from qdrant_client import QdrantClient

from mgte_rag import CollectionError, InvalidOptionError
from mgte_rag.async_calls import in_thread
from qdrant_mgte.capabilities import IN_MEMORY
from qdrant_mgte.client import ClientStore
from qdrant_mgte.connection import NotThereError, Result
from qdrant_mgte.gate import Gate
from qdrant_mgte.schema import Schema


class MemoryConnection:
    """Calls one after the other into a client in memory."""

    location = ":memory:"
    capabilities = IN_MEMORY
    batch_bytes = 64_000_000
    uses_grpc = True  # no JSON is made

    def __init__(self) -> None:
        self._client = QdrantClient(":memory:")
        self._gate = Gate("the collection :memory:", self._client.close)

    async def send(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client; this never waits, so that ``run`` needs no event loop."""
        with self._gate.alone():
            try:
                return getattr(self._client, method)(**arguments)
            except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
                if "not found" in str(error):
                    raise NotThereError(str(error)) from error
                raise CollectionError(f"the in-memory engine could not {method.replace('_', ' ')}: {error}") from error

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end."""
        try:
            work.send(None)
        except StopIteration as end:
            result: Result = end.value
            return result
        raise AssertionError("a call into memory has nothing to wait for")

    async def arun(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The same in a worker thread."""
        return await in_thread(self.run, work)

    def close(self) -> None:
        """Forget everything."""
        self._gate.close()


def open_memory(schema: Schema | None, metadata: Mapping[str, Any]) -> ClientStore:
    """A new, empty collection.

    Raises:
        InvalidOptionError: no schema, or one with shards or replicas.
    """
    if schema is None:
        raise InvalidOptionError("a collection in memory is always a new one: there is nothing to open or to migrate")
    if schema.shards is not None or schema.replicas is not None:
        raise InvalidOptionError("memory has no shards and replicas: leave both None, or give the URL of a server")
    return ClientStore.open(MemoryConnection(), "documents", schema, metadata)
