"""The classes inside LlamaIndex's own machinery, over real documentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, QueryBundle, Settings, StorageContext, VectorStoreIndex
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import RetrieverTool, ToolMetadata
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_mgte import (
    MGTEEmbedding,
    MGTELateInteractionReranker,
    MGTELateInteractionRetriever,
    MGTEReranker,
    MGTERetriever,
    MGTESparseEmbedding,
    MGTEVectorStore,
)
from mgte_rag import EmbeddingModel

CSV = "which class splits off rows of comma separated values?"


@pytest.fixture(autouse=True)
def llm(monkeypatch: pytest.MonkeyPatch) -> MockLLM:
    mock = MockLLM()
    monkeypatch.setattr(Settings, "_llm", mock)
    return mock


def test_an_index_over_documents_finds_with_dense_vectors_and_any_store(pages: list[Document]) -> None:
    index = VectorStoreIndex.from_documents(pages, embed_model=MGTEEmbedding(), transformations=[SentenceSplitter()])
    found = index.as_retriever(similarity_top_k=3).retrieve(CSV)
    assert any(each.node.ref_doc_id.startswith("csv") for each in found)


@pytest.mark.parametrize("mode", ["default", "sparse", "text_search", "hybrid", "semantic_hybrid", "mmr"])
def test_an_index_over_the_store_asks_in_every_mode(filled: MGTEVectorStore, mode: str) -> None:
    index = VectorStoreIndex.from_vector_store(filled, embed_model=MGTEEmbedding())
    found = index.as_retriever(similarity_top_k=3, vector_store_query_mode=mode).retrieve(CSV)
    assert len(found) == 3
    assert any(each.node.ref_doc_id.startswith("csv") for each in found)


def test_from_documents_fills_the_store_and_deletes_and_refreshes_by_document(
    store: MGTEVectorStore, pages: list[Document]
) -> None:
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(
        pages[:12], storage_context=context, embed_model=MGTEEmbedding(), transformations=[SentenceSplitter()]
    )
    assert {node.ref_doc_id for node in store.get_nodes()} == {page.id_ for page in pages[:12]}
    stored = next(node for node in store.get_nodes() if node.ref_doc_id == pages[0].id_)
    assert stored.metadata == pages[0].metadata
    assert stored.excluded_embed_metadata_keys == pages[0].excluded_embed_metadata_keys
    index.delete_ref_doc(pages[0].id_)
    index.delete_nodes([stored.node_id])
    assert len({node.ref_doc_id for node in store.get_nodes()}) == 11


def test_the_same_documents_cost_one_forward_pass_for_all_vectors(
    store: MGTEVectorStore, pages: list[Document], mini: EmbeddingModel
) -> None:
    embedding = MGTEEmbedding()
    store.open()
    before = mini.forwards
    embedding.get_text_embedding_batch([page.get_content(MetadataMode.EMBED) for page in pages])
    alone = mini.forwards - before
    fresh = [Document(text=f"{page.text} ", id_=page.id_) for page in pages]
    before = mini.forwards
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(fresh, storage_context=context, embed_model=embedding, transformations=[])
    assert mini.forwards - before <= alone + 1
    found = store.collection.search(CSV, mode="late_interaction")  # what the pass made is what is stored
    assert found[0].scores["late_interaction"] > 0


def test_an_ingestion_pipeline_upserts_what_changed_and_deletes_what_is_gone(
    store: MGTEVectorStore, pages: list[Document], mini: EmbeddingModel
) -> None:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), MGTEEmbedding()],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    first = pages[:8]
    assert len(pipeline.run(documents=first)) == 8
    before = mini.forwards
    assert len(pipeline.run(documents=first)) == 0
    assert mini.forwards == before
    changed = Document(text="Elephants never forget.", id_=first[0].id_)
    assert len(pipeline.run(documents=[changed, *first[1:6]])) == 1
    there = {node.ref_doc_id: node.text for node in store.get_nodes()}
    assert there.keys() == {page.id_ for page in first[:6]}
    assert there[first[0].id_] == "Elephants never forget."


def test_a_pipeline_without_a_splitter_replaces_whole_documents(store: MGTEVectorStore, pages: list[Document]) -> None:
    pipeline = IngestionPipeline(transformations=[MGTEEmbedding()], vector_store=store, docstore=SimpleDocumentStore())
    pipeline.run(documents=pages[:2])
    pipeline.run(documents=[Document(text="Elephants never forget.", id_=pages[0].id_), pages[1]])
    there = {node.node_id: node for node in store.get_nodes()}
    assert there.keys() == {pages[0].id_, pages[1].id_}
    assert there[pages[0].id_].get_content() == "Elephants never forget."
    assert isinstance(there[pages[1].id_], Document)


def test_a_pipeline_with_two_spawned_workers_stores_what_one_stores(
    store: MGTEVectorStore, passages: list[TextNode]
) -> None:
    pipeline = IngestionPipeline(transformations=[MGTEEmbedding(dtype="float32")], vector_store=store)
    given = [passage.model_copy() for passage in passages[:12]]
    nodes = pipeline.run(nodes=given, num_workers=2)
    assert [node.node_id for node in store.get_nodes([node.node_id for node in given])] == [p.id_ for p in given]
    assert "model" not in vars(pipeline.transformations[0])  # nothing was loaded here to be sent
    alone = MGTEEmbedding(dtype="float32").get_text_embedding_batch([p.get_content(MetadataMode.EMBED) for p in given])
    np.testing.assert_allclose([node.embedding for node in nodes], alone, atol=1e-4)


async def test_an_async_pipeline_stores_the_same(store: MGTEVectorStore, pages: list[Document]) -> None:
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(), MGTEEmbedding()], vector_store=store)
    await pipeline.arun(documents=pages[:6])
    assert {node.ref_doc_id for node in await store.aget_nodes()} == {page.id_ for page in pages[:6]}


def test_a_pipelines_cache_sees_every_option(mini: EmbeddingModel) -> None:
    pipeline = IngestionPipeline(transformations=[MGTEEmbedding()])

    def embedded() -> list[float]:
        (node,) = pipeline.run(documents=[Document(text="Cats sleep most of the day.", id_="cat")])
        return list(node.embedding)

    plain, before = embedded(), mini.forwards
    assert embedded() == plain
    assert mini.forwards == before
    pipeline.transformations = [MGTEEmbedding(document_prompt="passage: ")]
    assert embedded() != plain


def test_a_query_engine_answers_from_retrieved_and_reranked_nodes(filled: MGTEVectorStore, cross_encoder: str) -> None:
    index = VectorStoreIndex.from_vector_store(filled, embed_model=MGTEEmbedding())
    retriever = index.as_retriever(similarity_top_k=8, vector_store_query_mode="hybrid")
    rerankers = [MGTELateInteractionReranker(top_n=3), MGTEReranker(model=cross_encoder, top_n=2)]
    response = RetrieverQueryEngine.from_args(retriever, node_postprocessors=rerankers).query(CSV)
    assert len(response.source_nodes) == 2
    assert all(each.node.ref_doc_id.startswith("csv") for each in response.source_nodes[:1])
    assert response.source_nodes[0].node.get_content() in str(response)


async def test_a_query_engine_answers_asynchronously(filled: MGTEVectorStore, cross_encoder: str) -> None:
    engine = RetrieverQueryEngine.from_args(
        MGTERetriever(filled.collection, similarity_top_k=4),
        node_postprocessors=[MGTELateInteractionReranker(top_n=2)],
    )
    response = await engine.aquery(CSV)
    assert len(response.source_nodes) == 2
    assert response.source_nodes[0].node.get_content() in str(response)


class ByWord(BaseSelector):
    """Chooses the tool that a word of the question belongs to."""

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None: ...

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        place = next(i for i, choice in enumerate(choices) if choice.name in query.query_str)
        return SelectorResult(selections=[SingleSelection(index=place, reason="named")])

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


async def test_a_router_asks_the_retriever_it_chose(
    filled: MGTEVectorStore, passages: list[TextNode], mini: EmbeddingModel
) -> None:
    json_only = [passage for passage in passages if passage.metadata["module"] == "json"]
    retrievers: dict[str, Any] = {
        "csv": MGTERetriever(filled.collection, similarity_top_k=2, filters={"module": "csv"}),
        "json": MGTELateInteractionRetriever.from_nodes(json_only, model=mini, similarity_top_k=2),
    }
    tools = [RetrieverTool.from_defaults(r, name=name, description=f"about {name}") for name, r in retrievers.items()]
    router = RouterRetriever(selector=ByWord(), retriever_tools=tools)
    for name in retrievers:
        here, there = router.retrieve(f"write with {name}"), await router.aretrieve(f"write with {name}")
        assert [each.node_id for each in here] == [each.node_id for each in there]
        assert {each.node.metadata["module"] for each in here} == {name}


def test_llama_indexs_own_fusion_of_retrievers_takes_ours(filled: MGTEVectorStore) -> None:
    retrievers = [MGTERetriever(filled.collection, mode=mode) for mode in ("dense", "sparse", "late_interaction")]
    fused = QueryFusionRetriever(retrievers, num_queries=1, use_async=False, similarity_top_k=3)
    assert any(each.node.ref_doc_id.startswith("csv") for each in fused.retrieve(CSV))


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_llama_indexs_qdrant_store_is_hybrid_with_our_sparse_functions_in_one_pass(
    passages: list[TextNode], mini: EmbeddingModel
) -> None:
    dense, sparse = MGTEEmbedding(), MGTESparseEmbedding()
    store = QdrantVectorStore(
        collection_name="docs",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=sparse.sparse_doc_fn,
        sparse_query_fn=sparse.sparse_query_fn,
        batch_size=16,
    )
    dense.view, sparse.view  # noqa: B018
    before = mini.forwards
    dense.get_text_embedding_batch([f"{passage.get_content(MetadataMode.EMBED)} ." for passage in passages])
    alone = mini.forwards - before
    before = mini.forwards
    context = StorageContext.from_defaults(vector_store=store)
    nodes = [TextNode(text=each.text, metadata=each.metadata, relationships=each.relationships) for each in passages]
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=dense)  # ids are UUIDs, which it needs
    assert mini.forwards - before <= alone
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3, sparse_top_k=10)
    before = mini.forwards
    found = retriever.retrieve(CSV)
    assert mini.forwards == before + 1
    assert any(each.node.ref_doc_id.startswith("csv") for each in found)
