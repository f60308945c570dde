"""Collections on every engine, with the real embedded default: what is written, found, changed and moved."""

import asyncio
import dataclasses
import math
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import (
    CollectionError,
    EmbeddingModel,
    Encodings,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
    ModelMismatchError,
)
from qdrant_mgte import Hit, HybridCollection, ServerOptions, Splitting, dbsf, rrf, weighted, writing
from qdrant_mgte.documents import chunk_ids
from qdrant_mgte.fusion import fusion_of

OpenCollection = Callable[..., HybridCollection]
MODES = ("dense", "sparse", "hybrid", "late_interaction")


class CountingModel:
    """The real model, counting its forward passes."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self.documents: list[tuple[int, tuple[str, ...]]] = []
        self.queries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_document(self, texts: list[str], **options: Any) -> Encodings:
        self.documents.append((len(texts), tuple(options["outputs"])))
        return self._model.encode_document(texts, **options)

    def encode_query(self, texts: list[str], **options: Any) -> Encodings:
        self.queries += 1
        return self._model.encode_query(texts, **options)


@pytest.fixture
def open_collection(engine: str, tmp_path: Path, mini: EmbeddingModel) -> Iterator[OpenCollection]:
    """Opens the same collection of one engine again and again, or new ones in memory."""
    opened: list[HybridCollection] = []
    name = f"test-{uuid.uuid4().hex[:12]}"

    def open_one(**options: Any) -> HybridCollection:
        location = tmp_path / "collection" if engine == "embedded" else engine
        server = ServerOptions(timeout=30, api_key=os.environ.get("QDRANT_API_KEY"))
        options = {"model": mini, "name": name, "server": server, **options}
        opened.append(HybridCollection.open(location, **options))
        return opened[-1]

    yield open_one
    for collection in opened:
        collection.close()


@pytest.fixture
def collection(open_collection: OpenCollection) -> HybridCollection:
    return open_collection()


@pytest.fixture(scope="module")
def docs(stdlib_docs: list[DocEntry]) -> list[dict[str, Any]]:
    """Real documents: some modules whole, with a year and tags to filter by."""
    modules = ("csv", "glob", "json", "shelve", "textwrap")
    documents = []
    for number, entry in enumerate(entry for entry in stdlib_docs if entry.module in modules):
        document = entry.to_document()
        document["metadata"] |= {"year": 2000 + number % 20, "share": number / 8, "tags": ["even", "odd"][number % 2 :]}
        documents.append(document)
    return documents


LONG = "\n\n".join(f"A paragraph about {topic}. " * 40 for topic in ("cats", "birds", "fish", "bees"))


def ranking(hits: list[Hit]) -> list[tuple[str, Any]]:
    """What must be the same on every way to it: the order, and the scores but for the last digits."""
    return [(hit.chunk_id, pytest.approx(hit.score, rel=1e-5)) for hit in hits]


def test_every_output_is_written_from_one_forward_pass(open_collection: OpenCollection, mini: EmbeddingModel) -> None:
    model = CountingModel(mini)
    collection = open_collection(model=model, token_dim=64)
    collection.upsert([{"id": str(i), "text": f"text number {i}"} for i in range(20)])
    assert model.documents == [(20, ("dense", "sparse", "multi_vector"))]
    assert collection.outputs == ("dense", "sparse", "multi_vector")
    for mode in MODES:
        assert len(collection.search("number 7", mode=mode, limit=3)) == 3


def test_scores_of_every_stage_equal_the_models_own(
    collection: HybridCollection, mini: EmbeddingModel, docs: list[dict[str, Any]]
) -> None:
    collection.upsert(docs)
    question = "write rows to a csv file"
    query = mini.encode_query(question, outputs=mini.outputs)
    hits = collection.search(question, mode="late_interaction", limit=5, all_scores=True)
    similarity = mini.similarity(query, mini.encode_document([hit.text for hit in hits], outputs=mini.outputs))
    for i, hit in enumerate(hits):
        assert list(hit.scores) == ["dense", "sparse", "hybrid", "late_interaction"]
        assert hit.scores["dense"] == pytest.approx(similarity.dense[0, i], abs=5e-3)
        assert hit.scores["sparse"] == pytest.approx(similarity.sparse[0, i], rel=2e-2, abs=5e-3)
        max_sim = similarity.multi_vector[0, i] * len(query.multi_vector[0])  # mini's similarity is the mean
        assert hit.scores["late_interaction"] == hit.score == pytest.approx(max_sim, rel=1e-2)
    assert [hit.score for hit in hits] == sorted([hit.score for hit in hits], reverse=True)
    assert hits[0].id.startswith("csv")


def test_reciprocal_rank_fusion_is_what_its_formula_says(
    collection: HybridCollection, docs: list[dict[str, Any]]
) -> None:
    collection.upsert(docs)
    everything = {"limit": 1000, "candidates": 1000}
    ranks: dict[str, dict[str, int]] = {}
    for mode in ("dense", "sparse"):
        hits = collection.search("temporary file", mode=mode, **everything)
        ranks[mode] = {hit.chunk_id: rank for rank, hit in enumerate(hits)}
    for k, weights in ((61, {}), (2, {"dense": 3.0})):
        for hit in collection.search("temporary file", limit=20, fusion=rrf(k, weights), candidates=1000):
            expected = sum(
                1 / ((ranks[leg][hit.chunk_id] + 1) / weights.get(leg, 1.0) + k - 1)
                for leg in ranks
                if hit.chunk_id in ranks[leg]
            )
            assert hit.score == pytest.approx(expected, rel=0.05)  # of equal scores either may come first
    summed = collection.search("temporary file", fusion=weighted({"dense": 1, "sparse": 0.1}), all_scores=True)
    for hit in summed:
        assert hit.score == pytest.approx(hit.scores["dense"] + 0.1 * hit.scores["sparse"], rel=1e-2)
    assert len(collection.search("temporary file", fusion=dbsf())) == 10


def test_late_interaction_can_be_added_to_what_found_the_candidates(
    collection: HybridCollection, docs: list[dict[str, Any]], mini: EmbeddingModel
) -> None:
    collection.upsert(docs)
    shares = {"dense": 1.0, "sparse": 0.1, "late_interaction": 2.0}
    query = mini.encode_query("temporary file", outputs=("dense", "sparse", "multi_vector"))
    assert query.multi_vector is not None
    tokens = len(query.multi_vector[0])
    found = collection.search(query, mode="late_interaction", fusion=weighted(shares), all_scores=True)
    assert [hit.score for hit in found] == sorted([hit.score for hit in found], reverse=True)
    for hit in found:
        mean = hit.scores["late_interaction"] / tokens
        expected = hit.scores["dense"] + 0.1 * hit.scores["sparse"] + 2.0 * mean
        assert hit.score == hit.scores["combined"] == pytest.approx(expected, rel=1e-2)
    without = weighted({"dense": 1.0, "sparse": 0.1})
    alone = collection.search(query, mode="late_interaction", fusion=without, all_scores=True)
    assert all(hit.score == hit.scores["late_interaction"] for hit in alone)


def test_a_search_without_fusion_takes_the_weights_that_the_model_was_published_with(
    collection: HybridCollection, docs: list[dict[str, Any]], mini: EmbeddingModel
) -> None:
    collection.upsert(docs)
    published = mini.hybrid_weights
    assert published is not None
    named = {output: published[output] for output in ("dense", "sparse")}
    for mode in ("hybrid", "late_interaction"):
        given = collection.search("temporary file", mode=mode, fusion=weighted(named))
        assert ranking(collection.search("temporary file", mode=mode)) == ranking(given)


def test_published_weights_count_late_interaction_beside_what_found_its_candidates(
    collection: HybridCollection, docs: list[dict[str, Any]], mini: EmbeddingModel
) -> None:
    collection.upsert(docs)
    published = dict(mini.hybrid_weights or {})
    published["late_interaction"] = published.pop("multi_vector")
    given = collection.search("temporary file", mode="late_interaction", fusion=weighted(published))
    found = collection.search("temporary file", mode="late_interaction", fusion="published")
    assert ranking(found) == ranking(given)
    alone = collection.search("temporary file", mode="late_interaction")
    assert [hit.score for hit in found] != [hit.score for hit in alone]


def test_published_weights_of_a_model_that_has_none_are_an_error() -> None:
    with pytest.raises(InvalidOptionError, match="published without weights"):
        fusion_of("published", object())
    assert fusion_of(None, object()) == rrf()


def test_pages_follow_each_other_and_the_filter_holds_at_every_stage(
    collection: HybridCollection, docs: list[dict[str, Any]]
) -> None:
    collection.upsert(docs)
    for mode in MODES:
        whole = collection.search("a file", mode=mode, limit=12)
        pages = [collection.search("a file", mode=mode, limit=4, offset=start) for start in (0, 4, 8)]
        assert ranking([hit for page in pages for hit in page]) == ranking(whole)
        hits = collection.search("a file", mode=mode, filter={"module": "json", "kind": ["class", "method"]}, limit=30)
        assert hits
        assert {hit.metadata["module"] for hit in hits} == {"json"}
        assert {hit.metadata["kind"] for hit in hits} <= {"class", "method"}


FILTERS: list[tuple[dict[str, Any], Callable[[dict[str, Any], str], bool]]] = [
    ({"module": "csv"}, lambda m, _: m["module"] == "csv"),
    ({"year": {"gte": 2005, "lt": 2010}}, lambda m, _: 2005 <= m["year"] < 2010),
    ({"year": [2001, 2002]}, lambda m, _: m["year"] in (2001, 2002)),
    ({"year": {"$ne": 2003}}, lambda m, _: m["year"] != 2003),
    ({"year": {"nin": [2003, 2004]}}, lambda m, _: m["year"] not in (2003, 2004)),
    ({"share": 0.125}, lambda m, _: m["share"] == 0.125),
    ({"tags": "even"}, lambda m, _: "even" in m["tags"]),
    ({"nobody": None}, lambda m, _: True),
    ({"year": {"exists": False}}, lambda m, _: False),
    (
        {"kind": "class", "$or": [{"module": "csv"}, {"year": {"gt": 2015}}]},
        lambda m, _: m["kind"] == "class" and (m["module"] == "csv" or m["year"] > 2015),
    ),
    ({"$not": {"module": ["csv", "json"]}}, lambda m, _: m["module"] not in ("csv", "json")),
    ({"$and": [{"module": "csv"}, {"kind": "class"}]}, lambda m, _: m["module"] == "csv" and m["kind"] == "class"),
    ({"$id": ["csv", "glob.glob"]}, lambda _, name: name in ("csv", "glob.glob")),
]


def test_a_filter_keeps_what_it_says(open_collection: OpenCollection, docs: list[dict[str, Any]]) -> None:
    collection = open_collection(outputs=("dense",), indexes={"module": "keyword", "year": "integer"})
    collection.upsert(docs)
    for filter, keeps in FILTERS:
        expected = {d["id"] for d in docs if keeps(d["metadata"], d["id"])}
        assert {hit.id for hit in collection.search("x", filter=filter, limit=2000)} == expected, filter
        assert collection.count(filter) == len(expected)
    native = models.Filter(must=[models.FieldCondition(key="metadata.module", match=models.MatchValue(value="glob"))])
    assert collection.count(native) == collection.count({"module": "glob"}) > 0
    assert collection.delete(filter={"module": "glob"}) == len([d for d in docs if d["metadata"]["module"] == "glob"])
    assert collection.count({"module": "glob"}) == 0


def test_a_long_document_is_pieces_under_their_parent(collection: HybridCollection) -> None:
    report = collection.upsert([{"id": "long", "text": LONG, "metadata": {"n": 1}}, {"id": "b", "text": "Birds fly."}])
    assert (report.written, report.truncated) == (2, ())
    assert collection.count() == 2
    hits = collection.search("bees", limit=10)
    pieces = sorted({hit.chunk_no: hit for hit in hits if hit.id == "long"}.values(), key=lambda hit: hit.start)
    assert len(pieces) == pieces[0].chunks == report.chunks - 1 > 3
    for piece in pieces:
        assert LONG[piece.start : piece.start + len(piece.text)] == piece.text
        assert (piece.metadata, piece.chunk_id) == ({"n": 1}, f"long#{piece.chunk_no}")
    assert "bees" in collection.search("bees")[0].text
    assert [hit.id for hit in collection.search("birds", group_by_parent=True)].count("long") == 1
    assert collection.get("long")[0].text == LONG
    assert collection.delete("long") == 1
    assert [hit.id for hit in collection.search("bees")] == ["b"]


def test_grouping_finds_as_many_documents_as_there_are(collection: HybridCollection) -> None:
    collection.upsert([{"id": f"long {i}", "text": LONG} for i in range(12)])
    for mode in MODES:
        hits = collection.search("about bees", limit=12, mode=mode, group_by_parent=True, candidates=5)
        assert {hit.id for hit in hits} == {f"long {i}" for i in range(12)}


def test_a_shorter_text_leaves_no_piece_of_the_longer_one(collection: HybridCollection) -> None:
    collection.upsert([{"id": "a", "text": LONG}])
    assert collection._store.count() > 3
    assert collection.upsert([{"id": "a", "text": "short now"}]).written == 1
    assert collection._store.count() == 1
    assert collection.upsert([{"id": "a", "text": LONG}], split=Splitting(max_tokens=64, overlap=0)).chunks > 10
    assert collection.upsert([{"id": "a", "text": LONG}], split=Splitting(max_tokens=64, overlap=0)).unchanged == 1
    assert collection.get("a")[0].text == LONG


def test_stale_pieces_that_a_killed_process_left_are_removed_when_it_goes_on(
    collection: HybridCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert([{"id": "a", "text": LONG}])
    store = collection._store

    def killed(ids: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            collection.upsert([{"id": "a", "text": "short now"}])
    assert store.count() > 1
    assert collection.upsert([{"id": "a", "text": "short now"}]).written == 1
    assert store.count() == 1
    assert collection.upsert([{"id": "a", "text": "short now"}]).unchanged == 1


def test_new_metadata_is_written_without_encoding(open_collection: OpenCollection, mini: EmbeddingModel) -> None:
    model = CountingModel(mini)
    collection = open_collection(model=model)
    documents = [{"id": "long", "text": LONG, "metadata": {"n": 0.1}}, {"id": "b", "text": "b", "metadata": {"n": 2}}]
    collection.upsert(documents)
    passes = len(model.documents)
    report = collection.upsert([{**documents[0], "metadata": {"n": 3}}, documents[1]])
    assert (report.written, report.metadata_only, report.unchanged, report.tokens) == (1, 1, 1, 0)
    assert {hit.metadata["n"] for hit in collection.search("birds", filter={"$id": "long"})} == {3}
    report = collection.update_metadata({"long": {"m": [1.1]}, "b": {}, "nobody": {"x": 1}, "c": {"x": math.nan}})
    assert (report.written, report.unchanged) == (1, 1)
    assert [rejection.position for rejection in report.rejected] == [2, 3]
    assert "there is no document 'nobody'" in report.rejected[0].reason
    assert collection.get("long")[0].metadata == {"n": 3, "m": [1.1]}
    collection.update_metadata({"long": {"only": True}}, replace=True)
    assert collection.get("long")[0].metadata == {"only": True}
    assert collection.count({"n": 3}) == 0
    assert len(model.documents) == passes
    with pytest.raises(InputTypeError, match="updates must be a dictionary"):
        collection.update_metadata([("a", {})])  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["encodings", "lists"])
def test_ready_encodings_are_stored_as_they_are(
    open_collection: OpenCollection, mini: EmbeddingModel, form: str
) -> None:
    model = CountingModel(mini)
    collection = open_collection(model=model)
    encoded = mini.encode_document("birds can fly", outputs=mini.outputs)
    given: Any = encoded
    if form == "lists":
        sparse = encoded.sparse[0]
        order = np.argsort(-sparse.values)
        given = {
            "dense": encoded.dense[0].tolist(),
            "sparse": {"indices": sparse.indices[order].tolist(), "values": sparse.values[order].tolist()},
            "multi_vector": encoded.multi_vector[0].tolist(),
        }
    document = {"id": "a", "text": "another text", "encodings": given}
    assert collection.upsert([document]).written == 1
    assert collection.upsert([document]).unchanged == 1
    assert model.documents == []
    for mode in MODES:
        (hit,) = collection.search(mini.encode_query("birds can fly", outputs=mini.outputs), mode=mode)
        assert hit.text == "another text"
    assert collection.upsert([{"id": "a", "text": "another text"}]).written == 1  # now the model's own


BAD_ENCODINGS = [
    ({"dense": [0.0] * 383}, r"has shape \[383\]; \[384\] is needed"),
    ({"dense": [1.0, "x"]}, "'dense' must be numbers"),
    ({"dense": [math.nan] * 384}, "'dense' holds NaN or infinity"),
    ({"dense": [1e300] * 384}, "'dense' holds NaN or infinity"),
    ({"dense": [0.0] * 384}, "'dense' is zero everywhere"),
    ({"dense": []}, r"has shape \[0\]"),
    ({"multi_vector": [[1.0] * 128, [1.0] * 127]}, "'multi_vector' must be numbers in rows of one length"),
    ({"multi_vector": [1.0] * 128}, r"has shape \[128\]; \[tokens, 128\] is needed"),
    ({"multi_vector": np.zeros((0, 128))}, "has no tokens"),
    ({"multi_vector": np.ones((8192, 128))}, "has 8,192 tokens; 8,191 of 128 components are the most"),
    ({"sparse": {"indices": [1, 1], "values": [1.0, 2.0]}}, "the same index more than once"),
    ({"sparse": {"indices": [-1], "values": [1.0]}}, r"0 to 2\*\*31 - 1"),
    ({"sparse": {"indices": [2**40], "values": [1.0]}}, r"0 to 2\*\*31 - 1"),
    ({"sparse": {"indices": [1.5], "values": [1.0]}}, "must be whole numbers"),
    ({"sparse": {"indices": [1, 2], "values": [1.0]}}, "indices of shape"),
    ({"sparse": {"indices": [1], "values": [math.inf]}}, "'sparse' holds NaN or infinity"),
    ({"sparse": [1.0, 2.0]}, "must be a SparseVector or"),
    ({"dense": None}, "encodings have no dense"),
    ({"colour": [1.0]}, r"unknown \['colour'\]"),
]


def test_a_bad_vector_by_hand_is_rejected_naming_the_document_and_the_rest_is_written(
    collection: HybridCollection, mini: EmbeddingModel
) -> None:
    encoded = mini.encode_document("good", outputs=mini.outputs)
    good = {"dense": encoded.dense[0], "sparse": encoded.sparse[0], "multi_vector": encoded.multi_vector[0]}
    documents = [
        {"id": f"bad {i}", "text": "x", "encodings": {**good, **bad}} for i, (bad, _) in enumerate(BAD_ENCODINGS)
    ]
    documents += [
        {"id": "two", "text": "x", "encodings": mini.encode_document(["a", "b"])},
        {"id": "none", "text": "x", "encodings": 5},
        {"id": "good", "text": "x", "encodings": good},
    ]
    report = collection.upsert(documents)
    assert report.written == collection.count() == 1
    expected = [reason for _, reason in BAD_ENCODINGS] + ["are of 2 texts", "must be Encodings or a dictionary"]
    for rejection, reason in zip(report.rejected, expected, strict=True):
        with pytest.raises(InvalidDocumentError, match=rf"document '{rejection.id}': .*{reason}"):
            raise InvalidDocumentError(rejection.reason)


def test_hostile_payloads_are_stored_or_rejected_and_the_rest_is_written(collection: HybridCollection) -> None:
    deep: dict[str, Any] = {}
    for _ in range(24):
        deep = {"k": [deep]}
    hostile = [
        {"id": "x" * 50_000, "text": "long id"},
        {"id": "ü/猫 🐈\n", "text": "many scripts"},
        {"id": "deep", "text": "nested", "metadata": deep},
        {"id": "many floats", "text": "floats", "metadata": {"all": [i / 7 for i in range(2_000)]}},
        {"id": "ten", "text": "ten megabytes of metadata", "metadata": {"all": "x" * 10_000_000}},
        {"id": "huge", "text": "a huge number", "metadata": {"n": 2**70}},
        {"id": "nan", "text": "no number", "metadata": {"n": math.nan}},
        {"id": "words", "text": "word " * 20_000},
        {"id": "NUL", "text": "a\0b", "metadata": {"k\0": "v\0"}},
    ]
    report = collection.upsert(hostile)
    assert [rejection.id for rejection in report.rejected] == ["ten", "huge", "nan"]
    assert "metadata is 10,000,011 bytes as JSON, 1,048,576 are the most" in report.rejected[0].reason
    assert report.written == collection.count() == 6
    rejected = {rejection.id for rejection in report.rejected}
    for document in hostile:
        (stored,) = collection.get(document["id"])
        if document["id"] in rejected:
            assert stored is None
        else:
            assert (stored.text, stored.metadata) == (document["text"], document.get("metadata", {}))


def test_a_document_larger_than_a_batch_is_written_in_several(
    open_collection: OpenCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = open_collection(outputs=("dense",))
    store = collection._store
    sizes = []
    upsert = store.upsert
    monkeypatch.setattr(writing, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(
        store, "upsert", lambda points: sizes.append(sum(map(writing.point_bytes, points))) or upsert(points)
    )
    text = LONG * 20
    documents = [{"id": str(i), "text": f"small {i}"} for i in range(50)]
    report = collection.upsert([*documents[:25], {"id": "large", "text": text}, *documents[25:]])
    assert report.written == 51
    assert max(sizes) < 25_000
    assert len(sizes) > 8
    assert collection.get("large")[0].text == text


def test_encoding_goes_on_while_a_batch_is_written(
    open_collection: OpenCollection, mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_encoded = threading.Event()

    class Model(CountingModel):
        def encode_document(self, texts: list[str], **options: Any) -> Encodings:
            if self.documents:
                second_encoded.set()
            return super().encode_document(texts, **options)

    collection = open_collection(model=Model(mini))
    store = collection._store
    upsert = store.upsert

    def wait_then_upsert(points: Any) -> Any:
        assert second_encoded.wait(30)
        return upsert(points)

    monkeypatch.setattr(store, "upsert", wait_then_upsert)
    monkeypatch.setattr(writing, "_GROUP", 4)
    assert collection.upsert([{"id": str(i), "text": str(i)} for i in range(8)]).written == 8


def test_a_failing_engine_is_an_error_and_what_was_written_stays(
    collection: HybridCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = collection._store
    upsert = store.upsert
    calls = []

    def fail_later(points: Any) -> Any:
        calls.append(len(points))
        if len(calls) == 3:
            raise CollectionError("the disk is full")
        return upsert(points)

    monkeypatch.setattr(writing, "_GROUP", 4)
    with monkeypatch.context() as patched:
        patched.setattr(store, "upsert", fail_later)
        with pytest.raises(CollectionError, match="the disk is full"):
            collection.upsert([{"id": f"{i:02}", "text": str(i)} for i in range(40)])
    assert collection.count() == 8
    report = collection.upsert([{"id": f"{i:02}", "text": str(i)} for i in range(40)])
    assert (report.unchanged, report.written) == (8, 32)


def test_an_iterable_that_fails_keeps_what_it_gave_before(
    collection: HybridCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def documents() -> Iterator[dict[str, str]]:
        for i in range(10):
            yield {"id": str(i), "text": str(i)}
        raise OSError("the source is gone")

    monkeypatch.setattr(writing, "_GROUP", 4)
    with pytest.raises(OSError, match="the source is gone"):
        collection.upsert(documents())
    assert collection.count() == 8


def test_threads_that_write_the_same_documents_do_not_mix_them(collection: HybridCollection) -> None:
    texts = [LONG, "short", LONG * 2]

    def write(number: int) -> None:
        for i in range(3):
            collection.upsert([{"id": "shared", "text": texts[(number + i) % 3]}, {"id": str(number), "text": "own"}])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stored,) = collection.get("shared")
    assert stored.text in texts
    store = collection._store
    pieces = store.retrieve(chunk_ids("shared", 0, 50), fields=("chunks", "content_hash"))
    assert {p.payload["chunks"] for p in pieces.values()} == {len(pieces)}
    assert len({p.payload["content_hash"] for p in pieces.values()}) == 1


class LengthReranker:
    """Prefers short texts: a stand-in whose order is known."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, pairs: Any) -> Any:
        self.calls += 1
        return np.array([-len(text) for _, text in pairs], dtype=np.float32)


