"""The LlamaIndex classes inside LlamaIndex's own machinery."""

import asyncio
import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode
from pydantic import ValidationError

from llama_index_mgte import MGTEEmbedding, MGTERetriever
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, InputTypeError, InvalidDocumentError, InvalidOptionError
from mgte_rag.sharing import POOL
from qdrant_mgte import HybridCollection

DOCUMENTS = [
    Document(text="Cats sleep most of the day.", id_="cat", metadata={"legs": 4}),
    Document(text="Most birds can fly.", id_="bird"),
    Document(text="Fish breathe under water.", id_="fish"),
]


@pytest.fixture
def retriever(collection: HybridCollection) -> MGTERetriever:
    collection.upsert([{"id": d.id_, "text": d.text, "metadata": d.metadata} for d in DOCUMENTS])
    return MGTERetriever(collection, similarity_top_k=2)


def test_embeddings_are_the_models_own_vectors(mini: EmbeddingModel) -> None:
    embedding = MGTEEmbedding()
    documents = mini.encode_document(["a", "b c"]).dense
    np.testing.assert_array_equal(embedding.get_text_embedding_batch(["a", "b c"]), documents)
    np.testing.assert_allclose(embedding.get_text_embedding("a"), documents[0], atol=2e-3)
    np.testing.assert_array_equal(embedding.get_query_embedding("a"), mini.encode_query("a").dense[0])
    assert all(type(number) is float for number in embedding.get_query_embedding("a"))


async def test_async_embeddings_equal_the_sync_ones_and_leave_the_event_loop_free() -> None:
    embedding = MGTEEmbedding(dtype="float32")
    texts = [f"text number {i} " * 20 for i in range(60)]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    batch = await embedding.aget_text_embedding_batch(texts)
    ticking.cancel()
    assert ticks > 5
    np.testing.assert_allclose(batch, embedding.get_text_embedding_batch(texts), atol=1e-5)
    np.testing.assert_array_equal(await embedding.aget_query_embedding("a"), embedding.get_query_embedding("a"))
    np.testing.assert_array_equal(await embedding.aget_text_embedding("a"), embedding.get_text_embedding("a"))


def test_every_option_that_changes_a_vector_is_seen_by_pipeline_caches() -> None:
    options = {"max_length": 8, "query_prompt": "q: ", "document_prompt": "d: ", "dim": 384, "dtype": "float32"}
    shown = MGTEEmbedding(**options).to_dict()
    assert options.items() <= shown.items()
    assert MGTEEmbedding.from_dict(shown).max_length == 8


def test_unknown_constructor_arguments_are_errors() -> None:
    with pytest.raises(ValidationError, match="batch_size"):
        MGTEEmbedding(batch_size=3)


def test_pickles_hold_no_weights_and_leave_the_loaded_model_alone(mini: EmbeddingModel) -> None:
    embedding = MGTEEmbedding(max_length=16)
    vector = embedding.get_query_embedding("text")
    pickled = pickle.dumps(embedding)
    assert len(pickled) < 5_000
    assert "model" in vars(embedding)
    again = pickle.loads(pickled)
    assert again.max_length == 16
    assert again.get_query_embedding("text") == vector
    assert again.model._engine is mini._engine


def test_any_number_of_embeddings_on_one_model_share_its_weights(mini: EmbeddingModel) -> None:
    before = len(POOL)
    assert {id(MGTEEmbedding().model._engine) for _ in range(5)} == {id(mini._engine)}
    assert len(POOL) == before


def test_an_index_over_real_documents_finds_the_right_one(stdlib_docs: list[DocEntry]) -> None:
    documents = [Document(text=entry.text, id_=entry.name) for entry in stdlib_docs if entry.module in ("csv", "json")]
    index = VectorStoreIndex.from_documents(
        documents, embed_model=MGTEEmbedding(), transformations=[SentenceSplitter()]
    )
    found = index.as_retriever(similarity_top_k=3).retrieve("which class splits off rows of comma separated values?")
    assert any(node.node.ref_doc_id.startswith("csv") for node in found)


def test_an_ingestion_pipeline_embeds_and_caches() -> None:
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(), MGTEEmbedding()])
    nodes = pipeline.run(documents=DOCUMENTS)
    assert [len(node.embedding) for node in nodes] == [384, 384, 384]
    assert [node.embedding for node in pipeline.run(documents=DOCUMENTS)] == [node.embedding for node in nodes]


def test_nodes_carry_id_text_metadata_and_score(retriever: MGTERetriever) -> None:
    best, second = retriever.retrieve("Which animal is asleep for long?")
    assert best.node.node_id == "cat"
    assert best.node.get_content(MetadataMode.NONE) == "Cats sleep most of the day."
    assert best.node.metadata == {"legs": 4}
    assert best.score > second.score


async def test_async_retrieval_equals_the_sync_one(retriever: MGTERetriever) -> None:
    asynchronous, synchronous = await retriever.aretrieve("wings"), retriever.retrieve("wings")
    assert [(n.node_id, n.score) for n in asynchronous] == [(n.node_id, n.score) for n in synchronous]


def test_a_query_engine_answers_from_the_retrieved_nodes(
    retriever: MGTERetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    response = RetrieverQueryEngine.from_args(retriever).query("Which animal has wings?")
    assert "Most birds can fly." in str(response)
    assert response.source_nodes[0].node_id == "bird"


def test_from_documents_opens_fills_and_resumes(tmp_path: Path) -> None:
    first = MGTERetriever.from_documents(DOCUMENTS, location=tmp_path, similarity_top_k=1)
    assert first.retrieve("wings")[0].node_id == "bird"
    first.collection.close()
    again = MGTERetriever.from_documents(DOCUMENTS, location=tmp_path)
    assert again.collection.count() == 3
    again.collection.close()


def test_something_that_is_no_node_is_an_error_naming_its_position(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match=r"documents\[1\] must be a LlamaIndex document or node"):
        MGTERetriever.from_documents([DOCUMENTS[0], "text"], location=tmp_path)  # type: ignore[list-item]


def test_a_top_k_below_one_is_an_error_before_anything_is_indexed(tmp_path: Path, collection: HybridCollection) -> None:
    with pytest.raises(InvalidOptionError, match="similarity_top_k"):
        MGTERetriever(collection, similarity_top_k=0)
    with pytest.raises(InvalidOptionError, match="similarity_top_k"):
        MGTERetriever.from_documents(DOCUMENTS, location=tmp_path / "new", similarity_top_k=0)
    assert not (tmp_path / "new").exists()


def test_from_documents_raises_for_a_document_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocumentError, match=r"documents\[0\].*metadata\.x is nan"):
        MGTERetriever.from_documents([Document(text="x", metadata={"x": float("nan")})], location=tmp_path)
