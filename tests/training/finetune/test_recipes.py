"""Recipes: read strictly, run from the command line, stopped and gone on with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgte_cli.main import main
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, InvalidOptionError, Reranker, TrainingError
from mgte_training.finetune.callbacks import SaveOnTermination
from mgte_training.finetune.recipe import RECIPES, find_recipe, read_recipe
from mgte_training.finetune.run import run_recipe

Write = Callable[[str], Path]
PUBLISHED = [
    "bge-finetune",
    "bge-m3-unified",
    "jina-colbert-distill",
    "jina-colbert-pairs",
    "mgte-finetune",
    "mgte-reranker",
]
FROM_SCRATCH = [  # tests/training/pretrain runs these
    "bge-contrastive",
    "bge-retromae",
    "jina-init",
    "jina-mlm",
    "mgte-contrastive",
    "mgte-init",
    "mgte-mlm-2048",
    "mgte-mlm-8192",
]
SMALL = """
[model]
name = "{model}"
new_heads = {{ sparse = true }}
dropout = 0.1
[[sources]]
name = "pairs"
path = "pairs.jsonl"
random_negatives = 1
[batches]
steps = 6
buckets = [{{ max_tokens = 40, batch = 8, sub_batch = 4 }}]
[objective.heads.dense]
temperature = 0.05
sizes = {{ 16 = 1.0, 32 = 1.0 }}
[objective.heads.sparse]
temperature = 0.1
[held_out]
path = "pairs.jsonl"
every = 3
[training]
learning_rate = 1e-3
use_cpu = true
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return written


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Path:
    """A folder with 64 pairs and the same with a teacher's scores, from real documentation."""
    folder = tmp_path_factory.mktemp("pairs")
    entries = [entry for entry in stdlib_docs if len(entry.text.split()) > 12][:64]
    rows, scored = [], []
    for number, entry in enumerate(entries):
        words = entry.text.split()
        others = [" ".join(entries[(number + step) % 64].text.split()[:40]) for step in range(1, 9)]
        row = {"query": " ".join(words[:6]), "positive": " ".join(words[6:46]), "negatives": others}
        rows.append(row)
        scored.append(row | {"positive_scores": [4.0], "negative_scores": [float(-i) for i in range(8)]})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "triples.jsonl").write_text("\n".join(map(json.dumps, scored)))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_is_read_and_has_a_tiny_variant(name: str) -> None:
    published, tiny = (read_recipe(find_recipe(each)) for each in (name, f"{name}-tiny"))
    assert tiny.model.name == "mini"
    assert tiny.sources == published.sources
    assert tiny.training["learning_rate"] == published.training["learning_rate"]


def test_the_recipes_are_those_that_are_documented() -> None:
    names = {path.stem for path in RECIPES.glob("*.toml") if not path.stem.endswith(("-tiny", "-small"))}
    assert sorted(names - set(FROM_SCRATCH)) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tiny_recipe_trains_a_model_that_can_be_loaded(name: str, pairs: Path, tmp_path: Path) -> None:
    arguments = ["train", f"{name}-tiny", "--out", str(tmp_path / "run"), "--data", str(pairs), "--quiet"]
    settings = ["--set", "batches.steps=2", "--set", "batches.buckets=[{max_tokens=512, batch=64, sub_batch=64}]"]
    assert main([*arguments, *settings]) == 0
    folder = tmp_path / "run" / "model"
    if "reranker" in name:
        with Reranker.load(folder) as reranker:
            assert np.isfinite(reranker.score([("a query", "a document")])).all()
        return
    with EmbeddingModel.load(folder) as model:
        found = model.encode_query("a query", outputs=model.outputs)
        assert all(getattr(found, output) is not None for output in model.outputs)


def test_a_run_writes_plan_recipe_model_and_figures(tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path) -> None:
    recipe = read_recipe(write(SMALL.format(model=tiny_bert)))
    said: list[str] = []
    trained = run_recipe(recipe, tmp_path / "run", data=pairs, say=said.append)
    assert {"plan.npz", "recipe.json", "model"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert 0 < trained.figures["dense_32_ndcg@10"] <= 1
    assert "pairs" in said[0]
    with EmbeddingModel.load(trained.folder) as model:
        assert model.dims == (16, 32)
        assert model.outputs == ("dense", "sparse")


def test_a_run_that_was_stopped_goes_on_and_ends_at_the_same_model(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write(SMALL.format(model=tiny_bert)))
    straight = run_recipe(recipe, tmp_path / "straight", data=pairs)

    def terminate(self: SaveOnTermination, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.asked = self.asked or state.global_step == 3

    with monkeypatch.context() as patch:
        patch.setattr(SaveOnTermination, "on_step_begin", terminate)
        with pytest.raises(TrainingError, match="after step 4 of 6"):
            run_recipe(recipe, tmp_path / "stopped", data=pairs)
    resumed = run_recipe(recipe, tmp_path / "stopped", data=pairs)
    with EmbeddingModel.load(straight.folder) as one, EmbeddingModel.load(resumed.folder) as other:
        np.testing.assert_array_equal(one.encode_query("the cat").dense, other.encode_query("the cat").dense)


def test_a_folder_with_another_recipes_run_is_refused(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path
) -> None:
    path = write(SMALL.format(model=tiny_bert))
    run_recipe(read_recipe(path), tmp_path / "run", data=pairs)
    with pytest.raises(InvalidOptionError, match="finished run"):
        run_recipe(read_recipe(path), tmp_path / "run", data=pairs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text("{}")
    with pytest.raises(InvalidOptionError, match="another recipe"):
        run_recipe(read_recipe(path), tmp_path / "other", data=pairs)


def test_settings_change_values_of_any_depth(tiny_bert: Path, write: Write) -> None:
    path = write(SMALL.format(model=tiny_bert))
    settings = ["training.learning_rate=5e-5", "sources.0.path=mine.jsonl", "model.lora={rank=4}"]
    recipe = read_recipe(path, settings)
    assert recipe.training["learning_rate"] == 5e-5
    assert recipe.sources[0].path == "mine.jsonl"
    assert recipe.model.lora is not None
    assert recipe.model.lora.rank == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dropout = 0.1", "dropuot = 0.1", "unknown field 'dropuot'"),
        ("dropout = 0.1", 'dropout = "much"', "dropout is 'much', which is no float"),
        ("steps = 6", "steps = 6.5", "steps is 6.5, which is no int"),
        ("temperature = 0.05", "temperature = 0.0", "above 0"),
        ('path = "pairs.jsonl"\nrandom', "random", "lacks the field 'path'"),
        ("[objective.heads.dense]", "[objective.heads.dens]", "allowed are dense, sparse, multi_vector"),
        ("{ 16 = 1.0", "{ small = 1.0", "whole number"),
        ("[model]", '[model]\nkind = "reranker"', "needs [reranker]"),
        ("[model]", '[model]\ntrained = "some"', "allowed are all, heads"),
        ("[model]", "[model", "cannot be read as a recipe"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_place(write: Write, old: str, new: str, message: str) -> None:
    text = SMALL.format(model="m")
    assert old in text
    with pytest.raises(InvalidOptionError) as caught:
        read_recipe(write(text.replace(old, new, 1)))
    assert message in str(caught.value)


def test_an_unknown_recipe_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mgte-finetun", "--out", "x"]) == 1
    assert "mgte-finetune-tiny" in capsys.readouterr().err
    assert main(["train", "list"]) == 0
    assert "bge-m3-unified" in capsys.readouterr().out
