"""Every example runs as it stands, offline, and prints what it promises."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_run_here() -> None:
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == ["03_qdrant_hybrid.py"]


def test_hybrid_search_in_qdrant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "03_qdrant_hybrid.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        assert f"\n{mode}: find all files" in printed
    best = printed.split("\nlate_interaction: ")[1].splitlines()[1]
    assert "glob" in best or "walk" in best
    assert "argparse" in printed.split("documents, not pieces")[1].splitlines()[1]
    assert "1 with new metadata, 0 tokens encoded" in printed
    assert "the copy answers the same" in printed
