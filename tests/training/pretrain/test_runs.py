"""Pre-training from recipes: on the command line, stopped and gone on with, in two processes, and with mistakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mgte_cli.main import main
from mgte_rag import DataError, EmbeddingModel, InvalidOptionError, TrainingError
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_training.finetune.callbacks import SaveOnTermination
from mgte_training.finetune.recipe import Recipe, find_recipe
from mgte_training.stages import read_stage, run_stage

MLM = """
[model]
name = "{model}"
[model.positions]
theta = 160000.0
max_length = 128
[[texts]]
name = "many"
path = "many.jsonl"
[[texts]]
name = "few"
path = "few.jsonl"
[batches]
steps = 4
batch = 9
length = 40
token_budget = 150
[mlm]
rate = 0.3
[training]
learning_rate = 1e-2
use_cpu = true
"""
RETROMAE = MLM.replace("[mlm]\nrate = 0.3", "[retromae]\nhidden = 0.5\n[retromae.masking]\nrate = 0.3")


def write(folder: Path, name: str, text: str, model: Path) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text.format(model=model))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_recipe_trains_and_changes_the_positions(new_model: Path, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    """The second stage: another base, longer texts."""
    recipe = write(tmp_path, "mlm", MLM, new_model)
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--data", str(corpus), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "4 steps of 9 texts of up to 40 tokens" in printed
    config = load_checkpoint(find_model(str(tmp_path / "run" / "model"))).config
    assert config.language_model
    assert config.encoder.rotary is not None
    assert config.encoder.rotary.theta == 160_000
    with EmbeddingModel.load(tmp_path / "run" / "model") as model:
        assert model.max_length == 128
        assert not model.encode_document("a " * 100).truncated.any()
    with pytest.raises(InvalidOptionError, match="finished run"):
        run_stage(read_stage(recipe), tmp_path / "run", data=corpus)


@pytest.mark.parametrize("text", [MLM, RETROMAE], ids=["mlm", "retromae"])
def test_a_run_that_was_stopped_goes_on_and_ends_at_the_same_model(
    new_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Also where the texts have gone: what was tokenised is in the run's folder."""
    recipe = read_stage(write(tmp_path, "stage", text, new_model))
    straight = run_stage(recipe, tmp_path / "straight", data=corpus)

    def terminate(self: SaveOnTermination, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.asked = self.asked or state.global_step == 1

    with monkeypatch.context() as patch:
        patch.setattr(SaveOnTermination, "on_step_begin", terminate)
        with pytest.raises(TrainingError, match="after step 2 of 4"):
            run_stage(recipe, tmp_path / "stopped", data=corpus)
    resumed = run_stage(recipe, tmp_path / "stopped", data=corpus)
    one, other = weights(straight.folder.parent), weights(resumed.folder.parent)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(
    new_model: Path, corpus: Path, tmp_path: Path, in_two_processes: Callable[..., None]
) -> None:
    """Nine texts, five and four; a mean over all predicted tokens, however they are shared."""
    plain = 'use_cpu = true\noptim = "sgd"\nmax_grad_norm = 0.0\nsave_strategy = "no"'
    recipes = [
        write(tmp_path, name, text.replace("use_cpu = true", plain), new_model)
        for name, text in (("mlm", MLM), ("retromae", RETROMAE))
    ]
    in_two_processes(Path(__file__).with_name("two_processes.py"), corpus, tmp_path / "together", *recipes)
    for recipe in recipes:
        run_stage(read_stage(recipe), tmp_path / "alone" / recipe.stem, data=corpus)
    start = load_file(new_model / "model.safetensors")
    for name in ("mlm", "retromae"):
        alone, together = (weights(tmp_path / run / name) for run in ("alone", "together"))
        assert alone.keys() == together.keys() == start.keys()
        assert max(float((alone[key] - start[key]).abs().max()) for key in alone) > 1e-4
        assert max(float((alone[key] - together[key]).abs().max()) for key in alone) < 1e-6, name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate = 0.3", "rats = 0.3", "unknown field 'rats'"),
        ("rate = 0.3", "rate = 1.3", "a share between 0 and 1"),
        ("batch = 9", "batch = 0", "batch=0"),
        ("[mlm]", "[mlm]\n[retromae]\n[mlm2]", "unknown field 'mlm2'"),
        ("[mlm]\nrate = 0.3", "[mlm]\n[retromae]", "one of them"),
        ("theta = 160000.0", "ntk_factor = 8.0", "on the base that theta says"),
        ('name = "few"', 'name = "many"', "each with a name of its own"),
        ("length = 40", "", "lacks the field 'length'"),
        ("[mlm]\nrate = 0.3", "", "unknown field 'texts'"),
        ("[model]\n", "seed = -1\n[model]\n", "seed=-1"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MLM
    with pytest.raises(InvalidOptionError) as caught:
        read_stage(write(tmp_path, "stage", MLM.replace(old, new, 1), Path("m")))
    assert message in str(caught.value)


def test_recipes_and_commands_that_do_not_belong_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mgte-init-tiny", "--out", str(tmp_path / "a")]) == 1
    assert "'mgte-rag init' takes it" in capsys.readouterr().err
    assert main(["init", "mgte-mlm-2048-tiny", "--out", str(tmp_path / "a")]) == 1
    assert "no recipe of a new model" in capsys.readouterr().err
    assert isinstance(read_stage(find_recipe("bge-finetune")), Recipe)


def test_texts_that_are_not_there_and_tables_of_positions_are_errors(
    new_model: Path, tiny_bert: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"many\.jsonl: no such file"):
        run_stage(read_stage(write(tmp_path, "stage", MLM, new_model)), tmp_path / "a", data=tmp_path)
    with pytest.raises(InvalidOptionError, match="rotary"):
        run_stage(read_stage(write(tmp_path, "stage", MLM, tiny_bert)), tmp_path / "b", data=corpus)
    longer = write(tmp_path, "stage", MLM.replace("length = 40", "length = 129"), new_model)
    with pytest.raises(InvalidOptionError, match=r"length=129: the model reads 128 tokens; .*positions\.max_length"):
        run_stage(read_stage(longer), tmp_path / "c", data=corpus)
