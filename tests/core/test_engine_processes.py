"""The engine under many threads for long, over forks and interruptions, and when the process ends."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag import EmbeddingModel, Reranker

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Reranker]:
    """A tiny random cross-encoder in its published layout."""
    folder = tmp_path_factory.mktemp("tiny-reranker")
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=1,
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    with Reranker.load(folder, dtype="float32") as loaded:
        yield loaded


def assert_same(encoded: Any, expected: Any) -> None:
    if encoded.dense is not None:
        np.testing.assert_allclose(encoded.dense, expected.dense, atol=1e-4)
    for one, other in zip(encoded.multi_vector or (), expected.multi_vector, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-3)
    for one, other in zip(encoded.sparse or (), expected.sparse, strict=False):
        assert one.indices.tolist() == other.indices.tolist()
        np.testing.assert_allclose(one.values, other.values, atol=1e-3)


def test_thousands_of_mixed_calls_from_eight_threads_are_right_and_memory_is_stable(
    mini_fp32: EmbeddingModel, reranker: Reranker, real_texts: list[str], request: pytest.FixtureRequest
) -> None:
    long_form = bool(request.config.getoption("--run-slow"))
    lists = [real_texts[start : start + 1 + start % 4] for start in range(0, 40, 2)]
    queries = [f"question number {number} " * (1 + number % 5) for number in range(20)]
    pairs = [[("the cat", "the dog sat " * (1 + number % 3)), ("a tree", "the mat")] for number in range(20)]
    documents = [mini_fp32.encode_document(texts, outputs=mini_fp32.outputs, max_length=64) for texts in lists]
    asked = [mini_fp32.encode_query(query, outputs=mini_fp32.outputs) for query in queries]
    scores = [reranker.score(each) for each in pairs]
    dense, sparse = mini_fp32.view("dense"), mini_fp32.view("sparse")

    def call(number: int) -> None:
        chance = random.Random(number)
        which = chance.randrange(20)
        outputs = chance.sample(mini_fp32.outputs, chance.randint(1, 3))
        match chance.randrange(6):
            case 0 | 1:
                assert_same(mini_fp32.encode_query(queries[which], outputs=outputs), asked[which])
            case 2:
                encoded = mini_fp32.encode_document(lists[which], outputs=outputs, max_length=64)
                assert_same(encoded, documents[which])
            case 3:
                np.testing.assert_allclose(reranker.score(pairs[which]), scores[which], atol=1e-4)
            case 4:
                assert_same(chance.choice([dense, sparse]).encode_query(queries[which]), asked[which])
            case 5:
                with pytest.raises(TypeError, match=r"texts\[1\] must be a string"):
                    mini_fp32.encode_query(["fine", 5])  # type: ignore[list-item]

    process = psutil.Process()
    memory = []
    with dense, sparse, ThreadPoolExecutor(8) as threads:
        for part in range(5):
            calls = range(part * 4_000, (part + 1) * 4_000) if long_form else range(part * 60, (part + 1) * 60)
            running = [threads.submit(call, number) for number in calls]
            done, stuck = wait(running, timeout=1_200 if long_form else 60)
            assert not stuck, "callers wait for ever"
            for future in done:
                future.result()
            memory.append(process.memory_info().rss)
    # oneDNN keeps what it made for the last thousand numbers of rows, which takes thousands of calls to fill.
    growth = memory[-1] - (memory[-2] if long_form else memory[0])
    assert growth < (64 if long_form else 160) * 2**20, [size >> 20 for size in memory]
    assert mini_fp32._engine is not None
    assert mini_fp32._engine._batcher._waiting == []
    assert len(mini_fp32._engine._batcher._idle) == 1


PREAMBLE = """
import asyncio, faulthandler, os, signal, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from mgte_rag import EmbeddingModel
faulthandler.dump_traceback_later(100, exit=True)
model = EmbeddingModel.load(dtype="float32")
texts = ["a text of a few words", "another one, somewhat longer than the first"] * 40
expected = model.encode_document(texts).dense

def check(model, tolerance=1e-4):
    assert abs(model.encode_document(texts).dense - expected).max() < tolerance

