"""How much of the tuned weights a model can have without forgetting."""

import shutil
from collections.abc import Callable
from pathlib import Path

from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.checkpoints.saving import write_model
from mgte_training.domain.comparison import Comparison, Measured, compare, measure
from mgte_training.domain.interpolation import interpolated, largest_share
from mgte_training.domain.judged import Judged
from mgte_training.domain.stored import stored


def most_forgotten(comparison: Comparison) -> float:
    """The largest loss of nDCG@10 among the ways of searching; below 0 where all have gained."""
    return max(row.before - row.after for row in comparison.rows if row.figure.startswith("nDCG"))


def choose_share(
    base: str | None,
    tuned: Path,
    half: Judged,
    before: Measured,
    *,
    bound: float,
    folder: Path,
    say: Callable[[str], None],
) -> tuple[float, Comparison]:
    """The largest share of the tuned weights with which no way of searching loses more than the bound.

    Args:
        base: hub id or folder of the model before; None is the embedded default.
        tuned: folder of the model after.
        half: what forgetting is measured on.
        before: the base's figures on it.
        bound: allowed loss of nDCG@10.
        folder: for what was measured, share by share; a later call with the same goes on from there.
        say: told what each share loses.

    Returns:
        The share, 0 where every one tried loses too much, and the comparison at that share.
    """
    folder.mkdir(exist_ok=True)

    def compared(share: float) -> Comparison:
        def measured() -> Measured:
            write_mixture(base, tuned, share, folder / "model")
            with EmbeddingModel.load(str(folder / "model")) as model:
                return measure(model, half)

        shutil.rmtree(folder / "model", ignore_errors=True)
        comparison = compare(before, stored(folder / f"{share}.npz", measured), half)
        shutil.rmtree(folder / "model", ignore_errors=True)
        say(f"  {share:.0%} of the tuned weights: {100 * most_forgotten(comparison):+.2f} points forgotten")
        return comparison

    share, tried = largest_share(compared, lambda each: most_forgotten(each) <= bound)
    return share, tried[share] if share else compare(before, before, half)


def write_mixture(base: str | None, tuned: Path, share: float, folder: Path) -> None:
    """Write a model between two; ``interpolated`` says how. Its settings are the tuned model's.

    Raises:
        CheckpointError: the two are of different architectures.
        InvalidOptionError: the folder is not empty.
    """
    checkpoint = load_checkpoint(find_model(str(tuned)))
    before = load_checkpoint(find_model(base)).read_weights()
    weights = interpolated(before, checkpoint.read_weights(), share)
    write_model(folder, checkpoint.config, weights, checkpoint.tokenizer)
