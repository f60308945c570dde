"""Collections on the real embedded engine with the real embedded default."""

import asyncio
import contextlib
import copy
import dataclasses
import datetime
import gc
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgte_rag import (
    ClosedError,
    CollectionError,
    EmbeddingModel,
    Encodings,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
    ModelMismatchError,
)
from qdrant_mgte import HybridCollection, StoredDocument, writing
from qdrant_mgte.documents import content_id, point_id
from qdrant_mgte.stores import STORES

ANIMALS = [
    {"id": "cat", "text": "Cats sleep most of the day.", "metadata": {"legs": 4}},
    {"id": "bird", "text": "Most birds can fly."},
    {"id": "fish", "text": "Fish breathe under water.", "metadata": {}},
]


def test_a_question_finds_its_answer_with_id_text_metadata_and_score(collection: HybridCollection) -> None:
    report = collection.upsert(ANIMALS)
    assert (report.written, report.unchanged, report.rejected, report.truncated) == (3, 0, (), ())
    assert report.tokens > 9
    best, *others = collection.search("Which animal is asleep for long?", limit=3, mode="dense")
    assert (best.id, best.text, best.metadata) == ("cat", "Cats sleep most of the day.", {"legs": 4})
    assert best.scores == {"dense": best.score}
    assert [hit.score for hit in others] == sorted([hit.score for hit in others], reverse=True)
    assert best.score > others[0].score


def test_scores_are_the_cosine_of_the_models_vectors(collection: HybridCollection, mini: EmbeddingModel) -> None:
    collection.upsert(ANIMALS)
    query, documents = mini.encode_query("wings"), mini.encode_document([animal["text"] for animal in ANIMALS])
    expected = dict(zip(["cat", "bird", "fish"], mini.similarity(query, documents).dense[0], strict=True))
    for hit in collection.search("wings", mode="dense"):
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-3)  # stored as float16


def test_a_ready_encoding_is_searched_as_it_is(collection: HybridCollection, mini: EmbeddingModel) -> None:
    collection.upsert(ANIMALS)
    encoded = mini.encode_query("wings", outputs=mini.outputs)
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        assert collection.search(encoded, mode=mode) == collection.search("wings", mode=mode)


def test_equal_scores_are_ordered_by_id(collection: HybridCollection) -> None:
    collection.upsert([{"id": name, "text": "the same words"} for name in "cab"])
    assert [hit.id for hit in collection.search("words", mode="dense")] == ["a", "b", "c"]


def test_a_known_id_replaces_the_document(collection: HybridCollection) -> None:
    collection.upsert(ANIMALS)
    assert collection.upsert([{"id": "cat", "text": "Cats climb trees."}]).written == 1
    assert collection.count() == 3
    assert collection.get("cat") == [StoredDocument("cat", "Cats climb trees.", {})]


def test_the_later_of_two_documents_with_one_id_wins(collection: HybridCollection) -> None:
    report = collection.upsert([{"id": "a", "text": "first"}, {"id": "b", "text": "x"}, {"id": "a", "text": "second"}])
    assert report.written == 3
    assert [document.text for document in collection.get(["a", "b"])] == ["second", "x"]


