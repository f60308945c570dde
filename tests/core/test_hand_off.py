"""One forward pass for callers that ask for dense and sparse vectors of the same texts one after the other."""

import copy
import gc
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mgte_rag import ClosedError, EmbeddingModel, InvalidOptionError
from mgte_rag.hand_off import HandOff, Kept, Slot, TextKey
from mgte_rag.nn.heads import SparseHead
from mgte_rag.output_view import OutputView

SPARSE, DENSE, SMALL = Slot("sparse", 0), Slot("dense", 384), Slot("dense", 128)
TEXTS = ["the cat sat on the mat", "", "a question about dogs", "another text, a little longer than the others"]


def key(text: str) -> TextKey:
    return TextKey("document", "", 256, text)


def kept(size: int = 10) -> Kept:
    return Kept(np.ones(size, dtype=np.float32), truncated=False, tokens=3)


def hand_off_of(*askers: Slot, **bounds: float) -> HandOff:
    hand_off = HandOff(**bounds)  # type: ignore[arg-type]
    for asker in askers:
        hand_off.join(asker)
    return hand_off


def test_what_is_kept_is_handed_over_once() -> None:
    hand_off, value = hand_off_of(DENSE), kept()
    hand_off.keep([key("a")], DENSE, [value])
    assert hand_off.take([key("b"), key("a")], DENSE) == [None, value]
    assert hand_off.take([key("a")], DENSE) == [None]
    assert hand_off._bytes == 0


def test_what_nobody_asks_for_is_not_kept() -> None:
    hand_off = hand_off_of(SPARSE)
    hand_off.keep([key("a")], DENSE, [kept()])
    assert len(hand_off) == 0


def test_the_oldest_goes_first_where_the_bytes_are_not_enough() -> None:
    one = kept(10_000)
    hand_off = hand_off_of(DENSE, max_bytes=3 * one.nbytes)
    for text in "abcd":
        hand_off.keep([key(text)], DENSE, [one])
    assert [value is not None for value in hand_off.take([key(text) for text in "abcd"], DENSE)] == [0, 0, 1, 1]


def test_the_bound_in_bytes_counts_the_texts_and_the_objects_too() -> None:
    hand_off = hand_off_of(DENSE, max_bytes=20_000)
    hand_off.keep([key("x" * 30_000)], DENSE, [kept(1)])
    assert len(hand_off) == 0
    hand_off.keep([key(str(number)) for number in range(1_000)], DENSE, [kept(1)] * 1_000)
    assert 0 < len(hand_off) < 40


def test_what_is_too_old_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    hand_off = hand_off_of(DENSE, max_seconds=60)
    hand_off.keep([key("a")], DENSE, [kept()])
    now = 30
    hand_off.keep([key("b")], DENSE, [kept()])
    now = 61
    assert [value is not None for value in hand_off.take([key("a"), key("b")], DENSE)] == [False, True]


def test_when_the_last_asker_leaves_what_was_kept_for_it_goes() -> None:
    hand_off = hand_off_of(DENSE, DENSE, SPARSE)
    hand_off.keep([key("a")], DENSE, [kept()])
    hand_off.keep([key("a")], SPARSE, [kept()])
    hand_off.leave(DENSE)
    assert len(hand_off) == 2
    hand_off.leave(DENSE)
    assert len(hand_off) == 1
    assert hand_off.partners(SPARSE) == ()
    assert hand_off.take([key("a")], SPARSE) != [None]
    assert hand_off._bytes == 0


def test_of_two_sizes_of_an_output_the_one_that_joined_last_is_the_partner() -> None:
    hand_off = hand_off_of(DENSE, SMALL, SPARSE)
    assert hand_off.partners(SPARSE) == (SMALL,)
    assert hand_off.partners(DENSE) == (SPARSE,)
    hand_off.leave(SMALL)
    assert hand_off.partners(SPARSE) == (DENSE,)


def test_the_garbage_collector_may_let_askers_leave_at_any_moment() -> None:
    hand_off = hand_off_of(DENSE, *[SPARSE] * 3)

    class Collected(Kept):
        """While its size is asked for, the garbage collector runs, and the views of an output are gone."""

        @property
        def nbytes(self) -> int:
            while SPARSE in hand_off._askers:
                hand_off.leave(SPARSE)
            return 40

    hand_off.keep([key("a"), key("b")], SPARSE, [kept(), kept()])
    hand_off.keep([key("a")], DENSE, [Collected(np.ones(10, dtype=np.float32), False, 3)])
    assert len(hand_off) == 1
    hand_off.leave(DENSE)
    assert hand_off._bytes == 0


@pytest.fixture
def views(mini_fp32: EmbeddingModel) -> Iterator[tuple[OutputView, OutputView]]:
    with mini_fp32.view("dense") as dense, mini_fp32.view("sparse") as sparse:
        yield dense, sparse


def assert_same_sparse(one: list, other: list) -> None:
    for first, second in zip(one, other, strict=True):
        assert first.indices.tolist() == second.indices.tolist()
        np.testing.assert_allclose(first.values, second.values, atol=1e-5)


