"""The server engine: any Qdrant server or cluster by URL, over gRPC or REST.

All calls run on one event loop in a thread of its own, whichever thread or loop they come from: one client, one pool of
connections, one place for retries.
"""

import asyncio
import os
import random
import socket
import threading
import warnings
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from mgte_rag import ClosedError, CollectionError, InvalidOptionError
from qdrant_mgte.capabilities import Capabilities
from qdrant_mgte.client import ClientStore
from qdrant_mgte.connection import NotThereError, Result, TooLargeError
from qdrant_mgte.schema import Schema
from qdrant_mgte.store import ServerOptions

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_LONGEST_RETRY_AFTER = 300.0  # a server that asks for more is not waited for
_RETRIED_STATUSES = {408, 429, 500, 502, 503, 504}
_RETRIED_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
}
_REST_PORT = 6333


class ServerConnection:
    """A client of one server.

    Args:
        url: http:// or https://, with a port other than 6333 named.
        options: how to reach it.

    Raises:
        InvalidOptionError: no such URL.
        CollectionError: the server does not answer, refuses the key or is too old.
    """

    def __init__(self, url: str, options: ServerOptions) -> None:
        parts = _checked_url(url)
        self.location = url
        self.batch_bytes = options.batch_bytes
        self.uses_grpc = _chosen_grpc(parts.hostname or "", parts.port, options)
        self._retries = options.retries
        self._pid = os.getpid()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"mgte-rag {url}", daemon=True)
        self._thread.start()
        try:
            self._client = self.run(self._make_client(url, options))
            self.capabilities = self.run(self._find_capabilities())
        except BaseException:
            self.close()
            raise

    async def _make_client(self, url: str, options: ServerOptions) -> AsyncQdrantClient:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # open_server warns
            return AsyncQdrantClient(
                url=url,
                api_key=options.api_key,
                prefer_grpc=self.uses_grpc,
                grpc_port=options.grpc_port,
                grpc_options={"grpc.max_send_message_length": -1, "grpc.max_receive_message_length": -1},
                timeout=options.timeout,  # type: ignore[arg-type] # rounded up to whole seconds by the client
                # Nothing is verified over http://; making ready for it takes a good part of a second.
                verify=options.verify if url.startswith("https") else False,
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
                check_compatibility=False,  # Capabilities does
            )

    async def _find_capabilities(self) -> Capabilities:
        return Capabilities.of_server((await self.send("info")).version)

    async def send(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client, again after a pause where the failure may pass."""
        for attempt in range(self._retries + 1):
            try:
                return await getattr(self._client, method)(**arguments)
            except (
                ResourceExhaustedResponse,
                UnexpectedResponse,
                ResponseHandlingException,
                grpc.RpcError,
            ) as error:
                pause = _pause_before_retry(error, attempt)
                if pause is None or attempt == self._retries:
                    raise self._as_ours(error, method, attempt + 1) from error
            await asyncio.sleep(pause)
        raise AssertionError("the loop ends in a return or an error")

    def _as_ours(self, error: Exception, method: str, attempts: int) -> CollectionError:
        status, said = _status_of(error), _said(error)
        action = "answer" if method == "info" else method.replace("_", " ")
        if status == 413:
            return TooLargeError(f"the server {self.location} refused a request for its size: {said}")
        if status == 404:
            return NotThereError(f"the server {self.location} could not {action}: {said}")
        if status in (401, 403):
            return CollectionError(f"the server {self.location} refused to {action}: {said}. Check api_key")
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        return CollectionError(f"the server {self.location} could not {action}{tried}: {said}")

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end on the client's own loop."""
        return self._submit(work).result()

    async def arun(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The same, awaited by any event loop."""
        return await asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        problem: Exception | None = None
        if os.getpid() != self._pid:
            problem = CollectionError(
                f"the connection to {self.location} was opened by the parent process; open it again in the child"
            )
        elif self._closed:
            problem = ClosedError(f"the collection at {self.location} was closed; open it again")
        elif threading.current_thread() is self._thread:
            problem = RuntimeError("called from the connection's own loop")
        if problem is not None:
            work.close()
            raise problem
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Wait for calls under way, then disconnect. Closing twice is allowed."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        if threading.current_thread() is self._thread:  # the garbage collector came by here
            self._loop.create_task(self._disconnect()).add_done_callback(lambda _: self._loop.stop())
            return
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _disconnect(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "_client"):
            await self._client.close()


def open_server(
    url: str, name: str, schema: Schema | None, metadata: Mapping[str, Any], options: ServerOptions
) -> ClientStore:
    """Open a collection of a server, or make it where there is none.

    Args:
        url: http:// or https://.
        name: an alias; behind it stands the collection ``<name>__v1``, after a migration ``<name>__v2`` and so on.
        schema: what a new collection gets; None: it must be there.
        metadata: what a new collection gets.
        options: how to reach the server.

    Raises:
        InvalidOptionError: no such URL or name, or no schema and no collection.
        CollectionError: the server does not answer, refuses, is too old, or has another program's collection there.
    """
    if not name or set(name) & set('<>:"/\\|?*\0\x1f') or len(name) > 200:
        raise InvalidOptionError(
            f"a collection's name has 1 to 200 characters without < > : \" / \\ | ? *, not {name!r}"
        )
    parts = _checked_url(url)
    if options.api_key is not None and parts.scheme == "http" and not _is_this_machine(parts.hostname or ""):
        warnings.warn(f"the api_key travels to {url} in the clear; give an https:// URL", stacklevel=3)
    connection = ServerConnection(url, options)
    try:
        return ClientStore.open(connection, name, schema, metadata)
    except BaseException:
        connection.close()
        raise


def _checked_url(url: str) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise InvalidOptionError(f"location {url!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidOptionError(f"location {url!r} is no URL of a server; give http://host:6333 or https://host:6333")
    return parts


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _chosen_grpc(host: str, port: int | None, options: ServerOptions) -> bool:
    """Whether to use gRPC: as asked; else where its port answers, unless that may be another server's."""
    if options.prefer_grpc is not None:
        return options.prefer_grpc
    if port not in (None, _REST_PORT) or options.verify is not True:
        return False
    try:
        with socket.create_connection((host, options.grpc_port), timeout=1.0):
            return True
    except OSError:
        return False


def _pause_before_retry(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None where it would fail the same way."""
    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.5)
    if isinstance(error, ResourceExhaustedResponse):
        return max(pause, error.retry_after_s) if error.retry_after_s <= _LONGEST_RETRY_AFTER else None
    if isinstance(error, ResponseHandlingException):
        return pause if isinstance(error.source, httpx.TransportError) else None
    if _status_of(error) == 413:
        return None
    if isinstance(error, UnexpectedResponse):
        return pause if error.status_code in _RETRIED_STATUSES else None
    return pause if isinstance(error, grpc.RpcError) and error.code() in _RETRIED_CODES else None


def _status_of(error: Exception) -> int | None:
    """The HTTP status, or that of the gRPC code with the same meaning."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    if not isinstance(error, grpc.RpcError):
        return None
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or ""):
        return 413
    codes = {
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.UNAUTHENTICATED: 401,
        grpc.StatusCode.PERMISSION_DENIED: 403,
    }
    return codes.get(error.code())


def _said(error: Exception) -> str:
    """What the server or the connection said, short."""
    if isinstance(error, UnexpectedResponse):
        return f"{error.status_code} {error.reason_phrase}: {error.content.decode(errors='replace')[:300]}"
    if isinstance(error, ResponseHandlingException):
        return f"{type(error.source).__name__}: {error.source}"
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)
