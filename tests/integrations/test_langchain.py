"""The LangChain classes: the framework's own standard suites, then what they do not check."""

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from langchain_mgte import MGTEEmbeddings, MGTERetriever
from mgte_rag import ClosedError, EmbeddingModel, InputTypeError, InvalidDocumentError, InvalidOptionError
from mgte_rag.sharing import POOL
from qdrant_mgte import HybridCollection

DOCUMENTS = [
    Document("Cats sleep most of the day.", id="cat", metadata={"legs": 4}),
    Document("Most birds can fly.", id="bird"),
    Document("Fish breathe under water.", id="fish"),
]


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


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _opened(self, collection: HybridCollection) -> None:
        collection.upsert([{"id": document.id, "text": document.page_content} for document in DOCUMENTS])
        self._collection = collection

    @property
    def retriever_constructor(self) -> type[MGTERetriever]:
        return MGTERetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"collection": self._collection}

    @property
    def retriever_query_example(self) -> str:
        return "Which animal has wings?"


@pytest.fixture
def retriever(collection: HybridCollection) -> MGTERetriever:
    collection.upsert([{"id": d.id, "text": d.page_content, "metadata": d.metadata} for d in DOCUMENTS])
    return MGTERetriever(collection=collection, k=2)


def test_embeddings_are_the_models_own_vectors(mini: EmbeddingModel) -> None:
    embeddings = MGTEEmbeddings()
    np.testing.assert_array_equal(embeddings.embed_documents(["a", "b c"]), mini.encode_document(["a", "b c"]).dense)
    np.testing.assert_array_equal(embeddings.embed_query("a"), mini.encode_query("a").dense[0])


def test_options_reach_the_model(mini: EmbeddingModel) -> None:
    embeddings = MGTEEmbeddings(max_length=4, query_prompt="query: ", document_prompt="text: ")
    by_hand = mini.encode_document("x y z", prompt="text: ", max_length=4).dense
    np.testing.assert_array_equal(embeddings.embed_documents(["x y z"]), by_hand)
    expected = mini.encode_query("x", prompt="query: ", max_length=4).dense[0]
    np.testing.assert_array_equal(embeddings.embed_query("x"), expected)


def test_no_documents_give_no_embeddings() -> None:
    assert MGTEEmbeddings().embed_documents([]) == []


def test_unknown_constructor_arguments_are_errors(collection: HybridCollection) -> None:
    with pytest.raises(ValidationError, match="batch_size"):
        MGTEEmbeddings(batch_size=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="top_k"):
        MGTERetriever(collection=collection, top_k=3)  # type: ignore[call-arg]


def test_an_unknown_call_argument_is_an_error(retriever: MGTERetriever) -> None:
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke("wings", top_k=3)


def test_any_number_of_embeddings_on_one_model_share_its_weights(mini: EmbeddingModel) -> None:
    before = len(POOL)
    several = [MGTEEmbeddings() for _ in range(5)]
    assert {id(embeddings.model._engine) for embeddings in several} == {id(mini._engine)}
    assert len(POOL) == before


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_pickles_and_copies_hold_no_weights(copied: Any) -> None:
    embeddings = MGTEEmbeddings(max_length=16)
    vector = embeddings.embed_query("text")
    assert len(pickle.dumps(embeddings)) < 3_000
    assert copied(embeddings).embed_query("text") == vector


def test_the_model_is_loaded_on_first_use_only() -> None:
    assert "model" not in vars(MGTEEmbeddings(model="no/such-model"))


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


def test_a_chain_streams_and_batches(retriever: MGTERetriever) -> None:
    chain = retriever | RunnableLambda(lambda documents: documents[0].id)
    assert chain.batch(["asleep for long", "wings"]) == ["cat", "bird"]
    assert list(chain.stream("gills")) == ["fish"]


def test_tracing_names_the_model(retriever: MGTERetriever) -> None:
    parameters = retriever._get_ls_params()
    assert parameters["ls_retriever_name"] == "mgte"
    assert parameters["ls_embedding_model"] == "mini"


def test_from_documents_opens_fills_and_resumes(tmp_path: Path, mini: EmbeddingModel) -> None:
    originals = [document.model_copy(deep=True) for document in DOCUMENTS]
    first = MGTERetriever.from_documents(DOCUMENTS, location=tmp_path, k=1)
    assert first.invoke("wings")[0].id == "bird"
    assert originals == DOCUMENTS
    first.collection.close()
    again = MGTERetriever.from_documents([*DOCUMENTS, Document("no id")], location=tmp_path, model=mini)
    assert again.collection.count() == 4
    again.collection.close()
    once_more = MGTERetriever.from_documents([Document("no id")], location=tmp_path, model=mini)
    assert once_more.collection.count() == 4
    once_more.collection.close()


def test_running_the_same_lines_twice_in_one_process_works(tmp_path: Path) -> None:
    retriever = MGTERetriever.from_documents(DOCUMENTS, location=tmp_path, k=1)
    retriever = MGTERetriever.from_documents(DOCUMENTS, location=tmp_path, k=1)
    with retriever:
        assert retriever.invoke("wings")[0].id == "bird"
    with pytest.raises(ClosedError):
        retriever.invoke("wings")


@pytest.mark.parametrize("documents", [["text"], [DOCUMENTS[0], None]])
def test_something_that_is_no_document_is_an_error_naming_its_position(tmp_path: Path, documents: list) -> None:
    with pytest.raises(InputTypeError, match=rf"documents\[{len(documents) - 1}\] must be a langchain_core Document"):
        MGTERetriever.from_documents(documents, location=tmp_path)


def test_a_list_where_a_question_belongs_and_the_reverse_are_errors() -> None:
    with pytest.raises(InputTypeError, match=r"a question must be a string, not \['a'\]"):
        MGTEEmbeddings().embed_query(["a"])  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="a list of strings, not one string: 'abc'"):
        MGTEEmbeddings().embed_documents("abc")  # type: ignore[arg-type]


def test_from_documents_checks_k_before_it_indexes(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="k must be a whole number above 0"):
        MGTERetriever.from_documents(DOCUMENTS, location=tmp_path / "index", k=0)
    assert not (tmp_path / "index").exists()


def test_from_documents_raises_for_a_document_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocumentError, match=r"documents\[1\].*metadata\.x is nan"):
        MGTERetriever.from_documents([*DOCUMENTS[:1], Document("x", metadata={"x": float("nan")})], location=tmp_path)


def test_a_retriever_over_a_closed_collection_is_an_error(retriever: MGTERetriever) -> None:
    retriever.collection.close()
    with pytest.raises(ClosedError, match="open it again"):
        retriever.invoke("anything")
