"""The vector store: the framework's own standard suite on two engines, then what it does not check."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from qdrant_client import models

from langchain_mgte import (
    MGTEEmbeddings,
    MGTELateInteractionReranker,
    MGTEReranker,
    MGTESparseEmbeddings,
    MGTEVectorStore,
)
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import (
    ClosedError,
    CollectionError,
    EmbeddingModel,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
    ModelMismatchError,
    Reranker,
)
from qdrant_mgte import Splitting, rrf

QUESTION = "Which birds can fly?"


class TestEmbeddedStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[MGTEVectorStore]:
        with MGTEVectorStore(self.get_embeddings(), location=tmp_path / "index") as store:
            yield store


class TestStoreInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[MGTEVectorStore]:
        with MGTEVectorStore(self.get_embeddings(), location=":memory:") as store:
            yield store


@pytest.fixture
def store(documents: list[Document]) -> Iterator[MGTEVectorStore]:
    with MGTEVectorStore.from_documents(documents, MGTEEmbeddings(), location=":memory:") as filled:
        yield filled


def alike(found: list[tuple[Document, float]], expected: list[tuple[Document, float]]) -> None:
    """The same documents with the same scores, up to the last digits, which differ from run to run."""
    assert [document for document, _ in found] == [document for document, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


async def test_every_mode_finds_what_the_collection_finds(store: MGTEVectorStore) -> None:
    for mode in ("hybrid", "dense", "sparse", "late_interaction"):
        hits = store.collection.search(QUESTION, mode=mode)
        found = store.similarity_search_with_score(QUESTION, mode=mode)
        assert ids([document for document, _ in found]) == [hit.id for hit in hits]
        assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        alike(await store.asimilarity_search_with_score(QUESTION, mode=mode), found)
        assert await store.asimilarity_search(QUESTION, mode=mode) == [document for document, _ in found]


def test_a_mode_given_to_the_store_is_that_of_every_search(tmp_path: Path, documents: list[Document]) -> None:
    with MGTEVectorStore.from_documents(documents, MGTEEmbeddings(), location=tmp_path, mode="dense") as store:
        alike(store.similarity_search_with_score(QUESTION), store.similarity_search_with_score(QUESTION, mode="dense"))


def test_fusion_threshold_offset_and_grouping_reach_the_collection(store: MGTEVectorStore) -> None:
    options = {"fusion": rrf(k=61), "score_threshold": {"dense": 0.1}, "offset": 1, "group_by_parent": True}
    hits = store.collection.search(QUESTION, limit=2, **options)
    found = store.similarity_search_with_score(QUESTION, k=2, **options)
    assert ids([document for document, _ in found]) == [hit.id for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)


async def test_a_reranker_scores_the_candidates(
    tmp_path: Path, sentences: list[Document], reranker_folder: str
) -> None:
    reranker = MGTEReranker(model=reranker_folder)
    expected = reranker.model.rank("the cat", [document.page_content for document in sentences])
    with MGTEVectorStore.from_documents(sentences, MGTEEmbeddings(), location=tmp_path) as store:
        for given in (reranker, Reranker.load(reranker_folder)):
            found = store.similarity_search_with_score("the cat", rerank=given)
            assert ids([document for document, _ in found]) == [sentences[each.index].id for each in expected]
            relevant = await store.asimilarity_search_with_relevance_scores("the cat", rerank=given)
            np.testing.assert_allclose(
                [relevance for _, relevance in relevant], [each.relevance for each in expected], atol=1e-5
            )


async def test_searching_by_vector_is_searching_by_the_dense_vector(store: MGTEVectorStore) -> None:
    vector = MGTEEmbeddings().embed_query(QUESTION)
    by_text = store.similarity_search_with_score(QUESTION, mode="dense", k=2)
    alike(store.similarity_search_with_score_by_vector(vector, k=2), by_text)
    alike(await store.asimilarity_search_with_score_by_vector(vector, k=2), by_text)
    assert store.similarity_search_by_vector(vector, k=2) == [document for document, _ in by_text]
    assert await store.asimilarity_search_by_vector(vector, k=2) == [document for document, _ in by_text]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1.0, 2.0], r"has shape \[2\]; \[384\] is needed"),
        ([0.0] * 384, "zero everywhere"),
        ([float("nan")] * 384, "NaN or infinity"),
        ([[1.0] * 384], r"of shape \[1, 384\]"),
        ("wings", "must be numbers"),
    ],
)
def test_a_vector_that_cannot_be_searched_for_is_an_error(store: MGTEVectorStore, vector: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        store.similarity_search_by_vector(vector)


async def test_relevance_is_the_cosine_or_maxsim_over_the_querys_tokens(
    store: MGTEVectorStore, mini: EmbeddingModel, documents: list[Document]
) -> None:
    texts = [document.page_content for document in documents]
    query = mini.encode_query(QUESTION, outputs=mini.outputs)
    encoded = mini.encode_document(texts, outputs=mini.outputs)
    similarity = mini.similarity(query, encoded)
    expected = {"dense": similarity.dense, "late_interaction": similarity.multi_vector}  # mini's is the mean already
    for mode, scores in expected.items():
        by_id = dict(zip(ids(documents), scores[0].clip(0, 1), strict=True))
        found = store.similarity_search_with_relevance_scores(QUESTION, mode=mode)
        alike(await store.asimilarity_search_with_relevance_scores(QUESTION, mode=mode), found)
        for document, relevance in found:
            assert relevance == pytest.approx(by_id[document.id], abs=5e-3)  # stored as float16
        threshold = found[0][1] - 1e-4
        above = store.similarity_search_with_relevance_scores(QUESTION, mode=mode, score_threshold=threshold)
        alike(above, found[:1])


async def test_fused_scores_have_no_relevance_and_asking_for_one_is_an_error(store: MGTEVectorStore) -> None:
    with pytest.raises(InvalidOptionError, match="hybrid scores have no relevance"):
        store.similarity_search_with_relevance_scores(QUESTION)
    with pytest.raises(InvalidOptionError, match="sparse scores have no relevance"):
        await store.asimilarity_search_with_relevance_scores(QUESTION, mode="sparse")
    with pytest.raises(InvalidOptionError, match="MMR scores have no relevance"):
        store.similarity_search_with_relevance_scores(QUESTION, mode="dense", mmr=0.5)
    thresholded = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.2, "mode": "dense"}
    )
    assert thresholded.invoke(QUESTION)[0].id == "bird"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Iterator[MGTEVectorStore]:
    """Sixty real documents, many of them near each other."""
    entries = [entry for entry in stdlib_docs if entry.module in ("csv", "glob", "shelve", "sched")][:60]
    documents = [Document(f"{entry.name} {entry.text[:300]}", id=entry.name) for entry in entries]
    folder = tmp_path_factory.mktemp("modules")
    with MGTEVectorStore.from_documents(documents, MGTEEmbeddings(), location=folder, preset="exact") as store:
        yield store


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("k", "fetch_k"), [(4, 20), (6, 8), (3, 3)])
async def test_mmr_chooses_as_langchains_own_function_does(
    modules: MGTEVectorStore, weight: float, k: int, fetch_k: int
) -> None:
    question = "read rows of a csv file"
    embeddings = modules.embeddings
    fetched = modules.similarity_search(question, k=fetch_k, mode="dense")
    vectors = embeddings.embed_documents([document.page_content for document in fetched])
    query = embeddings.embed_query(question)
    chosen = maximal_marginal_relevance(np.array(query), vectors, lambda_mult=weight, k=k)
    expected = [fetched[i].id for i in chosen]
    options = {"k": k, "fetch_k": fetch_k, "lambda_mult": weight}
    found = modules.max_marginal_relevance_search(question, mode="dense", **options)
    if weight == 0:  # where likeness to the question counts nothing, the first choice is free
        assert len(set(ids(found))) == k
        return
    assert ids(found) == expected
    assert await modules.amax_marginal_relevance_search(question, mode="dense", **options) == found
    assert modules.max_marginal_relevance_search_by_vector(query, **options) == found
    assert await modules.amax_marginal_relevance_search_by_vector(query, **options) == found


def test_mmr_has_its_candidates_from_the_searchs_mode(modules: MGTEVectorStore) -> None:
    question = "read rows of a csv file"
    fetched = modules.similarity_search(question, k=5, mode="hybrid")
    found = modules.max_marginal_relevance_search(question, k=5, fetch_k=5, mode="hybrid")
    assert set(ids(found)) == set(ids(fetched))
    with pytest.raises(TypeError, match="candidates: say it by lambda_mult and fetch_k"):
        modules.max_marginal_relevance_search(question, candidates=3)


def test_unknown_arguments_are_errors_everywhere(store: MGTEVectorStore) -> None:
    with pytest.raises(TypeError, match="batch"):
        MGTEVectorStore(MGTEEmbeddings(), location=":memory:", batch=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="client"):
        MGTEVectorStore.from_texts(["a"], MGTEEmbeddings(), location=":memory:", client=None)
    for search in (store.similarity_search, store.max_marginal_relevance_search, store.similarity_search_with_score):
        with pytest.raises(TypeError, match="unknown arguments top_k; a search takes k, filter, offset"):
            search(QUESTION, top_k=3)
    with pytest.raises(TypeError, match="source"):
        store.add_texts(["a"], source="here")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="all"):
        store.delete(all=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("k", [0, -1, "3", True])
def test_a_k_that_is_no_number_above_0_is_an_error(store: MGTEVectorStore, k: Any) -> None:
    for search in (store.similarity_search, store.max_marginal_relevance_search):
        with pytest.raises(InvalidOptionError, match="k must be a whole number above 0"):
            search(QUESTION, k=k)


def test_a_retriever_of_the_store_takes_no_unknown_arguments(store: MGTEVectorStore) -> None:
    with pytest.raises(TypeError, match="k"):
        store.as_retriever(k=3)  # type: ignore[call-arg]  # LangChain's own drops it
    with pytest.raises(TypeError, match="unknown arguments lambda_mult"):
        store.as_retriever(search_kwargs={"lambda_mult": 0.5})
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"legs": [2, 4]}}, tags=["t"], name="animals")
    assert ids(retriever.invoke(QUESTION)) == ["bird", "cat"]
    assert ids(retriever.invoke(QUESTION, k=1)) == ["bird"]
    assert (retriever.tags, retriever.name) == (["t"], "animals")
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke(QUESTION, top_k=1)
    assert len(store.as_retriever(search_type="mmr", search_kwargs={"lambda_mult": 0.5}).invoke(QUESTION)) == 3


FOUR_LEGS = models.FieldCondition(key="metadata.legs", match=models.MatchValue(value=4))


@pytest.mark.parametrize("filter", [{"legs": {"gte": 3}}, models.Filter(must=[FOUR_LEGS])])
def test_filters_are_dictionaries_or_qdrants_own(store: MGTEVectorStore, filter: Any) -> None:
    assert ids(store.similarity_search(QUESTION, filter=filter)) == ["cat"]
    assert ids(store.as_retriever(search_kwargs={"filter": filter}).invoke(QUESTION)) == ["cat"]
    store.delete(filter=filter)
    assert store.collection.count() == 2


def test_texts_may_come_from_a_generator(store: MGTEVectorStore) -> None:
    assert store.add_texts((text for text in ("one", "two")), ids=["1", "2"]) == ["1", "2"]
    assert store.get_by_ids(["2"])[0].page_content == "two"


def test_too_few_ids_or_metadatas_are_an_error_before_anything_is_stored(store: MGTEVectorStore) -> None:
    with pytest.raises(InvalidOptionError, match="1 ids for 2 documents"):
        store.add_texts(["one", "two"], ids=["1"])
    with pytest.raises(InvalidOptionError, match="1 metadatas for 2 documents"):
        store.add_texts(["one", "two"], [{}])
    with pytest.raises(InvalidOptionError, match="3 ids for 1 documents"):
        store.add_documents([Document("a")], ids=["1", "2", "3"])
    assert store.collection.count() == 3


@pytest.mark.parametrize("name", ["1", "not a uuid", "猫", "é" * 500, "a/b#c?d=e"])
async def test_ids_are_any_strings_and_come_back(store: MGTEVectorStore, name: str) -> None:
    assert await store.aadd_texts(["Penguins swim."], ids=[name]) == [name]
    assert ids(store.similarity_search("penguins", k=1)) == [name]
    assert ids(await store.aget_by_ids([name, "missing"])) == [name]
    assert await store.adelete([name]) is True
    assert store.get_by_ids([name]) == []


def test_a_document_without_an_id_is_the_same_document_again(store: MGTEVectorStore) -> None:
    documents = [Document("no id", metadata={"year": 2020}), Document("with one", id="x")]
    first = store.add_documents(documents)
    assert store.add_documents(documents) == first
    assert first[1] == "x"
    assert documents[0].id is None
    assert store.collection.count() == 5
    assert store.add_texts(["no id"], [{"year": 2021}]) != first[:1]


def test_what_cannot_be_stored_is_an_error_and_the_others_are_stored(store: MGTEVectorStore) -> None:
    with pytest.raises(InvalidDocumentError, match=r"documents\[1\].*metadata\.x is nan"):
        store.add_texts(["one", "two"], [{}, {"x": float("nan")}], ids=["1", "2"])
    assert ids(store.get_by_ids(["1", "2"])) == ["1"]
    with pytest.raises(InputTypeError, match="texts must be a list of strings, not 'one'"):
        store.add_texts("one")
    with pytest.raises(InputTypeError, match=r"documents\[0\] must be a langchain_core Document"):
        store.add_documents(["one"])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="ids must be a list, not '12'"):
        store.add_texts(["one", "two"], ids="12")


def test_deleting_needs_ids_or_a_filter(store: MGTEVectorStore) -> None:
    with pytest.raises(InvalidOptionError, match="delete needs ids or filter="):
        store.delete()
    assert store.delete([]) is True
    assert store.collection.count() == 3


def test_a_long_document_is_found_piece_by_piece_and_read_as_a_whole(
    tmp_path: Path, stdlib_docs: list[DocEntry]
) -> None:
    text = next(entry.text for entry in stdlib_docs if entry.name == "argparse")
    splitting = Splitting(max_tokens=64, overlap=8)
    with MGTEVectorStore.from_texts([text], MGTEEmbeddings(), ids=["a"], location=tmp_path, split=splitting) as store:
        pieces = store.similarity_search("command line arguments", k=3)
        assert all(piece.id.startswith("a#") and piece.metadata["mgte_document_id"] == "a" for piece in pieces)
        assert store.get_by_ids(["a"])[0].page_content == text
        assert ids(store.similarity_search("command line arguments", group_by_parent=True)) == ["a"]
        store.delete(["a"])
        assert store.similarity_search("command line arguments") == []


def test_text_whose_end_is_not_read_is_warned_of(tmp_path: Path) -> None:
    with (
        MGTEVectorStore(MGTEEmbeddings(), location=tmp_path, split=False) as store,
        pytest.warns(UserWarning, match="1 documents are longer than the model reads, the first is 'a'"),
    ):
        store.add_texts(["long " * 300], ids=["a"])


def test_opening_again_finds_everything_and_another_embedding_is_refused(
    tmp_path: Path, documents: list[Document]
) -> None:
    MGTEVectorStore.from_documents(documents, MGTEEmbeddings(), location=tmp_path).close()
    with MGTEVectorStore(MGTEEmbeddings(), location=tmp_path) as again:
        assert ids(again.similarity_search(QUESTION, k=1)) == ["bird"]
    for other in (DeterministicFakeEmbedding(size=384), MGTEEmbeddings(document_prompt="text: ")):
        with pytest.raises(ModelMismatchError, match="written with the model 'mini'"):
            MGTEVectorStore(other, location=tmp_path)


def test_a_foreign_embedding_of_another_size_or_name_is_refused(tmp_path: Path) -> None:
    class Named(DeterministicFakeEmbedding):
        model: str

    MGTEVectorStore.from_texts(["a"], Named(size=6, model="one"), location=tmp_path).close()
    MGTEVectorStore(Named(size=6, model="one"), location=tmp_path).close()
    for other in (Named(size=6, model="two"), Named(size=8, model="one"), DeterministicFakeEmbedding(size=6)):
        with pytest.raises(ModelMismatchError, match="written with the model"):
            MGTEVectorStore(other, location=tmp_path)


class Faulty(DeterministicFakeEmbedding):
    """Gives something else than vectors for texts that say so."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        made = {"nan": [float("nan")] * 6, "zeros": [0.0] * 6, "short": [1.0]}
        rows = [made.get(text) or row for text, row in zip(texts, super().embed_documents(texts), strict=True)]
        return [row for text, row in zip(texts, rows, strict=True) if text != "nothing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nan", "gave NaN or infinity for the text 'nan'"),
        ("zeros", "gave zeros alone for the text 'zeros'"),
        ("short", "must give 2 vectors of 6 numbers"),
        ("nothing", "must give 2 vectors of 6 numbers"),
    ],
)
def test_what_a_foreign_embedding_gives_is_checked(text: str, message: str) -> None:
    with (
        MGTEVectorStore(Faulty(size=6), location=":memory:") as store,
        pytest.raises(InvalidOptionError, match=message),
    ):
        store.add_texts(["good", text])


