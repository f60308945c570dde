"""Two processes that share a batch train as one that has the whole of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file


def test_two_processes_have_the_losses_and_gradients_of_one_with_the_joint_batch(
    tiny_bert: Path, tmp_path: Path, in_two_processes: Callable[..., None]
) -> None:
    """Negatives cross the processes, with gradients, for every head; whole batches and batches in parts; rerankers."""
    in_two_processes(Path(__file__).with_name("two_processes.py"), tiny_bert, tmp_path)
    for name in ("query", "both", "improved", "reranker"):
        start, alone, together = (load_file(tmp_path / f"{name}.{when}.safetensors") for when in ("start", "1", "2"))
        assert together.pop("losses").tolist() == pytest.approx(alone.pop("losses").tolist(), abs=2e-4), name
        assert alone.keys() == together.keys() == start.keys()
        assert max(float((alone[key] - start[key]).abs().max()) for key in alone) > 1e-3, name
        assert max(float((alone[key] - together[key]).abs().max()) for key in alone) < 1e-5, name
