"""Retrievers over collections, and late interaction with and without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeRelationship, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mgte import MGTELateInteractionRetriever, MGTERetriever, MGTEVectorStore
from llama_index_mgte.nodes import to_documents
from mgte_rag import (
    EmbeddingModel,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
    Reranker,
    UnsupportedOutputError,
)
from qdrant_mgte import HybridCollection, weighted

DOCUMENTS = [
    Document(text="Cats sleep most of the day.", id_="cat", metadata={"legs": 4}),
    Document(text="Most birds can fly.", id_="bird", metadata={"legs": 2}),
    Document(text="Fish breathe under water.", id_="fish", metadata={"legs": 0}),
]
WITH_LEGS = MetadataFilters(filters=[MetadataFilter(key="legs", value=1, operator=FilterOperator.GT)])


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory, mini: EmbeddingModel) -> Iterator[HybridCollection]:
    """Not to be changed."""
    with HybridCollection.open(tmp_path_factory.mktemp("animals"), model=mini) as collection:
        collection.upsert(to_documents(DOCUMENTS))
        yield collection


def found(retriever: BaseRetriever, question: str = "Which animal has wings?") -> list[tuple[str, float]]:
    return [(each.node_id, round(each.score, 4)) for each in retriever.retrieve(question)]


def test_nodes_come_back_as_they_went_in_with_raw_scores(animals: HybridCollection) -> None:
    best, second = MGTERetriever(animals, similarity_top_k=2).retrieve("Which animal is asleep for long?")
    assert best.node.to_dict() == DOCUMENTS[0].to_dict()
    assert best.score > second.score


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "dense"},
        {"mode": "sparse"},
        {"mode": "late_interaction", "candidates": 2},
        {"mode": "hybrid", "fusion": weighted({"dense": 1, "sparse": 0.1})},
        {"mode": "dense", "mmr": 0.3},
        {"mode": "dense", "score_threshold": 0.1},
    ],
)
def test_every_option_is_that_of_the_collections_search(animals: HybridCollection, options: dict) -> None:
    hits = animals.search("Which animal has wings?", limit=4, **options)
    assert found(MGTERetriever(animals, **options)) == [(hit.id, round(hit.score, 4)) for hit in hits]


def test_filters_are_llama_indexs_or_dictionaries(animals: HybridCollection) -> None:
    assert {name for name, _ in found(MGTERetriever(animals, filters=WITH_LEGS))} == {"cat", "bird"}
    assert {name for name, _ in found(MGTERetriever(animals, filters={"legs": {"gt": 1}}))} == {"cat", "bird"}
    assert {name for name, _ in found(MGTELateInteractionRetriever(animals, filters=WITH_LEGS))} == {"cat", "bird"}
    with pytest.raises(InvalidOptionError, match="filters must be MetadataFilters"):
        MGTERetriever(animals, filters=[WITH_LEGS])  # type: ignore[arg-type]


def test_a_cross_encoder_ranks_the_best_again(animals: HybridCollection, cross_encoder: str) -> None:
    with Reranker.load(cross_encoder) as reranker:
        ranked = found(MGTERetriever(animals, rerank=reranker))
        texts = [document.get_content(MetadataMode.EMBED) for document in DOCUMENTS]
        by_hand = reranker.rank("Which animal has wings?", texts)
    assert [name for name, _ in ranked] == [DOCUMENTS[each.index].id_ for each in by_hand]


async def test_async_retrieval_equals_the_sync_one(animals: HybridCollection) -> None:
    nodes = [TextNode(id_=document.id_, text=document.text) for document in DOCUMENTS]
    for retriever in (
        MGTERetriever(animals),
        MGTELateInteractionRetriever(animals),
        MGTELateInteractionRetriever.from_nodes(nodes, model=animals.model),
    ):
        there, here = await retriever.aretrieve("wings"), retriever.retrieve("wings")
        assert [(n.node_id, n.score) for n in there] == [(n.node_id, n.score) for n in here]


def test_an_embedding_that_another_retriever_left_in_the_query_is_not_used(animals: HybridCollection) -> None:
    bundle = QueryBundle("Which animal has wings?", embedding=[0.0] * 7)
    assert MGTERetriever(animals).retrieve(bundle)[0].node_id == "bird"


def test_strings_to_embed_in_place_of_the_question_are_refused_and_never_ignored(animals: HybridCollection) -> None:
    bundle = QueryBundle("wings", custom_embedding_strs=["A hypothetical answer."])
    for retriever in (MGTERetriever(animals), MGTELateInteractionRetriever(animals)):
        with pytest.raises(InvalidOptionError, match="custom_embedding_strs, as HyDE makes them"):
            retriever.retrieve(bundle)


def test_nodes_that_stand_for_other_retrievers_are_asked_in_their_place(collection: HybridCollection) -> None:
    birds = MGTELateInteractionRetriever.from_nodes([TextNode(id_="wren", text="A wren.")], model=collection.model)
    index_node = IndexNode(id_="all birds", text="Everything about birds with wings", index_id="birds", obj=birds)
    collection.upsert(to_documents([*DOCUMENTS, index_node.model_copy(update={"obj": None})]))
    retriever = MGTERetriever(collection, similarity_top_k=1, objects=[index_node])
    assert [each.node_id for each in retriever.retrieve("birds with wings")] == ["wren"]


def test_from_documents_opens_fills_and_resumes(tmp_path: Path) -> None:
    with MGTERetriever.from_documents(DOCUMENTS, location=tmp_path, similarity_top_k=1) as first:
        assert first.retrieve("wings")[0].node_id == "bird"
    with MGTERetriever.from_documents(DOCUMENTS, location=tmp_path) as again:
        assert again.collection.count() == 3
        assert again.collection.upsert(to_documents(DOCUMENTS)).unchanged == 3


def test_a_piece_of_a_long_document_is_a_node_whose_source_it_is(tmp_path: Path) -> None:
    story = "".join(f"  Library {i} opens at nine and closes at five. " for i in range(60)) + "Elephants never forget."
    document = Document(text=story, id_="story", metadata={"kind": "tale"}, excluded_llm_metadata_keys=["kind"])
    with MGTERetriever.from_documents([document], location=tmp_path, similarity_top_k=1) as retriever:
        (best,) = retriever.retrieve("Which animal has a good memory?")
        assert best.node.text in story
        assert "Elephants" in best.node.text
        assert best.node.node_id.startswith("story#")
        assert best.node.ref_doc_id == "story"
        assert best.node.metadata == {"kind": "tale"}
        assert best.node.excluded_llm_metadata_keys == ["kind"]
        assert story[best.node.start_char_idx : best.node.end_char_idx] == best.node.text
        pieces = MGTERetriever(retriever.collection, similarity_top_k=50).retrieve("library")
        first = next(each.node for each in pieces if each.node_id == "story#0")
        assert first.text == story[first.start_char_idx : first.end_char_idx]  # without the metadata in front
        assert first.get_content(MetadataMode.EMBED).count("kind: tale") == 1
        assert all(each.node.relationships.keys() == {NodeRelationship.SOURCE} for each in pieces)


def test_something_that_is_no_node_is_an_error_naming_its_position(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match=r"nodes\[1\] must be a LlamaIndex document or node"):
        MGTERetriever.from_documents([DOCUMENTS[0], "text"], location=tmp_path)  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match=r"nodes\[0\] must be"):
        MGTELateInteractionRetriever.from_nodes([7])  # type: ignore[list-item]


def test_from_documents_raises_for_a_document_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocumentError, match=r"documents\[0\].*metadata\.x is nan"):
        MGTERetriever.from_documents([Document(text="x", metadata={"x": float("nan")})], location=tmp_path)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4"])
def test_a_top_k_that_is_no_number_of_nodes_is_an_error_before_anything_is_indexed(
    tmp_path: Path, collection: HybridCollection, wrong: int
) -> None:
    for make in (
        lambda: MGTERetriever(collection, similarity_top_k=wrong),
        lambda: MGTELateInteractionRetriever(collection, similarity_top_k=wrong),
        lambda: MGTELateInteractionRetriever.from_nodes([], similarity_top_k=wrong),
        lambda: MGTERetriever.from_documents(DOCUMENTS, location=tmp_path / "new", similarity_top_k=wrong),
    ):
        with pytest.raises(InvalidOptionError, match="similarity_top_k"):
            make()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("wrong", [None, "./index", MGTEVectorStore(location=":memory:")])
def test_a_retriever_over_something_else_than_a_collection_is_an_error(wrong: Any) -> None:
    for kind in (MGTERetriever, MGTELateInteractionRetriever):
        with pytest.raises(InputTypeError, match=r"MGTEVectorStore\(\.\.\.\)\.collection, not"):
            kind(wrong)


def test_late_interaction_over_nodes_is_max_sim_of_their_embedded_texts(
    passages: list[TextNode], mini: EmbeddingModel
) -> None:
    question = "write rows of comma separated values"
    best = MGTELateInteractionRetriever.from_nodes(passages, model=mini, similarity_top_k=len(passages)).retrieve(
        question
    )
    query = mini.encode_query(question, outputs=("multi_vector",))
    texts = [passage.get_content(MetadataMode.EMBED) for passage in passages]
    expected = mini.similarity(query, mini.encode_document(texts, outputs=("multi_vector",))).multi_vector[0]
    expected = expected * len(query.multi_vector[0])  # this model publishes the mean
    assert {each.node_id for each in best[:3]} <= {p.id_ for p in passages if p.metadata["module"] == "csv"}
    order = np.argsort(-expected, kind="stable")
    assert [each.node_id for each in best] == [passages[i].id_ for i in order]
    np.testing.assert_allclose([each.score for each in best], expected[order], atol=1e-5)
    assert best[0].node is passages[order[0]]


def test_late_interaction_over_a_collection_compares_every_document(animals: HybridCollection) -> None:
    scores = dict(found(MGTELateInteractionRetriever(animals)))
    assert scores.keys() == {"cat", "bird", "fish"}
    nodes = [TextNode(id_=d.id_, text=d.text, metadata=d.metadata) for d in DOCUMENTS]
    without_a_store = dict(found(MGTELateInteractionRetriever.from_nodes(nodes, model=animals.model)))
    for name, score in scores.items():
        assert score == pytest.approx(without_a_store[name], abs=0.02)  # the collection stores float16
    limited = MGTELateInteractionRetriever(animals, candidates=1, similarity_top_k=1)
    assert [name for name, _ in found(limited)] == ["bird"]


def test_equally_good_nodes_keep_their_order_and_no_nodes_give_none(mini: EmbeddingModel) -> None:
    same = [
        TextNode(id_=name, text="the same text", metadata={"n": name}, excluded_embed_metadata_keys=["n"])
        for name in "dbca"
    ]
    assert [name for name, _ in found(MGTELateInteractionRetriever.from_nodes(same, model=mini))] == list("dbca")
    assert found(MGTELateInteractionRetriever.from_nodes([], model=mini)) == []


def test_late_interaction_warns_of_nodes_that_it_cuts(mini: EmbeddingModel) -> None:
    with pytest.warns(UserWarning, match="reads 256 tokens"):
        MGTELateInteractionRetriever.from_nodes([TextNode(text="word " * 600)], model=mini)


def test_late_interaction_needs_token_vectors(tmp_path: Path, mini: EmbeddingModel, tiny_bert: Path) -> None:
    with (
        HybridCollection.open(tmp_path / "dense", model=mini, outputs=("dense",)) as dense,
        pytest.raises(UnsupportedOutputError, match="stores dense; late interaction needs"),
    ):
        MGTELateInteractionRetriever(dense)
    with pytest.raises(UnsupportedOutputError, match="multi_vector"):
        MGTELateInteractionRetriever.from_nodes([TextNode(text="a")], model=str(tiny_bert))
    with pytest.raises(InvalidOptionError, match="token_dim=7"):
        MGTELateInteractionRetriever.from_nodes([TextNode(text="a")], model=mini, token_dim=7)
