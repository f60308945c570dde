"""Retrievers: the framework's own standard suite, then what it does not check."""

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from langchain_mgte import MGTEEmbeddings, MGTELateInteractionRetriever, MGTEReranker, MGTERetriever
from mgte_rag import ClosedError, EmbeddingModel, InputTypeError, InvalidDocumentError, InvalidOptionError, Reranker
from qdrant_mgte import HybridCollection, weighted
from qdrant_mgte.stores import STORES


class RetrieverSuite(RetrieversIntegrationTests):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"collection": self._animals}

    @property
    def retriever_query_example(self) -> str:
        return "Which animal has wings?"

    @pytest.fixture(autouse=True)
    def _opened(self, animals: HybridCollection) -> None:
        self._animals = animals


class TestRetriever(RetrieverSuite):
    @property
    def retriever_constructor(self) -> type[MGTERetriever]:
        return MGTERetriever


class TestLateInteractionRetriever(RetrieverSuite):
    @property
    def retriever_constructor(self) -> type[MGTELateInteractionRetriever]:
        return MGTELateInteractionRetriever


class TestLateInteractionRetrieverWithoutAStore(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _encoded(self, documents: list[Document]) -> None:
        self._documents = documents

    @property
    def retriever_constructor(self) -> Any:
        return MGTELateInteractionRetriever.from_documents

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"documents": self._documents}

    @property
    def retriever_query_example(self) -> str:
        return "Which animal has wings?"


@pytest.fixture
def plain(documents: list[Document], mini: EmbeddingModel) -> MGTELateInteractionRetriever:
    return MGTELateInteractionRetriever.from_documents(documents, model=mini, k=2)


def test_an_unknown_call_argument_is_an_error(retriever: MGTERetriever) -> None:
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke("wings", top_k=3)


def test_documents_carry_id_metadata_and_score(retriever: MGTERetriever) -> None:
    best = retriever.invoke("Which animal is asleep for long?")[0]
    assert best.id == "cat"
    assert best.page_content == "Cats sleep most of the day."
    score = retriever.collection.search("Which animal is asleep for long?")[0].score
    assert best.metadata == {"legs": 4, "mgte_score": score}


def test_k_can_be_changed_for_one_call(retriever: MGTERetriever) -> None:
    assert len(retriever.invoke("animals")) == 2
    assert len(retriever.invoke("animals", k=1)) == 1


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_an_error(collection: HybridCollection, k: int) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        MGTERetriever(collection=collection, k=k)


async def test_async_calls_side_by_side_each_get_their_own_answer(retriever: MGTERetriever) -> None:
    questions = {"cat": "Do cats sleep for long?", "bird": "Can birds fly?", "fish": "How do fish breathe?"}
    asked = list(questions) * 10
    answers = await asyncio.gather(*(retriever.ainvoke(questions[animal], k=1) for animal in asked))
    assert [documents[0].id for documents in answers] == asked


async def test_a_chain_streams_and_batches(retriever: MGTERetriever) -> None:
    chain = retriever | RunnableLambda(lambda documents: documents[0].id)
    assert chain.batch(["asleep for long", "wings"]) == ["cat", "bird"]
    assert await chain.abatch(["asleep for long", "wings"]) == ["cat", "bird"]
    assert list(chain.stream("gills")) == [streamed async for streamed in chain.astream("gills")] == ["fish"]


def test_tracing_names_the_model(retriever: MGTERetriever) -> None:
    parameters = retriever._get_ls_params()
    assert parameters["ls_retriever_name"] == "mgte"
    assert parameters["ls_embedding_model"] == "mini"


def test_from_documents_opens_fills_and_resumes(
    tmp_path: Path, mini: EmbeddingModel, documents: list[Document]
) -> None:
    originals = [document.model_copy(deep=True) for document in documents]
    first = MGTERetriever.from_documents(documents, location=tmp_path, k=1)
    assert first.invoke("wings")[0].id == "bird"
    assert originals == documents
    first.collection.close()
    again = MGTERetriever.from_documents([*documents, Document("no id")], location=tmp_path, model=mini)
    assert again.collection.count() == 4
    again.collection.close()
    once_more = MGTERetriever.from_documents([Document("no id")], location=tmp_path, model=mini)
    assert once_more.collection.count() == 4
    once_more.collection.close()


def test_running_the_same_lines_twice_in_one_process_works(tmp_path: Path, documents: list[Document]) -> None:
    retriever = MGTERetriever.from_documents(documents, location=tmp_path, k=1)
    retriever = MGTERetriever.from_documents(documents, location=tmp_path, k=1)
    with retriever:
        assert retriever.invoke("wings")[0].id == "bird"
    with pytest.raises(ClosedError):
        retriever.invoke("wings")


