"""How calls reach a qdrant-client: in memory one at a time, to a server with retries on a loop of its own."""

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from mgte_rag import CollectionError
from qdrant_mgte.capabilities import Capabilities

Result = TypeVar("Result")


class TooLargeError(CollectionError):
    """The server refused a request for its size."""


class NotThereError(CollectionError):
    """The server knows no collection of that name."""


class Connection(Protocol):
    """A client that calls are sent to."""

    location: str
    capabilities: Capabilities
    batch_bytes: int
    uses_grpc: bool

    async def send(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client.

        Raises:
            TooLargeError, NotThereError: see there.
            CollectionError: any other failure, after retries.
            ClosedError: closed before.
        """

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end; called by any thread."""

    async def arun(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The same, awaited by any event loop."""

    def close(self) -> None:
        """Close the client, once calls under way have ended."""
