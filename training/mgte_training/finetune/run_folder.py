"""A run and its folder, whatever is trained: claimed by one recipe, gone on with, ended with a model."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mgte_rag.devices import choose_device
from mgte_rag.errors import InvalidOptionError, MissingExtraError, TrainingError

RECIPE = "recipe.json"
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made.

    Attributes:
        folder: of the trained model, for ``EmbeddingModel.load`` or ``Reranker.load``.
        figures: the held-out set's, of the model that was kept; empty without a held-out set.
        log: what was logged, step by step.
    """

    folder: Path
    figures: dict[str, float]
    log: list[dict[str, float]]


def check_packages() -> None:
    """See that what training needs is there.

    Raises:
        MissingExtraError: transformers or accelerate are not installed.
    """
    for package in ("transformers", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "training")


def claim(folder: Path, recipe: Any, data: Path) -> bool:
    """Whether the folder has a part of this run; it is made where it is not there.

    Raises:
        InvalidOptionError: the folder has a finished run, or one of another recipe.
    """
    content = json.dumps({"recipe": asdict(recipe), "data": str(data.resolve())}, indent=2, default=str)
    path = folder / RECIPE
    if (folder / MODEL).exists():
        raise InvalidOptionError(f"{folder} has a finished run's model; give another folder")
    if path.exists():
        if path.read_text(encoding="utf-8") != content:
            raise InvalidOptionError(f"{path} is of another recipe than the one given; give another folder")
        return True
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")  # processes that share a run come at the same time
    part.write_text(content, encoding="utf-8")
    os.replace(part, path)
    return False


def training_device(training: Mapping[str, Any]) -> str | torch.device:
    """Where this process trains."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return choose_device("cpu" if training.get("use_cpu") else None)


def training_arguments(
    folder: Path, training: Mapping[str, Any], *, seed: int, show_progress: bool, **more: Any
) -> Any:
    """``transformers.TrainingArguments`` of a recipe; what it says comes before what is the rule here."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        **{
            "report_to": "none",
            "seed": seed,
            "disable_tqdm": not show_progress,
            "save_total_limit": 2,
            **more,
            **training,
        },
    )


def found(path: str, data: Path) -> str:
    """The path in the folder of the data, where there is such a file."""
    inside = data / path
    return str(inside) if inside.exists() else path


def train_to_end(trainer: Any, folder: Path, *, resumed: bool, say: Callable[[str], None]) -> None:
    """Train from the newest checkpoint, or from the start, to the last step.

    Raises:
        TrainingError: an alarm or SIGTERM stopped the run.
    """
    steps = len(trainer.train_dataset)
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    checkpoint = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if resumed and checkpoint is not None:
        say(f"going on from {checkpoint.name} of {steps} steps")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.terminated:
        raise TrainingError(
            f"stopped by SIGTERM after step {trainer.state.global_step} of {steps}; a checkpoint is in {folder}, "
            f"and the same command goes on from there"
        )
