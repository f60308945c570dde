"""Files in several formats as records: documents with titles and sections, and rows that are pairs already."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from mgte_rag.errors import DataError, shown
from mgte_training.corpus.structure import (
    Outline,
    Section,
    outline_html,
    outline_markdown,
    outline_marked_up,
    outline_rst,
)

FORMATS: Mapping[str, Callable[[str], Outline]] = {
    ".md": outline_markdown,
    ".markdown": outline_markdown,
    ".rst": outline_rst,
    ".txt": outline_rst,
    ".html": outline_html,
    ".htm": outline_html,
}
"""What reads a file, by the end of its name; ``.jsonl`` files have a document or another row in every line."""

LINES = (".jsonl",)
READ = (*FORMATS, *LINES)
"""The ends of names that are read, each also with .gz."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        name: its path in the folder; documents of a .jsonl file have "#" and the number of the line after it.
        title: of the document; a file's name where it has none, "" where a line of a .jsonl file has none.
        sections: in their order.
    """

    name: str
    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a .jsonl file.

    Attributes:
        name: of the file, "#" and the number of the line.
        fields: what stands there.
    """

    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, or a line of one, that cannot be read.

    Attributes:
        name: as ``Document`` has it.
        reason: why.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus.

    Attributes:
        path: where it is.
        name: in its folder.
    """

    path: Path
    name: str

    @property
    def kind(self) -> str:
        """The end of its name, without .gz: one of ``READ``, or "" where it is not read."""
        name = self.path.name.lower().removesuffix(".gz")
        return next((end for end in READ if name.endswith(end)), "")


def corpus_files(source: str | Path) -> list[CorpusFile]:
    """The files in a folder and the folders in it, by name, or the one file; hidden ones are passed over.

    Raises:
        DataError: there is no such folder or file.
    """
    root = Path(source)
    if not root.exists():
        raise DataError(f"{root}: there is no such folder or file")
    if not root.is_dir():
        return [CorpusFile(root, root.name)]
    paths = (path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root): path for path in paths}
    return [
        CorpusFile(names[name], name.as_posix())
        for name in sorted(names)
        if not any(part.startswith(".") for part in name.parts)
    ]


def read_records(file: CorpusFile, *, skip: int = 0) -> Iterator[Document | Row | Unreadable]:
    """The records of a file, as a stream.

    Args:
        file: of a format that is read.
        skip: so many records at the beginning that are not given; every line that is not blank is one.
    """
    if file.kind in LINES:
        return _read_lines(file, skip)
    return islice(iter([_read_document(file)]), skip, None)


def document_of(row: Row) -> Document:
    """The document that a row with ``text`` and perhaps ``title`` is; the text is Markdown, reStructuredText or plain.

    Its title is "" where none is given and no heading could be one.

    Raises:
        DataError: a field is no string; the message does not name the row.
    """
    title, text = row.fields.get("title") or "", row.fields.get("text")
    for name, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            raise DataError(f"{name} must be a string, not {shown(value)}")
    outline = outline_marked_up(str(text), title.strip())
    return Document(row.name, outline.title, outline.sections)


def _opened(path: Path) -> IO[bytes]:
    """The file for reading, uncompressed."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _read_document(file: CorpusFile) -> Document | Unreadable:
    try:
        with closing(_opened(file.path)) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        return Unreadable(file.name, reason_of(error))
    outline = FORMATS[file.kind](text)
    stem = file.path.name[: file.path.name.lower().rindex(file.kind)]
    return Document(file.name, outline.title or _readable(stem), outline.sections)


def _read_lines(file: CorpusFile, skip: int) -> Iterator[Row | Unreadable]:
    number = 0
    try:
        with closing(_opened(file.path)) as stream:
            lines = ((n, line) for n, line in enumerate(stream, start=1) if line.strip())
            for number, line in islice(lines, skip, None):
                yield _row(line, f"{file.name}#{number}")
    except (OSError, EOFError, zlib.error) as error:
        yield Unreadable(file.name, f"after line {number}: {reason_of(error)}")


def _row(line: bytes, name: str) -> Row | Unreadable:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Unreadable(name, reason_of(error))
    if not isinstance(fields, dict):
        return Unreadable(name, f"an object with title and text is needed, not {shown(fields)}")
    return Row(name, fields)


def reason_of(error: Exception) -> str:
    """Why a text cannot be read, for people."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start:,}; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error}"
    return str(getattr(error, "strerror", None) or error)


def _readable(stem: str) -> str:
    """A file's name as a title: "error-handling" is "error handling"."""
    return " ".join(stem.replace("-", " ").replace("_", " ").split()) or stem
