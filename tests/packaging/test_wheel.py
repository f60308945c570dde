"""The wheel holds what the tree holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = {".py", ".json", ".safetensors", ".md", ".typed"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist())


def test_every_source_file_is_in_the_wheel_under_its_import_name(wheel_names: set[str]) -> None:
    folders = [ROOT / "integrations", ROOT / "training"]
    packages = [ROOT / "mgte_rag", *(p for folder in folders for p in folder.iterdir() if (p / "__init__.py").exists())]
    assert len(packages) == 6
    for package in packages:
        files = [p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.suffix in KEPT]
        assert set(files) <= wheel_names
        assert f"{package.name}/py.typed" in wheel_names


def test_nothing_else_is_in_the_wheel(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "mgte_rag", "langchain_mgte", "llama_index_mgte", "mgte_cli", "mgte_training", "qdrant_mgte",
    }  # fmt: skip


def test_the_folders_that_hold_packages_are_none() -> None:
    assert not (ROOT / "integrations" / "__init__.py").exists()
    assert not (ROOT / "training" / "__init__.py").exists()
