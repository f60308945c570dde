"""Engines for the tests: a folder, memory, and a server.

No server can be had where the tests run, so that the server engine talks to a stub: an HTTP server on 127.0.0.1 that
takes the real wire format, checks it against qdrant-client's own models and serves it from a client in memory. It can
fail in the ways servers do, and be of an older version. With QDRANT_URL set, the engine talks to that server instead.
"""

import contextlib
import json
import os
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from qdrant_mgte.schema import Schema
from qdrant_mgte.store import ServerOptions, Store
from qdrant_mgte.stores import STORES

OpenStore = Callable[..., Store]
# What the body of a request to a server of an older version must not have: JSON keys and values, and since when.
SINCE = {
    '"turbo8"': (1, 20),
    '"memory":': (1, 19),
    '"turbo":': (1, 18),
    '"weights":': (1, 17),
    '"rrf":': (1, 16),
    '"mmr":': (1, 15),
    '"formula":': (1, 14),
    '"is_tenant":': (1, 11),
    '"dbsf"': (1, 11),
}


class StubServer:
    """Qdrant's REST API over a client in memory.

    Attributes:
        version: told by the root endpoint; requests with anything newer are answered 400.
        most_bytes: larger bodies are answered 413.
        requests: method and path of every request, with the size of its body and the seconds since the start.
        api_key: requests without it are answered 401.
    """

    def __init__(self) -> None:
        self.version = "1.20.0"
        self.most_bytes = 32 * 1024 * 1024
        self.api_key: str | None = None
        self.requests: list[tuple[str, str, int, float]] = []
        self._failures: list[tuple[str, str, float | None]] = []
        self._client = QdrantClient(":memory:")
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def fail(self, path: str, *failures: str, seconds: float | None = None) -> None:
        """Let the next requests whose path ends so fail: a status, "timeout", "drop", or "drop the answer".

        ``seconds`` is the Retry-After of a 429, or how long a timeout takes.
        """
        self._failures += [(path, failure, seconds) for failure in failures]

    def take_failure(self, path: str) -> tuple[str, float | None] | None:
        with self._lock:
            for failure in self._failures:
                if path.endswith(failure[0]):
                    self._failures.remove(failure)
                    return failure[1:]
        return None

    def answer(self, method: str, path: str, body: str) -> tuple[int, Any]:
        if path == "/":
            return 200, {"title": "qdrant - vector search engine", "version": self.version}
        version = tuple(map(int, self.version.split(".")[:2]))
        for key, since in SINCE.items():
            if key in body.replace('": ', '":') and version < since:
                return 400, {"status": {"error": f"unknown field {key} in version {self.version}"}}
        for route_method, pattern, handle in _ROUTES:
            if route_method == method and (match := re.fullmatch(pattern, path)):
                with self._lock:
                    return self._served(handle, match.groups(), json.loads(body or "{}"), version)
        return 404, {"status": {"error": f"Not found: {method} {path}"}}

    def _served(self, handle: Any, names: tuple[str, ...], content: Any, version: tuple[int, ...]) -> tuple[int, Any]:
        if version < (1, 16):
            content.pop("metadata", None)  # as a server reads what it does not know
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = handle(self._client, *names, content)
        except (ValueError, KeyError, IndexError) as error:
            status = 404 if "not found" in str(error) else 409 if "already exists" in str(error) else 400
            return status, {"status": {"error": str(error)}, "time": 0.0}
        return 200, {"result": _plain(result), "status": "ok", "time": 0.0}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._client.close()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _create(client: QdrantClient, name: str, content: dict[str, Any]) -> bool:
    wanted = models.CreateCollection(**content)
    return client.create_collection(
        name,
        vectors_config=wanted.vectors or {},
        sparse_vectors_config=wanted.sparse_vectors,
        metadata=wanted.metadata,
    )


def _scroll(client: QdrantClient, name: str, content: dict[str, Any]) -> dict[str, Any]:
    wanted = models.ScrollRequest(**content)
    records, following = client.scroll(
        name,
        scroll_filter=wanted.filter,
        limit=wanted.limit or 10,
        offset=wanted.offset,
        with_payload=wanted.with_payload or False,
        with_vectors=wanted.with_vector or False,
    )
    return {"points": _plain(records), "next_page_offset": following}


def _retrieve(client: QdrantClient, name: str, content: dict[str, Any]) -> Any:
    wanted = models.PointRequest(**content)
    return client.retrieve(
        name, wanted.ids, with_payload=wanted.with_payload or False, with_vectors=wanted.with_vector or False
    )


def _delete(client: QdrantClient, name: str, content: dict[str, Any]) -> Any:
    kind = models.PointIdsList if "points" in content else models.FilterSelector
    return client.delete(name, kind(**content))


def _update_batch(client: QdrantClient, name: str, content: dict[str, Any]) -> Any:
    return client.batch_update_points(name, models.UpdateOperations(**content).operations)


def _update(client: QdrantClient, name: str, content: dict[str, Any]) -> bool:
    return client.update_collection(name, metadata=models.UpdateCollection(**content).metadata)


