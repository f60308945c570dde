"""The server engine against the loopback stub: failures on the way, old versions, names and keys."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import models

from mgte_rag import CollectionError, CorruptCollectionError, InvalidOptionError
from qdrant_mgte.capabilities import Capabilities
from qdrant_mgte.client_schema import collection_arguments
from qdrant_mgte.schema import Point, Schema
from qdrant_mgte.sizes import point_bytes
from qdrant_mgte.store import Dbsf, Mmr, Query, Rrf, ServerOptions, Stage, Store, WeightedSum

OpenStore = Callable[..., Store]
SCHEMA = Schema(dense=4, preset="exact", tenant="t", indexes={"n": "integer"})
DENSE = np.array([1, 0, 0, 0], np.float32)


def make_points(count: int, text: str = "") -> list[Point]:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(count, 4)).astype(np.float32)
    return [Point(uuid.UUID(int=n + 1), {"dense": vectors[n]}, {"n": n, "text": text}) for n in range(count)]


def upserts(stub: Any) -> list[int]:
    """Sizes of the bodies of all upserts."""
    return [size for method, path, size, _ in stub.requests if (method, path[-7:]) == ("PUT", "/points")]


@pytest.mark.parametrize("failure", ["500", "502", "503", "429", "408", "drop", "drop the answer"])
def test_a_failure_that_passes_is_tried_again_and_nothing_is_there_twice(
    stub: Any, open_on_stub: OpenStore, failure: str
) -> None:
    store = open_on_stub(SCHEMA)
    stub.fail("/points", failure, failure)
    assert store.upsert(make_points(5)) == {}
    assert len(upserts(stub)) == 3
    stub.fail("/count", failure)
    assert store.count() == 5


def test_a_server_that_does_not_answer_in_time_is_asked_again(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA, options=ServerOptions(timeout=1))
    stub.fail("/points", "timeout", seconds=1.5)
    assert store.upsert(make_points(2)) == {}
    assert store.count() == 2


def test_a_failure_that_stays_is_an_error_that_says_where_and_what_and_earlier_batches_are_kept(
    stub: Any, open_on_stub: OpenStore
) -> None:
    store = open_on_stub(SCHEMA, options=ServerOptions(retries=1, batch_bytes=1_000))
    points = make_points(6)
    store.upsert(points[:3])
    stub.fail("/points", "500", "500")
    with pytest.raises(CollectionError, match=rf"{stub.url} could not upsert after 2 attempts: 500 .*injected"):
        store.upsert(points[3:])
    assert store.count() == 3
    store.upsert(points)
    assert store.count() == 6


def test_a_bad_request_is_not_tried_again(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA)
    stub.fail("/points", "400")
    with pytest.raises(CollectionError, match="could not upsert: 400"):
        store.upsert(make_points(1))
    assert len(upserts(stub)) == 1


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA)
    stub.fail("/points", "429", seconds=1)
    started = time.monotonic()
    store.upsert(make_points(1))
    assert 1.0 <= time.monotonic() - started < 5
    stub.fail("/points", "429", seconds=3600)
    with pytest.raises(CollectionError, match="could not upsert"):
        store.upsert(make_points(1))


def test_pauses_between_attempts_grow(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA, options=ServerOptions(retries=4))
    stub.fail("/count", "503", "503", "503", "503")
    store.count()
    times = [at for _, path, _, at in stub.requests if path.endswith("/count")]
    pauses = np.diff(times)
    assert len(pauses) == 4
    assert all(0.1 * 2**i <= pause <= 0.3 * 2**i + 0.5 for i, pause in enumerate(pauses))


def test_requests_are_kept_below_the_given_size(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA, options=ServerOptions(batch_bytes=100_000))
    points = make_points(200, text="x" * 5_000)
    points[50] = Point(points[50].id, points[50].vectors, {"text": "y" * 300_000})
    assert store.upsert(points) == {}
    sizes = upserts(stub)
    assert sum(size > 100_000 for size in sizes) == 1, "the point that is larger than a request goes alone"
    assert sum(60_000 < size <= 100_000 for size in sizes) > 8, "and the others are full"
    assert store.count() == 200


def test_an_estimated_size_is_at_least_the_real_one_and_not_far_above() -> None:
    tokens = np.random.default_rng(0).normal(size=(100, 128)).astype(np.float32)
    point = Point(uuid.uuid4(), {"multi_vector": tokens}, {"text": "ü\n" * 500})
    real = len(json.dumps({"id": str(point.id), "vector": {"multi_vector": tokens.tolist()}, "payload": point.payload}))
    assert real <= point_bytes(point) <= 1.25 * real


def test_a_server_with_a_lower_limit_gets_smaller_requests_and_what_is_too_large_alone_is_named(
    stub: Any, open_on_stub: OpenStore
) -> None:
    store = open_on_stub(SCHEMA)
    stub.most_bytes = 40_000
    points = make_points(40, text="x" * 3_000)
    points[7] = Point(points[7].id, points[7].vectors, {"text": "y" * 50_000})
    refused = store.upsert(points)
    assert [*refused] == [points[7].id]
    assert "too large for the server" in refused[points[7].id]
    assert "413" in refused[points[7].id]
    assert store.count() == 39


def test_a_server_that_is_not_there_is_named() -> None:
    from qdrant_mgte.server import open_server

    with pytest.raises(CollectionError, match=r"http://127\.0\.0\.1:9 could not answer after 2 attempts: ConnectError"):
        open_server("http://127.0.0.1:9", "c", SCHEMA, {}, ServerOptions(retries=1))


def test_a_wrong_key_is_an_error_that_says_so_and_the_right_one_works(stub: Any, open_on_stub: OpenStore) -> None:
    stub.api_key = "secret"
    with pytest.raises(CollectionError, match=r"refused .*401.* Check api_key"):
        open_on_stub(SCHEMA, options=ServerOptions(api_key="wrong"))
    store = open_on_stub(SCHEMA, options=ServerOptions(api_key="secret"))
    assert store.count() == 0


@pytest.mark.parametrize("location", ["http://", "ftp://host", "http://host:port", "nonsense://"])
def test_a_url_that_is_none_is_refused(location: str) -> None:
    from qdrant_mgte.server import open_server

    with pytest.raises(InvalidOptionError, match="is no URL"):
        open_server(location, "c", SCHEMA, {}, ServerOptions())


def test_a_key_over_plain_http_to_another_machine_is_warned_of() -> None:
    from qdrant_mgte.server import open_server

    with (
        pytest.warns(UserWarning, match="in the clear"),
        pytest.raises(CollectionError),
    ):
        open_server("http://nowhere.invalid:6399", "c", SCHEMA, {}, ServerOptions(api_key="k", retries=0, timeout=2))


def test_a_name_that_is_not_there_is_an_error_without_a_schema(open_on_stub: OpenStore) -> None:
    with pytest.raises(InvalidOptionError, match="there is no collection"):
        open_on_stub(None)


def test_another_programs_collection_is_refused_and_left_alone(stub: Any, open_on_stub: OpenStore) -> None:
    theirs = {"vectors": {"size": 4, "distance": "Cosine"}}
    httpx.put(f"{stub.url}/collections/theirs", json=theirs).raise_for_status()
    with pytest.raises(CorruptCollectionError, match="was not made by this library"):
        open_on_stub(SCHEMA, name="theirs")
    assert httpx.get(f"{stub.url}/collections/theirs").status_code == 200


@pytest.mark.parametrize("step", ["/index", "/collections/aliases"])
def test_a_process_that_died_while_creating_the_collection_leaves_nothing_in_the_way(
    stub: Any, open_on_stub: OpenStore, step: str
) -> None:
    stub.fail(step, "400")
    with pytest.raises(CollectionError):
        open_on_stub(SCHEMA, {"a": 1}, name="half")
    store = open_on_stub(SCHEMA, {"a": 1}, name="half")
    assert store.upsert(make_points(3)) == {}
    assert store.count() == 3
    indexed = [path for method, path, *_ in stub.requests if (method, path[-6:]) == ("PUT", "/index")]
    assert len(indexed) == 3 if step == "/index" else 4


def test_a_collection_that_another_process_migrated_is_an_error_and_never_gets_the_wrong_vectors(
    stub: Any, open_on_stub: OpenStore
) -> None:
    mine = open_on_stub(SCHEMA, name="shared")
    theirs = open_on_stub(SCHEMA, name="shared", options=ServerOptions(timeout=11))
    assert theirs is not mine
    theirs.start_version(Schema(dense=4, preset="compact"), {"model": "new"}).upsert(make_points(1))
    theirs.finish_version()
    with pytest.raises(CollectionError, match=r"not there any more.*migrated it\. Open it again"):
        mine.upsert(make_points(2))
    assert theirs.count() == 1
    assert open_on_stub(SCHEMA, name="shared", options=ServerOptions(timeout=12)).metadata == {"model": "new"}


def test_an_interrupted_migration_is_continued_by_another_process(stub: Any, open_on_stub: OpenStore) -> None:
    first = open_on_stub(SCHEMA, name="shared")
    first.start_version(Schema(dense=4), {"model": "new"}).upsert(make_points(3))
    second = open_on_stub(SCHEMA, name="shared", options=ServerOptions(timeout=11))
    following = second.start_version(Schema(dense=4), {"model": "new"})
    assert following.count() == 3
    second.finish_version()
    assert (second.count(), second.metadata) == (3, {"model": "new"})


@pytest.mark.parametrize("version", ["1.10.1", "1.15.0", "1.16.3", "1.17.1", "1.18.0", "1.19.0", "1.20.0"])
@pytest.mark.parametrize("preset", ["exact", "balanced", "compact"])
def test_every_version_gets_only_what_it_knows(stub: Any, open_on_stub: OpenStore, version: str, preset: Any) -> None:
    stub.version = version
    schema = Schema(dense=4, dense_prefix=2, sparse=True, multi_vector=2, preset=preset, tenant="t")
    store = open_on_stub(schema, {"model": "m", "n": 1})
    points = make_points(4)
    store.upsert([Point(p.id, {"dense": p.vectors["dense"]}, p.payload) for p in points])
    store.set_metadata({"model": "m", "n": 2})
    again = open_on_stub(None, options=ServerOptions(timeout=11))
    assert again is not store
    assert (again.schema, again.metadata) == (schema, {"model": "m", "n": 2})
    assert again.count() == 4
    assert len(again.scroll()[0]) == 4
    assert len(again.query([Stage(limit=10)])[0]) == 4
    assert len(again.query([Stage(query=DENSE, using="dense", limit=10)])[0]) == 4
    again.delete_where(models.Filter(must_not=[models.FieldCondition(key="n", match=models.MatchValue(value=1))]))
    assert again.count() == 1
    assert again.metadata == {"model": "m", "n": 2}
    assert open_on_stub(None, options=ServerOptions(timeout=12)).metadata == {"model": "m", "n": 2}


LEG = (Stage(query=DENSE, using="dense", limit=5),)


@pytest.mark.parametrize(
    ("query", "old", "new"),
    [
        (Dbsf(), "1.10.0", "1.11.0"),
        (WeightedSum((1.0,)), "1.13.0", "1.14.0"),
        (Mmr(vector=DENSE, relevance=0.5, candidates=5), "1.14.0", "1.15.0"),
        (Rrf(k=61), "1.15.0", "1.16.0"),
        (Rrf(k=2, weights=(2.0,)), "1.16.0", "1.17.0"),
    ],
)
def test_a_search_that_the_servers_version_lacks_is_an_error_and_one_it_has_works(
    stub: Any, open_on_stub: OpenStore, query: Query, old: str, new: str
) -> None:
    stage = Stage(query=query, prefetch=LEG, limit=3)
    if isinstance(query, Mmr):
        stage = Stage(query=query, using="dense", limit=3)
    stub.version = new
    store = open_on_stub(SCHEMA)
    store.upsert(make_points(5))
    assert len(store.query([stage])[0]) == 3
    stub.version = old
    with pytest.raises(InvalidOptionError, match=rf"server has version {old[:-2]}; .* need {new[:-2]} or newer"):
        open_on_stub(SCHEMA, name="old", options=ServerOptions(timeout=11)).query([stage])
    plain = open_on_stub(SCHEMA, name="old", options=ServerOptions(timeout=11))
    assert plain.query([Stage(query=Rrf(), prefetch=LEG, limit=3)]) == [[]]


def test_a_server_older_than_the_query_api_is_refused(stub: Any, open_on_stub: OpenStore) -> None:
    stub.version = "1.9.7"
    with pytest.raises(CollectionError, match=r"version 1\.9\.7; .*1\.10 or newer\. Update the server"):
        open_on_stub(SCHEMA)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.20.0", {"turbo8", "turbo", "cold", "pinned"}),
        ("1.19.0", {"float16", "turbo", "cold", "pinned"}),
        ("1.18.0", {"float16", "turbo", "on_disk", "always_ram"}),
        ("1.17.0", {"float16", "scalar", "on_disk", "always_ram"}),
    ],
)
def test_a_compact_collection_falls_back_to_what_the_version_has(version: str, expected: set[str]) -> None:
    schema = Schema(dense=128, multi_vector=64, preset="compact", shards=3, replicas=2)
    arguments = collection_arguments(schema, Capabilities.of_server(version))
    dense, tokens = arguments["vectors_config"]["dense"], arguments["vectors_config"]["multi_vector"]
    assert (arguments["shard_number"], arguments["replication_factor"]) == (3, 2)
    assert tokens.hnsw_config.m == 0
    words = json.dumps([dense.model_dump(mode="json", exclude_none=True), tokens.datatype.value])
    assert {word for word in expected if f'"{word}"' in words} == expected
    assert ('"memory"' in words) == ("cold" in expected)


async def test_calls_from_any_loop_run_at_the_same_time(stub: Any, open_on_stub: OpenStore) -> None:
    store = open_on_stub(SCHEMA)
    await store.aupsert(make_points(20))
    counts = await asyncio.gather(*(store.acount() for _ in range(50)))
    assert counts == [20] * 50
    assert await asyncio.to_thread(lambda: asyncio.run(_count(store))) == 20


async def _count(store: Store) -> int:
    return await store.acount()
