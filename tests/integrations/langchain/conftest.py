"""Animals as documents, and tiny rerankers in their published layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.documents import Document
from transformers import BertConfig, BertForSequenceClassification

from langchain_mgte import MGTERetriever
from qdrant_mgte import HybridCollection


@pytest.fixture
def documents() -> list[Document]:
    return [
        Document("Cats sleep most of the day.", id="cat", metadata={"legs": 4}),
        Document("Most birds can fly.", id="bird", metadata={"legs": 2}),
        Document("Fish breathe under water.", id="fish"),
    ]


@pytest.fixture
def animals(collection: HybridCollection, documents: list[Document]) -> HybridCollection:
    """A collection of them, with the embedded default."""
    collection.upsert([{"id": d.id, "text": d.page_content, "metadata": d.metadata} for d in documents])
    return collection


@pytest.fixture
def retriever(animals: HybridCollection) -> MGTERetriever:
    return MGTERetriever(collection=animals, k=2)


@pytest.fixture(scope="session")
def make_reranker(make_tiny_bert: Callable[..., Path]) -> Callable[..., str]:
    """Makes folders with a tiny random cross-encoder whose logits differ from text to text."""

    def make(seed: int = 0, **config_changes: Any) -> str:
        folder = make_tiny_bert(seed=seed)
        torch.manual_seed(seed)
        changes = {"num_labels": 1, "initializer_range": 0.5, **config_changes}
        config = BertConfig.from_pretrained(folder, **changes)
        BertForSequenceClassification(config).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def reranker_folder(make_reranker: Callable[..., str]) -> str:
    return make_reranker()


@pytest.fixture
def sentences() -> list[Document]:
    """Documents of words that the tiny reranker knows."""
    texts = ["the cat sat on the mat", "a dog ran under the tree", "the dog sat", "cats and dogs ran and ran"]
    return [Document(text, id=f"s{i}", metadata={"place": i}) for i, text in enumerate(texts)]
