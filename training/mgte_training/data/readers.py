"""Rows of files, folders and hub datasets, one after the other, each with its place for messages."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from mgte_rag.errors import DataError, MissingExtraError, shown
from mgte_training.data.examples import Example, parse_row
from mgte_training.data.sources import Source

Row = Mapping[str, Any]

_JSON_LINES = (".jsonl", ".jsonl.gz")
_PARQUET = (".parquet",)
_PLAIN = ".txt"
FILE_ENDINGS = (*_JSON_LINES, *_PARQUET)


def read_examples(source: Source) -> Iterator[Example]:
    """A source's examples in their order, read as a stream.

    Raises:
        DataError: the source cannot be read or has a row that ``parse_row`` rejects; the message names file and line.
        MissingExtraError: parquet files, folders and hub datasets need the package datasets.
    """
    for place, row in _rows(source):
        renamed = _renamed(row, source.columns, place) if source.columns else row
        yield parse_row(renamed, place, ignored_fields=source.ignored_fields)


def read_corpus(path: str | Path) -> list[str]:
    """The documents of a file: per row ``title`` and ``text`` with a blank between them, or ``text`` alone.

    Args:
        path: .jsonl, .jsonl.gz or .parquet.

    Raises:
        DataError: the file cannot be read, or a row has no text; the message names file and line.
    """
    return list(corpus_texts(path))


def corpus_texts(path: str | Path) -> Iterator[str]:
    """``read_corpus`` as a stream, of a file or of all such files in a folder, by name; .txt is one document a file.

    Raises:
        DataError: as ``read_corpus``, or there is no such file in the folder.
    """
    root = Path(path)
    if not root.is_dir():
        yield from _file_texts(root)
        return
    files = [each for each in sorted(root.rglob("*")) if each.name.endswith((*FILE_ENDINGS, _PLAIN))]
    if not files:
        raise DataError(f"{root}: no file that ends in {', '.join((*FILE_ENDINGS, _PLAIN))}")
    for each in files:
        yield from _file_texts(each)


def _file_texts(path: Path) -> Iterator[str]:
    if path.suffix != _PLAIN or not path.is_file():
        for place, row in _file_rows(path):
            yield _document(row, place)
        return
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8: {error}") from error
    if not text:
        raise DataError(f"{path}: there is no text in it")
    yield text


def _document(row: object, place: str) -> str:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise DataError(f"{place}: a document is an object with text, a string, and maybe title, not {shown(row)}")
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise DataError(f"{place}: title must be a string, not {shown(title)}")
    document = f"{title} {row['text']}".strip()
    if not document:
        raise DataError(f"{place}: title and text are empty")
    return document


def _rows(source: Source) -> Iterator[tuple[str, object]]:
    path = Path(source.path)
    if path.is_dir():
        return _dataset_rows(source)
    if path.exists() or path.name.endswith(FILE_ENDINGS):
        return _file_rows(path)
    return _dataset_rows(source)


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.name.endswith(_JSON_LINES):
        return json_lines(path)
    if path.name.endswith(_PARQUET):
        return _parquet_rows(path)
    raise DataError(f"{path}: unknown kind of file; known are {', '.join(FILE_ENDINGS)}")


def json_lines(path: Path) -> Iterator[tuple[str, object]]:
    """The values of a JSON Lines file that is there, each with its place, "file, line 3"; blank lines are passed over.

    Raises:
        DataError: the file is damaged, or a line is not UTF-8 or no JSON; the message names file and line.
    """
    opened: IO[bytes] = gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[assignment]
    number = 0
    with closing(opened):
        try:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield place, _json_row(line, place)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}, after line {number}: cannot be read on: {error}") from error


def _json_row(line: bytes, place: str) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:  # also whole numbers of thousands of digits
        raise DataError(f"{place}: not JSON: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("datasets", "reading parquet files") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}, after row {number}: cannot be read on: {error}") from error


def _dataset_rows(source: Source) -> Iterator[tuple[str, object]]:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("datasets", f"reading the dataset {source.path!r}") from error
    try:
        dataset = _open_dataset(source, datasets)
        for number, row in enumerate(dataset, start=1):
            yield f"{source.path} [{source.split}], row {number}", row
    except DataError:
        raise
    except Exception as error:  # the library and its network code raise errors of many kinds
        raise DataError(
            f"source {source.name!r}: {source.path!r} is no file, and the dataset cannot be read: {error}"
        ) from error


def _open_dataset(source: Source, datasets: Any) -> Any:
    folder = Path(source.path)
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return datasets.load_dataset(
            source.path, source.subset, split=source.split, revision=source.revision, streaming=True
        )
    saved = datasets.load_from_disk(source.path)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if source.split not in saved:
        raise DataError(f"{source.path}: no split {source.split!r}; there are {', '.join(map(str, saved))}")
    return saved[source.split]


def _renamed(row: object, columns: Mapping[str, str], place: str) -> object:
    if not isinstance(row, Mapping):
        return row
    missing = [name for name in columns if name not in row]
    if missing:
        raise DataError(f"{place}: no field {missing[0]!r}, which columns= names; there are {', '.join(map(str, row))}")
    renamed = {columns.get(name, name): value for name, value in row.items()}
    if len(renamed) < len(row):
        raise DataError(f"{place}: columns= gives two fields the same name; there are {', '.join(map(str, row))}")
    return renamed