@pytest.mark.parametrize("documents", [["text"], [Document("a"), None]])
def test_something_that_is_no_document_is_an_error_naming_its_position(tmp_path: Path, documents: list) -> None:
    with pytest.raises(InputTypeError, match=rf"documents\[{len(documents) - 1}\] must be a langchain_core Document"):
        MGTERetriever.from_documents(documents, location=tmp_path)


def test_from_documents_checks_k_before_it_indexes(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="k must be a whole number above 0"):
        MGTERetriever.from_documents([Document("a")], location=tmp_path / "index", k=0)
    assert not (tmp_path / "index").exists()


def test_from_documents_raises_for_a_document_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocumentError, match=r"documents\[1\].*metadata\.x is nan"):
        MGTERetriever.from_documents([Document("a"), Document("x", metadata={"x": float("nan")})], location=tmp_path)


def test_a_retriever_over_a_closed_collection_is_an_error(retriever: MGTERetriever) -> None:
    retriever.collection.close()
    with pytest.raises(ClosedError, match="open it again"):
        retriever.invoke("anything")


def test_an_unknown_constructor_argument_is_an_error(animals: HybridCollection) -> None:
    for kind in (MGTERetriever, MGTELateInteractionRetriever):
        with pytest.raises(ValidationError, match="top_k"):
            kind(collection=animals, top_k=3)


async def test_an_unknown_call_argument_is_an_error_for_async_calls_too(
    retriever: MGTERetriever, plain: MGTELateInteractionRetriever
) -> None:
    for each in (retriever, plain):
        with pytest.raises(TypeError, match="top_k"):
            await each.ainvoke("wings", top_k=3)


async def test_a_filter_holds_for_the_retriever_or_for_one_call(animals: HybridCollection) -> None:
    four = MGTERetriever(collection=animals, filter={"legs": 4})
    assert [document.id for document in four.invoke("wings")] == ["cat"]
    assert [document.id for document in four.invoke("wings", filter={"legs": 2})] == ["bird"]
    assert [document.id for document in await four.ainvoke("wings", filter={"legs": None}, k=1)] == ["fish"]
    with pytest.raises(InvalidOptionError, match="legs"):
        four.invoke("wings", filter={"legs": {"about": 3}})


def test_modes_fusion_and_thresholds_reach_the_collection(animals: HybridCollection) -> None:
    question = "Which animal has wings?"
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        found = MGTERetriever(collection=animals, mode=mode).invoke(question)
        hits = animals.search(question, mode=mode)
        assert [document.id for document in found] == [hit.id for hit in hits]
        scores = [document.metadata["mgte_score"] for document in found]
        assert scores == pytest.approx([hit.score for hit in hits], abs=1e-5)
    fusion = weighted({"dense": 1, "sparse": 0.1})
    best = MGTERetriever(collection=animals, fusion=fusion).invoke(question)[0]
    assert best.metadata["mgte_score"] == pytest.approx(animals.search(question, fusion=fusion)[0].score)
    assert MGTERetriever(collection=animals, mode="dense", score_threshold=0.99).invoke(question) == []
    with pytest.raises(InvalidOptionError, match="best"):
        MGTERetriever(collection=animals, mode="best").invoke(question)


def test_relevance_is_there_where_the_score_says_something_by_itself(animals: HybridCollection) -> None:
    question = "Which birds can fly?"
    for mode, has in {"dense": True, "late_interaction": True, "sparse": False, "hybrid": False}.items():
        best = MGTERetriever(collection=animals, mode=mode).invoke(question)[0]
        assert ("relevance_score" in best.metadata) is has
    assert (
        "relevance_score" not in MGTERetriever(collection=animals, mode="dense", mmr=0.5).invoke(question)[0].metadata
    )


def test_a_reranker_sorts_by_its_logit_and_gives_its_sigmoid(
    collection: HybridCollection, sentences: list[Document], reranker_folder: str
) -> None:
    collection.upsert([{"id": d.id, "text": d.page_content, "metadata": d.metadata} for d in sentences])
    reranker = Reranker.load(reranker_folder)
    for given in (reranker, MGTEReranker(model=reranker_folder)):
        found = MGTERetriever(collection=collection, reranker=given).invoke("the cat")
        expected = reranker.rank("the cat", [d.page_content for d in sentences])
        assert [d.id for d in found] == [sentences[each.index].id for each in expected]
        np.testing.assert_allclose(
            [d.metadata["mgte_score"] for d in found], [each.score for each in expected], atol=1e-5
        )
        relevances = [d.metadata["relevance_score"] for d in found]
        np.testing.assert_allclose(relevances, [each.relevance for each in expected], atol=1e-5)
    with pytest.raises(ValidationError, match="reranker"):
        MGTERetriever(collection=collection, reranker="a name")