def test_documents_are_read_and_written_a_few_at_a_time(
    collection: HybridCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_GROUP", 2)
    stored_when_read = []

    def documents() -> Iterator[dict[str, str]]:
        for i in range(60):
            stored_when_read.append(collection.count())
            yield {"id": str(i), "text": f"text {i}"}

    assert collection.upsert(documents()).written == 60
    for read, stored in enumerate(stored_when_read):  # eight groups of two wait, one is written, one is encoded
        assert read - 22 <= stored <= read
    assert stored_when_read[-1] > 0


def test_documents_longer_than_the_model_reads_are_named_in_the_report_where_they_are_not_split(
    collection: HybridCollection,
) -> None:
    documents = [{"id": "long", "text": "word " * 1000}, {"id": "short", "text": "word"}]
    report = collection.upsert(documents, split=False)
    assert report.truncated == ("long",)
    assert (report.written, report.chunks) == (2, 2)
    report = collection.upsert(documents)
    assert report.truncated == ()
    assert (report.written, report.unchanged) == (1, 1)


@pytest.mark.parametrize(
    "document_id", ["a", "x" * 100_000, "ü/猫 🐈\n\0", "00000000-0000-0000-0000-000000000000", " ", "1"]
)
def test_ids_are_strings_of_any_length_and_script(collection: HybridCollection, document_id: str) -> None:
    collection.upsert([{"id": document_id, "text": "some text"}])
    assert collection.get(document_id)[0].id == document_id
    assert collection.search("text")[0].id == document_id
    assert collection.delete(document_id) == 1


def test_documents_come_whole_all_of_them_or_those_that_match(collection: HybridCollection) -> None:
    long = " ".join(f"word{i}." for i in range(600))
    documents = [{"id": str(i), "text": f"text {i}", "metadata": {"even": i % 2 == 0}} for i in range(300)]
    collection.upsert([*documents, {"id": "long", "text": long, "metadata": {"even": True}}])
    assert {document.id: document.text for document in collection.documents()} == {
        "long": long,
        **{each["id"]: each["text"] for each in documents},
    }
    assert {document.id for document in collection.documents(filter={"even": False})} == {
        str(i) for i in range(1, 300, 2)
    }


def test_words_in_metadata_are_found_in_any_order_and_case(collection: HybridCollection) -> None:
    titles = {"a": "Comma Separated Values", "b": ["of commas", "values, separated by a comma"], "c": "other"}
    collection.upsert([{"id": name, "text": "x", "metadata": {"title": title}} for name, title in titles.items()])
    found = {document.id for document in collection.documents(filter={"title": {"text": "separated COMMA"}})}
    assert found == {"a", "b"}


def test_a_collection_tells_the_sizes_of_its_vectors(tmp_path: Path, mini: EmbeddingModel) -> None:
    with HybridCollection.open(tmp_path / "a", model=mini, outputs=("dense", "multi_vector"), token_dim=64) as both:
        assert (both.dim, both.token_dim) == (384, 64)
    with HybridCollection.open(tmp_path / "b", model=mini, outputs=("sparse",)) as sparse:
        assert (sparse.dim, sparse.token_dim) == (None, None)


def test_point_ids_never_change_between_releases() -> None:
    assert str(point_id("a")) == "b0dc94a7-a2bc-5407-ae70-7ca2c3bb0766"


def test_metadata_comes_back_as_it_went_in(collection: HybridCollection) -> None:
    metadata = {
        "text": "naïve\0 猫",
        "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, 1e300],
        "flags": {"yes": True, "nothing": None, "deep": {"er": [{}]}},
    }
    collection.upsert([{"id": "a", "text": "x", "metadata": metadata}])
    stored = collection.get("a")[0].metadata
    assert stored == metadata
    assert isinstance(stored["numbers"][0], int)


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=5))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_floats_in_metadata_come_back_to_the_last_digit(collection: HybridCollection, metadata: dict) -> None:
    collection.upsert([{"id": "a", "text": "x", "metadata": {"deep": [metadata]}}])
    assert collection.get("a")[0].metadata == collection.search("x")[0].metadata == {"deep": [metadata]}


def test_a_document_without_an_id_gets_one_from_its_content(collection: HybridCollection) -> None:
    once = {"text": "some text", "metadata": {"page": 1}}
    assert collection.upsert([once, {**once, "metadata": {"page": 2}}, {"text": "other"}]).written == 3
    assert collection.upsert([once]).unchanged == 1
    assert len(collection.search("text")[0].id) == 64


def test_dates_tuples_and_numpy_numbers_in_metadata_become_plain_values(collection: HybridCollection) -> None:
    when = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
    metadata = {
        "when": when,
        "day": when.date(),
        "pair": (1, 2),
        "path": Path("a/b"),
        "size": np.int64(3),
        "share": np.float32(0.5),
    }
    collection.upsert([{"id": "a", "text": "x", "metadata": metadata}])
    assert collection.get("a")[0].metadata == {
        "when": "2026-11-20T12:00:00+00:00",
        "day": "2026-11-20",
        "pair": [1, 2],
        "path": "a/b",
        "size": 3,
        "share": 0.5,
    }


