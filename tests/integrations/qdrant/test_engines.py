"""One suite for all engines; what they find is compared with plain numpy, to four digits."""

import math
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from mgte_rag import ClosedError, InvalidDocumentError, InvalidOptionError, SparseVector
from qdrant_mgte.schema import Point, Schema, Vector
from qdrant_mgte.store import Dbsf, Found, Mmr, Rrf, Stage, Store, WeightedSum
from qdrant_mgte.stores import STORES

SCHEMA = Schema(
    dense=16,
    dense_prefix=4,
    sparse=True,
    multi_vector=8,
    preset="exact",
    tenant="tenant",
    indexes={"year": "integer", "lang": "keyword", "price": "float", "ok": "bool", "at": "datetime"},
)
OpenStore = Callable[..., Store]


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)


def sparse(*terms: tuple[int, float]) -> SparseVector:
    return SparseVector(np.array([i for i, _ in terms], np.int32), np.array([w for _, w in terms], np.float32))


def make_points(count: int, seed: int = 0) -> list[Point]:
    chance = np.random.default_rng(seed)
    points = []
    for n in range(count):
        dense = unit(chance.normal(size=16))
        terms = sorted(chance.choice(50, size=8, replace=False))
        points.append(
            Point(
                uuid.UUID(int=int(chance.integers(2**62)) << 64 | n),
                {
                    "dense": dense,
                    "dense_4": unit(dense[:4]),
                    "sparse": sparse(*((int(term), float(chance.random() + 0.1)) for term in terms)),
                    "multi_vector": unit(chance.normal(size=(int(chance.integers(1, 9)), 8))),
                },
                {
                    "n": n,
                    "year": 2000 + n % 25,
                    "lang": ["de", "en", "zh"][n % 3],
                    "tenant": f"t{n % 2}",
                    "price": n / 7,
                    "ok": n % 4 == 0,
                    "at": f"2024-01-{n % 28 + 1:02}T00:00:00Z",
                    "tags": [f"tag{n % 5}", f"tag{n % 7}"],
                    "meta": {"source": f"s{n % 3}", "deep": [{"x": n % 4, "y": n % 3}]},
                },
            )
        )
    return points


POINTS = make_points(200)
CHANCE = np.random.default_rng(1)
DENSE: Vector = unit(CHANCE.normal(size=16))
TERMS = sparse((3, 1.0), (7, 0.5), (20, 2.0), (41, 0.25))
TOKENS: Vector = unit(CHANCE.normal(size=(5, 8)))


@pytest.fixture(scope="module")
def shared(open_shared: OpenStore) -> Store:
    """All points, only to be read."""
    opened = open_shared(SCHEMA)
    opened.upsert(POINTS)
    return opened


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """All points, to be changed."""
    opened = open_store(SCHEMA, {"model": "m"})
    opened.upsert(POINTS)
    return opened


def dense_scores(query: Any, name: str = "dense") -> dict[uuid.UUID, float]:
    return {point.id: float(np.asarray(point.vectors[name]) @ query) for point in POINTS}


def sparse_scores(query: SparseVector) -> dict[uuid.UUID, float]:
    weights = dict(zip(query.indices.tolist(), query.values.tolist(), strict=True))
    scores = {}
    for point in POINTS:
        vector = point.vectors["sparse"]
        assert isinstance(vector, SparseVector)
        shared = [(i, v) for i, v in zip(vector.indices.tolist(), vector.values.tolist(), strict=True) if i in weights]
        if shared:
            scores[point.id] = sum(weights[i] * v for i, v in shared)
    return scores


def max_sim_scores(query: Any) -> dict[uuid.UUID, float]:
    return {p.id: float((query @ np.asarray(p.vectors["multi_vector"]).T).max(axis=1).sum()) for p in POINTS}