def test_a_reranker_reads_of_hits_what_its_max_length_says(
    collection: HybridCollection, sentences: list[Document], reranker_folder: str
) -> None:
    collection.upsert([{"id": d.id, "text": d.page_content} for d in sentences])
    cut = MGTEReranker(model=reranker_folder, max_length=6, top_n=None)
    expected = {d.id: d.metadata["mgte_score"] for d in cut.compress_documents(sentences, "the cat")}
    for document in MGTERetriever(collection=collection, reranker=cut).invoke("the cat"):
        assert document.metadata["mgte_score"] == pytest.approx(expected[document.id], abs=1e-5)


def test_pieces_of_a_long_document_say_whose_they_are(collection: HybridCollection, stdlib_docs: list[Any]) -> None:
    text = next(entry.text for entry in stdlib_docs if entry.name == "argparse")
    collection.upsert([{"id": "long", "text": text}, {"id": "short", "text": "Cats sleep."}])
    by_id = {d.id: d for d in MGTERetriever(collection=collection, k=20).invoke("command line arguments")}
    assert by_id["short"].metadata.keys() == {"mgte_score"}
    pieces = {name: document for name, document in by_id.items() if name != "short"}
    assert len(pieces) > 1
    for name, piece in pieces.items():
        start = piece.metadata["mgte_start"]
        assert name.startswith("long#")
        assert piece.metadata["mgte_document_id"] == "long"
        assert text[start : start + len(piece.page_content)] == piece.page_content
    grouped = MGTERetriever(collection=collection, k=20, group_by_parent=True).invoke("command line arguments")
    assert [document.id for document in grouped] == ["long", "short"]


def test_late_interaction_compares_the_question_with_every_document(
    animals: HybridCollection, documents: list[Document], mini: EmbeddingModel
) -> None:
    question = "Which animal has wings?"
    query = mini.encode_query(question, outputs=("multi_vector",)).multi_vector[0]
    scores = {}
    for document in documents:
        rows = mini.encode_document(document.page_content, outputs=("multi_vector",)).multi_vector[0]
        scores[document.id] = sum(max(float(q @ row) for row in rows) for q in query)
    order = sorted(scores, key=lambda name: -scores[name])
    stored = MGTELateInteractionRetriever(collection=animals).invoke(question)
    plain = MGTELateInteractionRetriever.from_documents(documents).invoke(question)
    rescored = MGTELateInteractionRetriever(collection=animals, candidates=3).invoke(question)
    for found, tolerance in ((plain, 1e-4), (stored, 5e-2), (rescored, 5e-2)):  # stored as float16
        assert [document.id for document in found] == order
        for document in found:
            score, relevance = document.metadata["mgte_score"], document.metadata["relevance_score"]
            assert score == pytest.approx(scores[document.id], abs=tolerance)
            assert relevance == pytest.approx(score / len(query))
            assert 0 <= relevance <= 1


async def test_late_interaction_without_a_store_keeps_the_documents_as_they_are(
    plain: MGTELateInteractionRetriever, documents: list[Document]
) -> None:
    found = await plain.ainvoke("Which animal has wings?")
    assert found == plain.invoke("Which animal has wings?")
    assert found[0].id == "bird"
    assert found[0].metadata.keys() == {"legs", "mgte_score", "relevance_score"}
    assert documents[1].metadata == {"legs": 2}
    assert MGTELateInteractionRetriever.from_documents([]).invoke("anything") == []


def test_late_interaction_without_a_store_has_no_filters(plain: MGTELateInteractionRetriever) -> None:
    with pytest.raises(InvalidOptionError, match="a filter needs a collection"):
        plain.invoke("wings", filter={"legs": 4})


def test_late_interaction_warns_of_documents_that_it_cannot_read_to_the_end() -> None:
    with pytest.warns(UserWarning, match=r"1 documents are longer than the 256 tokens .* documents\[1\]"):
        MGTELateInteractionRetriever.from_documents([Document("short"), Document("long " * 300)])


def test_late_interaction_needs_documents_or_a_collection_with_token_vectors(
    tmp_path: Path, mini: EmbeddingModel
) -> None:
    with pytest.raises(ValidationError, match="give collection=, or use"):
        MGTELateInteractionRetriever()
    with (
        HybridCollection.open(tmp_path, model=mini, outputs=("dense",)) as dense,
        pytest.raises(ValidationError, match="stores dense and no multi_vector"),
    ):
        MGTELateInteractionRetriever(collection=dense)