def nested(depth: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(depth):
        metadata = {"k": metadata}
    return metadata


def test_metadata_nested_fifty_deep_comes_back(collection: HybridCollection) -> None:
    collection.upsert([{"id": "a", "text": "x", "metadata": nested(50)}])
    assert collection.search("x")[0].metadata == nested(50)


BAD_DOCUMENTS = [
    ("no dictionary", "must be a dictionary with id and text, not str"),
    ({"text": 5}, "text must be a string, not int"),
    ({"id": "", "text": "x"}, "not empty"),
    ({"id": 3, "text": "x"}, "id must be a string.*not 3"),
    ({"id": "bad"}, "'bad': text must be a string, not NoneType"),
    ({"id": "bad", "text": b"x"}, "'bad': text must be a string, not bytes"),
    ({"id": "bad", "text": "\ud800"}, "'bad': text has a lone surrogate at position 0"),
    ({"id": "\ud800", "text": "x"}, "id has a lone surrogate"),
    ({"id": "bad", "text": "x", "vektor": 1}, r"unknown fields \['vektor'\]"),
    ({"id": "bad", "text": "x", "metadata": [1]}, "metadata must be a dictionary, not list"),
    ({"id": "bad", "text": "x", "metadata": {"n": float("nan")}}, r"'bad': metadata\.n is nan"),
    ({"id": "bad", "text": "x", "metadata": {"a": [float("inf")]}}, r"metadata\.a\[0\] is inf"),
    ({"id": "bad", "text": "x", "metadata": {"n": 2**63}}, "more than 64 bits"),
    ({"id": "bad", "text": "x", "metadata": {"n": 10**5000}}, "more than 64 bits"),
    ({"id": 10**5000, "text": "x"}, "not empty, not a int"),
    ({"id": "bad", "text": "x", "metadata": {1: "x"}}, "has the key 1; keys must be strings"),
    ({"id": "bad", "text": "x", "metadata": {"o": object()}}, r"metadata\.o is a object; allowed are"),
    ({"id": "bad", "text": "x", "metadata": {"s": "\udfff"}}, r"metadata\.s has a lone surrogate"),
    ({"id": "bad", "text": "x", "metadata": nested(200)}, "nested more than 100 deep"),
]


@pytest.mark.parametrize(("document", "reason"), BAD_DOCUMENTS, ids=[reason[:30] for _, reason in BAD_DOCUMENTS])
def test_a_bad_document_is_reported_with_its_reason_and_the_others_are_stored(
    collection: HybridCollection, document: Any, reason: str
) -> None:
    report = collection.upsert([ANIMALS[0], document, ANIMALS[1]])
    assert report.written == 2
    assert [rejection.position for rejection in report.rejected] == [1]
    with pytest.raises(InvalidDocumentError, match=rf"1 of 3 documents were not stored.*documents\[1\]: .*{reason}"):
        report.raise_for_rejected()
    assert {hit.id for hit in collection.search("animal")} == {"cat", "bird"}


def test_documents_that_are_no_list_are_an_error(collection: HybridCollection) -> None:
    with pytest.raises(InputTypeError, match="list of dictionaries, not dict"):
        collection.upsert({"id": "a", "text": "x"})


def test_get_and_delete_know_missing_ids(collection: HybridCollection) -> None:
    collection.upsert(ANIMALS)
    assert collection.get(["fish", "nobody"])[1] is None
    assert collection.delete(["fish", "nobody", "fish"]) == 1
    assert collection.delete([]) == 0
    assert collection.count() == 2
    with pytest.raises(InputTypeError, match=r"ids\[1\] must be a string, not int"):
        collection.get(["a", 1])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="list of strings, not int"):
        collection.delete(1)  # type: ignore[arg-type]
    with pytest.raises(InvalidDocumentError, match=r"ids\[0\] has a lone surrogate"):
        collection.get("\ud800")


def test_an_empty_collection_answers_with_nothing(collection: HybridCollection) -> None:
    assert collection.search("anything") == []
    assert collection.count() == 0
    assert collection.upsert([]).written == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, True])
def test_a_limit_below_one_is_an_error(collection: HybridCollection, limit: Any) -> None:
    with pytest.raises(InvalidOptionError, match="limit must be a whole number above 0"):
        collection.search("x", limit=limit)