@pytest.mark.parametrize("first", ["dense", "sparse"])
def test_dense_and_sparse_views_on_the_same_texts_cost_one_forward_pass(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView], first: str
) -> None:
    apart = mini_fp32.encode_document(TEXTS, outputs=("dense", "sparse"))
    before = mini_fp32.forwards
    made = {view.output: view.encode_document(TEXTS) for view in (views if first == "dense" else views[::-1])}
    assert mini_fp32.forwards == before + 1
    np.testing.assert_allclose(made["dense"].dense, apart.dense, atol=1e-5)
    assert_same_sparse(made["sparse"].sparse, apart.sparse)
    for encoded in made.values():
        assert encoded.truncated.tolist() == apart.truncated.tolist()
        assert encoded.token_counts.tolist() == apart.token_counts.tolist()
    assert made["dense"].sparse is made["sparse"].dense is None


def test_asking_again_for_the_same_output_computes_again(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    before = mini_fp32.forwards
    dense.encode_document(TEXTS)
    dense.encode_document(TEXTS)
    assert mini_fp32.forwards == before + 2
    sparse.encode_document(TEXTS)
    assert mini_fp32.forwards == before + 2
    sparse.encode_document(TEXTS)
    assert mini_fp32.forwards == before + 3


def test_a_lone_view_computes_its_own_output_and_nothing_else(
    mini_fp32: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparseHead, "forward", lambda *_: pytest.fail("the sparse head ran"))
    with mini_fp32.view("dense") as dense:
        before = mini_fp32.forwards
        encoded = dense.encode_document(TEXTS)
        assert mini_fp32.forwards == before + 1
        assert len(dense._hand_off) == 0
    np.testing.assert_array_equal(encoded.dense, mini_fp32.encode_document(TEXTS).dense)


def test_the_models_own_methods_neither_take_nor_leave_anything(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, _ = views
    dense.encode_document(TEXTS)
    waiting, before = len(dense._hand_off), mini_fp32.forwards
    mini_fp32.encode_document(TEXTS, outputs=("sparse",))
    assert mini_fp32.forwards == before + 1
    assert len(dense._hand_off) == waiting == len(TEXTS)


@pytest.mark.parametrize(
    ("method", "options"),
    [("encode_query", {}), ("encode_document", {"prompt": "passage: "}), ("encode_document", {"max_length": 4})],
)
def test_another_role_prompt_or_max_length_is_another_pass(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView], method: str, options: dict
) -> None:
    dense, sparse = views
    dense.encode_document(TEXTS)
    before = mini_fp32.forwards
    encoded = getattr(sparse, method)(TEXTS, **options)
    assert mini_fp32.forwards == before + 1
    assert_same_sparse(encoded.sparse, getattr(mini_fp32, method)(TEXTS, outputs=["sparse"], **options).sparse)


def test_the_roles_own_prompt_and_limit_are_the_same_given_or_not(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    before = mini_fp32.forwards
    dense.encode_document(TEXTS, prompt=mini_fp32.prompts["document"], max_length=mini_fp32.max_length)
    sparse.encode_document(TEXTS)
    assert mini_fp32.forwards == before + 1


def test_texts_that_come_twice_are_computed_once_and_returned_twice(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    listed = ["twice", "once", "twice", "twice"]
    before = mini_fp32.forwards
    first, second = dense.encode_document(listed), sparse.encode_document(iter(listed))
    assert mini_fp32.forwards == before + 1
    apart = mini_fp32.encode_document(listed, outputs=("dense", "sparse"))
    np.testing.assert_allclose(first.dense, apart.dense, atol=1e-5)
    assert_same_sparse(second.sparse, apart.sparse)
    assert first.token_counts.tolist() == second.token_counts.tolist() == apart.token_counts.tolist()


def test_texts_that_are_not_there_are_computed_and_put_in_their_places(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    dense.encode_document(["one", "two"])
    before = mini_fp32.forwards
    listed = ["new", "two", "newer", "one"]
    encoded = sparse.encode_document(listed)
    assert mini_fp32.forwards == before + 1
    assert_same_sparse(encoded.sparse, mini_fp32.encode_document(listed, outputs=["sparse"]).sparse)


def test_what_was_cut_says_so_in_both_views(views: tuple[OutputView, OutputView]) -> None:
    for view in views:
        encoded = view.encode_document(["one two three four five", "one two"], max_length=5)
        assert encoded.truncated.tolist() == [True, False]
        assert encoded.token_counts.tolist() == [5, 4]


def test_views_of_every_output_share_one_pass_at_their_sizes(mini_fp32: EmbeddingModel) -> None:
    with mini_fp32.view("dense") as dense, mini_fp32.view("sparse") as sparse:
        with mini_fp32.view("multi_vector", token_dim=32) as tokens:
            before = mini_fp32.forwards
            sparse.encode_query(TEXTS)
            rows = tokens.encode_query(TEXTS).multi_vector
            assert dense.encode_query(TEXTS).dense.shape == (len(TEXTS), 384)
            assert mini_fp32.forwards == before + 1
    apart = mini_fp32.encode_query(TEXTS, outputs=["multi_vector"], token_dim=32).multi_vector
    for shared, alone in zip(rows, apart, strict=True):
        np.testing.assert_allclose(shared, alone, atol=1e-5)


def test_two_sizes_of_token_vectors_are_never_mixed_up(mini_fp32: EmbeddingModel) -> None:
    with (
        mini_fp32.view("multi_vector", token_dim=32) as small,
        mini_fp32.view("multi_vector", token_dim=64) as large,
        mini_fp32.view("sparse") as sparse,
    ):
        sparse.encode_document(TEXTS)
        assert {rows.shape[1] for rows in small.encode_document(TEXTS).multi_vector} == {32}
        assert {rows.shape[1] for rows in large.encode_document(TEXTS).multi_vector} == {64}


def test_no_texts_give_empty_results_of_the_right_shape(views: tuple[OutputView, OutputView]) -> None:
    dense, sparse = views
    assert dense.encode_document([]).dense.shape == (0, 384)
    assert sparse.encode_document([]).sparse == []
    assert sparse.encode_document([]).truncated.shape == (0,)


async def test_async_views_share_passes_too(mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]) -> None:
    dense, sparse = views
    before = mini_fp32.forwards
    await dense.aencode_query("a question")
    await sparse.aencode_query("a question")
    assert mini_fp32.forwards == before + 1


def test_a_closed_view_is_an_error_and_the_other_goes_on_alone(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    dense.encode_document(TEXTS)
    sparse.close()
    sparse.close()
    assert "closed" in repr(sparse)
    with pytest.raises(ClosedError, match="this view of the model 'mini' was closed; make another"):
        sparse.encode_document(TEXTS)
    assert len(dense._hand_off) == 0
    dense.encode_document(TEXTS)
    assert len(dense._hand_off) == 0


def test_a_view_of_a_closed_model_is_an_error_even_where_its_vectors_are_there(mini_fp32: EmbeddingModel) -> None:
    closing = EmbeddingModel.load(dtype="float32")
    with closing.view("dense") as dense, mini_fp32.view("sparse") as sparse:
        sparse.encode_document("text")
        closing.close()
        with pytest.raises(ClosedError, match="was closed; load it again"):
            dense.encode_document("text")


def test_a_forgotten_view_stops_the_sharing(mini_fp32: EmbeddingModel) -> None:
    with mini_fp32.view("dense") as dense:
        sparse = mini_fp32.view("sparse")
        assert dense._hand_off.partners(dense._slot) == (sparse._slot,)
        del sparse
        gc.collect()
        assert dense._hand_off.partners(dense._slot) == ()


def test_a_view_keeps_its_model_open() -> None:
    with EmbeddingModel.load(dtype="float32").view("dense") as dense:
        gc.collect()
        assert dense.encode_query("still open").dense.shape == (1, 384)


@pytest.mark.parametrize("copied", [lambda view: pickle.loads(pickle.dumps(view)), copy.deepcopy, copy.copy])
def test_pickles_and_copies_are_views_of_the_same_that_share_passes(mini_fp32: EmbeddingModel, copied) -> None:
    with mini_fp32.view("multi_vector", token_dim=64) as tokens, mini_fp32.view("sparse") as sparse:
        with copied(tokens) as again:
            assert again.output == "multi_vector"
            before = mini_fp32.forwards
            sparse.encode_document("text")
            assert again.encode_document("text").multi_vector[0].shape[1] == 64
            assert mini_fp32.forwards == before + 1
        assert tokens.encode_document("text").multi_vector[0].shape[1] == 64


def test_an_output_or_a_size_the_model_does_not_have_is_an_error(mini_fp32: EmbeddingModel) -> None:
    with pytest.raises(InvalidOptionError, match="has dense, sparse, multi_vector"):
        mini_fp32.view("no such")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="allows 384"):
        mini_fp32.view("dense", dim=100)


def test_bad_input_in_a_view_is_the_models_own_error(views: tuple[OutputView, OutputView]) -> None:
    dense, _ = views
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, not int"):
        dense.encode_document(["fine", 7])  # type: ignore[list-item]
    with pytest.raises(InvalidOptionError, match="reads 3 to 256"):
        dense.encode_document("text", max_length=9_999)


def test_many_threads_asking_both_views_get_what_is_right(
    mini_fp32: EmbeddingModel, views: tuple[OutputView, OutputView]
) -> None:
    dense, sparse = views
    lists = [[f"text {number % 7}", f"text {(number + 3) % 7}"] for number in range(48)]
    every = [f"text {number}" for number in range(7)]
    expected = {text: mini_fp32.encode_document(text, outputs=("dense", "sparse")) for text in every}

    def ask(number: int) -> None:
        texts = lists[number]
        if number % 2:
            rows = dense.encode_document(texts).dense
            np.testing.assert_allclose(rows, np.concatenate([expected[text].dense for text in texts]), atol=1e-5)
        else:
            vectors = sparse.encode_document(texts).sparse
            assert_same_sparse(vectors, [expected[text].sparse[0] for text in texts])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(len(lists))))