def test_a_foreign_embedding_is_dense_only_and_never_splits(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=6)
    with MGTEVectorStore(embedding, location=tmp_path) as store:
        long = "words and more words. " * 20_000
        store.add_texts([long], ids=["long"])
        assert store.similarity_search(long, k=1)[0].page_content == long
        with pytest.raises(InvalidOptionError, match="choose one of dense"):
            store.similarity_search("a", mode="hybrid")
        assert store.similarity_search_with_relevance_scores(long)[0][1] == pytest.approx(1, abs=1e-3)
    with pytest.raises(InvalidOptionError, match="use a text splitter"):
        MGTEVectorStore(embedding, location=tmp_path / "other", split=Splitting(max_tokens=64))


def test_a_location_that_is_a_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CollectionError, match="it is a file; give a folder"):
        MGTEVectorStore(MGTEEmbeddings(), location=tmp_path / "file")


@pytest.mark.parametrize("rerank", ["a name", MGTEReranker, MGTELateInteractionReranker()])
def test_what_cannot_rerank_is_an_error(store: MGTEVectorStore, rerank: Any) -> None:
    with pytest.raises(InvalidOptionError, match="rerank must be a loaded reranker"):
        store.similarity_search(QUESTION, rerank=rerank)


@pytest.mark.parametrize("embedding", [None, "mini", MGTESparseEmbeddings()])
def test_something_that_is_no_dense_embedding_is_an_error(embedding: Any) -> None:
    with pytest.raises(InputTypeError, match=r"one of LangChain's, such as MGTEEmbeddings\(\)"):
        MGTEVectorStore(embedding, location=":memory:")


