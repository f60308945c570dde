"""Retrieval sets from the Hugging Face hub."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgte_rag import DataError, MissingExtraError
from mgte_training.evaluation.retrieval_sets import Judgment, RetrievalSet, Row, row_of


def read_hub(name: str, *, split: str = "test", revision: str | None = None) -> RetrievalSet:
    """Read a data set in the layout of BEIR and MTEB on the hub: configurations corpus, queries and default.

    Args:
        name: "mteb/nfcorpus", or a folder with such configurations.
        split: of the judgments.
        revision: branch, tag or commit on the hub.

    Raises:
        MissingExtraError: the package datasets is not installed.
        DataError: there is no such data set or no network, or a row cannot be used.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("datasets", "reading data sets from the hub") from error

    # The library keeps what it read of a folder under the folder's last name, and would give it for another or a
    # changed one: a folder is read with nothing kept.
    is_folder = Path(name).is_dir()

    def load(configuration: str, part: str) -> Any:
        try:
            return datasets.load_dataset(
                name,
                configuration,
                split=part,
                revision=revision,
                streaming=is_folder,
                cache_dir=nothing if is_folder else None,
            )
        except Exception as error:  # the library lets through what its many file systems and formats raise
            raise DataError(
                f"cannot read {configuration!r}, split {part!r}, of the data set {name!r}: {error}. It needs the "
                f"network or a copy in the cache; a folder with corpus.jsonl, queries.jsonl and qrels.tsv needs neither"
            ) from error

    with tempfile.TemporaryDirectory() as nothing:
        corpus, queries = load("corpus", "corpus"), load("queries", "queries")
        judgments = load("default", split)
        return RetrievalSet.build(
            name, _rows(name, "corpus", corpus), _rows(name, "queries", queries), _judged(name, judgments)
        )


def _rows(name: str, kind: str, rows: Any) -> Iterator[Row]:
    for number, row in enumerate(rows):
        key = row.get("_id", row.get("id"))
        yield row_of({**row, "_id": str(key) if isinstance(key, int) else key}, f"{name} {kind} row {number}")


def _judged(name: str, rows: Any) -> Iterator[Judgment]:
    for number, row in enumerate(rows):
        place = f"{name} judgments row {number}"
        try:
            if int(row["score"]) != float(row["score"]):
                raise ValueError
            yield Judgment(str(row["query-id"]), str(row["corpus-id"]), int(row["score"]), place)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{place}: needs query-id, corpus-id and a whole number as score, not {row}") from None
