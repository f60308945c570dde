"""Every query mode and every filter of LlamaIndex is mapped, or refused by its name; none is silently dense."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from llama_index_mgte import MGTEEmbedding, MGTEVectorStore
from llama_index_mgte.filters import to_filter
from mgte_rag import InputTypeError, InvalidOptionError
from qdrant_mgte import rrf

QUESTION = "write rows of comma separated values to a file"


def asked(store: MGTEVectorStore, mode: str = "default", **options: object) -> list[tuple[str, float]]:
    embedding = MGTEEmbedding().get_query_embedding(QUESTION)
    query = VectorStoreQuery(
        query_str=QUESTION, query_embedding=embedding, mode=VectorStoreQueryMode(mode), similarity_top_k=5
    )
    calls = {name: options.pop(name) for name in list(options) if not hasattr(query, name)}
    for name, value in options.items():
        setattr(query, name, value)
    result = store.query(query, **calls)
    return list(zip(result.ids, np.round(result.similarities, 3).tolist(), strict=True))


def expected(store: MGTEVectorStore, **options: object) -> list[tuple[str, float]]:
    hits = store.collection.search(QUESTION, **{"limit": 5, **options})
    return [(hit.id, round(hit.score, 3)) for hit in hits]


@pytest.mark.parametrize(
    ("mode", "search"),
    [
        ("default", {"mode": "dense"}),
        ("sparse", {"mode": "sparse"}),
        ("text_search", {"mode": "sparse"}),
        ("hybrid", {"mode": "hybrid"}),
        ("semantic_hybrid", {"mode": "late_interaction"}),
        ("mmr", {"mode": "dense", "mmr": 0.5}),
    ],
)
def test_a_query_mode_is_the_search_it_names(filled: MGTEVectorStore, mode: str, search: dict) -> None:
    found = asked(filled, mode)
    assert [name for name, _ in found] == [name for name, _ in expected(filled, **search)]
    assert len(found) == 5
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected(filled, **search)], atol=0.01)


def test_modes_differ_so_that_none_is_silently_dense(filled: MGTEVectorStore) -> None:
    found = [tuple(asked(filled, mode)) for mode in ("default", "sparse", "hybrid", "semantic_hybrid", "mmr")]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("mode", ["svm", "logistic_regression", "linear_regression"])
def test_fitted_modes_are_refused_by_name(filled: MGTEVectorStore, mode: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"query mode {mode.upper()} is not supported; there are DEFAULT, SP"):
        asked(filled, mode)


def test_what_is_no_query_is_an_error(filled: MGTEVectorStore) -> None:
    with pytest.raises(InputTypeError, match=r"query must be VectorStoreQuery\(query_str=...\), not 'rows'"):
        filled.query("rows")  # type: ignore[arg-type]
    for options, message in (
        ({"mode": "best"}, "query mode 'best' is not supported; there are DEFAULT"),
        ({"doc_ids": "csv"}, "doc_ids must be a list of ids, not one string: 'csv'"),
        ({"node_ids": "csv"}, "node_ids must be a list of ids, not one string: 'csv'"),
        ({"query_embedding": "rows"}, "must be numbers"),
        ({"similarity_top_k": 0}, "must be a whole number above 0"),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            filled.query(VectorStoreQuery(**{"query_str": "rows", "similarity_top_k": 1, **options}))


@pytest.fixture(scope="module")
def dense_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MGTEVectorStore]:
    with MGTEVectorStore(location=tmp_path_factory.mktemp("dense"), outputs=("dense",)) as store:
        store.add([TextNode(id_="a", text="Cats sleep.")])
        yield store


@pytest.mark.parametrize("mode", ["sparse", "text_search", "hybrid", "semantic_hybrid"])
def test_a_mode_that_the_collection_lacks_the_vectors_for_is_refused(dense_only: MGTEVectorStore, mode: str) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"mode '\w+' is not supported by this collection; choose one of dense"
    ):
        asked(dense_only, mode)


def test_the_default_mode_is_what_the_store_says(filled: MGTEVectorStore) -> None:
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        store = MGTEVectorStore.from_collection(filled.collection, default_mode=mode)
        assert [name for name, _ in asked(store)] == [name for name, _ in expected(filled, mode=mode)]


def test_alpha_is_from_sparse_alone_to_dense_alone(filled: MGTEVectorStore) -> None:
    assert asked(filled, "hybrid", alpha=0) == asked(filled, "sparse")
    assert asked(filled, "hybrid", alpha=1.0) == asked(filled, "default")
    assert asked(filled, "hybrid", alpha=0.5) == expected(filled, mode="hybrid", fusion="rrf")
    mostly_dense = rrf(weights={"dense": 1.8, "sparse": 0.2})
    assert asked(filled, "hybrid", alpha=0.9) == expected(filled, mode="hybrid", fusion=mostly_dense)
    for wrong in (-0.1, 1.5, "half", True):
        with pytest.raises(InvalidOptionError, match="alpha must be from 0"):
            asked(filled, "hybrid", alpha=wrong)
    with pytest.raises(InvalidOptionError, match="alpha and fusion"):
        asked(filled, "hybrid", alpha=0.5, fusion="dbsf")
    with pytest.raises(InvalidOptionError, match="leaves nothing to fuse"):
        asked(filled, "semantic_hybrid", alpha=1)


def test_mmr_turns_from_likeness_to_diversity_as_llama_index_counts(filled: MGTEVectorStore) -> None:
    assert [name for name, _ in asked(filled, "mmr", mmr_threshold=1.0)] == [name for name, _ in asked(filled)]
    diverse = expected(filled, mode="dense", mmr=0.1, candidates=50)
    assert [n for n, _ in asked(filled, "mmr", mmr_threshold=0.1, mmr_prefetch_k=50)] == [n for n, _ in diverse]
    assert [n for n, _ in asked(filled, "mmr", mmr_threshold=0.1, mmr_prefetch_factor=10)] == [n for n, _ in diverse]
    with pytest.raises(InvalidOptionError, match="mmr_threshold is for the query mode MMR, not HYBRID"):
        asked(filled, "hybrid", mmr_threshold=0.5)


def test_each_mode_returns_as_many_as_its_own_field_says(filled: MGTEVectorStore) -> None:
    assert len(asked(filled, "hybrid", hybrid_top_k=3)) == 3
    assert len(asked(filled, "sparse", sparse_top_k=2)) == 2
    assert len(asked(filled, "default", hybrid_top_k=3, sparse_top_k=2)) == 5


def test_options_of_a_search_may_come_with_the_call(filled: MGTEVectorStore) -> None:
    assert asked(filled, "hybrid", fusion="dbsf") == expected(filled, mode="hybrid", fusion="dbsf")
    assert asked(filled, offset=2)[0] == asked(filled)[2]
    least = asked(filled)[2][1]
    assert all(score >= least - 0.001 for _, score in asked(filled, score_threshold=least))


@pytest.mark.parametrize("field", ["output_fields", "embedding_field"])
def test_fields_that_mean_nothing_here_are_refused(filled: MGTEVectorStore, field: str) -> None:
    with pytest.raises(InvalidOptionError, match=field):
        asked(filled, **{field: "x"})


def test_a_query_without_the_text_that_its_mode_needs_is_refused(filled: MGTEVectorStore) -> None:
    with pytest.raises(InvalidOptionError, match="the mode hybrid needs the query's text"):
        filled.query(VectorStoreQuery(query_embedding=[1.0] * 384, mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(InvalidOptionError, match="the mode dense needs the query's text"):
        filled.query(VectorStoreQuery())
    assert filled.query(VectorStoreQuery(query_embedding=[1.0] * 384, similarity_top_k=2)).nodes


def test_documents_and_nodes_that_a_query_names_are_the_only_ones_searched(filled: MGTEVectorStore) -> None:
    of_documents = asked(filled, doc_ids=["csv.writer", "json.dump", "nothing"])
    assert {name for name, _ in of_documents} == {"csv.writer/0", "json.dump/0"}
    assert {name for name, _ in asked(filled, node_ids=["json.dump/0"])} == {"json.dump/0"}
    assert asked(filled, node_ids=["json.dump/0"], doc_ids=["csv.writer"]) == []
    assert len(asked(filled, node_ids=[], doc_ids=[])) == 5  # as VectorIndexRetriever passes them


METADATA = [
    {"n": 1, "name": "Ada Lovelace", "tags": ["a", "b"], "price": 0.5, "when": "2024-01-31"},
    {"n": 2, "name": "ada", "tags": ["b"], "price": 1.5},
    {"n": 3, "name": "Grace Hopper", "tags": [], "price": 2.5, "when": "2025-06-01"},
    {"name": "", "tags": ["c", "d"]},
    {},
]


@pytest.fixture(scope="module", params=[":memory:", "folder"])
def described(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MGTEVectorStore]:
    location: str | Path = request.param if request.param == ":memory:" else tmp_path_factory.mktemp("described")
    with MGTEVectorStore(location=location, outputs=("dense",)) as store:
        store.add([TextNode(id_=str(i), text=f"text {i}", metadata=each) for i, each in enumerate(METADATA)])
        yield store


def kept(store: MGTEVectorStore, filters: MetadataFilters) -> set[int]:
    found = {int(node.node_id) for node in store.get_nodes(filters=filters)}
    searched = store.query(VectorStoreQuery(query_str="text", similarity_top_k=9, filters=filters))
    assert {int(name) for name in searched.ids} == found
    return found


@pytest.mark.parametrize(
    ("key", "operator", "value", "keeps"),
    [
        ("n", "==", 2, {1}),
        ("name", "==", "ada", {1}),
        ("price", "==", 1.5, {1}),
        ("n", "!=", 2, {0, 2, 3, 4}),
        ("name", "!=", "ada", {0, 2, 3, 4}),
        ("n", ">", 1, {1, 2}),
        ("n", ">=", 2, {1, 2}),
        ("price", "<", 2, {0, 1}),
        ("price", "<=", 1.5, {0, 1}),
        ("when", ">", "2024-06-01", {2}),
        ("n", "in", [1, 3], {0, 2}),
        ("name", "in", ["ada", "nobody"], {1}),
        ("n", "nin", [1, 3], {1, 3, 4}),
        ("name", "nin", ["ada"], {0, 2, 3, 4}),
        ("tags", "any", ["a", "c"], {0, 3}),
        ("tags", "all", ["a", "b"], {0}),
        ("tags", "contains", "b", {0, 1}),
        ("tags", "is_empty", None, {2, 4}),
        ("name", "is_empty", None, {3, 4}),
        ("n", "is_empty", None, {3, 4}),
        ("name", "text_match_insensitive", "ada", {0, 1}),
        ("name", "text_match_insensitive", "LOVELACE", {0}),
    ],
)
def test_an_operator_keeps_what_llama_index_defines(
    described: MGTEVectorStore, key: str, operator: str, value: object, keeps: set[int]
) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])
    assert kept(described, filters) == keeps


@pytest.mark.parametrize(("condition", "keeps"), [("and", {1}), ("or", {1, 2}), ("not", {0, 3, 4}), (None, {1})])
def test_conditions_combine_as_llama_index_defines_them(
    described: MGTEVectorStore, condition: str | None, keeps: set[int]
) -> None:
    parts = [MetadataFilter(key="n", value=2, operator=FilterOperator.GTE), MetadataFilter(key="name", value="ada")]
    filters = MetadataFilters(filters=parts, condition=condition and FilterCondition(condition))
    assert kept(described, filters) == keeps


def test_filters_nest(described: MGTEVectorStore) -> None:
    either = MetadataFilters(
        filters=[MetadataFilter(key="n", value=1), MetadataFilter(key="n", value=3)], condition=FilterCondition.OR
    )
    never = MetadataFilters(
        filters=[MetadataFilter(key="tags", value="a", operator=FilterOperator.CONTAINS)], condition=FilterCondition.NOT
    )
    assert kept(described, MetadataFilters(filters=[either, never])) == {2}
    assert kept(described, MetadataFilters(filters=[either, MetadataFilters(filters=[])])) == {0, 2}
    assert kept(described, MetadataFilters(filters=[never], condition=FilterCondition.NOT)) == {0}
    assert kept(described, MetadataFilters(filters=[])) == set(range(len(METADATA)))


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (MetadataFilter(key="a", value="x", operator=FilterOperator.TEXT_MATCH), "TEXT_MATCH .* is not supported"),
        (MetadataFilter(key="a", value="x,y", operator=FilterOperator.IN), "needs a list that is not empty, not 'x,y'"),
        (MetadataFilter(key="a", value=[], operator=FilterOperator.ALL), "needs a list that is not empty"),
        (MetadataFilter(key="a", value=[1], operator=FilterOperator.EQ), "needs one value"),
        (MetadataFilter(key="a", value="abc", operator=FilterOperator.GT), "must be a number or a date"),
        (MetadataFilter(key="a", value=" ", operator=FilterOperator.TEXT_MATCH_INSENSITIVE), "words to look for"),
        (MetadataFilter(key="$or", value="x"), "no metadata field"),
        (MetadataFilter(key="_llama_index.class", value="x"), "no metadata field"),
        (MetadataFilter(key="", value="x"), "no metadata field"),
    ],
)
def test_what_cannot_be_filtered_by_is_refused_by_name(
    described: MGTEVectorStore, filter: MetadataFilter, message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        described.get_nodes(filters=MetadataFilters(filters=[filter]))


def test_filters_of_another_kind_are_an_error() -> None:
    with pytest.raises(InvalidOptionError, match="filters must be MetadataFilters"):
        to_filter({"n": 1})  # type: ignore[arg-type]
