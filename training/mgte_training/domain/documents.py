"""A folder of documents, whatever formats they are in, as titles and sections."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mgte_rag.errors import DataError, shown
from mgte_training.domain.structure import Outline, Section, outline_html, outline_markdown, outline_rst

FORMATS: Mapping[str, Callable[[str], Outline]] = {
    ".md": outline_markdown,
    ".markdown": outline_markdown,
    ".rst": outline_rst,
    ".txt": outline_rst,
    ".html": outline_html,
    ".htm": outline_html,
}
"""What reads a file, by the end of its name; ``.jsonl`` files have a document, Markdown or plain, in every line."""

_LINES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        name: its path in the folder; documents of a .jsonl file have "#" and the number of the line after it.
        title: of the document, its file's name where it has none.
        sections: in their order.
    """

    name: str
    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read.

    Attributes:
        documents: by name.
        problems: files and lines that could not be read, with reasons.
        others: files of other formats, which were not looked at.
    """

    documents: tuple[Document, ...]
    problems: tuple[str, ...] = ()
    others: int = field(default=0)


def read_documents(folder: str | Path) -> Documents:
    """Read every document in a folder and the folders in it.

    Args:
        folder: with .md, .rst, .txt, .html and .jsonl files (title and text in every line), or one such file. Hidden
            files and folders are passed over.

    Raises:
        DataError: there is no such folder, or no document that can be read in it.
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(f"{root}: there is no such folder")
    paths = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    found: list[Document] = []
    problems: list[str] = []
    others = 0
    for path in paths:
        name = path.relative_to(root).as_posix() if path != root else path.name
        if path.name.endswith(_LINES):
            found += _read_lines(path, name, problems)
        elif path.suffix.lower() in FORMATS:
            try:
                outline = FORMATS[path.suffix.lower()](path.read_text(encoding="utf-8-sig"))
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{name}: {_reason(error)}")
                continue
            found.append(Document(name, outline.title or _readable(path.stem), outline.sections))
        else:
            others += 1
    if not found:
        raise DataError(
            f"{root}: no document; files that end in {', '.join([*FORMATS, *_LINES])} are read"
            + (f", {others} others are there" if others else "")
            + "".join(f"\n  {problem}" for problem in problems[:5])
        )
    return Documents(tuple(found), tuple(problems), others)


def _read_lines(path: Path, name: str, problems: list[str]) -> Iterator[Document]:
    try:
        opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            lines = file.read().splitlines()
    except (OSError, EOFError) as error:
        problems.append(f"{name}: {_reason(error)}")
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _document(json.loads(line), f"{name}#{number}")
        except (ValueError, DataError) as error:
            problems.append(f"{name}#{number}: {_reason(error)}")


def _document(row: object, name: str) -> Document:
    if not isinstance(row, Mapping):
        raise DataError(f"an object with title and text is needed, not {shown(row)}")
    for needed in ("title", "text"):
        if not isinstance(row.get(needed), str):
            raise DataError(f"{needed} must be a string, not {shown(row.get(needed))}")
    outline = outline_markdown(row["text"], row["title"].strip())
    if not outline.title:
        raise DataError("there is neither a title nor a heading that could be one")
    return Document(name, outline.title, outline.sections)


def _readable(stem: str) -> str:
    """A file's name as a title: "error-handling" is "error handling"."""
    return " ".join(stem.replace("-", " ").replace("_", " ").split()) or stem


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start:,}; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error}"
    return str(getattr(error, "strerror", None) or error)