def test_sizes_and_outputs_are_those_of_the_embedding_and_the_caller() -> None:
    with MGTEVectorStore(MGTEEmbeddings(), location=":memory:", outputs=("dense", "sparse")) as store:
        assert store.collection.outputs == ("dense", "sparse")
        assert isinstance(store.embeddings, Embeddings)
    with pytest.raises(InvalidOptionError, match="dim=100"):
        MGTEVectorStore(MGTEEmbeddings(dim=100), location=":memory:")


def test_opening_a_store_encodes_nothing(mini: EmbeddingModel) -> None:
    before = mini.forwards
    MGTEVectorStore(MGTEEmbeddings(), location=":memory:").close()
    assert mini.forwards == before


def test_documents_and_questions_take_one_pass_for_all_outputs(store: MGTEVectorStore, mini: EmbeddingModel) -> None:
    before = mini.forwards
    store.add_texts([f"Animal {i} has {i} legs." for i in range(20)])
    assert mini.forwards == before + 1
    store.similarity_search("Which animal has 7 legs?", mode="late_interaction")
    assert mini.forwards == before + 2


def test_copies_share_the_collection_and_a_closed_store_says_so(store: MGTEVectorStore) -> None:
    assert copy.deepcopy(store).collection is store.collection
    store.close()
    store.close()
    with pytest.raises(ClosedError, match="open it again"):
        store.similarity_search("anything")


def test_a_store_that_cannot_be_filled_is_closed_again(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocumentError):
        MGTEVectorStore.from_texts(["a"], MGTEEmbeddings(), [{"x": float("inf")}], location=tmp_path)
    MGTEVectorStore(DeterministicFakeEmbedding(size=6), location=tmp_path / "new").close()
