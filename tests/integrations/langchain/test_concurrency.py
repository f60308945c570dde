"""Many callers at once: every one gets its own answer, in order, and the event loop goes on."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_mgte import (
    MGTEEmbeddings,
    MGTELateInteractionReranker,
    MGTEReranker,
    MGTERetriever,
    MGTESparseEmbeddings,
)
from mgte_rag import EmbeddingModel, Reranker
from qdrant_mgte import HybridCollection

CALLS = 64
LONGEST_GAP = 0.05


@pytest.fixture
def numbered(collection: HybridCollection) -> MGTERetriever:
    """As many documents as calls, each found by its own words."""
    texts = [f"The animal number {i} lives in the city {i * 7}." for i in range(CALLS)]
    collection.upsert([{"id": str(i), "text": text} for i, text in enumerate(texts)])
    return MGTERetriever(collection=collection, k=1)


def question(i: int) -> str:
    return f"animal number {i} in the city {i * 7}"


async def longest_gap_while(work: Callable[[], Awaitable[Any]]) -> float:
    """Seconds for which the event loop could not run another coroutine."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        await work()
    finally:
        ticking.cancel()
    return max(gaps)


async def test_64_parallel_ainvokes_answer_in_order_and_never_block_the_event_loop(numbered: MGTERetriever) -> None:
    expected = [numbered.invoke(question(i))[0].id for i in range(CALLS)]
    assert len(set(expected)) > CALLS // 2
    answers: list[Any] = []

    async def ask() -> None:
        answers[:] = await asyncio.gather(*(numbered.ainvoke(question(i)) for i in range(CALLS)))

    gaps = []
    for _ in range(8):  # other programs on the machine take turns away from this one: the best attempt counts
        gaps.append(await longest_gap_while(ask))
        assert [documents[0].id for documents in answers] == expected
        if gaps[-1] < LONGEST_GAP:
            return
    pytest.fail(f"the event loop stood still for {min(gaps) * 1000:.0f} ms at best")


async def test_async_calls_load_the_model_beside_the_event_loop(
    numbered: MGTERetriever, reranker_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading: list[threading.Thread] = []
    for kind in (EmbeddingModel, Reranker):

        def load(*arguments: Any, load: Callable[..., Any] = kind.load, **options: Any) -> Any:
            loading.append(threading.current_thread())
            return load(*arguments, **options)

        monkeypatch.setattr(kind, "load", load)
    documents = [Document("the cat")]
    await MGTEEmbeddings().aembed_query("a")
    await MGTEEmbeddings().aembed_documents(["a"])
    await MGTESparseEmbeddings().aembed_query("a")
    await MGTESparseEmbeddings().aembed_documents(["a"])
    await MGTELateInteractionReranker().acompress_documents(documents, "a")
    await MGTEReranker(model=reranker_folder).acompress_documents(documents, "a")
    reranking = {"reranker": MGTEReranker(model=reranker_folder)}
    await MGTERetriever(collection=numbered.collection, **reranking).ainvoke("a")
    assert len(loading) == 7
    assert threading.main_thread() not in loading


async def test_64_parallel_embeddings_are_those_of_single_calls(mini_fp32: EmbeddingModel) -> None:
    dense, sparse = MGTEEmbeddings(model=mini_fp32), MGTESparseEmbeddings(model=mini_fp32)
    texts = [question(i) for i in range(CALLS)]
    vectors, weights = await asyncio.gather(
        asyncio.gather(*map(dense.aembed_query, texts)), asyncio.gather(*map(sparse.aembed_query, texts))
    )
    for text, vector, weight in zip(texts, vectors, weights, strict=True):
        assert vector == pytest.approx(dense.embed_query(text), abs=1e-5)
        assert weight.indices == sparse.embed_query(text).indices


def test_threads_share_a_retriever(numbered: MGTERetriever) -> None:
    expected = [numbered.invoke(question(i))[0].id for i in range(CALLS)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda i: numbered.invoke(question(i))[0].id, range(CALLS)))
    assert found == expected


def test_batch_answers_in_order(numbered: MGTERetriever) -> None:
    found = numbered.batch([question(i) for i in range(CALLS)], config={"max_concurrency": 8})
    assert [documents[0].id for documents in found] == [numbered.invoke(question(i))[0].id for i in range(CALLS)]


async def test_parallel_calls_are_batched_together(numbered: MGTERetriever, mini: EmbeddingModel) -> None:
    before = mini.forwards
    await asyncio.gather(*(numbered.ainvoke(question(i)) for i in range(CALLS)))
    assert mini.forwards - before < CALLS