def test_an_unknown_mode_is_an_error_listing_the_modes(collection: HybridCollection) -> None:
    with pytest.raises(InvalidOptionError, match=r"mode 'vector' is not.*choose one of hybrid, dense, sparse, late"):
        collection.search("x", mode="vector")


def test_bad_query_vectors_are_errors(collection: HybridCollection, mini: EmbeddingModel) -> None:
    def query(dense: Any) -> Encodings:
        count = 1 if dense is None else len(dense)
        return Encodings(dense=dense, truncated=np.zeros(count, bool), token_counts=np.ones(count, np.int32))

    with pytest.raises(InvalidOptionError, match="one query, not 2"):
        collection.search(mini.encode_query(["a", "b"]), mode="dense")
    with pytest.raises(InvalidOptionError, match=r"has shape \[3\]; \[384\] is needed"):
        collection.search(query(np.ones((1, 3), np.float32)), mode="dense")
    with pytest.raises(InvalidOptionError, match="dense vector of dim 384"):
        collection.search(query(None), mode="dense")
    with pytest.raises(InvalidOptionError, match="NaN"):
        collection.search(query(np.full((1, 384), np.nan, np.float32)), mode="dense")
    with pytest.raises(InvalidOptionError, match="needs a sparse vector; encode it with outputs="):
        collection.search(mini.encode_query("x"), mode="hybrid")


