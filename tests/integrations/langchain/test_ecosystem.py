"""LangChain's own machinery over these classes: indexing, compression, ensembles, caches, MultiQuery and parents."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever, ParentDocumentRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.stores import InMemoryByteStore, InMemoryStore
from langchain_text_splitters import CharacterTextSplitter

from langchain_mgte import (
    MGTECrossEncoder,
    MGTEEmbeddings,
    MGTELateInteractionReranker,
    MGTELateInteractionRetriever,
    MGTEReranker,
    MGTERetriever,
    MGTEVectorStore,
)
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection


@pytest.fixture(params=["folder", "memory"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MGTEVectorStore]:
    location = tmp_path / "index" if request.param == "folder" else ":memory:"
    with MGTEVectorStore(MGTEEmbeddings(), location=location) as store:
        yield store


def sourced(**texts: str) -> list[Document]:
    return [Document(text, metadata={"source": source}) for source, text in texts.items()]


@pytest.mark.parametrize("key_encoder", ["sha256", "blake2b"])
def test_indexing_with_hashes_as_keys_adds_updates_and_cleans_up(empty: MGTEVectorStore, key_encoder: str) -> None:
    records = InMemoryRecordManager("animals")
    records.create_schema()

    def run(documents: list[Document], cleanup: str) -> tuple[int, int, int]:
        result = index(
            documents, records, empty, cleanup=cleanup, source_id_key="source", key_encoder=key_encoder, batch_size=2
        )
        return result["num_added"], result["num_skipped"], result["num_deleted"]

    first = sourced(cat="Cats sleep.", bird="Birds fly.", fish="Fish swim.")
    assert run(first, "incremental") == (3, 0, 0)
    assert run(first, "incremental") == (0, 3, 0)
    assert run(sourced(cat="Cats climb."), "incremental") == (1, 0, 1)
    assert empty.collection.count() == 3
    assert empty.similarity_search("What do cats do?", k=1)[0].page_content == "Cats climb."
    assert run(sourced(cat="Cats climb.", dog="Dogs bark."), "full") == (1, 1, 2)
    assert {document.page_content for document in empty.similarity_search("animals", mode="dense")} == {
        "Cats climb.",
        "Dogs bark.",
    }
    assert run([], "full") == (0, 0, 2)
    assert empty.collection.count() == 0


async def test_indexing_works_without_blocking_too(empty: MGTEVectorStore) -> None:
    records = InMemoryRecordManager("animals")
    await records.acreate_schema()
    options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert (await aindex(sourced(cat="Cats sleep.", bird="Birds fly."), records, empty, **options))["num_added"] == 2
    assert (await aindex(sourced(cat="Cats sleep."), records, empty, **options))["num_deleted"] == 1
    assert empty.collection.count() == 1


async def test_contextual_compression_takes_the_rerankers_as_they_are(
    retriever: MGTERetriever, reranker_folder: str
) -> None:
    question = "Which animal has wings?"
    for compressor in (MGTEReranker(model=reranker_folder, top_n=2), MGTELateInteractionReranker(top_n=2)):
        compressing = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
        found = compressing.invoke(question)
        expected = compressor.compress_documents(retriever.invoke(question), question)
        assert found == expected
        assert all(document.id for document in found)
        assert await compressing.ainvoke(question) == found


def test_a_pipeline_of_compressors_takes_them_too(retriever: MGTERetriever, reranker_folder: str) -> None:
    pipeline = DocumentCompressorPipeline(
        transformers=[MGTELateInteractionReranker(top_n=2), MGTEReranker(model=reranker_folder, top_n=1)]
    )
    assert len(pipeline.compress_documents(retriever.invoke("wings", k=3), "wings")) == 1


def test_langchains_cross_encoder_reranker_takes_the_cross_encoder(
    sentences: list[Document], reranker_folder: str
) -> None:
    theirs = CrossEncoderReranker(model=MGTECrossEncoder(model=reranker_folder), top_n=4)
    ours = MGTEReranker(model=reranker_folder, top_n=4).compress_documents(sentences, "the cat")
    assert [d.id for d in theirs.compress_documents(sentences, "the cat")] == [d.id for d in ours]


def test_an_ensemble_takes_the_retrievers_as_they_are(animals: HybridCollection) -> None:
    ensemble = EnsembleRetriever(
        retrievers=[
            MGTERetriever(collection=animals, mode="dense"),
            MGTELateInteractionRetriever(collection=animals),
        ],
        weights=[0.5, 0.5],
        id_key=None,
    )
    found = ensemble.invoke("Which birds can fly?")
    assert found[0].id == "bird"
    assert len(found) == 3


def test_langchains_cache_of_embeddings_works_over_ours(mini: EmbeddingModel) -> None:
    ours = MGTEEmbeddings()
    cached = CacheBackedEmbeddings.from_bytes_store(
        ours, InMemoryByteStore(), namespace=mini.identity.fingerprint, key_encoder="sha256"
    )
    first = cached.embed_documents(["a", "b"])
    before = mini.forwards
    assert cached.embed_documents(["a", "b"]) == first == ours.embed_documents(["a", "b"])
    assert mini.forwards == before + 1  # ours alone


def test_langchains_parent_documents_come_from_our_store() -> None:
    with MGTEVectorStore(MGTEEmbeddings(), location=":memory:") as store:
        parents = ParentDocumentRetriever(
            vectorstore=store,
            docstore=InMemoryStore(),
            child_splitter=CharacterTextSplitter(chunk_size=30, chunk_overlap=0, separator=". "),
        )
        whole = Document("Cats sleep most of the day. Most birds can fly. Fish breathe under water")
        parents.add_documents([whole], ids=["animals"])
        assert store.collection.count() == 3
        assert parents.invoke("Which birds can fly?")[0].page_content == whole.page_content
