"""The traps that LlamaIndex sets and the mistakes that others made in them, each by its name."""

import asyncio
import inspect
import logging
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores.types import VectorStoreQuery

import llama_index_mgte
from llama_index_mgte import (
    MGTEEmbedding,
    MGTELateInteractionReranker,
    MGTELateInteractionRetriever,
    MGTEReranker,
    MGTERetriever,
    MGTESparseEmbedding,
    MGTEVectorStore,
)
from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.sharing import POOL

# Besides the model, that is: where that computes for long, other threads wait for the interpreter more often.
LONGEST_BLOCK = 0.05
LONGEST_BLOCK_WHILE_COMPUTING = 0.25


async def longest_block(work: Awaitable[Any]) -> float:
    """The longest time that the event loop could not turn while the work went on."""
    longest, last = 0.0, time.perf_counter()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    ticking = asyncio.create_task(tick())
    await work
    ticking.cancel()
    return longest


def test_async_methods_of_the_base_class_are_all_overridden_as_they_compute_on_the_event_loop() -> None:
    for kind, base in ((MGTEEmbedding, BaseEmbedding), (MGTESparseEmbedding, BaseSparseEmbedding)):
        for name in ("_aget_query_embedding", "_aget_text_embedding", "_aget_text_embeddings"):
            assert getattr(kind, name) is not getattr(base, name)
    for name in ("async_add", "aquery", "adelete", "adelete_nodes", "aget_nodes", "aclear"):
        assert name in vars(MGTEVectorStore)
    for retriever in (MGTERetriever, MGTELateInteractionRetriever):
        assert "_aretrieve" in vars(retriever)


@pytest.mark.parametrize("what", ["dense", "sparse", "store", "retriever", "late interaction", "reranker"])
async def test_async_calls_leave_the_event_loop_free(
    what: str, filled: MGTEVectorStore, passages: list[TextNode], mini: EmbeddingModel
) -> None:
    texts = [f"{passage.text} {i}" for i in range(3) for passage in passages]
    nodes = [NodeWithScore(node=passage) for passage in passages]
    late = MGTELateInteractionRetriever.from_nodes(passages, model=mini)
    work: dict[str, Callable[[], Awaitable[Any]]] = {
        "dense": lambda: MGTEEmbedding().aget_text_embedding_batch(texts),
        "sparse": lambda: MGTESparseEmbedding().aget_text_embedding_batch(texts),
        "store": lambda: filled.aquery(VectorStoreQuery(query_str="rows", similarity_top_k=5)),
        "retriever": lambda: MGTERetriever(filled.collection).aretrieve("rows"),
        "late interaction": lambda: late.aretrieve("rows"),
        "reranker": lambda: MGTELateInteractionReranker().apostprocess_nodes(nodes, QueryBundle("rows")),
    }
    longest = LONGEST_BLOCK_WHILE_COMPUTING if what in ("dense", "sparse", "reranker") else LONGEST_BLOCK
    blocks = []
    for _ in range(8):  # other programs on the machine take turns away from this one: the best attempt counts
        blocks.append(await longest_block(work[what]()))
        if blocks[-1] < longest:
            return
    pytest.fail(f"the event loop stood still for {min(blocks) * 1000:.0f} ms at best")


