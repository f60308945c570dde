"""Documents, queries and judgments: the BEIR layout, read strictly."""

import gzip
import json
import random
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from mgte_rag import DataError, InvalidOptionError
from mgte_rag.errors import shown

# What stands over the grades of judgments with a heading.
_HEADINGS = {"score", "grade", "relevance", "label", "rel"}


@dataclass(frozen=True, slots=True)
class Row:
    """A document or a query as it was read, and where.

    Attributes:
        id: unique among its kind.
        text: title and text, with a blank between them.
        language: as an ISO 639-1 code, where the data says it.
        place: file and line, for messages.
    """

    id: str
    text: str
    language: str | None
    place: str


@dataclass(frozen=True, slots=True)
class Judgment:
    """How relevant a document is to a query, and where that was read."""

    query: str
    document: str
    grade: int
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """Queries with judged documents; made by ``build``.

    Attributes:
        name: for people.
        document_ids: in descending order of their UTF-8 bytes: documents with equal scores are ranked in this order,
            which is trec_eval's, by every stable sort.
        documents: their texts, title first.
        query_ids: in the order they were read; each has at least one relevant document.
        queries: their texts.
        query_languages: as the data says it; None where it does not.
        grades: query id to document id to grade; above 0 is relevant.
        language: of the documents; None where nobody said it.
        without_judgment: queries left out because no document is relevant to them.
    """

    name: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    query_languages: tuple[str | None, ...]
    grades: Mapping[str, Mapping[str, int]]
    language: str | None = None
    without_judgment: int = 0

    @classmethod
    def build(cls, name: str, documents: Iterable[Row], queries: Iterable[Row], judgments: Iterable[Judgment]) -> Self:
        """Check and put together what was read.

        Raises:
            DataError: an id twice, an empty query, a judgment of something that is not there or twice, or nothing
                to evaluate; the message names file and line.
        """
        corpus, asked = _by_id(documents, "document"), _by_id(queries, "query")
        for row in asked.values():
            if not row.text.strip():
                raise DataError(f"{row.place}: the query {row.id!r} is empty; remove it or give it a text")
        grades: dict[str, dict[str, int]] = {}
        for judgment in judgments:
            for kind, key, known in (("query", judgment.query, asked), ("document", judgment.document, corpus)):
                if key not in known:
                    raise DataError(f"{judgment.place}: judges the {kind} {key!r}, which is not among the {kind} lines")
            own = grades.setdefault(judgment.query, {})
            if own.get(judgment.document, judgment.grade) != judgment.grade:
                raise DataError(
                    f"{judgment.place}: query {judgment.query!r} and document {judgment.document!r} are judged twice, "
                    f"{own[judgment.document]} and {judgment.grade}; keep one"
                )
            own[judgment.document] = judgment.grade
        chosen = [row for row in asked.values() if any(grade > 0 for grade in grades.get(row.id, {}).values())]
        if not chosen:
            raise DataError(f"{name}: no query has a relevant document (a grade above 0); nothing can be measured")
        ordered = sorted(corpus.values(), key=lambda row: row.id.encode(), reverse=True)
        said = {row.language for row in ordered}
        return cls(
            name=name,
            document_ids=tuple(row.id for row in ordered),
            documents=tuple(row.text for row in ordered),
            query_ids=tuple(row.id for row in chosen),
            queries=tuple(row.text for row in chosen),
            query_languages=tuple(row.language for row in chosen),
            grades={row.id: grades[row.id] for row in chosen},
            language=said.pop() if len(said) == 1 else None,
            without_judgment=len(asked) - len(chosen),
        )

    def sample_queries(self, count: int, seed: int = 0) -> Self:
        """The set with so many of its queries at most, a seeded choice in the old order, and all documents."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidOptionError(f"queries={shown(count)}: a whole number above 0, or None for all queries")
        places = sorted(random.Random(seed).sample(range(len(self.queries)), min(count, len(self.queries))))
        ids = tuple(self.query_ids[i] for i in places)
        return replace(
            self,
            query_ids=ids,
            queries=tuple(self.queries[i] for i in places),
            query_languages=tuple(self.query_languages[i] for i in places),
            grades={key: self.grades[key] for key in ids},
        )

    def keep_documents(self, ids: Collection[str], name: str) -> Self:
        """The set with these documents only; those that are judged must be among them."""
        kept = [i for i, key in enumerate(self.document_ids) if key in ids]
        return replace(
            self,
            name=name,
            document_ids=tuple(self.document_ids[i] for i in kept),
            documents=tuple(self.documents[i] for i in kept),
        )


def read_folder(folder: str | Path, *, split: str = "test") -> RetrievalSet:
    """Read a folder in the BEIR layout.

    ``corpus.jsonl`` (``_id``, ``text``, optionally ``title`` and ``language``), ``queries.jsonl`` (``_id``, ``text``,
    optionally ``language``), both also as ``.jsonl.gz``, and ``qrels/{split}.tsv`` (query id, document id, grade, with
    or without a heading); for the split "test" also ``qrels.tsv``.

    Raises:
        DataError: a file is missing or empty, or a line cannot be used; the message names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one with corpus.jsonl(.gz), queries.jsonl(.gz) and qrels.tsv")
    corpus = _found(folder, ("corpus.jsonl.gz", "corpus.jsonl"))
    queries = _found(folder, ("queries.jsonl.gz", "queries.jsonl"))
    qrels = _found(folder, (f"qrels/{split}.tsv", "qrels.tsv") if split == "test" else (f"qrels/{split}.tsv",))
    return RetrievalSet.build(folder.resolve().name, _read_rows(corpus), _read_rows(queries), _read_judgments(qrels))


