"""What test folders share: the real embedded default, real texts, and a tiny random BERT in its published layout."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from mgte_cli.stdlib_docs import DocEntry, collect
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "a", "##s", "!", "猫"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="soak and fault tests in their long form")


def pytest_configure() -> None:
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")
    if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))


@pytest.fixture(scope="session")
def mini() -> Iterator[EmbeddingModel]:
    """The embedded default as users get it."""
    with EmbeddingModel.load() as model:
        yield model


@pytest.fixture(scope="session")
def mini_fp32() -> Iterator[EmbeddingModel]:
    """The embedded default in fp32, for exact comparisons."""
    with EmbeddingModel.load(dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def stdlib_docs() -> list[DocEntry]:
    """The standard library's documentation."""
    return collect()


@pytest.fixture(scope="session")
def real_texts(stdlib_docs: list[DocEntry]) -> list[str]:
    """512 texts of 1 to 2,000 words, as many short as long ones (log-uniform), cut from real documentation."""
    words = " ".join(entry.text for entry in stdlib_docs).split(" ")
    chance = random.Random(0)
    texts = []
    for _ in range(512):
        length = round(2000 ** chance.random())
        start = chance.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


@pytest.fixture
def collection(tmp_path: Path, mini: EmbeddingModel) -> Iterator[HybridCollection]:
    """An empty collection with the embedded default."""
    with HybridCollection.open(tmp_path / "index", model=mini) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes folders with a tiny random BERT as sentence-transformers publishes one."""

    def make(*, pooling: str = "mean", seed: int = 0, **config_changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("tiny-bert")
        torch.manual_seed(seed)
        tokenizer = wordpiece_tokenizer()
        config = BertConfig(
            **{
                "vocab_size": tokenizer.get_vocab_size(),
                "hidden_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "intermediate_size": 64,
                "max_position_embeddings": 40,
                "initializer_range": 0.3,
                **config_changes,
            }
        )
        BertModel(config).save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        write_sentence_transformers_files(folder, pooling)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bert(make_tiny_bert: Callable[..., Path]) -> Path:
    """One such folder, not to be changed."""
    return make_tiny_bert()


def wordpiece_tokenizer() -> Tokenizer:
    """A BERT tokenizer of a few words, with truncation and padding set as real files have it."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def write_sentence_transformers_files(folder: Path, pooling: str) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **flags}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))