class GivenScores:
    """A reranker whose scores are given."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = scores

    def score(self, pairs: Any) -> Any:
        return self._scores


def test_a_cross_encoder_orders_the_best_and_batches_equal_single_searches(
    open_collection: OpenCollection, mini: EmbeddingModel, docs: list[dict[str, Any]]
) -> None:
    model, reranker = CountingModel(mini), LengthReranker()
    collection = open_collection(model=model)
    collection.upsert(docs)
    hits = collection.search("a file", rerank=reranker, rerank_candidates=20, limit=5, all_scores=True)
    candidates = collection.search("a file", limit=20)
    assert [hit.chunk_id for hit in hits] == [
        hit.chunk_id for hit in sorted(candidates, key=lambda hit: (len(hit.text), hit.id, hit.chunk_no))[:5]
    ]
    assert hits[0].score == -len(hits[0].text)
    assert list(hits[0].scores) == ["dense", "sparse", "hybrid", "rerank"]
    questions = ["a file", "wrap text", "close matches"]
    model.queries = reranker.calls = 0
    encoded = mini.encode_query(questions, outputs=mini.outputs)
    for mode in MODES:
        together = collection.search_batch(questions, mode=mode, limit=4)
        one_by_one = [collection.search(_row(encoded, i), mode=mode, limit=4) for i in range(3)]
        assert list(map(ranking, together)) == list(map(ranking, one_by_one))
        assert list(map(ranking, collection.search_batch(encoded, mode=mode, limit=4))) == list(map(ranking, together))
    assert model.queries == 4
    assert collection.search_batch([]) == []
    collection.search_batch(questions, rerank=reranker)
    assert reranker.calls == 1
    for scores, wrong in ([1.0], "1 scores for 20 pairs"), ([math.nan] * 20, "NaN or infinity"):
        with pytest.raises(InvalidOptionError, match=f"rerank gave {wrong}"):
            collection.search("a file", rerank=GivenScores(scores), rerank_candidates=20)
    with pytest.raises(InvalidOptionError, match="reranking reads the query's text"):
        collection.search(mini.encode_query("x", outputs=mini.outputs), rerank=reranker)
    with pytest.raises(InputTypeError, match="queries must be a list"):
        collection.search_batch("a file")


@pytest.mark.parametrize("mode", ["dense", "hybrid", "late_interaction"])
def test_a_reranker_with_a_weight_counts_beside_the_score_it_was_given(
    open_collection: OpenCollection, docs: list[dict[str, Any]], mode: str
) -> None:
    collection = open_collection()
    collection.upsert(docs)
    weights = {"dense": 1.0, "sparse": 0.1, "late_interaction": 0.5}
    given = collection.search("a file", mode=mode, limit=20, fusion=weighted(weights))
    hits = collection.search(
        "a file",
        mode=mode,
        limit=5,
        fusion=weighted(weights | {"rerank": 0.001}),
        rerank=LengthReranker(),
        rerank_candidates=20,
        score_threshold={"rerank": -3.0},
        all_scores=True,
    )
    expected = sorted(given, key=lambda hit: (0.001 * len(hit.text) - hit.score, hit.id, hit.chunk_no))[:5]
    assert [hit.chunk_id for hit in hits] == [hit.chunk_id for hit in expected]
    for hit, before in zip(hits, expected, strict=True):
        assert hit.score == pytest.approx(before.score - 0.001 * len(hit.text), abs=1e-5)
        assert hit.scores["rerank"] == -len(hit.text)
        assert hit.relevance == pytest.approx(1 / (1 + math.exp(min(len(hit.text), 700))))


def _row(encoded: Encodings, row: int) -> Encodings:
    """One of several encoded queries; encoding it alone would differ in bf16's last digit."""
    return Encodings(
        dense=encoded.dense[row : row + 1],
        sparse=encoded.sparse[row : row + 1],
        multi_vector=encoded.multi_vector[row : row + 1],
        truncated=encoded.truncated[row : row + 1],
        token_counts=encoded.token_counts[row : row + 1],
    )