class ChangingModel:
    """The real model, but for what a test does to its dense vectors."""

    def __init__(self, model: EmbeddingModel, change: Callable[[Any], Any]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_document(self, texts: Any, **options: Any) -> Encodings:
        encoded = self._model.encode_document(texts, **options)
        return dataclasses.replace(encoded, dense=self._change(encoded.dense))


def with_nan(dense: Any) -> Any:
    dense[-1, 5] = np.nan
    return dense


def test_a_document_whose_vector_is_no_number_is_rejected_and_the_others_are_stored(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    with HybridCollection.open(tmp_path, model=ChangingModel(mini, with_nan)) as collection:
        report = collection.upsert(ANIMALS)
        assert [(rejection.position, rejection.id) for rejection in report.rejected] == [(2, "fish")]
        assert "document 'fish': the vector 'dense' holds NaN" in report.rejected[0].reason
        assert (report.written, collection.count()) == (2, 2)
    with HybridCollection.open(tmp_path, model=mini) as collection:
        assert collection.upsert(ANIMALS).written == 1


def test_a_model_whose_vectors_are_of_another_size_is_refused_before_anything_is_written(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    with HybridCollection.open(tmp_path, model=ChangingModel(mini, lambda dense: dense[:, :100])) as collection:
        with pytest.raises(InvalidOptionError, match="dense vectors of 100 components, the collection stores 384"):
            collection.upsert(ANIMALS)
        assert collection.count() == 0


def test_everything_is_there_after_reopening(tmp_path: Path, mini: EmbeddingModel) -> None:
    with HybridCollection.open(tmp_path / "new" / "folder", model=mini) as collection:
        collection.upsert(ANIMALS)
        before = collection.search("wings")
    with HybridCollection.open(str(tmp_path / "new" / "folder"), model=mini) as collection:
        assert collection.search("wings") == before


def test_a_collection_written_with_another_model_is_refused_saying_what_differs(
    tmp_path: Path, mini: EmbeddingModel, tiny_bert: Path
) -> None:
    with HybridCollection.open(tmp_path, model=mini) as collection:
        collection.upsert(ANIMALS)
    with EmbeddingModel.load(str(tiny_bert)) as tiny:
        with pytest.raises(
            ModelMismatchError, match=r"written with the model 'mini'.*given is .*HybridCollection\.migrate"
        ):
            HybridCollection.open(tmp_path, model=tiny)
    with HybridCollection.open(tmp_path, model=mini) as collection:
        assert collection.count() == 3


def test_the_same_model_in_another_dtype_may_open_it(
    tmp_path: Path, mini: EmbeddingModel, mini_fp32: EmbeddingModel
) -> None:
    HybridCollection.open(tmp_path, model=mini).close()
    HybridCollection.open(tmp_path, model=mini_fp32).close()


def test_opening_a_folder_again_in_this_process_gives_a_handle_on_the_same_files(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    first = HybridCollection.open(tmp_path, model=mini)
    second = HybridCollection.open(tmp_path / "." / "", model=mini)
    first.upsert(ANIMALS)
    assert second.count() == 3
    first.close()
    with pytest.raises(ClosedError):
        first.count()
    assert second.search("wings")[0].id == "bird"
    second.close()
    assert "closed" in repr(second)


def test_a_forgotten_handle_gives_the_folder_free(tmp_path: Path, mini: EmbeddingModel) -> None:
    collection = HybridCollection.open(tmp_path, model=mini)
    collection.upsert(ANIMALS)
    before = len(STORES._handles)
    del collection
    gc.collect()
    assert len(STORES._handles) == before - 1


def test_a_folder_deleted_while_it_was_open_is_made_anew(tmp_path: Path, mini: EmbeddingModel) -> None:
    with HybridCollection.open(tmp_path / "index", model=mini) as deleted:
        deleted.upsert(ANIMALS)
        shutil.rmtree(tmp_path / "index")
        with HybridCollection.open(tmp_path / "index", model=mini) as fresh:
            assert fresh.count() == 0
            fresh.upsert(ANIMALS[:1])
    with HybridCollection.open(tmp_path / "index", model=mini) as again:
        assert again.count() == 1


@pytest.mark.parametrize("query", [{"input": "cats"}, ["a"], None, b"x"])
def test_a_query_that_is_no_string_is_an_error(collection: HybridCollection, query: Any) -> None:
    with pytest.raises(InputTypeError, match="a query must be a string"):
        collection.search(query)


def test_a_model_that_is_not_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="model must be a loaded model"):
        HybridCollection.open(tmp_path, model="mini")  # type: ignore[arg-type]


def test_from_documents_warns_of_documents_whose_end_is_not_read(tmp_path: Path, mini: EmbeddingModel) -> None:
    long = {"id": "long", "text": "word " * 1000}
    with pytest.warns(UserWarning, match=r"1 documents are longer than the model 'mini' reads, the first is 'long'"):
        HybridCollection.from_documents([long, ANIMALS[0]], tmp_path, model=mini, split=False).close()


def test_a_closed_collection_is_an_error_and_leaves_the_model_open(tmp_path: Path, mini: EmbeddingModel) -> None:
    collection = HybridCollection.open(tmp_path, model=mini)
    collection.close()
    collection.close()
    for use in (collection.count, lambda: collection.search("x"), lambda: collection.upsert(ANIMALS)):
        with pytest.raises(ClosedError, match="was closed; open it again"):
            use()
    assert mini.encode_query("x").dense is not None


@pytest.mark.parametrize("location", ["a\0b", "~no-such-user/x", 5])
def test_a_location_that_is_no_path_is_an_error(location: Any, mini: EmbeddingModel) -> None:
    with pytest.raises(InvalidOptionError, match="is no folder"):
        HybridCollection.open(location, model=mini)


@pytest.mark.parametrize(("location", "message"), [("", "is empty"), ("ftp://host/x", "no URL of a server")])
def test_a_location_that_is_neither_folder_nor_server_is_an_error(
    location: str, message: str, mini: EmbeddingModel
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        HybridCollection.open(location, model=mini)


def test_a_location_that_cannot_be_a_folder_is_an_error(tmp_path: Path, mini: EmbeddingModel) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CollectionError, match="cannot open"):
        HybridCollection.open(tmp_path / "file" / "index", model=mini)


def test_from_documents_closes_again_when_a_document_is_bad(tmp_path: Path, mini: EmbeddingModel) -> None:
    with pytest.raises(InvalidDocumentError, match="1 of 4"):
        HybridCollection.from_documents([*ANIMALS, {"id": ""}], tmp_path, model=mini)
    with HybridCollection.from_documents(ANIMALS, tmp_path, model=mini) as collection:
        assert collection.count() == 3


async def test_async_twins_do_the_same(collection: HybridCollection) -> None:
    assert (await collection.aupsert(ANIMALS)).written == 3
    results = await asyncio.gather(*(collection.asearch("wings", limit=1) for _ in range(8)))
    assert {hits[0].id for hits in results} == {"bird"}
    assert (await collection.aget("fish"))[0].id == "fish"
    assert await collection.adelete("fish") == 1
    assert await collection.acount() == 2


def test_sixteen_threads_read_and_write_at_once(collection: HybridCollection) -> None:
    def work(thread: int) -> None:
        for i in range(5):
            collection.upsert([{"id": f"{thread}-{i}", "text": f"thread {thread} wrote document {i}"}])
            assert collection.get(f"{thread}-{i}")[0] is not None
            assert collection.search(f"document {i} of thread {thread}", limit=3)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert collection.count() == 80


def test_closing_while_others_search_gives_them_the_closed_error_and_nothing_worse(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    collection = HybridCollection.open(tmp_path, model=mini)
    collection.upsert([{"id": str(i), "text": f"text {i}"} for i in range(300)])
    query = mini.encode_query("text", outputs=mini.outputs)
    errors: list[BaseException] = []

    def search_until_closed() -> None:
        try:
            while True:
                collection.search(query, limit=300)
                collection.count()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search_until_closed) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    collection.close()
    HybridCollection.open(tmp_path, model=mini).close()
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in errors] == [ClosedError] * 4


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_a_signal_handler_that_closes_in_the_middle_of_a_write_does_not_hang(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    collection = HybridCollection.open(tmp_path, model=mini)
    before = signal.signal(signal.SIGALRM, lambda *_: collection.close())
    try:
        collection.upsert([{"id": "0", "text": "text"}])
        acknowledged = 1
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with contextlib.suppress(ClosedError):
            while True:
                collection.upsert([{"id": str(acknowledged), "text": "text"}])
                acknowledged += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with HybridCollection.open(tmp_path, model=mini) as again:
        assert again.count() >= acknowledged


def test_hits_have_a_relevance_where_their_score_says_something_by_itself(
    collection: HybridCollection, mini: EmbeddingModel
) -> None:
    class Logits:
        def score(self, pairs: Any) -> list[float]:
            return [float(len(text)) / 10 - 2 for _, text in pairs]

    collection.upsert(ANIMALS)
    question = "Which birds can fly?"
    tokens = len(mini.encode_query(question, outputs=("multi_vector",)).multi_vector[0])
    expected: dict[str, Callable[[float], float]] = {
        "dense": lambda score: min(1, max(0, score)),
        "late_interaction": lambda score: max(0, score / tokens),
    }
    for mode, of in expected.items():
        for hit in collection.search(question, mode=mode, all_scores=True):
            assert hit.relevance == pytest.approx(of(hit.score))
    for hit in collection.search(question, rerank=Logits()):
        assert hit.relevance == pytest.approx(1 / (1 + np.exp(-hit.score)))
    for options in ({"mode": "sparse"}, {"mode": "hybrid"}, {"mode": "dense", "mmr": 0.5}):
        hits = collection.search(question, **options)
        assert hits
        assert {hit.relevance for hit in hits} == {None}


def test_mmr_chooses_from_as_many_candidates_as_it_is_told(collection: HybridCollection) -> None:
    collection.upsert([{"id": str(i), "text": f"Animal {i} has {i} legs."} for i in range(20)])
    best = {hit.id for hit in collection.search("Animal 3 has 3 legs.", mode="dense", limit=4)}
    chosen = collection.search("Animal 3 has 3 legs.", mode="dense", limit=4, candidates=4, mmr=0.1)
    assert {hit.id for hit in chosen} == best


def test_a_document_without_an_id_has_one_of_its_text_and_metadata(collection: HybridCollection) -> None:
    collection.upsert([{"text": "no id", "metadata": {"day": datetime.date(2026, 1, 2)}}])
    name = content_id("no id", {"day": "2026-01-02"})
    assert collection.get(name) == [StoredDocument(name, "no id", {"day": "2026-01-02"})]


def test_copies_of_a_collection_are_the_same_handle_and_pickling_says_what_to_do(collection: HybridCollection) -> None:
    assert copy.copy(collection) is collection
    assert copy.deepcopy([collection])[0] is collection
    with pytest.raises(TypeError, match="open it in the other process instead of pickling"):
        pickle.dumps(collection)
