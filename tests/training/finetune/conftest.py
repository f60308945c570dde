"""What the tests of fine-tuning share: a tiny random model, and plans that are written down."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from mgte_rag.config import ClassifierConfig, MultiVectorConfig
from mgte_training.data.batches import TrainingBatch
from mgte_training.finetune.trainable import NewHeads, TrainableModel, TrainableReranker
from mgte_training.pretrain.new_model import NewEncoder, NewModel, make_model
from mgte_training.pretrain.new_tokenizer import TokenizerChoice

HEADS = NewHeads(sparse=True, multi_vector=MultiVectorConfig(dims=(4, 8), mean=True))
WORDS = ["cat", "dog", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "the"]


@dataclass
class WrittenPlan:
    """A plan of a few batches that stand in a test."""

    batches: list[TrainingBatch]

    @property
    def steps(self) -> int:
        return len(self.batches)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        whole = self.batches[step]
        count = len(whole.queries) // world
        rows = slice(rank * count, (rank + 1) * count)
        return TrainingBatch(
            whole.source,
            whole.queries[rows],
            whole.groups[rows],
            None if whole.scores is None else whole.scores[rows],
            None if whole.same is None else whole.same[rows],
            whole.query_prompt,
            whole.document_prompt,
            whole.in_batch_negatives,
            whole.sub_batch,
        )


@pytest.fixture
def plan() -> Callable[..., WrittenPlan]:
    """Makes plans of written batches."""
    return lambda *batches: WrittenPlan(list(batches))


@pytest.fixture
def make_batch() -> Callable[..., TrainingBatch]:
    """Makes a batch."""
    return make_words_batch


def make_words_batch(
    queries: int = 4, group: int = 2, *, sub_batch: int = 64, seed: int = 0, **changes: Any
) -> TrainingBatch:
    """Queries and documents of random words; a positive has its query's words in it: there is something to learn."""
    chance = np.random.default_rng(seed)

    def words(count: int) -> str:
        return " ".join(chance.choice(WORDS, count))

    asked = [words(int(chance.integers(2, 5))) for _ in range(queries)]
    groups = [
        [f"{query} {words(3)}", *(words(int(chance.integers(3, 9))) for _ in range(group - 1))] for query in asked
    ]
    values: dict[str, Any] = {
        "source": "words",
        "queries": asked,
        "groups": groups,
        "scores": None,
        "same": None,
        "query_prompt": None,
        "document_prompt": None,
        "in_batch_negatives": True,
        "sub_batch": sub_batch,
    }
    return TrainingBatch(**(values | changes))


@pytest.fixture
def open_model(tiny_bert: Path) -> Callable[..., TrainableModel]:
    """Opens the tiny model with new heads, always with the same first weights."""

    def opened(**options: Any) -> TrainableModel:
        model = TrainableModel.open(tiny_bert, new_heads=HEADS, **options)
        return model.wanting(("dense", "sparse", "multi_vector"), (4, 8))

    return opened


@pytest.fixture
def open_reranker(tiny_bert: Path) -> Callable[..., TrainableReranker]:
    """Opens the tiny model as a reranker."""

    def opened(**options: Any) -> TrainableReranker:
        return TrainableReranker.open(tiny_bert, new_heads=NewHeads(classifier=ClassifierConfig()), **options)

    return opened


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., TrainingArguments]:
    """Training arguments for the CPU that write into the test's folder."""

    def made(**changes: Any) -> TrainingArguments:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "learning_rate": 1e-2,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "seed": 0,
        }
        return TrainingArguments(**(values | changes))

    return made


@pytest.fixture(scope="session")
def rotary_model(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny new encoder with rotary positions and the tokenizer of the tiny BERT."""
    folder = tmp_path_factory.mktemp("rotary") / "model"
    encoder = NewEncoder(layers=2, hidden=32, heads=4, intermediate=64, max_length=64, rope_base=160_000.0)
    make_model(NewModel(encoder=encoder, tokenizer=TokenizerChoice(path=str(tiny_bert))), folder)
    return folder