def best(scores: dict[uuid.UUID, float], limit: int) -> list[tuple[uuid.UUID, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:limit]


def assert_same(found: Sequence[Found], expected: Sequence[tuple[uuid.UUID, float]]) -> None:
    assert [f"{hit.score:.4f}" for hit in found] == [f"{round(score, 6):.4f}" for _, score in expected] or np.allclose(
        [hit.score for hit in found], [score for _, score in expected], atol=1e-4, rtol=1e-4
    )
    assert {hit.id for hit in found} == {point for point, _ in expected}


@pytest.mark.parametrize(
    ("query", "using", "expected"),
    [
        (DENSE, "dense", dense_scores(DENSE)),
        (unit(np.asarray(DENSE)[:4]), "dense_4", dense_scores(unit(np.asarray(DENSE)[:4]), "dense_4")),
        (TERMS, "sparse", sparse_scores(TERMS)),
        (TOKENS, "multi_vector", max_sim_scores(TOKENS)),
    ],
    ids=["cosine", "cosine of the prefix", "dot product of sparse vectors", "MaxSim"],
)
def test_a_search_scores_as_defined(shared: Store, query: Vector, using: str, expected: dict[uuid.UUID, float]) -> None:
    [found] = shared.query([Stage(query=query, using=using, limit=20)])
    assert_same(found, best(expected, 20))
    [rest] = shared.query([Stage(query=query, using=using, limit=10, offset=10)])
    assert_same(rest, best(expected, 20)[10:])
    floor = best(expected, 20)[6][1] - 1e-6
    [above] = shared.query([Stage(query=query, using=using, limit=20, score_threshold=floor)])
    assert_same(above, best(expected, 7))


LEGS = (Stage(query=DENSE, using="dense", limit=30), Stage(query=TERMS, using="sparse", limit=20))
RANKED = (best(dense_scores(DENSE), 30), best(sparse_scores(TERMS), 20))


def rrf_scores(k: int, weights: tuple[float, ...]) -> dict[uuid.UUID, float]:
    scores: dict[uuid.UUID, float] = {}
    for ranked, weight in zip(RANKED, weights, strict=True):
        for rank, (point, _) in enumerate(ranked):
            scores[point] = scores.get(point, 0.0) + 1 / ((rank + 1) / weight + k - 1)
    return scores


def weighted_scores(weights: tuple[float, ...]) -> dict[uuid.UUID, float]:
    scores: dict[uuid.UUID, float] = {}
    for ranked, weight in zip(RANKED, weights, strict=True):
        for point, score in ranked:
            scores[point] = scores.get(point, 0.0) + weight * score
    return scores


def dbsf_scores() -> dict[uuid.UUID, float]:
    scores: dict[uuid.UUID, float] = {}
    for ranked in RANKED:
        values = np.array([score for _, score in ranked])
        low, high = values.mean() - 3 * values.std(ddof=1), values.mean() + 3 * values.std(ddof=1)
        for point, score in ranked:
            scores[point] = scores.get(point, 0.0) + (score - low) / (high - low)
    return scores


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (Rrf(k=2), rrf_scores(2, (1, 1))),
        (Rrf(k=61), rrf_scores(61, (1, 1))),
        (Rrf(k=5, weights=(3.0, 0.5)), rrf_scores(5, (3.0, 0.5))),
        (WeightedSum((0.7, 0.3)), weighted_scores((0.7, 0.3))),
        (Dbsf(), dbsf_scores()),
    ],
    ids=["RRF", "RRF of the paper", "weighted RRF", "weighted sum", "DBSF"],
)
def test_a_fusion_scores_as_defined(
    shared: Store, fusion: Rrf | WeightedSum | Dbsf, expected: dict[uuid.UUID, float]
) -> None:
    [found] = shared.query([Stage(query=fusion, prefetch=LEGS, limit=50)])
    by_id = {hit.id: hit.score for hit in found}
    assert by_id.keys() == expected.keys()
    assert by_id == pytest.approx(expected, abs=2e-4)
    assert [hit.score for hit in found] == sorted(by_id.values(), reverse=True)


