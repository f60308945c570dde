"""What users see of a model, on the real embedded default."""

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mgte_rag import ClosedError, EmbeddingModel, InputTypeError, InvalidOptionError, UnsupportedOutputError
from mgte_rag.sharing import POOL
from mgte_rag.types import Encodings

HOSTILE = {
    "empty": "",
    "blank": " \n\t\u3000",
    "one letter": "a",
    "lone surrogate": "a\ud800b",
    "only a surrogate": "\udfff",
    "NUL": "a\0b",
    "right to left": "שלום עולם مرحبا",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "combining marks": "e" + "\u0301" * 500,
    "private use": "\ue000\U0010fffd",
    "one very long word": "x" * 100_000,
    "5 MB": "the quick brown fox " * 250_000,
}


def test_the_default_says_what_it_can_do(mini: EmbeddingModel) -> None:
    assert mini.outputs == ("dense", "sparse", "multi_vector")
    assert mini.dims == (384,)
    assert mini.token_dims == (32, 64, 96, 128)
    assert mini.max_length == 256
    assert mini.prompts == {"query": "", "document": ""}
    assert "mini" in repr(mini)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_gives_a_finite_unit_vector(mini: EmbeddingModel, kind: str) -> None:
    encoded = mini.encode_document(HOSTILE[kind])
    assert encoded.dense.shape == (1, 384)
    assert np.linalg.norm(encoded.dense[0]) == pytest.approx(1, abs=1e-5)
    assert encoded.truncated.tolist() == [kind in ("5 MB",)]


def test_hostile_text_does_not_change_its_neighbours(mini_fp32: EmbeddingModel) -> None:
    alone = mini_fp32.encode_document("a plain sentence").dense
    among = mini_fp32.encode_document([*HOSTILE.values(), "a plain sentence"]).dense
    np.testing.assert_allclose(among[-1:], alone, atol=1e-5)


def test_no_texts_give_empty_results_of_the_right_shape(mini: EmbeddingModel) -> None:
    encoded = mini.encode_document([])
    assert encoded.dense.shape == (0, 384)
    assert encoded.dense.dtype == np.float32
    assert encoded.truncated.shape == encoded.token_counts.shape == (0,)
    assert len(encoded) == 0


def test_a_text_that_is_no_string_is_an_error_naming_its_position(mini: EmbeddingModel) -> None:
    with pytest.raises(InputTypeError, match=r"texts\[1\] must be a string, not int: 7"):
        mini.encode_document(["fine", 7])  # type: ignore[list-item]


def test_results_are_in_the_order_of_the_texts(mini_fp32: EmbeddingModel, real_texts: list[str]) -> None:
    some = real_texts[:40]
    forwards, backwards = mini_fp32.encode_document(some), mini_fp32.encode_document(some[::-1])
    np.testing.assert_allclose(forwards.dense, backwards.dense[::-1], atol=1e-5)
    assert forwards.truncated.tolist() == backwards.truncated[::-1].tolist()
    assert forwards.token_counts.tolist() == backwards.token_counts[::-1].tolist()


def test_a_batch_of_one_equals_a_batch_of_many(mini_fp32: EmbeddingModel, real_texts: list[str]) -> None:
    some = real_texts[:40]
    together = mini_fp32.encode_document(some).dense
    one_by_one = np.concatenate([mini_fp32.encode_document(text).dense for text in some])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_the_token_budget_does_not_change_results(
    mini_fp32: EmbeddingModel, real_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = mini_fp32.encode_document(real_texts[:40]).dense
    monkeypatch.setattr(mini_fp32._engine, "_token_budget", 300)
    np.testing.assert_allclose(mini_fp32.encode_document(real_texts[:40]).dense, usual, atol=1e-5)


def test_sixteen_threads_get_what_one_thread_gets(mini_fp32: EmbeddingModel, real_texts: list[str]) -> None:
    """Queries and documents in one batch too, whose terms count differently."""
    lists = [real_texts[i:160:16] for i in range(16)]

    def encode(number: int) -> Encodings:
        called = mini_fp32.encode_query if number % 2 else mini_fp32.encode_document
        return called(lists[number], outputs=("dense", "sparse"))

    expected = [encode(number) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(encode, range(16)))
    for result, single in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.dense, single.dense, atol=1e-5)
        for pair in zip(result.sparse, single.sparse, strict=True):
            own, other = (dict(zip(each.indices.tolist(), each.values.tolist(), strict=True)) for each in pair)
            assert all(own.get(term, 0.0) == pytest.approx(other.get(term, 0.0), abs=1e-4) for term in own | other)


