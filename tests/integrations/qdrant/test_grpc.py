"""The server engine over gRPC, against a stub that serves Qdrant's own services from a client in memory."""

# ruff: noqa: N802 - the calls have the names that Qdrant gave them

import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc

from mgte_rag import CollectionError, SparseVector
from qdrant_mgte.memory import open_memory
from qdrant_mgte.schema import Point, Schema
from qdrant_mgte.server import open_server
from qdrant_mgte.store import Dbsf, Mmr, Rrf, ServerOptions, Stage, Store, WeightedSum

SCHEMA = Schema(
    dense=8, dense_prefix=4, sparse=True, multi_vector=4, preset="exact", tenant="t", indexes={"n": "integer"}
)


class GrpcStub(
    qdrant_pb2_grpc.QdrantServicer,
    collections_service_pb2_grpc.CollectionsServicer,
    points_service_pb2_grpc.PointsServicer,
):
    """The calls that the engine makes; each takes a failure from the list first."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.failures: list[tuple[str, grpc.StatusCode, str]] = []
        self.calls: list[tuple[str, int]] = []
        self.server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
        qdrant_pb2_grpc.add_QdrantServicer_to_server(self, self.server)
        collections_service_pb2_grpc.add_CollectionsServicer_to_server(self, self.server)
        points_service_pb2_grpc.add_PointsServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _serve(self, name: str, request: Any, context: Any, work: Callable[[], Any]) -> Any:
        self.calls.append((name, request.ByteSize()))
        for failure in self.failures:
            if failure[0] == name:
                self.failures.remove(failure)
                context.abort(*failure[1:])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()
        except ValueError as error:
            found = "not found" not in str(error)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT if found else grpc.StatusCode.NOT_FOUND, str(error))

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return self._serve("health", request, context, lambda: wire.HealthCheckReply(title="q", version="1.20.0"))

    def ListAliases(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            aliases = self.client.get_aliases().aliases
            return wire.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(a) for a in aliases])

        return self._serve("aliases", request, context, work)

    def CollectionExists(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            exists = self.client.collection_exists(request.collection_name)
            return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

        return self._serve("exists", request, context, work)

    def Create(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            done = self.client.create_collection(
                request.collection_name,
                vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
                sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
                metadata=GrpcToRest.convert_payload(request.metadata),
            )
            return wire.CollectionOperationResponse(result=done)

        return self._serve("create", request, context, work)

    def Get(self, request: Any, context: Any) -> Any:
        """Both services have a Get; the request tells which."""
        if isinstance(request, wire.GetPoints):
            return self._serve("retrieve", request, context, lambda: self._retrieve(request))
        return self._serve("get", request, context, lambda: self._collection(request.collection_name))

    def _collection(self, name: str) -> Any:
        info = self.client.get_collection(name)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def _retrieve(self, request: Any) -> Any:
        records = self.client.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(point) for point in request.ids],
            with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return wire.GetResponse(result=[RestToGrpc.convert_record(_filled(record)) for record in records])

    def Update(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            metadata = GrpcToRest.convert_payload(request.metadata)
            return wire.CollectionOperationResponse(
                result=self.client.update_collection(request.collection_name, metadata=metadata)
            )

        return self._serve("update", request, context, work)

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            actions = [GrpcToRest.convert_alias_operations(action) for action in request.actions]
            return wire.CollectionOperationResponse(result=self.client.update_collection_aliases(actions))

        return self._serve("update aliases", request, context, work)

    def Delete(self, request: Any, context: Any) -> Any:
        """Both services have a Delete; the request tells which."""

        def work() -> Any:
            name = request.collection_name
            if isinstance(request, wire.DeleteCollection):
                return wire.CollectionOperationResponse(result=self.client.delete_collection(name))
            return _updated(self.client.delete(name, GrpcToRest.convert_points_selector(request.points)))

        return self._serve("delete", request, context, work)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return self._serve("index", request, context, lambda: _updated(None))

    def Upsert(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            points = [GrpcToRest.convert_point_struct(point) for point in request.points]
            return _updated(self.client.upsert(request.collection_name, points))

        return self._serve("upsert", request, context, work)

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            operations = [GrpcToRest.convert_points_update_operation(item) for item in request.operations]
            done = self.client.batch_update_points(request.collection_name, operations)
            return wire.UpdateBatchResponse(result=[RestToGrpc.convert_update_result(item) for item in done])

        return self._serve("update batch", request, context, work)

    def Count(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            only = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
            found = self.client.count(request.collection_name, only)
            return wire.CountResponse(result=RestToGrpc.convert_count_result(found))

        return self._serve("count", request, context, work)

    def Scroll(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            records, following = self.client.scroll(
                request.collection_name,
                scroll_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
                limit=request.limit,
                offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
                with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
                with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            )
            return wire.ScrollResponse(
                result=[RestToGrpc.convert_record(_filled(record)) for record in records],
                next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
            )

        return self._serve("scroll", request, context, work)

    def QueryBatch(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
            found = self.client.query_batch_points(request.collection_name, queries)
            return wire.QueryBatchResponse(
                result=[
                    wire.BatchResult(result=[RestToGrpc.convert_scored_point(_filled(p)) for p in item.points])
                    for item in found
                ]
            )

        return self._serve("query", request, context, work)

    def close(self) -> None:
        self.server.stop(None).wait()
        self.client.close()


def _filled(record: Any) -> Any:
    """Where payload or vectors were not asked for, the conversions want them empty."""
    return record.model_copy(update={"payload": record.payload or {}, "vector": record.vector or {}})


def _updated(result: Any) -> Any:
    done = wire.UpdateResult(status=wire.UpdateStatus.Completed)
    return wire.PointsOperationResponse(result=done if result is None else RestToGrpc.convert_update_result(result))


@pytest.fixture
def stub() -> Iterator[GrpcStub]:
    server = GrpcStub()
    yield server
    server.close()


@pytest.fixture
def store(stub: GrpcStub) -> Iterator[Store]:
    opened = open_server("http://127.0.0.1:1", "c", SCHEMA, {"model": {"n": [1, None, 0.5]}}, options(stub))
    yield opened
    opened.close()


def options(stub: GrpcStub, **changes: Any) -> ServerOptions:
    return ServerOptions(**{"prefer_grpc": True, "grpc_port": stub.port, "timeout": 10, **changes})


CHANCE = np.random.default_rng(0)


def make_points(count: int) -> list[Point]:
    points = []
    for n in range(count):
        dense = CHANCE.normal(size=8).astype(np.float32)
        vectors = {
            "dense": dense,
            "dense_4": dense[:4].copy(),
            "sparse": SparseVector(np.array([1, 5 + n % 7], np.int32), np.array([0.5, 1 + n / 100], np.float32)),
            "multi_vector": CHANCE.normal(size=(1 + n % 4, 4)).astype(np.float32),
        }
        points.append(
            Point(uuid.UUID(int=n + 1), vectors, {"n": n, "t": f"t{n % 2}", "deep": {"list": [n, None, "ü"]}})
        )
    return points


POINTS = make_points(60)
DENSE, TOKENS = CHANCE.normal(size=8).astype(np.float32), CHANCE.normal(size=(3, 4)).astype(np.float32)
TERMS = SparseVector(np.array([1, 6, 9], np.int32), np.array([0.3, 1, 2], np.float32))
LEGS = (
    Stage(query=DENSE, using="dense", limit=20, prefetch=(Stage(query=DENSE[:4].copy(), using="dense_4", limit=40),)),
    Stage(query=TERMS, using="sparse", limit=15),
)
ONLY = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=10))])
SEARCHES = [
    *LEGS,
    Stage(query=Rrf(k=61), prefetch=LEGS, limit=10),
    Stage(query=Rrf(k=3, weights=(2.0, 1.0)), prefetch=LEGS, limit=10),
    Stage(query=Dbsf(), prefetch=LEGS, limit=10, score_threshold=0.3),
    Stage(query=WeightedSum((0.8, 0.2)), prefetch=LEGS, limit=10),
    Stage(query=Mmr(vector=DENSE, relevance=0.5, candidates=20), using="dense", limit=6),
    Stage(
        query=TOKENS,
        using="multi_vector",
        limit=5,
        offset=2,
        filter=ONLY,
        prefetch=(Stage(query=Rrf(), prefetch=LEGS, limit=30),),
    ),
]


def test_over_grpc_everything_is_found_as_in_memory(store: Store) -> None:
    memory = open_memory(SCHEMA, {})
    for one in (store, memory):
        assert one.upsert(POINTS) == {}
        one.update_payload({POINTS[0].id: {"more": True}, uuid.uuid4(): {"x": 1}})
        one.delete([POINTS[1].id])
        one.delete_where(models.Filter(must=[models.FieldCondition(key="n", match=models.MatchValue(value=2))]))
    assert store.metadata == {"model": {"n": [1, None, 0.5]}}
    assert store.count() == memory.count() == 58
    assert store.count(ONLY) == memory.count(ONLY) == 50
    for ours, theirs in zip(store.query(SEARCHES), memory.query(SEARCHES), strict=True):
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-4)
        assert {hit.id for hit in ours} == {hit.id for hit in theirs}
        assert [hit.payload for hit in ours] == [hit.payload for hit in theirs] or len(ours) == len(theirs)
    page, after = store.scroll(limit=7, vectors=SCHEMA.vector_names)
    expected, expected_after = memory.scroll(limit=7, vectors=SCHEMA.vector_names)
    assert (after, [point.id for point in page]) == (expected_after, [point.id for point in expected])
    for ours_point, theirs_point in zip(page, expected, strict=True):
        assert ours_point.payload == theirs_point.payload
        assert ours_point.vectors["sparse"] == theirs_point.vectors["sparse"]
        for name in ("dense", "multi_vector"):
            np.testing.assert_allclose(
                np.asarray(ours_point.vectors[name]), np.asarray(theirs_point.vectors[name]), atol=1e-6
            )
    memory.close()


def test_over_grpc_versions_and_metadata_work(stub: GrpcStub, store: Store) -> None:
    store.set_metadata({"b": [1]})
    again = open_server("http://127.0.0.1:1", "c", None, {}, options(stub))
    assert (again.schema, again.metadata) == (SCHEMA, {"b": [1]})
    again.start_version(Schema(dense=2), {"new": True}).upsert([Point(uuid.uuid4(), {"dense": DENSE[:2].copy()}, {})])
    again.finish_version()
    assert (again.count(), again.metadata) == (1, {"new": True})
    with pytest.raises(CollectionError, match="not there any more"):
        store.count()
    again.close()


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED],
)
def test_over_grpc_a_failure_that_passes_is_tried_again(stub: GrpcStub, store: Store, code: grpc.StatusCode) -> None:
    stub.failures = [("upsert", code, "injected")] * 2
    assert store.upsert(POINTS[:5]) == {}
    assert [name for name, _ in stub.calls].count("upsert") == 3
    assert store.count() == 5


def test_over_grpc_a_failure_that_stays_is_an_error(stub: GrpcStub, store: Store) -> None:
    stub.failures = [("upsert", grpc.StatusCode.INVALID_ARGUMENT, "no good")]
    with pytest.raises(CollectionError, match="could not upsert: INVALID_ARGUMENT: no good"):
        store.upsert(POINTS[:5])
    stub.failures = [("count", grpc.StatusCode.UNAUTHENTICATED, "who are you")]
    with pytest.raises(CollectionError, match=r"refused to count: UNAUTHENTICATED.*Check api_key"):
        store.count()


def test_over_grpc_requests_are_kept_below_the_given_size(stub: GrpcStub) -> None:
    store = open_server("http://127.0.0.1:1", "c", SCHEMA, {}, options(stub, batch_bytes=5_000))
    stub.failures = [("upsert", grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max (9 vs. 4)")]
    assert store.upsert(POINTS) == {}
    sizes = [size for name, size in stub.calls if name == "upsert"]
    assert max(sizes) <= 5_000
    assert len(sizes) > 4
    assert store.count() == 60
    store.close()
