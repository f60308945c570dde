"""What a damaged shard still holds, found out in copies: the damaged files themselves are never changed."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import qdrant_edge as edge


def what_can_be_recovered(shard: Path) -> str:
    """A sentence for people: which files to move away, and how many points remain then."""
    try:
        for damaged in _candidates(shard):
            points = _points_without(shard, damaged)
            if points is not None:
                names = ", ".join(str(item.relative_to(shard.parent)) for item in damaged)
                return f"Without {names} it can be read and has {points:,} points: move that away and open it again."
    except OSError:
        return "No copy could be made to find out what can be recovered."
    return "Nothing in it could be recovered."


def _candidates(shard: Path) -> Iterator[list[Path]]:
    """Parts that may be the damaged one, likeliest and least loss first.

    The log alone loses nothing: every batch was flushed to the segments before it was acknowledged.
    """
    log = shard / "wal"
    segments = sorted(path for path in (shard / "segments").glob("*") if path.is_dir())
    yield [log]
    for segment in segments:
        yield [segment]
        yield [log, segment]


def _points_without(shard: Path, damaged: list[Path]) -> int | None:
    """Points in a copy of the shard without those files; None if it cannot be read so either."""
    if not all(item.exists() for item in damaged):
        return None
    with tempfile.TemporaryDirectory(dir=shard.parent, prefix="shard-check-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "shard"
        gone = {str(item) for item in damaged}
        shutil.copytree(shard, copy, ignore=lambda base, names: [n for n in names if str(Path(base) / n) in gone])
        try:
            opened = edge.EdgeShard.load(str(copy))
            points = opened.count(edge.CountRequest(exact=True))
            opened.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return None
        return points