_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/aliases", lambda client, _: client.get_aliases()),
    (
        "POST",
        r"/collections/aliases",
        lambda client, content: client.update_collection_aliases(models.ChangeAliasesOperation(**content).actions),
    ),
    ("GET", r"/collections/([^/]+)/exists", lambda client, name, _: {"exists": client.collection_exists(name)}),
    ("GET", r"/collections/([^/]+)", lambda client, name, _: client.get_collection(name)),
    ("PUT", r"/collections/([^/]+)", _create),
    ("PATCH", r"/collections/([^/]+)", _update),
    ("DELETE", r"/collections/([^/]+)", lambda client, name, _: client.delete_collection(name)),
    (
        "PUT",
        r"/collections/([^/]+)/index",
        lambda client, name, content: client.create_payload_index(name, **models.CreateFieldIndex(**content).__dict__),
    ),
    (
        "PUT",
        r"/collections/([^/]+)/points",
        lambda client, name, content: client.upsert(name, models.PointsList(**content).points),
    ),
    ("POST", r"/collections/([^/]+)/points", _retrieve),
    ("POST", r"/collections/([^/]+)/points/scroll", _scroll),
    (
        "POST",
        r"/collections/([^/]+)/points/count",
        lambda client, name, content: client.count(name, models.CountRequest(**content).filter),
    ),
    ("POST", r"/collections/([^/]+)/points/delete", _delete),
    ("POST", r"/collections/([^/]+)/points/batch", _update_batch),
    (
        "POST",
        r"/collections/([^/]+)/points/query/batch",
        lambda client, name, content: client.query_batch_points(name, models.QueryRequestBatch(**content).searches),
    ),
]


class _Handler(BaseHTTPRequestHandler):
    stub: StubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the client's delayed acknowledgement
    wbufsize = -1  # head and body leave together

    def _handle(self) -> None:
        stub, path = self.stub, self.path.split("?")[0]
        size = int(self.headers.get("Content-Length", 0))
        stub.requests.append((self.command, path, size, time.monotonic()))
        if size > stub.most_bytes:
            self.close_connection = True
            self.rfile.read(size)
            return self._send(413, {"status": {"error": f"JSON payload ({size} bytes) is larger than allowed"}})
        body = self.rfile.read(size).decode()
        if stub.api_key is not None and self.headers.get("api-key") != stub.api_key:
            return self._send(401, {"status": {"error": "Must provide an API key"}})
        failure, seconds = stub.take_failure(path) or (None, None)
        if failure in ("drop", "timeout"):
            time.sleep(seconds or 0)
            return self._drop()
        if failure is not None and failure.isdigit():
            after = {"Retry-After": str(int(seconds))} if seconds is not None else {}
            return self._send(int(failure), {"status": {"error": "injected"}, "time": 0.0}, after)
        status, answer = stub.answer(self.command, path, body)
        if failure == "drop the answer":
            return self._drop()
        return self._send(status, answer)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - the base class's own names

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        with contextlib.suppress(OSError):  # the client gave up waiting
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """A server of its own for each test."""
    server = StubServer()
    yield server
    server.close()


@pytest.fixture
def open_on_stub(stub: StubServer) -> Iterator[OpenStore]:
    """Opens collections of the stub; all are closed after the test."""
    with _opener(stub.url) as opened:
        yield opened


@pytest.fixture(scope="module", params=["embedded", "memory", "server"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """ ":memory:", the URL of a server, or "embedded" for new folders."""
    if request.param == "memory":
        yield ":memory:"
    elif request.param == "server" and not os.environ.get("QDRANT_URL"):
        server = StubServer()
        yield server.url
        server.close()
    else:
        yield os.environ["QDRANT_URL"] if request.param == "server" else "embedded"


@pytest.fixture
def open_store(engine: str, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same collection on one engine, however often; all are closed after the test."""
    with _opener(tmp_path / "collection" if engine == "embedded" else engine) as opened:
        yield opened


@pytest.fixture(scope="module")
def open_shared(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenStore]:
    """The same for a collection that a whole module only reads."""
    folder = tmp_path_factory.mktemp("shared") / "collection"
    with _opener(folder if engine == "embedded" else engine) as opened:
        yield opened


@contextlib.contextmanager
def _opener(location: Path | str) -> Iterator[OpenStore]:
    opened: list[Store] = []
    default_name = f"test-{uuid.uuid4().hex[:12]}"

    def open_one(
        schema: Schema | None,
        metadata: dict[str, Any] | None = None,
        *,
        name: str = default_name,
        options: ServerOptions = ServerOptions(timeout=10, api_key=os.environ.get("QDRANT_API_KEY")),  # noqa: B008
    ) -> Store:
        store = STORES.acquire(location, name=name, schema=schema, metadata=metadata or {}, options=options)
        opened.append(store)
        return store

    yield open_one
    if isinstance(location, str) and location == os.environ.get("QDRANT_URL"):
        _clean(location, default_name)
    for store in reversed(opened):
        STORES.release(store)


def _clean(url: str, name: str) -> None:
    client = QdrantClient(url, api_key=os.environ.get("QDRANT_API_KEY"))
    for collection in client.get_collections().collections:
        if collection.name.startswith(name):
            client.delete_collection(collection.name)
    client.close()
