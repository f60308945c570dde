"""What users of LangChain and its integrations run into, one test each; none of it happens here."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

import langchain_mgte
from langchain_mgte import (
    MGTEEmbeddings,
    MGTELateInteractionReranker,
    MGTERetriever,
    MGTESparseEmbeddings,
    MGTEVectorStore,
)
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection


@pytest.fixture
def eight(mini: EmbeddingModel) -> Any:
    texts = [f"Animal {i} has {i} legs." for i in range(8)]
    with MGTEVectorStore.from_texts(texts, MGTEEmbeddings(), ids=list("abcdefgh"), location=":memory:") as store:
        yield store


def test_vectors_are_lists_of_python_floats_not_numpys() -> None:
    dense, sparse = MGTEEmbeddings(), MGTESparseEmbeddings()
    vector = dense.embed_query("a")
    assert type(vector) is list
    assert {type(x) for x in vector} == {float}
    weights = sparse.embed_query("wings")
    assert {type(i) for i in weights.indices} == {int}
    assert {type(x) for x in weights.values} == {float}


def test_the_synchronous_method_names_k_and_filter_so_that_langchain_passes_them_on(
    retriever: MGTERetriever,
) -> None:
    """BaseRetriever looks at the sync method alone and drops what it does not name."""
    for method in (retriever._get_relevant_documents, retriever._aget_relevant_documents):
        assert {"k", "filter"} <= inspect.signature(method).parameters.keys()
    assert [document.id for document in retriever.invoke("wings", k=1, filter={"legs": 4})] == ["cat"]


def test_documents_found_have_no_metadata_but_their_own_and_have_their_ids(eight: MGTEVectorStore) -> None:
    document = eight.similarity_search("Animal 3", k=1)[0]
    assert document.metadata == {}
    assert document.id in "abcdefgh"


def test_offset_leaves_out_the_best_and_still_finds_the_rest(eight: MGTEVectorStore) -> None:
    """A store that fetches k candidates and then leaves out six of them finds nothing."""
    everything = eight.similarity_search("Animal 3 has 3 legs.", k=8)
    assert eight.similarity_search("Animal 3 has 3 legs.", k=3, offset=6) == everything[6:]


def test_fusion_sees_more_candidates_than_are_asked_for(eight: MGTEVectorStore) -> None:
    question = "Animal 3 has 3 legs."
    assert eight.similarity_search(question, k=1) == eight.similarity_search(question, k=8)[:1]


def test_mmr_with_lambda_0_is_the_most_diverse_and_with_1_the_most_alike() -> None:
    """langchain-qdrant has it the other way round."""
    texts = ["Birds can fly.", "Most birds can fly.", "Birds fly.", "Prices of steel rose in March."]
    with MGTEVectorStore.from_texts(texts, MGTEEmbeddings(), ids=list("abcd"), location=":memory:") as store:
        alike, diverse = (
            {d.id for d in store.max_marginal_relevance_search("Can birds fly?", k=2, lambda_mult=weight, mode="dense")}
            for weight in (1, 0)
        )
    assert "d" not in alike
    assert "d" in diverse


def test_filters_need_no_prefix_before_the_field(animals: HybridCollection) -> None:
    assert [d.id for d in MGTERetriever(collection=animals).invoke("wings", filter={"legs": 2})] == ["bird"]


def test_reranked_documents_keep_their_ids_and_the_callers_stay_as_they_were() -> None:
    given = [Document("the cat", id="x", metadata={"a": {"b": 1}}), Document("a dog", id="y")]
    found = MGTELateInteractionReranker().compress_documents(given, "the cat")
    assert [document.id for document in found] == ["x", "y"]
    assert given[0].metadata == {"a": {"b": 1}}


def test_a_reranking_after_a_retrieval_has_the_last_stages_score(retriever: MGTERetriever) -> None:
    retrieved = retriever.invoke("Which animal has wings?")
    scores = {document.id: document.metadata["mgte_score"] for document in retrieved}
    for document in MGTELateInteractionReranker().compress_documents(retrieved, "Which animal has wings?"):
        assert document.metadata["mgte_score"] != scores[document.id]
        assert 0 <= document.metadata["relevance_score"] <= 1


@pytest.mark.parametrize("text", ["for x in y:\n    print(x)", "  two  blanks\t", ""])
def test_texts_reach_the_model_as_they_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HuggingFaceEmbeddings makes line breaks blanks, which harms code."""
    seen: list[Any] = []
    encode = EmbeddingModel.encode_document

    def watched(self: EmbeddingModel, texts: Any, **options: Any) -> Any:
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(EmbeddingModel, "encode_document", watched)
    MGTEEmbeddings().embed_documents([text])
    assert seen == [text]


def test_the_models_own_prompt_stands_before_questions(make_tiny_bert: Any) -> None:
    folder: Path = make_tiny_bert(pooling="cls")
    (folder / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "the cat: ", "document": ""}, "default_prompt_name": null}'
    )
    embeddings = MGTEEmbeddings(model=folder)
    assert embeddings.model.prompts["query"] == "the cat: "
    plain = MGTEEmbeddings(model=folder, query_prompt="")
    assert embeddings.embed_query("dog") == plain.embed_query("the cat: dog")
    assert embeddings.embed_query("dog") != plain.embed_query("dog")


def test_a_foreign_embedding_is_asked_for_its_size_once_and_for_documents_in_one_call() -> None:
    asked: list[Any] = []

    class Counting(DeterministicFakeEmbedding):
        def embed_query(self, text: str) -> list[float]:
            asked.append(text)
            return super().embed_query(text)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.append(list(texts))
            return [DeterministicFakeEmbedding.embed_query(self, text) for text in texts]

    with MGTEVectorStore(Counting(size=6), location=":memory:") as store:
        assert len(asked) == 1
        store.add_texts(["a", "b", "c"])
        store.similarity_search("d")
    assert asked[1:] == [["a", "b", "c"], "d"]


def test_the_package_needs_langchain_core_alone_of_all_of_langchain() -> None:
    others = ["langchain", "langchain_classic", "langchain_community", "langchain_qdrant", "langchain_text_splitters"]
    script = f"import sys; sys.modules.update(dict.fromkeys({others!r})); import langchain_mgte"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_class_takes_remote_code() -> None:
    for name in langchain_mgte.__all__:
        assert "trust_remote_code" not in inspect.signature(getattr(langchain_mgte, name)).parameters


def test_every_public_name_can_be_imported() -> None:
    assert sorted(langchain_mgte.__all__) == langchain_mgte.__all__
    assert all(inspect.isclass(getattr(langchain_mgte, name)) for name in langchain_mgte.__all__)