async def test_async_methods_give_the_same_and_leave_the_event_loop_free(
    mini_fp32: EmbeddingModel, real_texts: list[str]
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    documents = await mini_fp32.aencode_document(real_texts[:100])
    query = await mini_fp32.aencode_query("a question")
    ticking.cancel()
    assert ticks > 5
    np.testing.assert_array_equal(query.dense, mini_fp32.encode_query("a question").dense)
    np.testing.assert_allclose(documents.dense, mini_fp32.encode_document(real_texts[:100]).dense, atol=1e-5)


def test_max_length_cuts_and_says_so(mini_fp32: EmbeddingModel) -> None:
    encoded = mini_fp32.encode_document(["one two three four five", "one two"], max_length=5)
    assert encoded.truncated.tolist() == [True, False]
    assert encoded.token_counts.tolist() == [5, 4]
    np.testing.assert_allclose(encoded.dense[0], mini_fp32.encode_document("one two three").dense[0], atol=1e-5)


@pytest.mark.parametrize("max_length", [0, 2, 257, 10_000, -1, "long", 3.5])
def test_a_max_length_the_model_does_not_have_is_an_error_giving_its_range(mini: EmbeddingModel, max_length) -> None:
    with pytest.raises(InvalidOptionError, match="reads 3 to 256"):
        mini.encode_document("text", max_length=max_length)


@pytest.mark.parametrize("outputs", [["sparse"], ["dense", "multi_vector"], "sparse", ["no such"], [], 5])
def test_an_output_without_a_head_is_an_error_naming_those_there_are(tiny_bert: Path, outputs) -> None:
    with EmbeddingModel.load(str(tiny_bert)) as tiny, pytest.raises(UnsupportedOutputError, match="has dense"):
        tiny.encode_document("text", outputs=outputs)


def test_a_dim_the_model_was_not_trained_for_is_an_error_listing_those_it_was(mini: EmbeddingModel) -> None:
    with pytest.raises(InvalidOptionError, match=r"dim=128.*allows 384"):
        mini.encode_document("text", dim=128)
    assert mini.encode_document("text", dim=384).dense.shape == (1, 384)


def test_a_token_dim_without_a_late_interaction_head_is_an_error(tiny_bert: Path) -> None:
    with EmbeddingModel.load(str(tiny_bert)) as tiny, pytest.raises(InvalidOptionError, match="no late-interaction"):
        tiny.encode_document("text", token_dim=64)


@pytest.mark.parametrize("texts", [{"a": 1}, {"a"}, b"abc"])
def test_a_collection_that_is_no_list_of_texts_is_an_error(mini: EmbeddingModel, texts: object) -> None:
    with pytest.raises(InputTypeError, match=f"list of strings, not {type(texts).__name__}"):
        mini.encode_document(texts)  # type: ignore[arg-type]


def test_similarity_of_anything_but_encodings_is_an_error(mini: EmbeddingModel) -> None:
    with pytest.raises(InputTypeError, match="not 'a'"):
        mini.similarity("a", mini.encode_document("b"))  # type: ignore[arg-type]


def test_an_unknown_option_is_an_error(mini: EmbeddingModel) -> None:
    with pytest.raises(TypeError, match="batch_sise"):
        mini.encode_document("text", batch_sise=3)  # type: ignore[call-arg]


def test_a_question_is_most_similar_to_its_answer(mini: EmbeddingModel) -> None:
    documents = mini.encode_document(["Paris is the capital of France.", "Cats sleep most of the day."])
    similarity = mini.similarity(mini.encode_query(["What do cats do?", "Which city rules France?"]), documents)
    assert similarity.dense.argmax(1).tolist() == [1, 0]
    np.testing.assert_array_equal(similarity.hybrid, similarity.dense)


def test_weights_scale_the_hybrid_score_and_unknown_ones_are_errors(mini: EmbeddingModel) -> None:
    query, document = mini.encode_query("a"), mini.encode_document("b")
    halved = mini.similarity(query, document, weights={"dense": 0.5})
    np.testing.assert_allclose(halved.hybrid, 0.5 * halved.dense)
    with pytest.raises(InvalidOptionError, match=r"weights name sparse.*share dense"):
        mini.similarity(query, document, weights={"sparse": 1})


def test_similarity_of_different_sizes_is_an_error(mini: EmbeddingModel, tiny_bert: Path) -> None:
    with EmbeddingModel.load(str(tiny_bert)) as tiny, pytest.raises(InvalidOptionError, match="dim 384, documents 32"):
        mini.similarity(mini.encode_query("a"), tiny.encode_document("b"))


def test_handles_of_the_same_model_share_one_copy_of_the_weights(tiny_bert: Path) -> None:
    before = len(POOL)
    first, second = EmbeddingModel.load(str(tiny_bert)), EmbeddingModel.load(str(tiny_bert))
    other = EmbeddingModel.load(str(tiny_bert), dtype="float16")
    assert first._engine is second._engine
    assert first._engine is not other._engine
    assert len(POOL) == before + 2
    for model in (first, second, other):
        model.close()
    assert len(POOL) == before


def test_many_threads_loading_at_once_make_one_copy(tiny_bert: Path) -> None:
    before = len(POOL)
    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(lambda _: EmbeddingModel.load(str(tiny_bert)), range(8)))
    assert len(POOL) == before + 1
    assert len({id(model._engine) for model in models}) == 1
    for model in models:
        model.close()