def test_the_nested_recipe_equals_its_stages_done_by_hand(shared: Store) -> None:
    prefix = unit(np.asarray(DENSE)[:4])
    coarse = {point for point, _ in best(dense_scores(prefix, "dense_4"), 60)}
    dense = best({point: score for point, score in dense_scores(DENSE).items() if point in coarse}, 30)
    fused: dict[uuid.UUID, float] = {}
    for ranked in (dense, best(sparse_scores(TERMS), 30)):
        for rank, (point, _) in enumerate(ranked):
            fused[point] = fused.get(point, 0.0) + 1 / (rank + 1 + 60)
    kept = {point for point, _ in best(fused, 60)}
    expected = best({point: score for point, score in max_sim_scores(TOKENS).items() if point in kept}, 10)
    [found] = shared.query([recipe(limit=10)])
    assert_same(found, expected)


def recipe(limit: int, filter: models.Filter | None = None) -> Stage:
    prefix = Stage(query=unit(np.asarray(DENSE)[:4]), using="dense_4", limit=60)
    legs = (
        Stage(query=DENSE, using="dense", limit=30, prefetch=(prefix,)),
        Stage(query=TERMS, using="sparse", limit=30),
    )
    fused = Stage(query=Rrf(k=61), limit=60, prefetch=legs)
    return Stage(query=TOKENS, using="multi_vector", limit=limit, prefetch=(fused,), filter=filter)


def test_a_filter_on_the_outer_stage_holds_where_points_are_first_read(shared: Store) -> None:
    only = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=190))])
    [found] = shared.query([recipe(limit=10, filter=only)])
    assert {hit.payload["n"] for hit in found} == set(range(190, 200))


@pytest.mark.parametrize("relevance", [1.0, 0.6])
def test_mmr_chooses_as_defined(shared: Store, relevance: float) -> None:
    candidates = best(dense_scores(DENSE), 30)
    vectors = {point.id: np.asarray(point.vectors["dense"]) for point in POINTS}
    chosen: list[uuid.UUID] = []
    left = dict(candidates)
    while len(chosen) < 8:
        gain = {
            point: relevance * score
            - (1 - relevance) * max((float(vectors[point] @ vectors[other]) for other in chosen), default=0.0)
            for point, score in left.items()
        }
        chosen.append(max(gain, key=lambda point: gain[point]))
        del left[chosen[-1]]
    mmr = Mmr(vector=DENSE, relevance=relevance, candidates=30)
    [found] = shared.query([Stage(query=mmr, using="dense", limit=8)])
    assert [hit.id for hit in found] == chosen
    assert [hit.score for hit in found] == pytest.approx([dict(candidates)[point] for point in chosen], abs=1e-4)


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


@pytest.mark.parametrize(
    ("filter", "keeps"),
    [
        (models.Filter(must=[field("lang", match=models.MatchValue(value="de"))]), lambda p: p["lang"] == "de"),
        (
            models.Filter(must=field("year", match=models.MatchAny(any=[2001, 2003]))),
            lambda p: p["year"] in (2001, 2003),
        ),
        (
            models.Filter(must=[field("lang", match=models.MatchExcept(**{"except": ["de", "zh"]}))]),
            lambda p: p["lang"] == "en",
        ),
        (
            models.Filter(must=[field("year", range=models.Range(gte=2010, lt=2012))]),
            lambda p: 2010 <= p["year"] < 2012,
        ),
        (models.Filter(must=[field("price", range=models.Range(gt=3.0, lte=9.5))]), lambda p: 3 < p["price"] <= 9.5),
        (models.Filter(must=[field("ok", match=models.MatchValue(value=True))]), lambda p: p["ok"]),
        (
            models.Filter(must=[field("at", range=models.DatetimeRange(gte="2024-01-20T00:00:00Z"))]),
            lambda p: p["at"] >= "2024-01-20",
        ),
        (
            models.Filter(
                should=[
                    field("lang", match=models.MatchValue(value="zh")),
                    field("tags", match=models.MatchValue(value="tag3")),
                ],
                must_not=[field("year", range=models.Range(lt=2005))],
            ),
            lambda p: (p["lang"] == "zh" or "tag3" in p["tags"]) and not p["year"] < 2005,
        ),
        (
            models.Filter(
                min_should=models.MinShould(
                    conditions=[field("tags", match=models.MatchValue(value=f"tag{i}")) for i in (1, 2)], min_count=2
                )
            ),
            lambda p: {"tag1", "tag2"} <= set(p["tags"]),
        ),
        (
            models.Filter(must=[models.Filter(must_not=[field("meta.source", match=models.MatchValue(value="s1"))])]),
            lambda p: p["meta"]["source"] != "s1",
        ),
        (
            models.Filter(
                must=[
                    models.NestedCondition(
                        nested=models.Nested(
                            key="meta.deep",
                            filter=models.Filter(
                                must=[
                                    field("x", match=models.MatchValue(value=1)),
                                    field("y", match=models.MatchValue(value=2)),
                                ]
                            ),
                        )
                    )
                ]
            ),
            lambda p: any(item == {"x": 1, "y": 2} for item in p["meta"]["deep"]),
        ),
        (models.Filter(must=[field("tags", values_count=models.ValuesCount(gte=3))]), lambda p: False),
        (models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="missing"))]), lambda p: True),
        (models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="lang"))]), lambda p: False),
        (
            models.Filter(must=[models.HasIdCondition(has_id=[str(POINTS[3].id), str(POINTS[7].id)])]),
            lambda p: p["n"] in (3, 7),
        ),
        (models.Filter(must=[models.HasVectorCondition(has_vector="dense")]), lambda p: True),
    ],
)
def test_a_filter_keeps_what_it_says(
    shared: Store, filter: models.Filter, keeps: Callable[[dict[str, Any]], bool]
) -> None:
    expected = {point.id for point in POINTS if keeps(dict(point.payload))}
    assert shared.count(filter) == len(expected)
    [found] = shared.query([Stage(query=DENSE, using="dense", limit=200, filter=filter)])
    assert {hit.id for hit in found} == expected
    page, following = shared.scroll(filter=filter, limit=200)
    assert ({point.id for point in page}, following) == (expected, None)


