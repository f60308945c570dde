"""A model to a folder in this project's own format, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from mgte_rag.checkpoints.loading import Checkpoint
from mgte_rag.checkpoints.native import to_json
from mgte_rag.checkpoints.weights import WHOLE
from mgte_rag.config import ModelConfig
from mgte_rag.errors import InvalidOptionError
from mgte_rag.tokenization import TextTokenizer


def save(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write config.json with every switch, model.safetensors with every head, and tokenizer.json.

    The tensors keep the dtype they were published in, whatever the model computes in: what is loaded from the folder
    gives the same vectors.

    Raises:
        InvalidOptionError: the folder is there and not empty.
    """
    write_model(folder, checkpoint.config, checkpoint.read_weights(), checkpoint.tokenizer)


def write_model(folder: str | Path, config: ModelConfig, tensors: dict[str, Tensor], tokenizer: TextTokenizer) -> None:
    """Write a model in this project's own format: any model, whether it was loaded, changed or trained.

    Args:
        folder: new or empty.
        config: every switch.
        tensors: every weight under our names.
        tokenizer: the model's.

    Raises:
        InvalidOptionError: the folder is there and not empty.
    """

    def fill(path: Path) -> None:
        (path / "config.json").write_text(json.dumps(to_json(config), indent=2), encoding="utf-8")
        write_tensors(tensors, path)
        tokenizer.save(path / "tokenizer.json")

    write_folder(folder, fill)


def new_folder(folder: str | Path) -> Path:
    """The absolute path of a folder that may be written: new or empty.

    Raises:
        InvalidOptionError: the folder is there and not empty; nothing is ever overwritten.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidOptionError(f"{target} is there and not empty; give a new or an empty folder")
    return target


def write_folder(folder: str | Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside the one asked for and rename it when it is complete.

    Raises:
        InvalidOptionError: the folder is there and not empty.
    """
    target = new_folder(folder)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """One safetensors file; tensors that share memory are written apart."""
    apart = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(apart, folder / WHOLE, metadata={"format": "pt"})