def test_a_forgotten_handle_frees_its_memory(tiny_bert: Path) -> None:
    before = len(POOL)
    model = EmbeddingModel.load(str(tiny_bert))
    assert len(POOL) == before + 1
    del model
    gc.collect()
    assert len(POOL) == before


def test_a_closed_handle_is_an_error_and_others_go_on(tiny_bert: Path) -> None:
    closed, still_open = EmbeddingModel.load(str(tiny_bert)), EmbeddingModel.load(str(tiny_bert))
    closed.close()
    closed.close()
    with pytest.raises(ClosedError, match=r"was closed; load it again"):
        closed.encode_query("cat")
    with still_open:
        assert still_open.encode_query("cat").dense.shape == (1, 32)


@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy])
def test_pickles_and_copies_are_references_that_share_the_weights(mini: EmbeddingModel, copied) -> None:
    assert len(pickle.dumps(mini)) < 1_000
    with copied(mini) as again:
        assert again is not mini
        assert again._engine is mini._engine
    assert mini.encode_query("still open").dense.shape == (1, 384)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "is not a device|is not on this machine"),
        ({"device": "cpu:5"}, "it has 1 of cpu"),
        ({"device": ["cpu"]}, "is not a device"),
        ({"dtype": "int8"}, "dtype 'int8' is not supported; choose one of auto, float32"),
        ({"dtype": torch.float64}, "choose one of auto"),
        ({"attention": "xformers"}, "choose one of auto, sdpa"),
    ],
)
def test_an_option_this_machine_does_not_have_is_an_error_listing_what_it_has(options: dict, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        EmbeddingModel.load(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_an_error_naming_those_that_are() -> None:
    with pytest.raises(InvalidOptionError, match=r"device 'cuda' is not on this machine; it has .*cpu"):
        EmbeddingModel.load(device="cuda")


def test_a_name_that_is_no_string_is_an_error() -> None:
    with pytest.raises(InputTypeError, match="name must be a string, a path or None, not int"):
        EmbeddingModel.load(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_one_device_by_many_names_holds_one_copy(mini: EmbeddingModel, device) -> None:
    with EmbeddingModel.load(device=device) as model:
        assert model._engine is mini._engine


def test_a_revision_of_something_that_is_not_on_the_hub_is_an_error(tiny_bert: Path) -> None:
    for name in (None, "mini", str(tiny_bert)):
        with pytest.raises(InvalidOptionError, match="only models of the hub have revisions"):
            EmbeddingModel.load(name, revision="main")


def test_a_folder_may_be_a_path_and_its_pickle_works_from_anywhere(tiny_bert: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tiny_bert.parent)
    with EmbeddingModel.load(Path(tiny_bert.name)) as model:
        monkeypatch.chdir(tmp_path)
        with pickle.loads(pickle.dumps(model)) as again:
            assert again._engine is model._engine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_what_its_parent_does() -> None:
    script = """
import os
from mgte_rag import EmbeddingModel
model = EmbeddingModel.load(dtype="float32")
expected = model.encode_query("before the fork").dense
child = os.fork()
if not child:
    os._exit(0 if abs(model.encode_query("before the fork").dense - expected).max() < 1e-5 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_progress_goes_to_standard_error_only_when_asked_for(mini: EmbeddingModel, capfd) -> None:
    mini.encode_document(["text"] * 3)
    assert capfd.readouterr() == ("", "")
    mini.encode_document(["text"] * 3, show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "3/3" in err
    assert "tokens/s" in err


def test_token_offsets_count_and_place_every_token_that_is_read(mini: EmbeddingModel, real_texts: list[str]) -> None:
    texts = [*real_texts[:50], *HOSTILE.values()][:-1]
    encoded = mini.encode_document(texts)
    for text, places, count, cut in zip(
        texts, mini.token_offsets(texts), encoded.token_counts, encoded.truncated, strict=True
    ):
        assert min(len(places), mini.max_length) == count
        assert (len(places) > mini.max_length) == cut
        assert places.dtype == np.int32
        assert places[0].tolist() == [0, 0]
        assert places[-1].tolist() == [len(text)] * 2
        assert (np.diff(places[:-1, 0]) >= 0).all()


def test_token_offsets_are_places_in_the_text_and_a_prompt_has_none(mini: EmbeddingModel) -> None:
    (places,) = mini.token_offsets("Cats sleep.", prompt="passage: ")
    assert ["Cats sleep."[start:end] for start, end in places] == ["", "", "", "Cats", "sleep", ".", ""]
    assert mini.token_offsets([]) == []
    with pytest.raises(InputTypeError, match=r"texts\[0\]"):
        mini.token_offsets([5])  # type: ignore[list-item]