def _found(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no {' or '.join(names)}; see the BEIR layout in the documentation")


def _by_id(rows: Iterable[Row], kind: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row.id in found:
            raise DataError(f"{row.place}: the {kind} id {row.id!r} is there twice, first at {found[row.id].place}")
        found[row.id] = row
    return found


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, after its place; decoded line by line, so that a fault has a line."""
    number, empty = 0, True
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    empty = False
                    yield f"{path}:{number}", line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:  # gzip raises each of them for damaged files
        raise DataError(f"{path}:{number + 1}: cannot be read: {error}") from error
    if empty:
        raise DataError(f"{path}:1: the file is empty")


def _read_rows(path: Path) -> Iterator[Row]:
    for place, line in _lines(path):
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{place}: not a line of JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(f'{place}: must be an object such as {{"_id": "1", "text": "..."}}, not {shown(values)}')
        yield row_of(values, place)


def row_of(values: Mapping[str, Any], place: str) -> Row:
    """A document or query from its fields.

    Raises:
        DataError: a field is missing or no string; the message begins with the place.
    """
    for name, needed in (("_id", True), ("text", True), ("title", False), ("language", False)):
        value = values.get(name)
        if not isinstance(value, str) and (needed or value is not None):
            said = "is missing" if value is None else f"must be a string, not {shown(value)}"
            raise DataError(f"{place}: {name!r} {said}")
    if not values["_id"]:
        raise DataError(f"{place}: '_id' is empty")
    text = f"{values.get('title') or ''} {values['text']}".strip()
    try:
        (text + values["_id"]).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: half of a surrogate pair, which is no character; remove it") from None
    return Row(values["_id"], text, values.get("language"), place)


def _read_judgments(path: Path) -> Iterator[Judgment]:
    for number, (place, line) in enumerate(_lines(path)):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise DataError(f"{place}: must be query id, document id and grade with tabs between, not {shown(line)}")
        query, document, grade = fields
        try:
            yield Judgment(query, document, int(grade), place)
        except ValueError:
            if number > 0 or grade.strip().lower() not in _HEADINGS:
                raise DataError(f"{place}: the grade must be a whole number, not {shown(grade)}") from None