def test_mmr_one_ranks_by_similarity_and_lower_ones_avoid_repetition(collection: HybridCollection) -> None:
    same = [{"id": f"same {i}", "text": f"Cats sleep all day long, cat {i}."} for i in range(5)]
    collection.upsert([*same, {"id": "other", "text": "Cats hunt mice at night."}, {"id": "far", "text": "Tax law."}])
    plain = [hit.id for hit in collection.search("sleeping cats", mode="dense", limit=4)]
    assert [hit.id for hit in collection.search("sleeping cats", mode="dense", limit=4, mmr=1.0)] == plain
    assert "other" not in plain
    for mode in ("dense", "hybrid", "late_interaction"):
        assert "other" in [hit.id for hit in collection.search("sleeping cats", mode=mode, limit=3, mmr=0.5)]
    for wrong in (1.5, -0.1, True, "x"):
        with pytest.raises(InvalidOptionError, match="mmr must be from 0"):
            collection.search("x", mmr=wrong)


def test_a_threshold_holds_at_the_stage_it_names(collection: HybridCollection, docs: list[dict[str, Any]]) -> None:
    collection.upsert(docs)
    for mode in ("dense", "sparse", "late_interaction"):
        best = collection.search("temporary file", mode=mode, limit=20)
        least = best[7].score
        above = [hit for hit in best if hit.score >= least]
        assert len(collection.search("temporary file", mode=mode, limit=20, score_threshold=least - 1e-4)) == len(above)
    dense = collection.search("temporary file", mode="dense", limit=100)
    hits = collection.search(
        "temporary file", mode="hybrid", limit=100, score_threshold={"dense": dense[3].score, "sparse": 1e6}
    )
    assert {hit.chunk_id for hit in hits} <= {hit.chunk_id for hit in dense[:4]}
    with pytest.raises(InvalidOptionError, match=r"fused scores say nothing by themselves.*\{'dense': 0.5\}"):
        collection.search("x", score_threshold=0.5)
    with pytest.raises(InvalidOptionError, match="names 'rerank'; the stages here are dense, sparse, hybrid"):
        collection.search("x", score_threshold={"rerank": 0.5})


