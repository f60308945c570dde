"""Dense and sparse embeddings: the model's own vectors, one model behind all of them, caches that keep roles apart."""

import asyncio
import copy
import multiprocessing
import operator
import pickle

import numpy as np
import pytest
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from llama_index_mgte import MGTEEmbedding, MGTESparseEmbedding
from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.sharing import POOL

TEXTS = ["Cats sleep most of the day.", "Most birds can fly.", "Fish breathe under water."]


def test_dense_embeddings_are_the_models_own_vectors(mini: EmbeddingModel) -> None:
    embedding = MGTEEmbedding()
    documents = mini.encode_document(["a", "b c"]).dense
    np.testing.assert_array_equal(embedding.get_text_embedding_batch(["a", "b c"]), documents)
    np.testing.assert_allclose(embedding.get_text_embedding("a"), documents[0], atol=2e-3)
    np.testing.assert_array_equal(embedding.get_query_embedding("a"), mini.encode_query("a").dense[0])
    assert all(type(number) is float for number in embedding.get_query_embedding("a"))


async def test_sparse_embeddings_are_the_models_own_terms_by_every_method(mini_fp32: EmbeddingModel) -> None:
    sparse = MGTESparseEmbedding(dtype="float32")
    assert isinstance(sparse, BaseSparseEmbedding)
    encoded = [encode(TEXTS[0], outputs=("sparse",)) for encode in (mini_fp32.encode_document, mini_fp32.encode_query)]
    vectors = [each.sparse[0] for each in encoded if each.sparse is not None]
    document, query = (dict(zip(v.indices.tolist(), v.values.tolist(), strict=True)) for v in vectors)
    for made, ours in (
        (sparse.get_text_embedding(TEXTS[0]), document),
        (sparse.get_text_embedding_batch(TEXTS)[0], document),
        (await sparse.aget_text_embedding(TEXTS[0]), document),
        ((await sparse.aget_text_embedding_batch(TEXTS))[0], document),
        (sparse.get_query_embedding(TEXTS[0]), query),
        (await sparse.aget_query_embedding(TEXTS[0]), query),
    ):
        assert made.keys() == ours.keys()
        assert all(type(term) is int and type(weight) is float for term, weight in made.items())
        np.testing.assert_allclose(list(made.values()), list(ours.values()), atol=1e-4)
    for function, ours in ((sparse.sparse_doc_fn, document), (sparse.sparse_query_fn, query)):
        indices, values = function(TEXTS)
        np.testing.assert_allclose(values[0], [ours[term] for term in indices[0]], atol=1e-4)
        assert len(indices) == len(values) == 3


def test_dense_and_sparse_vectors_of_the_same_texts_come_from_one_forward_pass(mini: EmbeddingModel) -> None:
    dense, sparse = MGTEEmbedding(), MGTESparseEmbedding()
    dense.view, sparse.view  # noqa: B018 - opens both
    before = mini.forwards
    dense.get_text_embedding_batch(TEXTS)
    sparse.sparse_doc_fn(TEXTS)
    assert mini.forwards == before + 1
    dense.get_query_embedding("Which animal has wings?")
    sparse.sparse_query_fn(["Which animal has wings?"])
    assert mini.forwards == before + 2


def test_one_pass_survives_batches_of_different_sizes(mini: EmbeddingModel) -> None:
    dense, sparse = MGTEEmbedding(embed_batch_size=4), MGTESparseEmbedding()
    sparse.view  # noqa: B018
    texts = [f"text number {i}" for i in range(7)]
    before = mini.forwards
    dense.get_text_embedding_batch(texts)
    passes = mini.forwards - before
    for start in (0, 3, 6):
        sparse.sparse_doc_fn(texts[start : start + 3])
    assert mini.forwards == before + passes == before + 2


def test_a_document_longer_than_the_model_reads_is_cut_with_a_warning() -> None:
    long = "word " * 600
    with pytest.warns(UserWarning, match=r"'mini' reads 256 tokens.*at least one document is longer"):
        MGTEEmbedding().get_text_embedding_batch(["short", long])
    with pytest.warns(UserWarning, match="reads 16 tokens"):
        MGTESparseEmbedding(max_length=16).get_text_embedding(long)


def test_query_and_document_vectors_never_mix_through_the_embeddings_cache() -> None:
    cache = SimpleKVStore()
    embedding = MGTEEmbedding(query_prompt="question: ", document_prompt="passage: ", embeddings_cache=cache)
    plain = MGTEEmbedding(query_prompt="question: ", document_prompt="passage: ")
    for _ in range(2):  # made, then taken from the cache
        np.testing.assert_allclose(embedding.get_text_embedding("cats"), plain.get_text_embedding("cats"), atol=1e-6)
        np.testing.assert_allclose(embedding.get_query_embedding("cats"), plain.get_query_embedding("cats"), atol=1e-6)
    assert embedding.get_text_embedding("cats") != embedding.get_query_embedding("cats")
    assert len(cache.to_dict()) == 2