def test_late_interaction_without_a_store_pickles_with_its_vectors_and_without_weights(
    plain: MGTELateInteractionRetriever,
) -> None:
    pickled = pickle.dumps(plain)
    assert len(pickled) < 100_000
    assert pickle.loads(pickled).invoke("wings") == plain.invoke("wings")


def test_copies_of_a_retriever_share_its_collection_and_pickling_says_what_to_do(retriever: MGTERetriever) -> None:
    for copied in (copy.copy(retriever), copy.deepcopy(retriever), retriever.model_copy(update={"k": 1})):
        assert copied.collection is retriever.collection
    with pytest.raises(TypeError, match="open it in the other process"):
        pickle.dumps(retriever)


def test_any_langchain_embedding_makes_a_dense_retriever(tmp_path: Path, documents: list[Document]) -> None:
    fake = DeterministicFakeEmbedding(size=6)
    with MGTERetriever.from_documents(documents, location=tmp_path, model=fake, k=1) as retriever:
        assert retriever.collection.outputs == ("dense",)
        assert retriever.invoke("Most birds can fly.")[0].id == "bird"
        assert retriever.invoke("Most birds can fly.")[0].metadata["relevance_score"] == pytest.approx(1, abs=1e-3)


def test_an_embeddings_dim_is_that_of_the_collection(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="dim=100"):
        MGTERetriever.from_documents([], location=tmp_path, model=MGTEEmbeddings(dim=100))


def test_an_embedding_with_prompts_searches_with_them(tmp_path: Path, mini: EmbeddingModel) -> None:
    embeddings = MGTEEmbeddings(query_prompt="query: ", document_prompt="text: ", max_length=64)
    documents = [Document("Most birds can fly.", id="bird")]
    with MGTERetriever.from_documents(documents, location=tmp_path, model=embeddings, mode="dense") as retriever:
        score = retriever.invoke("wings")[0].metadata["mgte_score"]
    expected = np.dot(embeddings.embed_query("wings"), embeddings.embed_documents(["Most birds can fly."])[0])
    assert score == pytest.approx(expected, abs=2e-3)
    plain = mini.similarity(mini.encode_query("wings"), mini.encode_document("Most birds can fly.")).dense[0, 0]
    assert abs(plain - expected) > 0.01


def test_a_whole_rag_chain_streams_and_tells_its_callbacks(retriever: MGTERetriever) -> None:
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.told: list[Any] = []

        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            self.told.append((query, kwargs["metadata"]["ls_retriever_name"], kwargs["tags"]))

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.told.append([document.id for document in documents])

    handler = Handler()
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    context = retriever | (lambda documents: "\n".join(document.page_content for document in documents))
    chain = (
        {"context": context, "question": RunnablePassthrough()}
        | prompt
        | FakeListChatModel(responses=["Birds."])
        | StrOutputParser()
    )
    config = {"callbacks": [handler], "tags": ["animals"]}
    assert "".join(chain.stream("Which animal has wings?", config)) == "Birds."
    (question, name, tags), found = handler.told
    assert (question, name) == ("Which animal has wings?", "mgte")
    assert "animals" in tags
    assert found[0] == "bird"


def test_tracing_tells_engine_and_model_of_every_retriever(
    animals: HybridCollection, plain: MGTELateInteractionRetriever, mini: EmbeddingModel
) -> None:
    stored = MGTELateInteractionRetriever(collection=animals)._get_ls_params()
    assert stored["ls_vector_store_provider"] == "qdrant-edge"
    assert plain._get_ls_params()["ls_embedding_model"] == "mini"
    assert "ls_vector_store_provider" not in plain._get_ls_params()
    with HybridCollection.open(":memory:", model=mini) as memory:
        assert MGTERetriever(collection=memory)._get_ls_params()["ls_vector_store_provider"] == "qdrant"


@pytest.mark.parametrize("k", [0, "2"])
def test_a_k_for_one_call_that_is_no_number_above_0_is_an_error(
    retriever: MGTERetriever, plain: MGTELateInteractionRetriever, k: Any
) -> None:
    for each in (retriever, plain):
        with pytest.raises(InvalidOptionError, match="k must be a whole number above 0"):
            each.invoke("wings", k=k)
    with pytest.raises(InvalidOptionError, match="k must be a whole number above 0"):
        MGTELateInteractionRetriever.from_documents([], k=k)


def test_a_retriever_that_cannot_be_made_leaves_no_collection_open(tmp_path: Path) -> None:
    before = len(STORES._handles)
    with pytest.raises(ValidationError, match="reranker"):
        MGTERetriever.from_documents([], location=tmp_path, reranker="a name")  # type: ignore[arg-type]
    assert len(STORES._handles) == before
