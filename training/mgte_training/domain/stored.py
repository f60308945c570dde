"""Results of steps in files that are there whole or not at all: what an interrupted run goes on from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mgte_training.domain.comparison import Measured

_KINDS = ("ndcg", "recall")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears when it is complete."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def stored(path: Path, make: Callable[[], Measured]) -> Measured:
    """What ``make`` gives, from the .npz file where an earlier run has written it."""
    if not path.exists():
        arrays = {
            f"{way}/{kind}": values for way, both in make().items() for kind, values in zip(_KINDS, both, strict=True)
        }
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
        part.replace(path)
    with np.load(path) as found:
        ways = dict.fromkeys(name.rpartition("/")[0] for name in found.files)
        return {way: (found[f"{way}/ndcg"], found[f"{way}/recall"]) for way in ways}
