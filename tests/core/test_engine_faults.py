"""What callers get when memory runs out, another caller's texts are bad, or somebody is cancelled."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from mgte_rag import EmbeddingModel
from mgte_rag.devices import is_out_of_memory
from mgte_rag.engine import Engine
from mgte_rag.nn.packing import PackedBatch

SECONDS = 60
"""Longer than anything here takes: what waits longer waits forever."""

OUT_OF_MEMORY = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GiB, other allocations: 1.00 GiB"),
    "Python": MemoryError(),
}
OTHER_ERRORS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    ValueError("out of memory, says somebody who is not an allocator"),
    KeyError("DefaultCPUAllocator: "),
]


class WatchedEncoder:
    """An encoder that notes the lengths of every batch it finishes, and first does what the test wants done.

    Args:
        encoder: the real one.
        before: called with the number of the pass, from 1, and its batch; may raise or wait.
    """

    def __init__(self, encoder: torch.nn.Module, before: Callable[[int, PackedBatch], object]) -> None:
        self._forward = encoder.forward
        self._before = before
        self.started = 0
        self.finished: list[list[int]] = []

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        self.started += 1
        self._before(self.started, batch)
        hidden: torch.Tensor = self._forward(batch)
        assert len(hidden) == len(batch.ids)
        self.finished.append(batch.lengths.tolist())
        return hidden

    @property
    def tokens(self) -> list[int]:
        """Of every finished pass."""
        return [sum(lengths) for lengths in self.finished]


@pytest.fixture
def engine(mini_fp32: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The model's own, whose token budget is small and comes back after the test."""
    found = mini_fp32._engine
    assert found is not None
    monkeypatch.setattr(found, "_token_budget", 600)
    return found


@pytest.fixture
def watch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WatchedEncoder]:
    def start(before: Callable[[int, PackedBatch], object] = lambda number, batch: None) -> WatchedEncoder:
        encoder = engine._replicas[0].model.encoder
        watched = WatchedEncoder(encoder, before)
        monkeypatch.setattr(encoder, "forward", watched)
        return watched

    return start


@pytest.fixture(scope="module")
def some_texts(real_texts: list[str]) -> list[str]:
    return real_texts[:30]


@pytest.fixture(scope="module")
def expected(mini_fp32: EmbeddingModel, some_texts: list[str]) -> Any:
    return mini_fp32.encode_document(some_texts, outputs=mini_fp32.outputs)


def assert_same(encoded: Any, expected: Any) -> None:
    np.testing.assert_allclose(encoded.dense, expected.dense, atol=1e-5)
    for one, other in zip(encoded.multi_vector, expected.multi_vector, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(encoded.sparse, expected.sparse, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.001)


def test_no_padding_goes_through_the_encoder_and_the_passes_are_as_few_as_the_budget_allows(
    mini_fp32: EmbeddingModel, watch: Callable[..., WatchedEncoder], some_texts: list[str]
) -> None:
    watched = watch()
    before = mini_fp32.forwards
    encoded = mini_fp32.encode_document(some_texts, outputs=mini_fp32.outputs)
    total = int(encoded.token_counts.sum())
    assert sum(watched.tokens) == total
    assert sorted(sum(watched.finished, [])) == sorted(encoded.token_counts.tolist())  # noqa: RUF017
    assert max(watched.tokens) <= 600
    longest = int(encoded.token_counts.max())
    assert total / 600 <= mini_fp32.forwards - before == len(watched.tokens) <= total / (600 - longest) + 1


def test_a_short_list_is_one_pass_whatever_is_asked_for(
    mini_fp32: EmbeddingModel, watch: Callable[..., WatchedEncoder]
) -> None:
    watched = watch()
    texts = ["one", "two words", "now three words", ""]
    for outputs in (["dense"], ["sparse"], ["multi_vector"], mini_fp32.outputs):
        mini_fp32.encode_document(texts, outputs=outputs)
    assert watched.finished == [watched.finished[0]] * 4
    assert sum(watched.finished[0]) == int(mini_fp32.encode_document(texts).token_counts.sum())


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_where_memory_runs_out_the_batch_is_halved_and_finished_work_is_kept(
    mini_fp32: EmbeddingModel,
    watch: Callable[..., WatchedEncoder],
    some_texts: list[str],
    expected: Any,
    kind: str,
    nth: int,
) -> None:
    failed = 0

    def fail(number: int, batch: PackedBatch) -> None:
        nonlocal failed
        if number == nth:
            failed = len(batch.ids)
            raise OUT_OF_MEMORY[kind]

    watched = watch(fail)
    encoded = mini_fp32.encode_document(some_texts, outputs=mini_fp32.outputs)
    assert_same(encoded, expected)
    assert sum(watched.tokens) == int(expected.token_counts.sum())  # nothing was computed twice
    halves, later = watched.tokens[nth - 1 : nth + 1], watched.tokens[nth + 1 :]
    assert sum(halves) == failed
    assert all(
        tokens <= failed // 2 or len(lengths) == 1
        for tokens, lengths in zip(later, watched.finished[nth + 1 :], strict=True)
    )
    assert watched.started == len(watched.finished) + 1


def test_a_batch_is_halved_as_often_as_it_takes(
    mini_fp32: EmbeddingModel, watch: Callable[..., WatchedEncoder], some_texts: list[str]
) -> None:
    usual = mini_fp32.encode_document(some_texts, max_length=64).dense

    def fail(number: int, batch: PackedBatch) -> None:
        if len(batch.ids) > 70:
            raise OUT_OF_MEMORY["device"]

    watched = watch(fail)
    np.testing.assert_allclose(mini_fp32.encode_document(some_texts, max_length=64).dense, usual, atol=1e-5)
    assert max(watched.tokens) <= 70
    failures = watched.started - len(watched.finished)
    mini_fp32.encode_document(some_texts, max_length=64)
    assert watched.started - len(watched.finished) == failures  # later batches are kept that small


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_a_text_that_does_not_fit_alone_is_the_allocators_error_with_a_note(
    mini_fp32: EmbeddingModel, watch: Callable[..., WatchedEncoder], kind: str
) -> None:
    error = type(OUT_OF_MEMORY[kind])(*OUT_OF_MEMORY[kind].args)

    def fail(number: int, batch: PackedBatch) -> None:
        if int(batch.lengths.max()) > 100:
            raise error

    watched = watch(fail)
    with pytest.raises(type(error)) as raised:
        mini_fp32.encode_document(["short", "long " * 150, "short too"])
    assert raised.value is error
    note = "one text of 152 tokens does not fit into memory; give a smaller max_length"
    assert error.__notes__ == [note]
    mini_fp32.encode_document(["short", "long " * 150, "short too"], max_length=100)
    assert sorted(watched.tokens) == [7, 100]


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=lambda error: type(error).__name__)
def test_any_other_error_is_rethrown_as_it_is_and_nothing_is_tried_again(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder], some_texts: list[str], error
) -> None:
    def fail(number: int, batch: PackedBatch) -> None:
        if number == 2:
            raise error

    watched = watch(fail)
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        mini_fp32.encode_document(some_texts)
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    assert watched.started == 2
    assert engine._token_budget == 600
    mini_fp32.encode_document(some_texts)  # the lane is free


