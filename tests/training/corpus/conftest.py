"""Documents of made-up words, which no two texts share by chance, and ways to write and read files."""

import gzip
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mgte_training.corpus import Pair

Rows = Iterable[object]


@pytest.fixture(scope="session")
def words() -> Callable[..., str]:
    """Texts of random words that look like some language's; equal seeds give equal texts."""

    def make(seed: object, count: int = 40) -> str:
        chance = random.Random(str(seed))
        return " ".join("".join(chance.choices("abdefgiklmnoprstu", k=7)) for _ in range(count))

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of JSON lines."""

    def write_rows(rows: Rows, name: str = "corpus.jsonl") -> Path:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(exist_ok=True)
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write_rows


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads every shard of a folder."""

    def read(folder: Path) -> list[dict[str, Any]]:
        shards = sorted(folder.glob("pairs-*.jsonl.gz"))
        return [json.loads(line) for shard in shards for line in gzip.open(shard)]

    return read


@pytest.fixture(scope="session")
def pair(words: Callable[..., str]) -> Callable[..., Pair]:
    """Pairs that nothing speaks against, changed as asked."""

    def make(**changes: Any) -> Pair:
        default = {"query": "How cats sleep", "positive": words("positive"), "task": "heading-section", "source": "a"}
        return Pair(**{**default, "language": "en", **changes})

    return make
