"""Rows in files of equal numbers, each of which appears when it is whole."""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mgte_rag.errors import DataError

_PROGRESS = "progress.json"


class Shards:
    """Files ``pairs-00000.jsonl.gz``, ... of a folder, and where the work stands, ``progress.json``.

    A process that ends at any moment leaves whole shards and the state that belongs to them. Equal rows give equal
    bytes. What was begun is under another name and written anew.

    Args:
        folder: made where it is missing.
        rows: of a shard, the last one may have fewer.
        fingerprint: of all that decides the rows.

    Attributes:
        count: shards that are whole.
        state: what was given with the last of them; None before the first.
        is_complete: there will be no further shard.

    Raises:
        DataError: the folder cannot be written, or what is under way in it has another fingerprint.
    """

    def __init__(self, folder: Path, rows: int, fingerprint: str) -> None:
        self._folder, self._rows, self._fingerprint = folder, rows, fingerprint
        self._stream: _Compressed | None = None
        self._in_shard = 0
        self.count = 0
        self.state: dict[str, Any] | None = None
        self.is_complete = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for unfinished in folder.glob("*.part"):
                unfinished.unlink()
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error
        if (folder / _PROGRESS).exists():
            self._read_progress()
        elif any(folder.iterdir()):
            raise DataError(f"{folder} has files of something else; choose an empty or a new folder")
        else:
            self.write(_PROGRESS, json.dumps(self._progress()))

    def add(self, row: Mapping[str, Any]) -> bool:
        """Write a row.

        Returns:
            Whether its shard is whole; it then waits for ``finish_shard``.
        """
        path = self._path(self.count)
        try:
            if self._stream is None:
                self._stream = _Compressed(_part(path))
            self._stream.write(_line(row))
        except OSError as error:
            raise self._failed(path, error) from error
        self._in_shard += 1
        return self._in_shard == self._rows

    def finish_shard(self, state: Mapping[str, Any], *, is_last: bool = False) -> None:
        """Give the rows since the last shard their file, and keep the state that goes with it."""
        path = self._path(self.count)
        try:
            if self._stream is not None:
                self._stream.close()
                os.replace(_part(path), path)
                self.count += 1
            self._stream, self._in_shard = None, 0
            self.state, self.is_complete = dict(state), is_last
            self.write(_PROGRESS, json.dumps(self._progress()))
        except OSError as error:
            raise self._failed(path, error) from error

    def write(self, name: str, text: str) -> None:
        """Write a further file of the folder, which appears when it is whole.

        Raises:
            DataError: it cannot be written.
        """
        path = self._folder / name
        try:
            with _part(path).open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(_part(path), path)
        except OSError as error:
            raise self._failed(path, error) from error

    def remove(self, name: str) -> None:
        """Delete a file that ``write`` wrote."""
        (self._folder / name).unlink(missing_ok=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the shards that are whole.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for path in map(self._path, range(self.count)):
            try:
                with gzip.open(path) as lines:
                    yield from map(json.loads, lines)
            except (OSError, EOFError, ValueError) as error:
                raise DataError(f"{path} cannot be read: {error}. Delete the folder to begin anew") from error

    def close(self) -> None:
        """Leave what was begun."""
        if self._stream is not None:
            self._stream.discard()
            with suppress(OSError):
                _part(self._path(self.count)).unlink()
        self._stream, self._in_shard = None, 0

    def _path(self, number: int) -> Path:
        return self._folder / f"pairs-{number:05}.jsonl.gz"

    def _failed(self, path: Path, error: OSError) -> DataError:
        self.close()
        return DataError(
            f"{path}: cannot be written: {error.strerror or error}. {self.count} finished shards are kept; make room "
            f"and give the same command again to go on from there"
        )

    def _progress(self) -> dict[str, Any]:
        done = {"fingerprint": self._fingerprint, "shards": self.count, "is_complete": self.is_complete}
        return {**done, "state": self.state}

    def _read_progress(self) -> None:
        path = self._folder / _PROGRESS
        try:
            progress = json.loads(path.read_text(encoding="utf-8"))
            same = progress["fingerprint"] == self._fingerprint
            self.count, self.state = int(progress["shards"]), progress["state"]
            self.is_complete = bool(progress["is_complete"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read: {error}. Delete the folder to begin anew") from error
        if not same:
            raise DataError(
                f"{self._folder} was begun with other files, options or another model; choose another folder or "
                f"delete this one"
            )
        missing = [path for path in map(self._path, range(self.count)) if not path.is_file()]
        if missing:
            raise DataError(f"{missing[0]} is missing, and the work is beyond it. Delete the folder to begin anew")


class _Compressed:
    """A gzip file without name and time in it, so that equal rows are equal bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._gzip = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._file, mtime=0)

    def write(self, line: bytes) -> None:
        self._gzip.write(line)

    def close(self) -> None:
        self._gzip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close what may not have room for what is still to be written."""
        for stream in (self._gzip, self._file):
            with suppress(OSError, ValueError):
                stream.close()


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates, which only an escape can write
        return json.dumps(row).encode() + b"\n"
