"""A tiny random reranker and embedding model, and sentences of the few words that they know."""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag import EmbeddingModel, Reranker
from mgte_training.data import Example


@pytest.fixture(scope="session")
def tiny_reranker_folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT's tokenizer with a random cross-encoder of one logit."""
    folder = tmp_path_factory.mktemp("tiny-reranker")
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(tiny_bert, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copy(tiny_bert / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reranker(tiny_reranker_folder: Path) -> Iterator[Reranker]:
    with Reranker.load(tiny_reranker_folder, dtype="float32") as reranker:
        yield reranker


@pytest.fixture(scope="session")
def tiny_model(tiny_bert: Path) -> Iterator[EmbeddingModel]:
    with EmbeddingModel.load(tiny_bert, dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """150 different sentences."""
    subjects, verbs = ("cat", "dog", "tree", "mat", "猫"), ("sat", "ran", "sat and ran")
    places = [f"{word} the {thing}" for word in ("on", "under") for thing in ("mat", "tree", "dog", "cat", "猫")]
    found = [f"the {subject} {verb} {place}" for subject, verb, place in itertools.product(subjects, verbs, places)]
    random.Random(0).shuffle(found)
    return found


@pytest.fixture(scope="session")
def sentence_examples(sentences: list[str]) -> list[Example]:
    """20 examples: some with two positives, some with the same query, some with a label."""
    examples = []
    for number in range(20):
        query = " ".join(sentences[number].split()[1:4]) + "!" * (number % 7)
        positives = tuple(sentences[3 * number : 3 * number + 1 + number % 2])
        examples.append(Example(query, positives, label=None if number % 3 else str(number % 2)))
    return examples
