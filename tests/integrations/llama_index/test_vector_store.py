"""The vector store: nodes come back as they went in, given embeddings are used, deletions reach what they name."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from pydantic import ValidationError

from llama_index_mgte import MGTEEmbedding, MGTEVectorStore
from mgte_rag import (
    ClosedError,
    CollectionError,
    EmbeddingModel,
    InputTypeError,
    InvalidDocumentError,
    InvalidOptionError,
)
from qdrant_mgte import HybridCollection

SOURCE = {
    NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book", metadata={"pages": 3}, hash="abc"),
    NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
    NodeRelationship.CHILD: [RelatedNodeInfo(node_id="child")],
}
NODES: list[BaseNode] = [
    TextNode(
        id_="text",
        text="  Cats sleep.\n",
        metadata={"legs": 4, "share": 0.1, "deep": {"er": [1, None]}, "secret": "x"},
        excluded_embed_metadata_keys=["secret", "deep"],
        excluded_llm_metadata_keys=["legs"],
        relationships=SOURCE,
        metadata_template="<{key}={value}>",
        metadata_seperator=" ",
        text_template="{metadata_str} :: {content}",
        start_char_idx=7,
        end_char_idx=20,
        mimetype="text/markdown",
    ),
    Document(text="Most birds can fly.", id_="document", metadata={"file_name": "birds.txt"}),
    Document(
        id_="with-a-path",
        text_resource=MediaResource(text="Fish swim.", path=Path("fish.txt"), mimetype="text/x-fish"),
        metadata={"wet": True},
    ),
    Node(
        id_="node",
        text_resource=MediaResource(text="A picture of a fish."),
        image_resource=MediaResource(data=b"\x89PNG not really", mimetype="image/png"),
    ),
    ImageNode(id_="image", text="A photograph.", image="aGVsbG8=", metadata={"camera": "old"}),
    ImageDocument(id_="image document", text="Another photograph.", image=b"hello"),
    IndexNode(id_="index", text="Points elsewhere.", index_id="elsewhere", obj=TextNode(id_="inner", text="inner")),
    TextNode(id_="blank", text=" \n", metadata={"only": "metadata"}),
    TextNode(id_="ü/猫\n", text="naïve 猫"),
]


def shown(node: BaseNode) -> dict:
    return {**node.to_dict(), "embedding": None, "type": type(node)}


@pytest.mark.parametrize("with_embedding", [True, False])
def test_nodes_of_every_kind_come_back_as_they_went_in(store: MGTEVectorStore, with_embedding: bool) -> None:
    given = [node.model_copy() for node in NODES]
    before = [shown(node) for node in given]
    assert isinstance(store, BasePydanticVectorStore)
    assert store.add(MGTEEmbedding()(given) if with_embedding else given) == [node.node_id for node in given]
    assert [shown(node) for node in given] == before
    found = store.get_nodes([node.node_id for node in given])
    assert [shown(node) for node in found] == before
    assert found[3].image_resource == given[3].image_resource
    result = store.query(VectorStoreQuery(query_str="fish", similarity_top_k=20))
    assert {node.node_id: shown(node) for node in result.nodes} == {each["id_"]: each for each in before}
    assert result.ids == [node.node_id for node in result.nodes]


def test_what_is_encoded_is_what_llama_index_embeds(store: MGTEVectorStore, mini: EmbeddingModel) -> None:
    store.add(NODES[:1])
    (stored,) = store.collection.documents()
    assert stored.text == NODES[0].get_content(MetadataMode.EMBED) == "<legs=4> <share=0.1> ::   Cats sleep."
    assert "secret" not in stored.text


def test_the_embedding_a_node_brings_is_used_as_it_is(store: MGTEVectorStore) -> None:
    towards = np.zeros(384)
    towards[3] = 2.0
    store.add(
        [TextNode(id_="a", text="Cats sleep.", embedding=towards.tolist()), TextNode(id_="b", text="Cats sleep.")]
    )
    result = store.query(VectorStoreQuery(query_embedding=towards.tolist(), similarity_top_k=2))
    assert result.ids == ["a", "b"]
    assert result.similarities[0] == pytest.approx(1, abs=1e-3)
    assert result.similarities[1] < 0.5


def test_the_other_vectors_come_from_the_pass_that_made_the_embedding(
    store: MGTEVectorStore, passages: list[TextNode], mini: EmbeddingModel
) -> None:
    embedding = MGTEEmbedding()
    assert store.open() is store
    before = mini.forwards
    nodes = embedding([passage.model_copy() for passage in passages[:20]])
    passes = mini.forwards - before
    store.add(nodes)
    assert mini.forwards == before + passes
    question = "read rows of a file"
    query = VectorStoreQuery(
        query_str=question, query_embedding=embedding.get_query_embedding(question), mode="hybrid", similarity_top_k=2
    )
    asked = mini.forwards
    assert len(store.query(query).nodes) == 2
    assert mini.forwards == asked


def test_an_embedding_of_another_model_is_refused_by_its_size(store: MGTEVectorStore) -> None:
    nodes = [TextNode(id_="good", text="Cats."), TextNode(id_="bad", text="Dogs.", embedding=[0.5] * 7)]
    with pytest.raises(InvalidDocumentError, match=r"'bad'.*shape \[7\]; \[384\] is needed"):
        store.add(nodes)
    assert [node.node_id for node in store.get_nodes()] == ["good"]  # the others are stored


def test_a_long_node_without_an_embedding_is_read_whole_and_found_as_one_node(store: MGTEVectorStore) -> None:
    words = "The library opens at nine and closes at five. " * 60
    node = TextNode(id_="long", text=words + "Elephants never forget.", metadata={"kind": "story"})
    store.add([node, TextNode(id_="short", text="Cats sleep.")])
    result = store.query(VectorStoreQuery(query_str="Which animal has a good memory?", similarity_top_k=5))
    assert result.ids == ["long", "short"]
    assert shown(result.nodes[0]) == shown(node)


def test_a_long_node_with_an_embedding_is_cut_with_a_warning(store: MGTEVectorStore) -> None:
    with pytest.warns(UserWarning, match="reads 256 tokens"):
        store.add([TextNode(id_="long", text="word " * 600, embedding=[1.0] * 384)])


def test_a_known_id_replaces_what_was_there(store: MGTEVectorStore) -> None:
    store.add([TextNode(id_="a", text="Cats sleep.", metadata={"old": 1})])
    store.add([TextNode(id_="a", text="Birds fly.", metadata={"new": 2})])
    (node,) = store.get_nodes()
    assert (node.text, node.metadata) == ("Birds fly.", {"new": 2})


def test_metadata_that_cannot_be_stored_is_an_error_and_the_others_are_stored(store: MGTEVectorStore) -> None:
    bad = TextNode(id_="bad", text="x", metadata={"x": float("nan")})
    with pytest.raises(InvalidDocumentError, match=r"metadata\.x is nan"):
        store.add([TextNode(id_="good", text="y"), bad])
    assert [node.node_id for node in store.get_nodes()] == ["good"]
    with pytest.raises(InvalidDocumentError, match="_llama_index"):
        store.add([TextNode(id_="taken", text="y", metadata={"_llama_index": 1})])
    with pytest.raises(
        InvalidDocumentError, match=r"nodes\[0\], 'index', cannot be written as JSON, nothing was stored"
    ):
        store.add([IndexNode(id_="index", text="x", index_id="x", obj=object())])
    with pytest.raises(InputTypeError, match=r"nodes\[0\] must be a LlamaIndex document or node"):
        store.add(["text"])


def test_deleting_a_document_deletes_its_nodes_and_itself(store: MGTEVectorStore) -> None:
    of_a = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="a")}
    store.add([TextNode(id_="a/0", text="x", relationships=of_a), TextNode(id_="a/1", text="y", relationships=of_a)])
    store.add([Document(id_="a", text="whole"), TextNode(id_="b", text="z"), TextNode(id_="long", text="word " * 900)])
    store.delete("a")
    assert {node.node_id for node in store.get_nodes()} == {"b", "long"}
    store.delete("long")
    store.delete("nothing of that name")
    assert [node.node_id for node in store.get_nodes()] == ["b"]


def test_nodes_are_read_and_deleted_by_id_by_filter_and_by_both(store: MGTEVectorStore) -> None:
    store.add([TextNode(id_=str(i), text=f"text {i}", metadata={"even": int(i % 2 == 0)}) for i in range(6)])
    even = MetadataFilters(filters=[MetadataFilter(key="even", value=1)])

    def ids(*arguments: object) -> list[str]:
        return sorted(node.node_id for node in store.get_nodes(*arguments))

    assert [node.node_id for node in store.get_nodes(["3", "missing", "1"])] == ["3", "1"]
    assert ids(None, even) == ["0", "2", "4"]
    assert ids(["0", "1"], even) == ["0"]
    assert ids([], even) == ids([]) == []
    assert len(ids()) == 6
    store.delete_nodes(["0", "1"], even)
    store.delete_nodes(["5"])
    store.delete_nodes([])
    assert ids() == ["1", "2", "3", "4"]
    store.delete_nodes(filters=even)
    assert ids() == ["1", "3"]
    with pytest.raises(InvalidOptionError, match=r"clear\(\) deletes everything"):
        store.delete_nodes()
    store.clear()
    assert ids() == []
    store.clear()


def test_deleting_needs_one_documents_id_and_never_takes_what_has_none(collection: HybridCollection) -> None:
    collection.upsert([{"id": "theirs", "text": "Birds fly."}])
    store = MGTEVectorStore.from_collection(collection)
    for wrong in (None, ["theirs"], 7):
        with pytest.raises(InputTypeError, match="ref_doc_id must be the id of one document"):
            store.delete(wrong)  # type: ignore[arg-type]
    assert collection.count() == 1


@pytest.mark.parametrize("nodes", [None, "text", TextNode(text="x"), 7])
def test_what_is_no_list_of_nodes_is_an_error(store: MGTEVectorStore, nodes: Any) -> None:
    with pytest.raises(InputTypeError, match="nodes must be a list of LlamaIndex documents or nodes, not"):
        store.add(nodes)


def test_a_location_that_is_a_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CollectionError, match="it is a file; give a folder"):
        MGTEVectorStore(location=tmp_path / "file").add([])


async def test_async_twins_do_the_same(store: MGTEVectorStore) -> None:
    nodes = [TextNode(id_=str(i), text=text) for i, text in enumerate(["Cats sleep.", "Birds fly.", "Fish swim."])]
    assert await store.async_add(nodes) == ["0", "1", "2"]
    query = VectorStoreQuery(query_str="wings", similarity_top_k=2)
    there, here = await store.aquery(query), store.query(query)
    assert (there.ids, there.similarities) == (here.ids, here.similarities)
    assert [node.node_id for node in await store.aget_nodes(["1"])] == ["1"]
    await store.adelete_nodes(["1"])
    await store.adelete("2")
    assert [node.node_id for node in await store.aget_nodes()] == ["0"]
    await store.aclear()
    assert await store.aget_nodes() == []


def test_unknown_arguments_are_errors_in_every_method(store: MGTEVectorStore, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.add([], batch_size=3),
        lambda: store.delete("a", wait=True),
        lambda: store.delete_nodes(["a"], wait=True),
        lambda: store.query(VectorStoreQuery(query_str="x"), hnsw_ef=3),
    ]
    for call in calls:
        with pytest.raises(InvalidOptionError, match="unknown arguments"):
            call()
    with pytest.raises(ValidationError, match="collection_name"):
        MGTEVectorStore(location=tmp_path, collection_name="x")
    with pytest.raises(ValidationError, match="location"):
        MGTEVectorStore()


def test_a_store_opens_again_with_what_it_holds_and_pickles_as_a_reference(tmp_path: Path) -> None:
    with MGTEVectorStore(location=tmp_path / "s", outputs=("dense", "sparse"), preset="exact") as first:
        first.add([TextNode(id_="a", text="Cats sleep.")])
        assert first.client.outputs == ("dense", "sparse")
        pickled = pickle.dumps(first)
        assert "collection" in vars(first)
    assert len(pickled) < 5_000
    with pytest.raises(ClosedError):
        first.get_nodes()
    for again in (
        pickle.loads(pickled),
        copy.copy(first),
        copy.deepcopy(first),
        MGTEVectorStore.from_dict(first.to_dict()),
    ):
        with again:
            assert [node.node_id for node in again.get_nodes()] == ["a"]
            assert again.model._engine is first.model._engine


def test_a_store_in_memory_is_shared_by_its_copies_and_cannot_be_pickled() -> None:
    with MGTEVectorStore(location=":memory:", outputs=("dense",)) as store:
        store.add([TextNode(id_="a", text="Cats sleep.")])
        assert len(copy.deepcopy(store).get_nodes()) == len(copy.copy(store).get_nodes()) == 1
        with pytest.raises(InvalidOptionError, match="cannot be pickled"):
            pickle.dumps(store)


def test_a_store_over_an_open_collection_finds_what_others_wrote_too(collection: HybridCollection) -> None:
    collection.upsert([{"id": "theirs", "text": "Birds fly.", "metadata": {"by": "hand"}}])
    store = MGTEVectorStore.from_collection(collection)
    store.add([TextNode(id_="ours", text="Cats sleep.")])
    result = store.query(VectorStoreQuery(query_str="wings", similarity_top_k=2))
    assert result.ids == ["theirs", "ours"]
    assert (result.nodes[0].text, result.nodes[0].metadata) == ("Birds fly.", {"by": "hand"})
    store.clear()
    assert collection.count() == 0


async def test_concurrent_queries_are_batched_and_answered_each_with_its_own(
    filled: MGTEVectorStore, mini: EmbeddingModel, passages: list[TextNode]
) -> None:
    questions = [node.text.split("\n")[0] for node in passages[:32]]
    alone = [filled.query(VectorStoreQuery(query_str=question, similarity_top_k=1)).ids for question in questions]
    before = mini.forwards
    queries = [filled.aquery(VectorStoreQuery(query_str=question, similarity_top_k=1)) for question in questions]
    assert [result.ids for result in await asyncio.gather(*queries)] == alone
    assert mini.forwards - before < len(questions)