class Gate:
    """Holds up the first pass until others wait for the next one."""

    def __init__(self, then: Callable[[int, PackedBatch], object] = lambda number, batch: None) -> None:
        self.inside, self.open = threading.Event(), threading.Event()
        self._then = then

    def __call__(self, number: int, batch: PackedBatch) -> None:
        if number == 1:
            self.inside.set()
            assert self.open.wait(SECONDS)
        self._then(number, batch)


def test_queries_of_many_threads_are_one_pass_and_each_gets_its_own_vectors(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder]
) -> None:
    queries = [f"question number {number} " * (1 + number % 4) for number in range(12)]
    usual = mini_fp32.encode_query(queries).dense
    gate = Gate()
    watched = watch(gate)
    with ThreadPoolExecutor(16) as threads:
        first = threads.submit(mini_fp32.encode_query, "the first")
        assert gate.inside.wait(SECONDS)
        running = [threads.submit(mini_fp32.encode_query, query) for query in queries]
        wait_until(lambda: len(engine._batcher._waiting) == len(queries))
        gate.open.set()
        first.result(SECONDS)
        for future, vector in zip(running, usual, strict=True):
            np.testing.assert_allclose(future.result(SECONDS).dense[0], vector, atol=1e-5)
    assert [len(lengths) for lengths in watched.finished] == [1, 12]


def test_queries_that_want_different_vectors_are_not_one_pass(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder]
) -> None:
    gate = Gate()
    watched = watch(gate)
    with ThreadPoolExecutor(16) as threads:
        running = [threads.submit(mini_fp32.encode_query, "the first")]
        assert gate.inside.wait(SECONDS)
        for number in range(6):
            outputs = ("dense",) if number % 2 else ("sparse",)
            running.append(threads.submit(mini_fp32.encode_query, f"query {number}", outputs=outputs))
        wait_until(lambda: len(engine._batcher._waiting) == 6)
        gate.open.set()
        results = [future.result(SECONDS) for future in running]
    assert [len(lengths) for lengths in watched.finished] == [1, 3, 3]
    assert [result.dense is None for result in results] == [False, True, False, True, False, True, False]


def test_a_token_vector_kept_by_one_caller_does_not_keep_the_others_alive(mini_fp32: EmbeddingModel) -> None:
    encoded = mini_fp32.encode_document(["a kept text", *["another " * 200] * 5], outputs=["multi_vector"])
    vectors = encoded.multi_vector[0]
    assert vectors.base is None or vectors.base.nbytes == vectors.nbytes