def test_a_batch_of_searches_equals_the_searches_one_by_one(shared: Store) -> None:
    stages = [recipe(limit=5), *LEGS, Stage(query=sparse(), using="sparse", limit=3), Stage(limit=4)]
    together = shared.query(stages, fields=["n"], vectors=["dense"])
    one_by_one = [shared.query([stage], fields=["n"], vectors=["dense"])[0] for stage in stages]
    assert [[hit.id for hit in found] for found in together] == [[hit.id for hit in found] for found in one_by_one]
    assert [len(found) for found in together] == [5, 30, 20, 0, 4]
    assert together[0][0].payload.keys() == {"n"}
    vectors = together[0][0].vectors
    assert vectors is not None
    assert [*vectors] == ["dense"]
    assert shared.query([], fields=()) == []


async def test_async_twins_do_the_same(store: Store) -> None:
    [found] = await store.aquery([recipe(limit=5)])
    assert [hit.id for hit in found] == [hit.id for hit in store.query([recipe(limit=5)])[0]]
    assert await store.acount() == 200
    assert (await store.aretrieve([POINTS[0].id]))[POINTS[0].id].payload == POINTS[0].payload
    assert [point.id for point in (await store.ascroll(limit=3))[0]] == sorted(point.id for point in POINTS)[:3]
    await store.aupdate_payload({POINTS[0].id: {"new": 1}})
    assert store.retrieve([POINTS[0].id], fields=["new"])[POINTS[0].id].payload == {"new": 1}
    await store.adelete([POINTS[0].id])
    await store.adelete_where(models.Filter(must=[field("n", match=models.MatchValue(value=1))]))
    assert await store.aupsert(POINTS[:1]) == {}
    assert await store.acount() == 199


def test_points_come_back_as_they_were_stored(shared: Store) -> None:
    read = shared.retrieve([POINTS[0].id, uuid.uuid4(), POINTS[9].id], vectors=SCHEMA.vector_names)
    assert read.keys() == {POINTS[0].id, POINTS[9].id}
    for original in (POINTS[0], POINTS[9]):
        point = read[original.id]
        assert {**point.payload, "price": None} == {**original.payload, "price": None}
        assert point.payload["price"] == pytest.approx(original.payload["price"], rel=1e-12)
        assert point.vectors["sparse"] == original.vectors["sparse"]
        for name in ("dense", "dense_4", "multi_vector"):
            vector = point.vectors[name]
            assert isinstance(vector, np.ndarray)
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, np.asarray(original.vectors[name]), atol=1e-6)
    assert shared.retrieve([POINTS[0].id], fields=())[POINTS[0].id].payload == {}
    assert shared.retrieve([POINTS[0].id])[POINTS[0].id].vectors == {}


