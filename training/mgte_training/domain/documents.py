"""A folder of documents, whatever formats they are in, as titles and sections."""

from dataclasses import dataclass, field
from pathlib import Path

from mgte_rag.errors import DataError
from mgte_training.corpus.documents import READ, Document, Row, Unreadable, corpus_files, document_of, read_records


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
        folder: with .md, .rst, .txt, .html and .jsonl files (title and text in every line), each perhaps .gz, or one
            such file. Hidden files and folders are passed over.

    Raises:
        DataError: there is no such folder, or no document that can be read in it.
    """
    files = corpus_files(folder)
    found: list[Document] = []
    problems: list[str] = []
    for record in (record for file in files if file.kind for record in read_records(file)):
        try:
            found.append(_document(record))
        except DataError as error:
            problems.append(f"{record.name}: {error}")
    others = sum(not file.kind for file in files)
    if not found:
        raise DataError(
            f"{folder}: no document; files that end in {', '.join(READ)} (also .gz) are read"
            + (f", {others} others are there" if others else "")
            + "".join(f"\n  {problem}" for problem in problems[:5])
        )
    return Documents(tuple(found), tuple(problems), others)


def _document(record: Document | Row | Unreadable) -> Document:
    if isinstance(record, Unreadable):
        raise DataError(record.reason)
    document = document_of(record) if isinstance(record, Row) else record
    if not document.title:
        raise DataError("there is neither a title nor a heading that could be one")
    return document
