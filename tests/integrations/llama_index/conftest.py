"""Real documents as LlamaIndex has them, stores over them, and a tiny random cross-encoder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llama_index.core import Document
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from transformers import BertConfig, BertForSequenceClassification

from llama_index_mgte import MGTEEmbedding, MGTEVectorStore
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel

MODULES = ("csv", "glob", "json", "shelve")


@pytest.fixture(scope="session")
def pages(stdlib_docs: list[DocEntry]) -> list[Document]:
    """The documentation of four modules, as short as the embedded default reads at once."""
    return [
        Document(
            text=entry.text[:400],
            id_=entry.name,
            metadata={"kind": entry.kind, "module": entry.module, "length": len(entry.text)},
            excluded_embed_metadata_keys=["length", "module"],
        )
        for entry in stdlib_docs
        if entry.module in MODULES
    ]


@pytest.fixture(scope="session")
def passages(pages: list[Document]) -> list[TextNode]:
    """One node for each of the pages, with its page as source."""
    return [
        TextNode(
            id_=f"{page.id_}/0",
            text=page.text,
            metadata=page.metadata,
            excluded_embed_metadata_keys=page.excluded_embed_metadata_keys,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=page.id_)},
        )
        for page in pages
    ]


@pytest.fixture
def store(tmp_path: Path, mini: EmbeddingModel) -> Iterator[MGTEVectorStore]:
    """An empty store in a folder."""
    with MGTEVectorStore(location=tmp_path / "store", token_dim=32) as opened:
        yield opened


@pytest.fixture(scope="session")
def filled(
    tmp_path_factory: pytest.TempPathFactory, mini: EmbeddingModel, passages: list[TextNode]
) -> Iterator[MGTEVectorStore]:
    """A store with the passages, not to be changed."""
    with MGTEVectorStore(location=tmp_path_factory.mktemp("filled"), token_dim=32) as opened:
        opened.add(MGTEEmbedding()([passage.model_copy() for passage in passages]))
        yield opened


@pytest.fixture(scope="session")
def cross_encoder(make_tiny_bert: Callable[..., Path]) -> str:
    """A folder with a tiny random cross-encoder."""
    folder = make_tiny_bert(max_position_embeddings=300)
    BertForSequenceClassification(BertConfig.from_pretrained(folder, num_labels=1)).save_pretrained(folder)
    return str(folder)