async def test_the_cache_keeps_roles_apart_in_async_calls_too() -> None:
    embedding = MGTEEmbedding(query_prompt="question: ", embeddings_cache=SimpleKVStore())
    for _ in range(2):
        query, document, (batch,) = await asyncio.gather(
            embedding.aget_query_embedding("cats"),
            embedding.aget_text_embedding("cats"),
            embedding.aget_text_embedding_batch(["cats"]),
        )
        assert query != document
        np.testing.assert_allclose(batch, document, atol=2e-3)
        assert query == embedding.get_query_embedding("cats")


def test_what_the_cache_holds_is_used_and_is_another_for_other_options(mini: EmbeddingModel) -> None:
    cache = SimpleKVStore()
    MGTEEmbedding(embeddings_cache=cache).get_text_embedding_batch(TEXTS)
    before = mini.forwards
    again = MGTEEmbedding(embeddings_cache=cache)
    vectors = again.get_text_embedding_batch(TEXTS)
    assert mini.forwards == before
    other = MGTEEmbedding(embeddings_cache=cache, document_prompt="passage: ")
    assert other.get_text_embedding_batch(TEXTS) != vectors
    for copied in (pickle.loads(pickle.dumps(again)), copy.deepcopy(again), again.model_copy()):
        assert copied.get_text_embedding_batch(TEXTS) == vectors
        assert len(copied.embeddings_cache.get_all("embeddings")) == len(TEXTS)
    changed = again.model_copy(update={"document_prompt": "passage: "})
    assert changed.get_text_embedding_batch(TEXTS) == other.get_text_embedding_batch(TEXTS)


@pytest.mark.parametrize("kind", [MGTEEmbedding, MGTESparseEmbedding])
def test_options_that_change_a_vector_are_fixed_public_fields(kind: type) -> None:
    options = {"max_length": 8, "query_prompt": "q: ", "document_prompt": "d: ", "dtype": "float32", "revision": None}
    embedding = kind(**options)
    assert options.items() <= embedding.model_dump().items()
    for name in (*options, "model_name", "device"):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(embedding, name, None)
    with pytest.raises(ValidationError, match="batch_size"):
        kind(batch_size=3)


def test_a_dim_is_one_of_the_models_and_comes_back_from_a_dictionary() -> None:
    shown = MGTEEmbedding(dim=384, max_length=8).to_dict()
    assert MGTEEmbedding.from_dict(shown).max_length == 8
    with pytest.raises(InvalidOptionError, match="dim=100"):
        MGTEEmbedding(dim=100).get_query_embedding("a")


@pytest.mark.parametrize("kind", [MGTEEmbedding, MGTESparseEmbedding])
def test_copies_and_pickles_are_references(kind: type, mini: EmbeddingModel) -> None:
    embedding = kind(max_length=16)
    vector = embedding.get_query_embedding("text")
    before = len(POOL)
    pickled = pickle.dumps(embedding)
    assert len(pickled) < 5_000
    assert "model" in vars(embedding)  # and the one that was pickled still has its model
    for again in (pickle.loads(pickled), copy.copy(embedding), copy.deepcopy(embedding), embedding.model_copy()):
        assert not {"model", "view"} & vars(again).keys()
        assert again.max_length == 16
        assert again.get_query_embedding("text") == vector
        assert again.model._engine is mini._engine
    assert len(POOL) == before


def test_a_changed_copy_does_what_it_says() -> None:
    embedding = MGTEEmbedding()
    embedding.get_text_embedding("a text of several words")
    changed = embedding.model_copy(update={"max_length": 4})
    with pytest.warns(UserWarning, match="reads 4 tokens"):
        changed.get_text_embedding("a text of several words")


def test_embeddings_survive_spawned_workers() -> None:
    embedding = MGTEEmbedding(dtype="float32")
    embedding.get_query_embedding("loaded here")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (there,) = pool.map(operator.methodcaller("get_query_embedding", "a question"), [embedding])
    np.testing.assert_allclose(there, embedding.get_query_embedding("a question"), atol=1e-5)


def test_any_number_of_adapters_on_one_model_cost_one_copy_of_the_weights(mini: EmbeddingModel) -> None:
    before = len(POOL)
    adapters = [kind() for kind in (MGTEEmbedding, MGTESparseEmbedding) for _ in range(5)]
    assert {id(adapter.model._engine) for adapter in adapters} == {id(mini._engine)}
    assert len(POOL) == before
