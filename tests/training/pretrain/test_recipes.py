"""The recipes that come with the package: all read, and the tiny chain from raw texts to a retriever runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from mgte_cli.main import main
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_training.finetune.recipe import RECIPES, find_recipe
from mgte_training.stages import read_stage

FROM_SCRATCH = ["mgte-init", "mgte-mlm-2048", "mgte-mlm-8192", "mgte-contrastive", "bge-retromae", "bge-contrastive"]
CHAIN = [f"{name}-tiny" for name in (*FROM_SCRATCH[1:], "jina-mlm")]


@pytest.mark.parametrize("name", [*FROM_SCRATCH, "jina-mlm"])
def test_a_variant_has_what_was_published_but_for_its_sizes(name: str) -> None:
    published, small, tiny = (read_stage(find_recipe(f"{name}{size}")) for size in ("", "-small", "-tiny"))
    for variant in (small, tiny):
        assert type(variant) is type(published)
        for field in ("mlm", "retromae"):
            assert getattr(variant, field, None) == getattr(published, field, None)
    if name.endswith("contrastive"):
        assert small.objective == published.objective


def test_every_stage_begins_with_what_the_one_before_has_made() -> None:
    """A recipe's model is the folder of another's run, down to a new model."""
    for path in RECIPES.glob("*.toml"):
        stage = read_stage(path)
        name = getattr(getattr(stage, "model", None), "name", None)
        if name and ((name.endswith("/model") and "/" not in name.removesuffix("/model")) or "-init" in name):
            before = read_stage(find_recipe(name.removesuffix("/model")))
            assert ("-init" in name) == hasattr(before, "encoder"), path


def test_values_that_papers_give_stand_in_the_recipes() -> None:
    first, second = (read_stage(find_recipe(f"mgte-mlm-{length}")) for length in (2048, 8192))
    assert (first.batches.batch, first.batches.steps, first.batches.length) == (8192, 250_000, 2048)
    assert (second.batches.batch, second.batches.steps, second.batches.length) == (2048, 30_000, 8192)
    assert second.model.positions.theta == 160_000
    contrastive = read_stage(find_recipe("mgte-contrastive"))
    assert contrastive.model.positions.theta * contrastive.model.positions.ntk_factor == 160_000
    assert contrastive.batches.buckets[0].batch == 16_384
    assert read_stage(find_recipe("bge-contrastive")).batches.buckets[0].batch == 19_200
    assert read_stage(find_recipe("bge-retromae")).retromae.masking.rate == 0.3


def test_the_tiny_chain_runs_from_raw_texts_to_a_model_that_searches(
    stdlib_docs: list[DocEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = [entry for entry in stdlib_docs if len(entry.text.split()) > 12][:300]
    Path("texts.jsonl").write_text("\n".join(json.dumps({"text": entry.text}) for entry in entries))
    pairs = [{"query": entry.name, "positive": entry.text} for entry in entries]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert main(["init", "mgte-init-tiny", "--out", "mgte-init-tiny", "--set", "encoder.hidden=32"]) == 0
    for name in CHAIN:
        settings = ["--set", "batches.steps=2", "--set", "batches.epochs=1"] if "contrastive" in name else []
        settings = settings or ["--set", "batches.steps=2", "--set", "batches.batch=8"]
        assert main(["train", name, "--out", name, "--quiet", *settings]) == 0, name
        with EmbeddingModel.load(f"{name}/model") as model:
            assert np.isfinite(model.encode_query("read a file").dense).all()
    rotary = load_checkpoint(find_model("mgte-contrastive-tiny/model")).config.encoder.rotary
    assert rotary is not None
    assert (rotary.theta, rotary.scaling, rotary.factor) == (20_000, "ntk", 8)
