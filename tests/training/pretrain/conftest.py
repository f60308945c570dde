"""What the tests of pre-training share: a tiny corpus, a tiny new model, and runs of a few steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag.tokenization import TextTokenizer
from mgte_training.data.readers import corpus_texts
from mgte_training.pretrain.language_model import TrainableLanguageModel
from mgte_training.pretrain.new_model import NewEncoder, NewModel, make_model
from mgte_training.pretrain.new_tokenizer import TokenizerChoice
from mgte_training.pretrain.text_plan import TextBatches, TextPlan, TextSource
from mgte_training.pretrain.token_store import token_store

ENCODER = NewEncoder(layers=2, hidden=32, heads=4, intermediate=64, max_length=64)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Path:
    """A folder with two files of real texts, 150 and 50."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [entry.text for entry in stdlib_docs if 12 < len(entry.text.split()) < 200]
    for name, some in (("many", texts[:150]), ("few", texts[150:200])):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in some))
    return folder


@pytest.fixture(scope="session")
def new_model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny new encoder with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("new") / "model"
    choice = TokenizerChoice(texts=(str(corpus),), size=500, kind="wordpiece", lower_case=True)
    make_model(NewModel(encoder=ENCODER, tokenizer=choice), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(new_model: Path) -> TextTokenizer:
    return TextTokenizer(new_model / "tokenizer.json")


@pytest.fixture
def make_plan(corpus: Path, tmp_path: Path, tokenizer: TextTokenizer) -> Callable[..., TextPlan]:
    """Makes plans over the corpus."""

    def made(seed: int = 0, **changes: Any) -> TextPlan:
        sources = [TextSource(name=name, path=str(corpus / f"{name}.jsonl")) for name in ("many", "few")]
        stores = [
            token_store(tmp_path / "tokens" / source.name, corpus_texts(source.path), tokenizer, show_progress=False)
            for source in sources
        ]
        batches = TextBatches(**({"steps": 4, "batch": 8, "length": 32, "token_budget": 100} | changes))
        return TextPlan(sources, stores, batches, tokenizer, seed=seed)

    return made


@pytest.fixture
def open_model(new_model: Path) -> Callable[..., TrainableLanguageModel]:
    """Opens the tiny model, always with the same weights."""
    return lambda **options: TrainableLanguageModel.open(new_model, **options)


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