def test_a_bad_text_of_one_caller_is_that_callers_error_alone(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder]
) -> None:
    queries = [f"question number {number}" for number in range(5)]
    usual = mini_fp32.encode_query(queries).dense
    bad_length = int(mini_fp32.encode_query("bad " * 30).token_counts[0])

    def fail(number: int, batch: PackedBatch) -> None:
        if bad_length in batch.lengths.tolist():
            raise ValueError("this text is bad")

    gate = Gate(fail)
    watch(gate)
    with ThreadPoolExecutor(16) as threads:
        first = threads.submit(mini_fp32.encode_query, "the first")
        assert gate.inside.wait(SECONDS)
        running = [threads.submit(mini_fp32.encode_query, query) for query in [*queries, "bad " * 30]]
        wait_until(lambda: len(engine._batcher._waiting) == 6)
        gate.open.set()
        first.result(SECONDS)
        for future, vector in zip(running, usual, strict=False):
            np.testing.assert_allclose(future.result(SECONDS).dense[0], vector, atol=1e-5)
        with pytest.raises(ValueError, match="this text is bad"):
            running[-1].result(SECONDS)


def test_one_callers_text_that_does_not_fit_leaves_the_others_results_right(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder]
) -> None:
    usual = mini_fp32.encode_query(["small", "small too"]).dense

    def fail(number: int, batch: PackedBatch) -> None:
        if int(batch.lengths.max()) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    gate = Gate(fail)
    watch(gate)
    with ThreadPoolExecutor(16) as threads:
        first = threads.submit(mini_fp32.encode_query, "the first")
        assert gate.inside.wait(SECONDS)
        running = [threads.submit(mini_fp32.encode_query, text) for text in ("small", "small too", "large " * 120)]
        wait_until(lambda: len(engine._batcher._waiting) == 3)
        gate.open.set()
        first.result(SECONDS)
        for future, vector in zip(running, usual, strict=False):
            np.testing.assert_allclose(future.result(SECONDS).dense[0], vector, atol=1e-5)
        with pytest.raises(torch.OutOfMemoryError) as raised:
            running[-1].result(SECONDS)
    assert raised.value.__notes__ == ["one text of 122 tokens does not fit into memory; give a smaller max_length"]


async def test_a_cancelled_coroutine_harms_nobody(
    mini_fp32: EmbeddingModel, engine: Engine, watch: Callable[..., WatchedEncoder]
) -> None:
    queries = [f"question number {number}" for number in range(6)]
    usual = mini_fp32.encode_query(queries).dense
    gate = Gate()
    watch(gate)
    try:
        first = asyncio.create_task(mini_fp32.aencode_query("the first"))
        while not gate.inside.is_set():
            await asyncio.sleep(0.001)
        tasks = [asyncio.create_task(mini_fp32.aencode_query(query)) for query in queries]
        while len(engine._batcher._waiting) < len(queries):
            await asyncio.sleep(0.001)
        for cancelled in (first, tasks[0], tasks[3]):
            cancelled.cancel()
        results = await asyncio.wait_for(asyncio.gather(first, *tasks[:1], tasks[3], return_exceptions=True), SECONDS)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
    finally:
        gate.open.set()
    for number in (1, 2, 4, 5):
        encoded = await asyncio.wait_for(tasks[number], SECONDS)
        np.testing.assert_allclose(encoded.dense[0], usual[number], atol=1e-5)
    again = await asyncio.wait_for(mini_fp32.aencode_query(queries), SECONDS)
    np.testing.assert_allclose(again.dense, usual, atol=1e-5)


@pytest.fixture(scope="module")
def two_devices() -> Iterator[EmbeddingModel]:
    with EmbeddingModel.load(devices=["cpu", "cpu"], dtype="float32") as model:
        yield model


def test_two_devices_give_the_vectors_of_one_and_both_are_used(
    two_devices: EmbeddingModel, some_texts: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_devices._engine, "_token_budget", 600)
    assert_same(two_devices.encode_document(some_texts, outputs=two_devices.outputs), expected)
    assert all(replica.forwards > 1 for replica in two_devices._engine._replicas)
    assert two_devices.device == "cpu, cpu"


def test_an_error_on_one_of_two_devices_ends_the_call_and_leaves_both_usable(
    two_devices: EmbeddingModel, some_texts: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_devices._engine, "_token_budget", 600)

    def fail(number: int, batch: PackedBatch) -> None:
        raise ValueError("this device is broken")

    encoder = two_devices._engine._replicas[0].model.encoder
    with monkeypatch.context() as broken:
        broken.setattr(encoder, "forward", WatchedEncoder(encoder, fail))
        with pytest.raises(ValueError, match="this device is broken"):
            two_devices.encode_document(some_texts)
    assert_same(two_devices.encode_document(some_texts, outputs=two_devices.outputs), expected)


def test_memory_stays_where_it_is_over_many_single_queries(
    mini_fp32: EmbeddingModel, request: pytest.FixtureRequest
) -> None:
    calls = 10_000 if request.config.getoption("--run-slow") else 300
    process = psutil.Process()

    def ask(number: int) -> None:
        mini_fp32.encode_query(f"question number {number} " * (1 + number % 9), outputs=mini_fp32.outputs)

    for number in range(100):
        ask(number)
    before = process.memory_info().rss
    for number in range(calls):
        ask(number)
    assert process.memory_info().rss - before < 24 * 2**20
