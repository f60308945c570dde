"""Results of steps in files that are there whole or not at all: what an interrupted run goes on from."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from mgte_rag.types import Floats
from mgte_training.domain.comparison import Measured

_KINDS = ("ndcg", "recall")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears when it is complete."""
    _write(path, lambda file: file.write(text.encode()))


def stored_scores(path: Path, make: Callable[[], Floats]) -> Floats:
    """What ``make`` gives, from the .npy file where an earlier run has written it."""
    if not path.exists():
        _write(path, partial(np.save, arr=make()))
    scores: Floats = np.load(path)
    return scores


def stored(path: Path, make: Callable[[], Measured]) -> Measured:
    """What ``make`` gives, from the .npz file where an earlier run has written it."""
    if not path.exists():
        arrays = {
            f"{way}/{kind}": values for way, both in make().items() for kind, values in zip(_KINDS, both, strict=True)
        }
        _write(path, partial(np.savez, **arrays))  # type: ignore[arg-type]  # numpy's stub takes the names for options
    with np.load(path) as found:
        ways = dict.fromkeys(name.rpartition("/")[0] for name in found.files)
        return {way: (found[f"{way}/ndcg"], found[f"{way}/recall"]) for way in ways}


def _write(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        save(file)
    part.replace(path)