def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(60)  # a child that waits for ever is killed, and its status says so
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or waited for ever"
"""


@pytest.fixture
def run_script() -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Runs it after the preamble in a process of its own, which has to end by itself, in time and without an error."""

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        result = subprocess.run(
            [sys.executable, "-c", PREAMBLE + script], timeout=150, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


@needs_fork
def test_a_child_forked_while_another_thread_computes_computes_too(run_script) -> None:
    run_script("""
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        check(model)
others = [threading.Thread(target=keep_busy) for _ in range(3)]
for other in others:
    other.start()
for _ in range(3):
    time.sleep(0.05)
    in_child(lambda: check(model))
stop.set()
for other in others:
    other.join()
check(model)
""")


@needs_fork
def test_a_forked_child_may_load_a_model_of_its_own(run_script) -> None:
    run_script("""
def load_and_compute():
    with EmbeddingModel.load(dtype="bfloat16") as own:
        assert own._engine is not model._engine
        check(own, tolerance=0.05)
in_child(load_and_compute)
check(model)
""")


@needs_fork
def test_a_child_forked_while_another_thread_loads_or_hands_off_does_not_wait_for_it(run_script) -> None:
    run_script("""
from mgte_rag.sharing import POOL
dense, sparse = model.view("dense"), model.view("sparse")
inside, done = threading.Event(), threading.Event()
def hold():
    with POOL._lock, model._handle.hand_off._lock:
        inside.set()
        done.wait()
other = threading.Thread(target=hold)
other.start()
inside.wait()
def use_everything():
    before = model.forwards
    assert np.allclose(dense.encode_document(texts).dense, expected, atol=1e-4)
    sparse.encode_document(texts)
    assert model.forwards == before + 1
    EmbeddingModel.load(dtype="float32").close()
in_child(use_everything)
done.set()
other.join()
""")


@needs_fork
def test_the_first_calls_of_a_forked_child_may_come_from_many_threads(run_script) -> None:
    run_script("""
def many_threads():
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: check(model), range(32)))
    async def many_coroutines():
        await asyncio.gather(*(model.aencode_query("a question") for _ in range(32)))
    asyncio.run(many_coroutines())
async def before():
    await asyncio.gather(*(model.aencode_query("a question") for _ in range(8)))
asyncio.run(before())
in_child(many_threads)
""")


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no signals to send")
def test_ctrl_c_in_one_caller_leaves_the_others_right_and_the_engine_usable(run_script) -> None:
    result = run_script("""
stop = threading.Event()
failures, interruptions = [], 0
def keep_asking():
    while not stop.is_set():
        try:
            check(model)
        except BaseException as error:
            failures.append(error)
def interrupt():
    for _ in range(25):
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    stop.set()
threads = [threading.Thread(target=work) for work in (keep_asking, keep_asking, interrupt)]
for thread in threads:
    thread.start()
while not stop.is_set():
    try:
        while not stop.is_set():
            model.encode_query("a question")
    except KeyboardInterrupt:
        interruptions += 1
for thread in threads:
    thread.join()
check(model)
assert not failures, failures
print(interruptions)
""")
    assert int(result.stdout) > 0


def test_a_process_that_used_threads_and_coroutines_ends_at_once(run_script) -> None:
    result = run_script("""
dense, sparse = model.view("dense"), model.view("sparse")
async def ask():
    tasks = [asyncio.create_task(view.aencode_query("a question")) for view in (dense, sparse) * 20]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)
asyncio.run(ask())
threading.Thread(target=check, args=(model,)).start()
EmbeddingModel.load(devices=["cpu", "cpu"], dtype="float32").encode_document(["long " * 200] * 60)
faulthandler.cancel_dump_traceback_later()
faulthandler.dump_traceback_later(15, exit=True)
print("the end", flush=True)
""")
    assert result.stdout == "the end\n"
    assert "Traceback" not in result.stderr


def test_callers_in_daemon_threads_do_not_keep_a_process_from_ending() -> None:
    script = """
def keep_asking():
    while True:
        check(model)
for _ in range(32):
    threading.Thread(target=keep_asking, daemon=True).start()
time.sleep(0.5)
faulthandler.cancel_dump_traceback_later()
print("the end", flush=True)
"""
    # The status may be an abort: before Python 3.14 a daemon thread inside torch's C++ does not survive the end.
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], timeout=100, capture_output=True, text=True, check=False
    )
    assert result.stdout == "the end\n", result.stderr
