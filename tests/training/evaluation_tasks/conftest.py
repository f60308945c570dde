"""Small labelled files, and tiny random models that learn from them in seconds."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag import EmbeddingModel

WriteRows = Callable[[str, Sequence[Mapping[str, Any]]], Path]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Writes JSON Lines."""

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tiny_bert: Path) -> Iterator[EmbeddingModel]:
    """The tiny random BERT in fp32."""
    with EmbeddingModel.load(tiny_bert, dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def matryoshka(tiny_model: EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingModel]:
    """The tiny random BERT whose vectors may be cut to 16 components."""
    folder = tmp_path_factory.mktemp("saved") / "matryoshka"
    tiny_model.save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dims": [16, 32]}))
    with EmbeddingModel.load(folder, dtype="float32") as model:
        yield model


@pytest.fixture
def named(tiny_bert: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny random BERT to a folder of that name, with prompts of its own."""

    def copy(name: str, prompts: Mapping[str, str] | None = None) -> Path:
        folder = Path(shutil.copytree(tiny_bert, tmp_path / name))
        if prompts is not None:
            (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        return folder

    return copy


@pytest.fixture(scope="session")
def tiny_reranker(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random BERT cross-encoder."""
    folder = tmp_path_factory.mktemp("tiny-reranker")
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(tiny_bert, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copy(tiny_bert / "tokenizer.json", folder)
    return folder


@pytest.fixture(autouse=True)
def seeds_as_they_were() -> Iterator[None]:
    """mteb sets the seeds of random, NumPy and torch."""
    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(state)