async def test_async_calls_load_the_model_beside_the_event_loop(
    filled: MGTEVectorStore, cross_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading: list[threading.Thread] = []
    for kind in (EmbeddingModel, Reranker):

        def load(*arguments: Any, load: Callable[..., Any] = kind.load, **options: Any) -> Any:
            loading.append(threading.current_thread())
            return load(*arguments, **options)

        monkeypatch.setattr(kind, "load", load)
    nodes, query = [NodeWithScore(node=TextNode(text="cats"))], QueryBundle("cats")
    await MGTEEmbedding().aget_query_embedding("cats")
    await MGTEEmbedding().aget_text_embedding_batch(["cats"])
    await MGTEEmbedding(embeddings_cache=SimpleKVStore()).aget_text_embedding("cats")
    await MGTESparseEmbedding().aget_query_embedding("cats")
    await MGTESparseEmbedding().aget_text_embedding_batch(["cats"])
    await MGTELateInteractionReranker().apostprocess_nodes(nodes, query)
    await MGTEReranker(model=cross_encoder).apostprocess_nodes(nodes, query)
    with MGTEVectorStore(location=":memory:") as store:
        await store.aquery(VectorStoreQuery(query_str="cats", similarity_top_k=1))
    assert len(loading) == 8
    assert threading.main_thread() not in loading


async def test_64_retrievals_at_once_are_answered_in_order(filled: MGTEVectorStore, passages: list[TextNode]) -> None:
    retriever = MGTERetriever(filled.collection, similarity_top_k=1)
    questions = [passages[i % len(passages)].text[:80] for i in range(64)]
    expected = {question: retriever.retrieve(question)[0].node_id for question in set(questions)}
    answers = await asyncio.gather(*(retriever.aretrieve(question) for question in questions))
    assert [nodes[0].node_id for nodes in answers] == [expected[question] for question in questions]


async def test_concurrent_queries_are_computed_together_and_come_back_in_order(mini: EmbeddingModel) -> None:
    embedding = MGTEEmbedding()
    questions = [f"question number {i}" for i in range(64)]
    expected = mini.encode_query(questions).dense
    before = mini.forwards
    found = await asyncio.gather(*(embedding.aget_query_embedding(question) for question in questions))
    assert mini.forwards - before < 32
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_threads_share_one_adapter(mini: EmbeddingModel) -> None:
    embedding, found = MGTEEmbedding(), {}

    def ask(number: int) -> None:
        found[number] = embedding.get_query_embedding(f"question number {number}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = mini.encode_query([f"question number {i}" for i in range(16)]).dense
    np.testing.assert_allclose([found[i] for i in range(16)], expected, atol=5e-3)


def test_a_pipelines_cache_key_differs_for_every_option_that_changes_a_vector() -> None:
    nodes = [TextNode(text="Cats sleep.")]
    options: list[dict[str, Any]] = [
        {},
        {"dim": 384},
        {"max_length": 8},
        {"query_prompt": "q: "},
        {"document_prompt": "d: "},
        {"dtype": "float32"},
        {"revision": "main"},
        {"model_name": "other"},
    ]
    keys = {get_transformation_hash(nodes, MGTEEmbedding(**each)) for each in options}
    assert len(keys) == len(options)
    loaded = MGTEEmbedding()
    loaded.get_query_embedding("a")
    assert get_transformation_hash(nodes, loaded) == get_transformation_hash(nodes, MGTEEmbedding())


def test_nothing_is_loaded_before_it_is_used() -> None:
    nowhere = "no such model"
    adapters = (
        MGTEEmbedding(model_name=nowhere),
        MGTESparseEmbedding(model_name=nowhere),
        MGTEVectorStore(location=nowhere, model_name=nowhere),
        MGTELateInteractionReranker(model=nowhere),
    )
    for adapter in adapters:
        assert vars(adapter).keys() == type(adapter).model_fields.keys()


def test_pickling_takes_nothing_from_the_object_and_logs_no_removed_attribute(
    mini: EmbeddingModel, filled: MGTEVectorStore, caplog: pytest.LogCaptureFixture
) -> None:
    adapters = [MGTEEmbedding(), MGTELateInteractionReranker(), filled]
    adapters[0].get_query_embedding("a")
    before = [set(vars(adapter)) for adapter in adapters]
    with caplog.at_level(logging.WARNING):
        for adapter in adapters:
            pickle.dumps(adapter)
    assert "unpickleable" not in caplog.text
    assert [set(vars(adapter)) for adapter in adapters] == before


def test_every_adapter_on_one_model_shares_one_copy_of_the_weights(
    filled: MGTEVectorStore, mini: EmbeddingModel
) -> None:
    before = len(POOL)
    dense, sparse, late = MGTEEmbedding(), MGTESparseEmbedding(), MGTELateInteractionReranker()
    models = [dense.model, sparse.model, late.embedding_model, filled.collection.model]
    assert {id(model._engine) for model in models} == {id(mini._engine)}
    assert len(POOL) == before


def test_scores_do_not_leak_into_the_text_that_is_embedded(filled: MGTEVectorStore) -> None:
    found = MGTERetriever(filled.collection).retrieve("rows of values")
    ranked = MGTELateInteractionReranker(keep_retrieval_score=True).postprocess_nodes(found, query_str="rows")
    stored = {node.node_id: node for node in filled.get_nodes()}
    for each in ranked:
        original = stored[each.node_id]
        assert each.node.get_content(MetadataMode.EMBED) == original.get_content(MetadataMode.EMBED)
        assert each.node.get_content(MetadataMode.LLM) == original.get_content(MetadataMode.LLM)


def test_a_query_is_encoded_once_and_not_a_first_time_to_probe_the_memory(mini: EmbeddingModel) -> None:
    before = mini.forwards
    MGTEEmbedding().get_query_embedding("a single question")
    assert mini.forwards == before + 1


def test_rerankers_encode_all_nodes_together_and_sum_over_the_questions_tokens(mini: EmbeddingModel) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("cats", "cats and dogs and birds", "fish")]
    short, long = (
        MGTELateInteractionReranker(raw_scores=True).postprocess_nodes(nodes, query_str=question)[0].score
        for question in ("cats", "cats cats cats cats")
    )
    assert long > 1.5 * short


def test_no_adapter_takes_remote_code_or_swallows_arguments() -> None:
    for name in llama_index_mgte.__all__:
        parameters = inspect.signature(getattr(llama_index_mgte, name)).parameters
        assert "trust_remote_code" not in parameters
        assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()), name


async def test_callers_whose_event_loop_closed_leave_the_model_usable() -> None:
    embedding = MGTEEmbedding()

    def in_its_own_loop() -> list[float]:
        return asyncio.run(embedding.aget_query_embedding("a question"))

    first, second = await asyncio.to_thread(in_its_own_loop), await asyncio.to_thread(in_its_own_loop)
    assert first == second