def test_pages_hold_every_point_once_in_the_order_of_ids(shared: Store) -> None:
    after, ids = None, []
    while True:
        page, after = shared.scroll(limit=33, after=after, fields=())
        ids += [point.id for point in page]
        if after is None:
            break
    assert ids == sorted(point.id for point in POINTS)


def test_writing_a_point_again_replaces_it_whole(store: Store) -> None:
    changed = Point(POINTS[0].id, {"dense": DENSE}, {"only": "this"})
    assert store.upsert([changed]) == {}
    assert store.count() == 200
    stored = store.retrieve([changed.id], vectors=SCHEMA.vector_names)[changed.id]
    assert stored.payload == {"only": "this"}
    assert [*stored.vectors] == ["dense"]
    assert store.query([Stage(query=DENSE, using="dense", limit=1)])[0][0].id == changed.id


def test_payloads_change_without_their_vectors(store: Store) -> None:
    first, second, stranger = POINTS[0].id, POINTS[1].id, uuid.uuid4()
    store.update_payload({first: {"lang": "fr", "new": [1]}, stranger: {"x": 1}})
    store.update_payload({second: {"lang": "fr"}}, replace=True)
    read = store.retrieve([first, second, stranger], vectors=["dense"])
    assert read.keys() == {first, second}
    assert read[first].payload == {**POINTS[0].payload, "lang": "fr", "new": [1]}
    assert read[second].payload == {"lang": "fr"}
    np.testing.assert_allclose(
        np.asarray(read[second].vectors["dense"]), np.asarray(POINTS[1].vectors["dense"]), atol=1e-6
    )
    assert store.count(models.Filter(must=[field("lang", match=models.MatchValue(value="fr"))])) == 2


def test_deleting_by_id_and_by_filter(store: Store) -> None:
    store.delete([POINTS[0].id, POINTS[1].id, uuid.uuid4()])
    store.delete([])
    store.delete_where(models.Filter(must=[field("year", match=models.MatchValue(value=2002))]))
    expected = {p.id for p in POINTS[2:] if p.payload["year"] != 2002}
    assert {point.id for point in store.scroll(limit=1000)[0]} == expected
    assert store.count() == len(expected)


NAN = np.full(16, np.nan, np.float32)


@pytest.mark.parametrize(
    ("vectors", "fault"),
    [
        ({"dense": np.ones(15, np.float32)}, r"'dense' has shape \[15\]; \[16\] is needed"),
        ({"dense": np.ones((1, 16), np.float32)}, r"'dense' has shape \[1, 16\]"),
        ({"dense": [1.0] * 16}, "'dense' must be a float32 array of shape .16., not a list"),
        ({"dense": np.ones(16)}, "not an array of float64"),
        ({"dense": NAN}, "'dense' holds NaN or infinity"),
        ({"dense": NAN * np.inf}, "'dense' holds NaN or infinity"),
        ({"dense_9": np.ones(9, np.float32)}, "there is no vector 'dense_9' in this collection; it has dense, dense_4"),
        ({"multi_vector": [[1.0] * 8, [1.0] * 7]}, "'multi_vector' must be a float32 array of shape .tokens, 8."),
        ({"multi_vector": np.ones(8, np.float32)}, r"'multi_vector' has shape \[8\]; \[tokens, 8\] is needed"),
        ({"multi_vector": np.ones((2, 7), np.float32)}, r"\[tokens, 8\] is needed"),
        ({"multi_vector": np.ones((0, 8), np.float32)}, "'multi_vector' has no tokens"),
        ({"multi_vector": np.full((2, 8), np.inf, np.float32)}, "'multi_vector' holds NaN or infinity"),
        ({"multi_vector": np.ones((131_072, 8), np.float32)}, "131,072 tokens; 131,071 of 8 components are the most"),
        ({"sparse": sparse((3, 1.0), (3, 2.0))}, "'sparse' has the same index more than once"),
        ({"sparse": sparse((-3, 1.0))}, "'sparse' has an index outside"),
        ({"sparse": sparse((3, math.nan))}, "'sparse' holds NaN or infinity"),
        ({"sparse": SparseVector(np.array([1, 2], np.int32), np.ones(3, np.float32))}, "values of"),
        ({"sparse": {1: 0.5}}, "'sparse' must be a SparseVector, not a dict"),
    ],
)
def test_a_malformed_vector_is_refused_naming_the_point_and_nothing_is_written(
    open_store: OpenStore, vectors: dict[str, Any], fault: str
) -> None:
    store = open_store(SCHEMA)
    bad = Point(uuid.uuid4(), vectors, {})
    with pytest.raises(InvalidDocumentError, match=f"point {bad.id}: .*{fault}"):
        store.upsert([POINTS[0], bad, POINTS[1]])
    assert store.count() == 0
    store.upsert(POINTS[:2])
    assert store.count() == 2


