"""A file of JSON lines that is written bit by bit and can be gone on with."""

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from mgte_rag.errors import DataError, InvalidOptionError
from mgte_training.data import Example, example_to_row


class ResumableLines:
    """Lines of a file under way, ``<output>.part``, with its state beside it, ``<output>.progress.json``.

    The output appears under its own name when it is complete. A process that ends at any moment leaves whole lines and
    the state that belongs to them.

    Args:
        output: a .jsonl file that does not exist yet.
        fingerprint: of all that decides the lines.

    Attributes:
        done: lines written by earlier runs and this one.
        state: what was given with the last of them; empty before the first.

    Raises:
        InvalidOptionError: the output is no .jsonl file.
        DataError: the output exists, or what is under way has another fingerprint.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        if output.suffix != ".jsonl":
            raise InvalidOptionError(f"output {output}: lines are written to a file that ends in .jsonl")
        if output.exists():
            raise DataError(f"{output} exists; it is never overwritten. Move it away or choose another name")
        self._output, self._fingerprint = output, fingerprint
        self._part = output.with_name(output.name + ".part")
        self._progress = output.with_name(output.name + ".progress.json")
        self.done, self.state = 0, dict[str, Any]()
        output.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        if self._progress.exists():
            size = self._read_progress()
        self._part.touch()
        os.truncate(self._part, size)
        if not self.done:
            self._write_progress()

    def beside(self, suffix: str) -> Path:
        """A further file of the work under way; ``finish`` deletes it."""
        return self._output.with_name(f"{self._output.name}{suffix}")

    def append(self, examples: Iterable[Example], state: Mapping[str, Any]) -> None:
        """Write examples and the state after them."""
        lines = [_line(example) for example in examples]
        with self._part.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.done += len(lines)
        self.state = dict(state)
        self._write_progress()

    def finish(self, *further: Path) -> None:
        """Give the output its name and its final state, ``<output>.report.json``; delete what is no longer needed."""
        _write_whole(self.beside(".report.json"), self.state)
        os.replace(self._part, self._output)
        for path in (self._progress, *further):
            path.unlink(missing_ok=True)

    def _read_progress(self) -> int:
        try:
            progress = json.loads(self._progress.read_text())
            same = progress["fingerprint"] == self._fingerprint
            self.done, self.state, size = progress["lines"], progress["state"], progress["bytes"]
            there = self._part.stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._progress} cannot be read: {error}. {self._remedy}") from error
        if not same:
            raise DataError(
                f"{self._part} is under way with another model, other options, examples or documents. {self._remedy}"
            )
        if there < size:
            raise DataError(f"{self._part} is shorter than when it was left: {there} of {size} bytes. {self._remedy}")
        return int(size)

    @property
    def _remedy(self) -> str:
        names = f"{self._output.name}.part and {self._output.name}.progress.json"
        return f"Delete {names} to begin anew, or choose another output"

    def _write_progress(self) -> None:
        _write_whole(
            self._progress,
            {
                "fingerprint": self._fingerprint,
                "lines": self.done,
                "bytes": self._part.stat().st_size,
                "state": self.state,
            },
        )


def fingerprint_of(settings: Mapping[str, Any], examples: Iterable[Example], documents: Iterable[str] = ()) -> str:
    """SHA-256 over everything that decides an output."""
    digest = sha256(json.dumps(settings, sort_keys=True, default=list).encode())
    for value in chain(map(example_to_row, examples), documents):
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()


def _line(example: Example) -> bytes:
    row = example_to_row(example)
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates, which only an escape can write
        return json.dumps(row).encode() + b"\n"


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=2))
    os.replace(unfinished, path)
