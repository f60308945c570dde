"""A run and its folder, whatever is trained: claimed by one recipe, gone on with, ended with a model."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from mgte_rag.devices import choose_device
from mgte_rag.errors import InvalidOptionError, MissingExtraError, TrainingError, shown
from mgte_training.data.readers import FILE_ENDINGS

RECIPE = "recipe.json"
MODEL = "model"
_NUMBERS = {True: "true or false", False: "a number"}


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

    A folder with a recipe and nothing else, where a run found a mistake before it began, may get another.

    Raises:
        InvalidOptionError: the folder has a finished run, one of another recipe, or files that are of no run.
    """
    content = json.dumps({"recipe": asdict(recipe), "data": str(data.resolve())}, indent=2, default=str)
    path = folder / RECIPE
    if (folder / MODEL).exists():
        raise InvalidOptionError(f"{folder} has a finished run's model; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    if any(not each.name.startswith(RECIPE) for each in folder.iterdir()):
        if not path.exists():
            raise InvalidOptionError(f"{folder} is not empty and has no run of a recipe; give a new or an empty folder")
        if path.read_text(encoding="utf-8") != content:
            raise InvalidOptionError(f"{path} is of another recipe than the one given; give another folder")
        return True
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
    """``transformers.TrainingArguments`` of a recipe; what it says comes before what is the rule here.

    Raises:
        InvalidOptionError: a field that they do not have, or a value that they do not allow.
    """
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    hints = get_type_hints(TrainingArguments)
    for name, value in training.items():
        if name not in hints or name == "output_dir":
            raise InvalidOptionError(
                f"[training] has the unknown field {name!r}; it may have those of transformers.TrainingArguments but "
                f"output_dir: learning_rate, warmup_steps, lr_scheduler_type, bf16, logging_steps, ..."
            )
        kinds = {hints[name], *get_args(hints[name])}
        if kinds & {bool, int, float} and str not in kinds and not isinstance(value, bool | int | float):
            raise InvalidOptionError(f"[training]: {name} is {shown(value)}; {_NUMBERS[bool in kinds]} is needed")
    rules = {
        "report_to": "none",
        "seed": seed,
        "disable_tqdm": not show_progress,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,
    }
    try:
        arguments = TrainingArguments(output_dir=str(folder), **{**rules, **more, **training})
        for logger in get_reporting_integration_callbacks(arguments.report_to):
            logger()
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        raise InvalidOptionError(f"[training]: {error}") from error
    if arguments.learning_rate < 0:
        raise InvalidOptionError(f"[training]: learning_rate={arguments.learning_rate!r}; it must not be below 0")
    return arguments


def speaker(say: Callable[[str], None] | None, arguments: Any) -> Callable[[str], None]:
    """Whom to tell what happens: of several processes the first one speaks."""
    return (lambda _: None) if say is None or arguments.process_index else say


def found(path: str, data: Path) -> str:
    """The path in the folder of the data where it is there, or where it names a file that is nowhere."""
    inside = data / path
    is_file = path.endswith(FILE_ENDINGS) and not Path(path).exists()
    return str(inside) if inside.exists() or is_file else path


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
