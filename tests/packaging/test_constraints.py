"""The lowest frameworks that are tested are the lowest that may be installed."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_lowest_frameworks_are_those_of_the_project_file() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    frameworks = " ".join(extras["langchain"] + extras["llama-index"] + extras["qdrant"])
    allowed = dict(re.findall(r"([\w-]+)>=([\d.]+)", frameworks))
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    assert tested.keys() == {"langchain-core", "llama-index-core", "qdrant-client"}
    for name, version in tested.items():
        assert version.removesuffix(".0") == allowed[name]
