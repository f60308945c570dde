"""What the tests of training share."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def in_two_processes() -> Callable[..., None]:
    """Runs a script as two processes that find each other as torchrun's do, without its own process in between."""

    def run(script: Path, *arguments: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        processes = [
            subprocess.Popen(
                [sys.executable, str(script), *map(str, arguments)],
                env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for rank in "01"
        ]
        try:
            said = [process.communicate(timeout=240)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], said[0][-3000:] + said[1][-3000:]

    return run
