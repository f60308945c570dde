"""Recipes: read strictly, run from the command line, stopped and gone on with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mgte_cli.main import main
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, InvalidOptionError, Reranker, TrainingError
from mgte_training.data import SourceData, TrainingPlan
from mgte_training.finetune.callbacks import SaveOnTermination
from mgte_training.finetune.held_out import ModelFigures
from mgte_training.finetune.recipe import RECIPES, find_recipe, read_recipe
from mgte_training.finetune.run import run_recipe
from mgte_training.finetune.trainable import Trainable, TrainableModel

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
EMBEDDED = ["mini-heads", "mini-reranker"]  # tests/training/mini runs these
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
    assert sorted(names - {*FROM_SCRATCH, *EMBEDDED}) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tiny_recipe_trains_a_model_that_can_be_loaded(name: str, pairs: Path, tmp_path: Path) -> None:
    arguments = ["train", f"{name}-tiny", "--out", str(tmp_path / "run"), "--data", str(pairs), "--quiet"]
    bucket = "batches.buckets=[{max_tokens=512, batch=2, sub_batch=2}]"
    for setting in ("batches.steps=2", "batches.scale=1.0", bucket, "training.save_strategy=no"):
        arguments += ["--set", setting]
    assert main(arguments) == 0
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


@pytest.mark.parametrize(("other", "measured"), [("ask: ", "ask: "), ("look: ", None)])
def test_a_run_is_measured_with_its_sources_prompt_where_all_have_the_same(
    tiny_bert: Path,
    write: Write,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
    measured: Any,
) -> None:
    second = f'[[sources]]\nname = "more"\npath = "pairs.jsonl"\nnegatives = 1\nquery_prompt = "{other}"\n[batches]'
    text = SMALL.format(model=tiny_bert).replace("[batches]", second)
    settings = ["batches.steps=1", "held_out.every=1", "held_out.max_examples=4", "sources.0.negatives=1"]
    recipe = read_recipe(write(text), [*settings, "sources.0.query_prompt='ask: '"])
    read, seen = TrainableModel.read, set()

    def watched(self: TrainableModel, texts: Any, role: str, **options: Any) -> Any:
        if not self.training:
            seen.add((role, options["prompt"]))
        return read(self, texts, role, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainableModel, "read", watched)
    run_recipe(recipe, tmp_path / "run", data=pairs)
    assert seen == {("query", measured), ("document", None)}


def test_a_run_that_was_stopped_goes_on_and_ends_at_the_same_model(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, two sources whose batches alternate, batches in parts and low-rank adapters: bit by bit."""
    second = '[[sources]]\nname = "more"\npath = "triples.jsonl"\nuse_scores = false\nnegatives = 2\n[batches]'
    text = SMALL.format(model=tiny_bert).replace("[batches]", second)
    recipe = read_recipe(write(text), ["model.lora={rank=2}", "sources.0.negatives=1"])
    straight = run_recipe(recipe, tmp_path / "straight", data=pairs)

    def terminate(self: SaveOnTermination, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.asked = self.asked or state.global_step == 3

    with monkeypatch.context() as patch:
        patch.setattr(SaveOnTermination, "on_step_begin", terminate)
        with pytest.raises(TrainingError, match="after step 4 of 6"):
            run_recipe(recipe, tmp_path / "stopped", data=pairs)
    resumed = run_recipe(recipe, tmp_path / "stopped", data=pairs)
    data = [SourceData.read(replace(source, path=str(pairs / source.path))) for source in recipe.sources]
    plan = TrainingPlan.read(tmp_path / "stopped" / "plan.npz", data)
    assert {plan.batch(step).source for step in range(6)} == {"pairs", "more"}
    one, other = (folder / "model.safetensors" for folder in (straight.folder, resumed.folder))
    assert one.read_bytes() == other.read_bytes()
    assert straight.figures == resumed.figures


def test_a_run_ends_early_without_a_better_figure_also_where_it_was_interrupted_while_it_waited(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two measurements after the best one, which is the second here; the model that is kept is that of the best."""
    recipe = read_recipe(write(SMALL.format(model=tiny_bert)), ["held_out.every=1", "held_out.patience=2"])
    planned, kept = {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.4, 5: 0.3, 6: 0.2}, {}

    def figures(self: ModelFigures, model: Trainable) -> dict[str, float]:
        weights = model.model.encoder.embeddings.word.weight.detach()
        step = next((step for step, seen in kept.items() if torch.equal(seen, weights)), len(kept) + 1)
        kept[step] = weights.clone()
        return {"ndcg@10": planned[step]}

    def terminate(self: SaveOnTermination, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.asked = self.asked or state.global_step == 2

    monkeypatch.setattr(ModelFigures, "__call__", figures)
    with monkeypatch.context() as patch:
        patch.setattr(SaveOnTermination, "on_step_begin", terminate)
        with pytest.raises(TrainingError, match="after step 3 of 6"):  # one measurement without a better figure
            run_recipe(recipe, tmp_path / "run", data=pairs)
    trained = run_recipe(recipe, tmp_path / "run", data=pairs)
    assert sorted(kept) == [1, 2, 3, 4]
    assert trained.figures == {"ndcg@10": 0.9}
    saved = load_file(trained.folder / "model.safetensors")["encoder.embeddings.word.weight"]
    assert torch.equal(saved, kept[2])


def test_sigterm_to_the_command_leaves_a_checkpoint_and_says_how_to_go_on(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path
) -> None:
    recipe, run = write(SMALL.format(model=tiny_bert)), tmp_path / "run"
    command = [sys.executable, "-m", "mgte_cli.main", "train", str(recipe), "--out", str(run), "--data", str(pairs)]
    for setting in ("batches.steps=4000", "held_out.every=4000", "alarms.patience=4000", "training.logging_steps=1"):
        command += ["--set", setting]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--quiet"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert any("'loss'" in line for line in process.stdout)  # the trainer has done a step
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    (checkpoint,) = run.glob("checkpoint-*")
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    assert checkpoint.name == f"checkpoint-{step}"
    assert 0 < step < 4000
    assert f"stopped by SIGTERM after step {step} of 4000; a checkpoint is in {run}" in said
    assert "Traceback" not in said


def test_a_folder_with_another_recipes_run_is_refused(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path
) -> None:
    path = write(SMALL.format(model=tiny_bert))
    run_recipe(read_recipe(path), tmp_path / "run", data=pairs)
    with pytest.raises(InvalidOptionError, match="finished run"):
        run_recipe(read_recipe(path), tmp_path / "run", data=pairs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint-3").mkdir()
    with pytest.raises(InvalidOptionError, match="is not empty and has no run of a recipe"):
        run_recipe(read_recipe(path), tmp_path / "other", data=pairs)
    (tmp_path / "other" / "recipe.json").write_text("{}")
    with pytest.raises(InvalidOptionError, match="another recipe"):
        run_recipe(read_recipe(path), tmp_path / "other", data=pairs)


def test_a_run_that_a_mistake_stopped_before_it_began_takes_the_corrected_recipe(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path
) -> None:
    path = write(SMALL.format(model=tiny_bert))
    with pytest.raises(InvalidOptionError, match="sampling exponent"):
        run_recipe(read_recipe(path, ["batches.alpha=3"]), tmp_path / "run", data=pairs)
    settings = ["batches.steps=1", "held_out.every=1"]
    assert run_recipe(read_recipe(path, settings), tmp_path / "run", data=pairs).folder.exists()


def test_a_token_budget_counts_all_negatives_where_a_source_does_not_say_how_many(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path
) -> None:
    """Eight negatives and a positive: ten texts of up to 40 tokens for each query."""
    text = SMALL.format(model=tiny_bert).replace("random_negatives = 1", "")
    settings = ["batches.token_budget=1000", "batches.steps=1", "held_out.every=1"]
    said: list[str] = []
    run_recipe(read_recipe(write(text), settings), tmp_path / "run", data=pairs, say=said.append)
    assert "<=40 8/2" in said[0]


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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dropout", "'dropout' is no key=value"),
        ("sources.first.path=x", "there is no such place"),
        ("sources.7.path=x", "there is no such place"),
        ("model.name.first=x", "there is no such place"),
        ("model.lora.rnak=3", "unknown field 'rnak'"),
        ("batches.steps=many", "steps is 'many', which is no int"),
        ("batches.buckets={batch=3}", "which is no list"),
        ("training=3", "which is no table"),
        ("held_out.every=0", "every=0; it is a whole number above 0"),
        ("alarms.patience=0", "a number of steps above 0"),
        ("objective.heads.dense.sizes={0=1.0}", "whole numbers above 0"),
        ("batches.steps=0", "steps=0; it is a whole number from 1 up"),
        ("lengths.query=1", "lengths: 1 tokens; the model"),
        ("sources.0.path=gone.jsonl", "pairs/gone.jsonl: no such file"),
        ("sources.0.path=words.jsonl", "words.jsonl, line 1: positives must be a list of strings"),
        ("sources.0.path=empty.jsonl", "has no example"),
        ("model.name=./gone", "no model './gone'"),
        ("training.learning_rat=1e-3", "unknown field 'learning_rat'"),
        ("training.learning_rate=fast", "learning_rate is 'fast'; a number is needed"),
        ("training.learning_rate=-1.0", "must not be below 0"),
        ("training.bf16=yes", "true or false is needed"),
        ("training.output_dir=x", "unknown field 'output_dir'"),
        ("training.lr_scheduler_type=steep", "steep is not a valid SchedulerType"),
        ("training.report_to=paper", "paper is not supported"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_1(
    setting: str, message: str, tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(pairs, folder)
    (folder / "words.jsonl").write_text('{"query": "q", "positives": "a text"}')
    (folder / "empty.jsonl").write_text("")
    command = ["train", str(write(SMALL.format(model=tiny_bert))), "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*command, "--data", str(folder), "--set", setting]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("mgte-rag: ")
    assert said.count("\n") == 1


def test_a_file_in_the_place_of_the_runs_folder_is_one_line_and_status_1(
    tiny_bert: Path, write: Write, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file")
    recipe = str(write(SMALL.format(model=tiny_bert)))
    assert main(["train", recipe, "--out", str(tmp_path / "run"), "--data", str(pairs), "--quiet"]) == 1
    assert "File exists" in capsys.readouterr().err


def test_an_unknown_recipe_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mgte-finetun", "--out", "x"]) == 1
    assert "mgte-finetune-tiny" in capsys.readouterr().err
    assert main(["train", "list"]) == 0
    assert "bge-m3-unified" in capsys.readouterr().out