def test_equal_scores_are_in_the_order_of_ids_however_many_there_are(
    open_collection: OpenCollection, mini: EmbeddingModel
) -> None:
    collection = open_collection(outputs=("dense",))
    same = mini.encode_document("the same words", outputs=("dense",))  # texts of two batches may differ in a bit
    collection.upsert([{"id": f"{i:03}", "text": "the same words", "encodings": same} for i in range(300)])
    assert [hit.id for hit in collection.search("words", limit=3)] == ["000", "001", "002"]
    assert [hit.id for hit in collection.search("words", limit=3, offset=100)] == ["100", "101", "102"]


@pytest.mark.parametrize("outputs", [("dense",), ("sparse",), ("multi_vector",), ("dense", "multi_vector")])
def test_collections_of_any_outputs_have_the_modes_they_can(
    open_collection: OpenCollection, outputs: tuple[str, ...]
) -> None:
    collection = open_collection(outputs=outputs)
    collection.upsert([{"id": "a", "text": "Birds can fly."}, {"id": "b", "text": "Fish swim."}])
    assert collection.outputs == outputs
    assert collection.mode == {"multi_vector": "late_interaction"}.get(outputs[0], outputs[0])
    assert collection.search("Do birds fly?")[0].id == "a"
    if "multi_vector" in outputs:
        assert collection.search("Do birds fly?", mode="late_interaction", exact=True)[0].id == "a"
    with pytest.raises(InvalidOptionError, match="mode 'hybrid' is not supported by this collection"):
        collection.search("x", mode="hybrid")


