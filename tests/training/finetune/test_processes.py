"""Two processes that share a batch train as one that has the whole of it."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file


def run(folder: Path, model: Path, processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(model), str(folder)], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(tiny_bert: Path, tmp_path: Path) -> None:
    """Negatives cross the processes, with gradients, for every head; whole batches and batches in parts."""
    run(tmp_path, tiny_bert, 1)
    run(tmp_path, tiny_bert, 2)
    for name in ("query", "both", "improved"):
        alone, together = (load_file(tmp_path / f"{name}.{processes}.safetensors") for processes in (1, 2))
        start = load_file(tmp_path / "query.1.safetensors")
        assert alone.keys() == together.keys() == start.keys()
        worst = max(float((alone[key] - together[key]).abs().max()) for key in alone)
        assert worst < 1e-5, name