def test_an_id_given_twice_is_refused(open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    with pytest.raises(InvalidDocumentError, match=f"point {POINTS[0].id} is there twice"):
        store.upsert([POINTS[0], POINTS[1], POINTS[0]])
    assert store.count() == 0


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (Stage(query=NAN, using="dense", limit=1), "holds NaN"),
        (Stage(query=np.ones(3, np.float32), using="dense", limit=1), r"\[16\] is needed"),
        (Stage(query=DENSE, using="colbert", limit=1), "there is no vector 'colbert'"),
        (Stage(query=DENSE, limit=1), "there is no vector ''"),
        (Stage(query=DENSE, using="dense", limit=0), "limit above 0"),
        (Stage(query=DENSE, using="dense", limit=1, offset=-1), "offset from 0"),
        (Stage(query=Rrf(), limit=1), "needs prefetches"),
        (Stage(query=Rrf(k=0), limit=1, prefetch=LEGS), "a k from 1"),
        (Stage(query=Rrf(weights=(1.0,)), limit=1, prefetch=LEGS), "1 weights for 2 prefetches"),
        (Stage(query=WeightedSum((1.0, 1.0, 1.0)), limit=1, prefetch=LEGS), "3 weights for 2 prefetches"),
        (Stage(limit=1, prefetch=LEGS), "needs a query"),
        (Stage(query=Mmr(vector=DENSE, relevance=2, candidates=9), using="dense", limit=1), "relevance from 0 to 1"),
        (
            Stage(query=Rrf(), limit=1, prefetch=(Stage(query=DENSE, using="dense", limit=3, offset=1),)),
            "only the last",
        ),
    ],
)
def test_a_malformed_search_is_refused(shared: Store, stage: Stage, fault: str) -> None:
    with pytest.raises(InvalidOptionError, match=fault):
        shared.query([stage])