def test_the_mode_of_opening_is_the_default(open_collection: OpenCollection) -> None:
    collection = open_collection(mode="dense")
    collection.upsert([{"id": "a", "text": "Birds can fly."}])
    assert list(collection.search("birds")[0].scores) == ["dense"]
    assert list(collection.search("birds", mode="hybrid")[0].scores) == ["hybrid"]


def test_sparse_questions_without_a_known_word_find_nothing(collection: HybridCollection) -> None:
    collection.upsert([{"id": "a", "text": "Birds can fly."}])
    assert collection.search("", mode="sparse") == []
    assert [hit.id for hit in collection.search("", mode="hybrid")] == ["a"]
    assert collection.search("birds", filter={"$id": "nobody"}, all_scores=True) == []


def test_an_existing_collection_is_compared_with_what_is_asked(open_collection: OpenCollection, engine: str) -> None:
    if engine == ":memory:":
        pytest.skip("a collection in memory is always a new one")
    open_collection(outputs=("dense", "sparse"), preset="exact").upsert([{"id": "a", "text": "text"}])
    assert open_collection().outputs == ("dense", "sparse")
    with pytest.raises(ModelMismatchError, match=r"outputs is \('dense', 'sparse'\), asked was \('dense',\).*migrate"):
        open_collection(outputs=("dense",))
    with pytest.raises(ModelMismatchError, match="preset is 'exact', asked was 'compact'"):
        open_collection(preset="compact")
    with pytest.raises(ModelMismatchError, match="'lang' has no index of type 'keyword'"):
        open_collection(indexes={"lang": "keyword"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ("dense", "colour")}, "outputs=.*has dense, sparse, multi_vector"),
        ({"dim": 100}, "dim=100: the model allows 384"),
        ({"token_dim": 100}, "token_dim=100: the model allows 32, 64, 96, 128"),
        ({"outputs": ("dense",), "token_dim": 64}, "will have no such vectors"),
        ({"dense_prefix": 128}, "dense_prefix=128: the model allows none"),
        ({"preset": "fast"}, "preset 'fast' is not one of exact, balanced, compact"),
        ({"mode": "fast"}, "mode 'fast' is not supported"),
        ({"indexes": {"lang": "string"}}, "has type 'string'"),
    ],
)
def test_an_option_that_is_not_to_be_had_is_an_error(
    open_collection: OpenCollection, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        open_collection(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": -1}, "offset must be a whole number from 0"),
        ({"candidates": 0}, "candidates must be a whole number above 0"),
        ({"fusion": "max"}, "fusion 'max' is not supported"),
        ({"rerank": "mini"}, "rerank must be a loaded reranker"),
        ({"filter": {"a": {"near": 1}}}, "'near' is unknown"),
    ],
)
def test_a_search_option_that_is_not_to_be_had_is_an_error(
    collection: HybridCollection, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        collection.search("x", **options)


def test_fusions_with_impossible_numbers_are_errors() -> None:
    for make in (
        lambda: rrf(0),
        lambda: rrf(1.5),  # type: ignore[arg-type]
        lambda: rrf(weights={"dense": 0}),
        lambda: rrf(weights={"colour": 1}),
        lambda: rrf(weights={"late_interaction": 1}),
        lambda: weighted({}),
        lambda: weighted({"dense": math.nan}),
        lambda: weighted({"dense": -1}),
    ):
        with pytest.raises(InvalidOptionError):
            make()


async def test_async_twins_do_what_the_methods_do(collection: HybridCollection) -> None:
    assert (await collection.aupsert([{"id": "a", "text": "Birds can fly."}])).written == 1
    assert await collection.asearch("birds", limit=1) == collection.search("birds", limit=1)
    assert await collection.asearch_batch(["birds"]) == collection.search_batch(["birds"])
    assert (await collection.aupdate_metadata({"a": {"n": 1}})).written == 1
    assert await collection.acount({"n": 1}) == 1
    assert (await collection.aget("a"))[0].metadata == {"n": 1}
    await collection.aoptimize()
    assert await collection.adelete("a") == 1
    assert collection.asearch.__doc__ == "``search`` in a worker thread: the event loop goes on."


def test_deleting_needs_ids_or_a_filter(collection: HybridCollection) -> None:
    for arguments in ({}, {"ids": "a", "filter": {"n": 1}}):
        with pytest.raises(InvalidOptionError, match="ids or filter"):
            collection.delete(**arguments)
    with pytest.raises(InvalidOptionError, match="an empty filter would delete every document"):
        collection.delete(filter={})


def test_a_refused_point_rejects_its_document_whole(
    collection: HybridCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = collection._store
    upsert = store.upsert
    refused = chunk_ids("large", 2, 3)[0]

    def refuse(points: Any) -> dict[uuid.UUID, str]:
        kept = [point for point in points if point.id != refused]
        return {**upsert(kept), **{point.id: "too large for the server" for point in points if point.id == refused}}

    monkeypatch.setattr(store, "upsert", refuse)
    report = collection.upsert([{"id": "large", "text": LONG}, {"id": "b", "text": "b"}])
    assert [(r.position, r.id, r.reason) for r in report.rejected] == [
        (0, "large", "document 'large': too large for the server")
    ]
    assert report.written == collection.count() == store.count() == 1


def test_reports_are_plain_values(collection: HybridCollection) -> None:
    report = collection.upsert([{"id": "a", "text": "x"}])
    assert dataclasses.asdict(report)["written"] == 1


async def test_concurrent_searches_reach_the_model_together_to_be_batched(
    open_collection: OpenCollection, mini: EmbeddingModel
) -> None:
    model = WaitingModel(mini, together=24)
    collection = open_collection(model=model)
    collection.upsert([{"id": "a", "text": "Most birds can fly."}])
    found = await asyncio.gather(*(collection.asearch("wings", limit=1) for _ in range(24)))
    assert [hit.id for hits in found for hit in hits] == ["a"] * 24


class WaitingModel:
    """A model that answers no question until so many were asked."""

    def __init__(self, model: EmbeddingModel, *, together: int) -> None:
        self._model = model
        self._all_there = threading.Barrier(together, timeout=20)

    def encode_query(self, *arguments: Any, **options: Any) -> Any:
        self._all_there.wait()
        return self._model.encode_query(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
