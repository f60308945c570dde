"""Tensors out of files: safetensors, sharded or not, and pickles in the mode that runs nothing."""

import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mgte_rag.checkpoints.fields import read_json
from mgte_rag.errors import CheckpointError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's weights: safetensors whole or in shards, else a pickle of tensors.

    Raises:
        CheckpointError: there is none, a shard is missing, or the index names a file outside of the folder.
    """
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    if (folder / PICKLED).is_file():
        return (folder / PICKLED,)
    raise CheckpointError(
        f"{folder / WHOLE} is missing, and so are {INDEX} and {PICKLED}: {folder} is not a complete model folder"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map that says which shard holds which tensor")
    names = sorted({str(name) for name in placed.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}; shards are .safetensors files beside the index")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name} is missing: the index lists it; fetch the folder again")
    return tuple(index.parent / name for name in names)


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Every tensor of the files, on the CPU, in the dtype it is stored in.

    Raises:
        CheckpointError: a file is damaged, holds something other than tensors, or two files hold the same name.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        more = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)
        twice = sorted(tensors.keys() & more.keys())
        if twice:
            raise CheckpointError(f"{file} holds {twice[0]!r}, and so does another file of the same model")
        tensors |= more
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; fetch the model's folder again") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch the model's folder again") from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pt`` or ``.bin`` file, read by the unpickler that knows tensors and nothing else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; fetch the model's folder again") from error
    except pickle.UnpicklingError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors, and what else it holds could be code. Nothing of it was "
            f"run. ({reason})"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch the model's folder again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} must hold a state dict, names and their tensors")
    return content


def tensor_rows(files: Iterable[Path], name: str) -> int:
    """Rows of one tensor, looked up without reading the others.

    Raises:
        CheckpointError: no file has it, or a file is damaged.
    """
    for file in files:
        if file.suffix != ".safetensors":
            tensors = _read_pickled(file)
            if name in tensors:
                return tensors[name].shape[0]
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                if name in opened.keys():
                    return int(opened.get_slice(name).get_shape()[0])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} is truncated or damaged ({error})") from error
    raise CheckpointError(
        f"no file of {', '.join(map(str, files))} has the tensor {name!r}, which this kind of model needs; "
        f"fetch the model's folder again"
    )