def test_points_may_lack_vectors_and_be_found_by_those_they_have(open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    only_sparse = Point(uuid.uuid4(), {"sparse": TERMS}, {})
    no_terms = Point(uuid.uuid4(), {"sparse": sparse(), "dense": DENSE}, {})
    store.upsert([only_sparse, no_terms, Point(uuid.uuid4(), {}, {})])
    assert [hit.id for hit in store.query([LEGS[0]])[0]] == [no_terms.id]
    assert [hit.id for hit in store.query([LEGS[1]])[0]] == [only_sparse.id]
    assert store.count() == 3


def test_an_empty_collection_finds_nothing(open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    assert store.query([recipe(limit=5), *LEGS, Stage(limit=2)]) == [[], [], [], []]
    assert (store.count(), store.scroll(), store.retrieve([])) == (0, ([], None), {})
    assert store.upsert([]) == {}


def test_schema_and_metadata_stay_with_the_collection(open_store: OpenStore, request: pytest.FixtureRequest) -> None:
    metadata = {"model": {"name": "m", "dims": [1, 2]}, "text": "ü\0", "none": None, "big": 2**53 + 1, "small": 0.5}
    first = open_store(SCHEMA, metadata)
    assert (first.schema, first.metadata) == (SCHEMA, metadata)
    first.set_metadata({"other": [{"deep": True}]})
    if "memory" in request.node.name:
        assert first.metadata == {"other": [{"deep": True}]}
        return  # a collection in memory cannot be opened again
    again = open_store(Schema(dense=3), {"ignored": 1})
    assert again is first
    assert (again.schema, again.metadata) == (SCHEMA, {"other": [{"deep": True}]})


def test_a_next_version_is_filled_beside_the_one_served_and_takes_its_place(store: Store) -> None:
    schema = Schema(dense=3, indexes={"n": "integer"})
    following = store.start_version(schema, {"model": "next"})
    following.upsert([Point(POINTS[0].id, {"dense": np.ones(3, np.float32)}, {"n": 1})])
    assert (store.count(), store.schema, following.count()) == (200, SCHEMA, 1)
    assert store.start_version(schema, {"model": "next"}).count() == 1, "continued"
    assert store.start_version(schema, {"model": "another"}).count() == 0, "begun anew"
    following = store.start_version(schema, {"model": "next"})
    following.upsert([Point(POINTS[0].id, {"dense": np.ones(3, np.float32)}, {"n": 1})])
    store.finish_version()
    assert (store.count(), store.schema, store.metadata) == (1, schema, {"model": "next"})
    assert store.query([Stage(query=np.ones(3, np.float32), using="dense", limit=5)])[0][0].payload == {"n": 1}
    with pytest.raises(ClosedError):
        following.count()
    with pytest.raises(InvalidOptionError, match="no next version"):
        store.finish_version()
    third = store.start_version(SCHEMA, {})
    third.upsert(POINTS[:5])
    store.drop_version()
    store.drop_version()
    assert store.start_version(SCHEMA, {}).count() == 0
    assert store.count() == 1


def test_a_closed_store_says_so(open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    store.close()
    store.close()
    for use in (store.count, lambda: store.upsert(POINTS[:1]), lambda: store.query([LEGS[0]])):
        with pytest.raises(ClosedError, match="was closed"):
            use()


def test_optimizing_changes_no_result(store: Store) -> None:
    before = store.query([recipe(limit=10), *LEGS])
    store.optimize()
    after = store.query([recipe(limit=10), *LEGS])
    for old, new in zip(before, after, strict=True):
        assert_same(new, [(hit.id, hit.score) for hit in old])


def test_sixteen_threads_read_and_write(open_store: OpenStore, request: pytest.FixtureRequest) -> None:
    store = open_store(SCHEMA)
    store.upsert(POINTS[:50])
    rounds = 50 if request.config.getoption("--run-slow") else 6
    errors: list[BaseException] = []
    batches = [make_points(rounds * 4, seed=10 + thread) for thread in range(8)]

    def write(points: list[Point]) -> None:
        for start in range(0, len(points), 4):
            store.upsert(points[start : start + 4])
            store.update_payload({points[start].id: {"touched": True}})
            store.delete([points[start + 1].id])

    def read() -> None:
        for _ in range(rounds):
            [found] = store.query([recipe(limit=10)])
            assert len(found) == 10
            assert all(math.isfinite(hit.score) for hit in found)
            assert store.count() >= 50
            assert store.retrieve([POINTS[0].id]).keys() == {POINTS[0].id}

    def run(work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(write, batch)) for batch in batches]
    threads += [threading.Thread(target=run, args=(read,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.count() == 50 + 8 * rounds * 3
    assert store.count(models.Filter(must=[field("touched", match=models.MatchValue(value=True))])) == 8 * rounds


def test_threads_that_open_and_close_never_see_it_open_elsewhere(engine: str, tmp_path: Path) -> None:
    if engine == ":memory:":
        pytest.skip("a collection in memory cannot be opened again")
    location: Path | str = tmp_path / "c" if engine == "embedded" else engine
    name = f"test-{uuid.uuid4().hex[:12]}"
    errors: list[BaseException] = []

    def open_and_close() -> None:
        try:
            for _ in range(4):
                store = STORES.acquire(location, name=name, schema=Schema(dense=2), metadata={})
                store.count()
                STORES.release(store)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
