"""Dense and sparse embeddings: the framework's own standard suites, then what they do not check."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.load import dumpd
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
from langchain_qdrant.sparse_embeddings import SparseVector
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from langchain_mgte import (
    MGTECrossEncoder,
    MGTEEmbeddings,
    MGTELateInteractionReranker,
    MGTEReranker,
    MGTESparseEmbeddings,
    MGTEVectorStore,
)
from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError, Reranker, UnsupportedOutputError
from mgte_rag.sharing import POOL

ADAPTERS = [MGTEEmbeddings, MGTESparseEmbeddings]


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[MGTEEmbeddings]:
        return MGTEEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": None}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[MGTEEmbeddings]:
        return MGTEEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {}


def test_dense_embeddings_are_the_models_own_vectors(mini: EmbeddingModel) -> None:
    embeddings = MGTEEmbeddings()
    np.testing.assert_array_equal(embeddings.embed_documents(["a", "b c"]), mini.encode_document(["a", "b c"]).dense)
    np.testing.assert_array_equal(embeddings.embed_query("a"), mini.encode_query("a").dense[0])


def test_sparse_embeddings_are_the_models_own_vectors(mini: EmbeddingModel) -> None:
    embeddings = MGTESparseEmbeddings()
    texts = ["Cats sleep most of the day.", "Most birds can fly."]
    for ours, own in zip(
        embeddings.embed_documents(texts), mini.encode_document(texts, outputs=("sparse",)).sparse, strict=True
    ):
        assert ours == SparseVector(indices=own.indices.tolist(), values=own.values.tolist())
    query = mini.encode_query("wings", outputs=("sparse",)).sparse[0]
    assert embeddings.embed_query("wings").indices == query.indices.tolist()


async def test_async_embeddings_are_the_same() -> None:
    dense, sparse = MGTEEmbeddings(), MGTESparseEmbeddings()
    assert await dense.aembed_documents(["a", "b c"]) == dense.embed_documents(["a", "b c"])
    assert await dense.aembed_query("a") == dense.embed_query("a")
    assert await sparse.aembed_documents(["a", "b c"]) == sparse.embed_documents(["a", "b c"])
    assert await sparse.aembed_query("a") == sparse.embed_query("a")


def test_sparse_embeddings_are_langchain_qdrants_own_kind() -> None:
    assert isinstance(MGTESparseEmbeddings(), SparseEmbeddings)
    assert type(MGTESparseEmbeddings().embed_query("wings")) is SparseVector


def test_sparse_embeddings_work_where_langchain_qdrant_is_not_installed() -> None:
    script = (
        "import sys; sys.modules['langchain_qdrant'] = None\n"
        "from langchain_mgte import MGTESparseEmbeddings\n"
        "vector = MGTESparseEmbeddings().embed_query('wings')\n"
        "assert len(vector.indices) == len(vector.values) > 0\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_options_reach_the_model(mini: EmbeddingModel) -> None:
    options = {"max_length": 4, "query_prompt": "query: ", "document_prompt": "text: "}
    by_hand = mini.encode_document("x y z", prompt="text: ", max_length=4, outputs=("dense", "sparse"))
    np.testing.assert_array_equal(MGTEEmbeddings(**options).embed_documents(["x y z"]), by_hand.dense)
    expected = mini.encode_query("x", prompt="query: ", max_length=4).dense[0]
    np.testing.assert_array_equal(MGTEEmbeddings(**options).embed_query("x"), expected)
    sparse = MGTESparseEmbeddings(**options).embed_documents(["x y z"])[0]
    assert sparse.indices == by_hand.sparse[0].indices.tolist()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_documents_give_no_embeddings(adapter: type) -> None:
    assert adapter().embed_documents([]) == []


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_list_where_a_question_belongs_and_the_reverse_are_errors(adapter: type) -> None:
    with pytest.raises(InputTypeError, match=r"a question must be a string, not \['a'\]"):
        adapter().embed_query(["a"])
    with pytest.raises(InputTypeError, match="a list of strings, not one string: 'abc'"):
        adapter().embed_documents("abc")
    with pytest.raises(InputTypeError, match=r"texts\[1\]"):
        adapter().embed_documents(["a", None])


@pytest.mark.parametrize("adapter", [*ADAPTERS, MGTEReranker, MGTECrossEncoder, MGTELateInteractionReranker])
def test_unknown_constructor_arguments_are_errors(adapter: type) -> None:
    with pytest.raises(ValidationError, match="batch_size"):
        adapter(batch_size=3)


def test_a_size_that_the_model_does_not_have_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(InvalidOptionError, match="384"):
        MGTEEmbeddings(dim=100).embed_query("a")


def test_an_output_that_the_model_does_not_have_is_an_error(tiny_bert: Path) -> None:
    with pytest.raises(UnsupportedOutputError, match="sparse"):
        MGTESparseEmbeddings(model=str(tiny_bert)).embed_query("cat")


def test_a_loaded_model_is_used_as_it_is(mini_fp32: EmbeddingModel, reranker_folder: str) -> None:
    assert MGTEEmbeddings(model=mini_fp32).model is mini_fp32
    with Reranker.load(reranker_folder) as reranker:
        assert MGTEReranker(model=reranker).model is reranker
        with pytest.raises(ValidationError, match="device: the model given is loaded already"):
            MGTECrossEncoder(model=reranker, device="cpu")
    with pytest.raises(ValidationError, match="dtype, revision: the model given is loaded already"):
        MGTEEmbeddings(model=mini_fp32, revision="main", dtype="float32")


def test_any_number_of_adapters_on_one_model_cost_one_copy_of_the_weights(
    mini: EmbeddingModel, reranker_folder: str
) -> None:
    before = len(POOL)
    kinds = [MGTEEmbeddings, MGTESparseEmbeddings, MGTELateInteractionReranker]
    adapters = [kind(model=name) for kind in kinds for name in (None, "mini", mini) for _ in range(4)]
    assert {id(adapter.model._engine) for adapter in adapters} == {id(mini._engine)}
    with MGTEVectorStore(adapters[0], location=":memory:") as store:
        assert store.collection.model._engine is mini._engine
    assert len(POOL) == before
    scorers = [kind(model=reranker_folder) for kind in (MGTEReranker, MGTECrossEncoder) for _ in range(4)]
    assert len({id(scorer.model._handle.engine) for scorer in scorers}) == 1
    assert len(POOL) == before + 1


COPIES = [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, copy.copy, lambda e: e.model_copy()]


def test_hundreds_of_adapters_are_opened_by_the_first_that_is_used(mini: EmbeddingModel) -> None:
    adapters = [kind() for kind in ADAPTERS for _ in range(200)]
    adapters[0].embed_query("wings")
    assert {id(adapter.view.model._engine) for adapter in adapters} == {id(mini._engine)}


def test_adapters_that_threads_use_first_at_the_same_time_do_not_wait_for_each_other_for_ever(
    mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_view = EmbeddingModel.view

    def slow(self: EmbeddingModel, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.01)
        return open_view(self, *arguments, **options)

    monkeypatch.setattr(EmbeddingModel, "view", slow)
    adapters = [kind(model=mini) for kind in ADAPTERS for _ in range(4)]
    start = threading.Barrier(len(adapters))

    def use(adapter: Any) -> None:
        start.wait()
        adapter.embed_query("wings")

    threads = [threading.Thread(target=use, args=(adapter,), daemon=True) for adapter in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pickles_and_copies_hold_no_weights(adapter: type, copied: Callable[[Any], Any]) -> None:
    embeddings = adapter(max_length=16)
    vector = embeddings.embed_query("text")
    assert len(pickle.dumps(embeddings)) < 3_000
    other = copied(embeddings)
    assert other == embeddings
    assert other.embed_query("text") == vector
    assert other.model._engine is embeddings.model._engine


def test_a_changed_copy_does_not_keep_the_old_settings() -> None:
    embeddings = MGTEEmbeddings()
    embeddings.embed_query("x y z")
    changed = embeddings.model_copy(update={"query_prompt": "query: "})
    assert changed.embed_query("x y z") == MGTEEmbeddings(query_prompt="query: ").embed_query("x y z")
    assert changed.embed_query("x y z") != embeddings.embed_query("x y z")


def test_the_model_is_loaded_on_first_use_only() -> None:
    assert "model" not in vars(MGTEEmbeddings(model="no/such-model"))


def test_adapters_are_serialised_as_langchain_does_with_classes_of_others() -> None:
    assert dumpd(MGTEEmbeddings())["type"] == "not_implemented"


def test_adapters_survive_spawned_workers() -> None:
    given = (MGTEEmbeddings(), MGTESparseEmbeddings())
    vectors = [adapter.embed_query("wings") for adapter in given]  # loaded before they are sent
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        dense, indices = pool.apply(_embed, given)
    np.testing.assert_allclose(dense, vectors[0], atol=1e-3)
    assert indices == vectors[1].indices


def _embed(dense: MGTEEmbeddings, sparse: MGTESparseEmbeddings) -> tuple[list[float], list[int]]:
    return dense.embed_query("wings"), sparse.embed_query("wings").indices


def test_dense_and_sparse_embeddings_of_the_same_texts_take_one_pass(
    mini: EmbeddingModel, real_texts: list[str]
) -> None:
    dense, sparse = MGTEEmbeddings(), MGTESparseEmbeddings()  # not used before
    texts = [text[:500] for text in real_texts[:16]]
    before = mini.forwards
    mini.encode_document(texts, outputs=("dense", "sparse"))
    one_pass = mini.forwards - before
    before = mini.forwards
    rows, vectors = dense.embed_documents(texts), sparse.embed_documents(texts)
    assert mini.forwards - before == one_pass
    by_hand = mini.encode_document(texts, outputs=("dense", "sparse"))
    np.testing.assert_allclose(rows, by_hand.dense, atol=1e-6)
    assert [v.indices for v in vectors] == [v.indices.tolist() for v in by_hand.sparse]


def test_langchain_qdrants_hybrid_store_takes_one_pass_per_batch_for_both(mini: EmbeddingModel) -> None:
    texts = [f"Animal {i} has {i} legs and sleeps." for i in range(12)]
    store = QdrantVectorStore.construct_instance(
        embedding=MGTEEmbeddings(),
        sparse_embedding=MGTESparseEmbeddings(),
        retrieval_mode=RetrievalMode.HYBRID,
        client_options={"location": ":memory:"},
        collection_name="animals",
    )
    before = mini.forwards
    store.add_texts(texts, batch_size=4)
    assert mini.forwards - before == 3
    before = mini.forwards
    assert store.similarity_search("Which animal has 7 legs?", k=1)[0].page_content == texts[7]
    assert mini.forwards - before == 1
