"""Pairs from the structure of records: what is asked, what answers it, and which task that is."""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

from mgte_rag.errors import DataError, shown
from mgte_training.corpus.documents import Document, Row, document_of
from mgte_training.corpus.structure import Section
from mgte_training.corpus.words import key_of, word_count

Task = Literal["title-body", "heading-section", "question-answer", "translation", "citation", "pair"]
TASKS: tuple[Task, ...] = get_args(Task)

_PAIR_FIELDS = frozenset({"query", "positive", "label", "language", "task", "id", "_id", "source", "type"})
# The Greek one is mostly written as a semicolon, which is one after a Greek letter alone.
_QUESTION = re.compile("[?？؟\u037e]$|[\u0370-\u03ff\u1f00-\u1fff];$")
_KINDS = "query and positive; question and answer; translations; title and text; title and citations, perhaps with text"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a text that answers it.

    Attributes:
        query: not empty.
        positive: not empty.
        task: what kind of pair it is: one of ``TASKS``, or what a row of a pair said.
        source: the name of the record it is from.
        language: as given, or "" until it is detected; of a translation both, "en-de".
        label: of a row that had one: pairs with the same are no negatives of each other.
    """

    query: str
    positive: str
    task: str
    source: str
    language: str = ""
    label: str | int | None = None

    def to_row(self) -> dict[str, Any]:
        """The row that ``mgte_training.data`` reads as an example."""
        row = {"query": self.query, "positive": self.positive, "language": self.language}
        label = {} if self.label is None else {"label": self.label}
        return {**row, "task": self.task, "source": self.source, **label}


@dataclass(frozen=True, slots=True)
class Made:
    """What a record gives.

    Attributes:
        pairs: in their order.
        cut: bodies that were too long and end at a paragraph before.
    """

    pairs: tuple[Pair, ...]
    cut: int = 0


def make_pairs_of(record: Document | Row, shared_headings: Container[int], *, body_words: int) -> Made:
    """The pairs of one record.

    A document is asked for by its title; the answer is its text, headings and all. Each section is asked for by its
    heading. A heading that ends with a question mark makes a question and its answer. Rows of other fields:

    - ``{query, positive}``, perhaps with ``task`` and ``label``: a pair as it is;
    - ``{question, answer}``: a question and its answer;
    - ``{translations: {"en": ..., "de": ..., ...}}``: each two languages are a pair, the one named first the query;
    - ``{title, citations: [{title, abstract}, ...]}``, perhaps with ``text``: the title asks for each cited text, its
      title and abstract (or ``text``); the document's own pairs are made as well where it has a text.

    Each may have ``language``; further fields are passed over, in a row of a pair they are an error.

    Args:
        record: a document or a row.
        shared_headings: keys of the headings that several documents have; they are asked with the title before them.
        body_words: a longer text of a title ends at the last paragraph before.

    Raises:
        DataError: a field is missing or of another type. The message does not name the record.
    """
    if isinstance(record, Document):
        return _of_document(record, shared_headings, body_words)
    fields, language = record.fields, _language(record.fields)
    if "query" in fields or "positive" in fields:
        return Made((_of_pair(record, language),))
    if "question" in fields or "answer" in fields:
        question, answer = _text(fields, "question"), _text(fields, "answer")
        return Made((Pair(question, answer, "question-answer", record.name, language),))
    if "translations" in fields:
        return Made(tuple(_of_translations(record)))
    if not fields.keys() & {"title", "text", "citations"}:
        raise DataError(f"fields {', '.join(map(str, fields)) or 'are missing'}; a row has {_KINDS}")
    made = Made(())
    if "text" in fields or "citations" not in fields:
        made = _of_document(document_of(record), shared_headings, body_words)
    pairs = (*made.pairs, *_of_citations(record))
    return Made(tuple(replace(pair, language=language) for pair in pairs), made.cut)


def heading_query(title: str, heading: str, *, is_shared: bool) -> str:
    """What asks for a section: its heading, after the title where it says little; "" where that leaves nothing to ask.

    Args:
        title: of the document.
        heading: of the section, "" directly under the title.
        is_shared: whether several documents have that heading.
    """
    if not word_count(heading):
        return title if word_count(title) else ""
    if word_count(heading) > 1 and not is_shared:
        return heading
    return f"{title}: {heading}" if word_count(title) else ""


def _of_document(document: Document, shared_headings: Container[int], body_words: int) -> Made:
    body, is_cut = _body(document, body_words)
    pairs = []
    if body and word_count(document.title):
        pairs.append(Pair(document.title, body, "title-body", document.name))
    for section in document.sections:
        if not section.heading or not section.text:
            continue  # what stands under the title, and headings of nothing but further headings: in the body
        is_shared = key_of(section.heading) in shared_headings
        query = heading_query(document.title, section.heading, is_shared=is_shared)
        task = "question-answer" if _QUESTION.search(section.heading) else "heading-section"
        if query:
            pairs.append(Pair(query, section.text, task, document.name))
    return Made(tuple(pairs), int(is_cut))


def _body(document: Document, words: int) -> tuple[str, bool]:
    """The text of a document, and whether it was cut."""
    text = "\n\n".join(_whole(section) for section in document.sections)
    if word_count(text) <= words:
        return text, False
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words -= word_count(paragraph)
        if words < 0 and kept:
            break
        kept.append(paragraph)
    return "\n\n".join(kept), True


def _whole(section: Section) -> str:
    return "\n\n".join(part for part in (section.heading, section.text) if part)


def _of_pair(row: Row, language: str) -> Pair:
    lost = sorted(str(name) for name, value in row.fields.items() if value is not None and name not in _PAIR_FIELDS)
    if lost:
        raise DataError(f"a pair has query, positive, label, language and task; {', '.join(lost)} would be lost")
    task, label = row.fields.get("task") or "pair", row.fields.get("label")
    if not isinstance(task, str):
        raise DataError(f"task must be a string, not {shown(task)}")
    if label is not None and not isinstance(label, str | int):
        raise DataError(f"label must be a string or a whole number, not {shown(label)}")
    return Pair(_text(row.fields, "query"), _text(row.fields, "positive"), task, row.name, language, label)


def _of_translations(row: Row) -> Iterator[Pair]:
    texts = row.fields["translations"]
    if not isinstance(texts, Mapping) or len(texts) < 2:
        raise DataError(f"translations must be an object of two languages or more and their texts, not {shown(texts)}")
    for one, other in combinations(texts, 2):
        yield Pair(_text(texts, one), _text(texts, other), "translation", row.name, f"{one}-{other}")


def _of_citations(row: Row) -> Iterator[Pair]:
    citations = row.fields.get("citations", [])
    if not isinstance(citations, list):
        raise DataError(f"citations must be a list of objects with title and abstract, not {shown(citations)}")
    for cited in citations:
        if not isinstance(cited, Mapping):
            raise DataError(f"citations must be objects with title and abstract, not {shown(cited)}")
        text = _text(cited, "abstract" if "abstract" in cited else "text")
        yield Pair(_text(row.fields, "title"), f"{_text(cited, 'title')}\n\n{text}", "citation", row.name)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name} must be a string that is not empty, not {shown(value)}")
    return value.strip()


def _language(fields: Mapping[str, Any]) -> str:
    language = fields.get("language") or ""
    if not isinstance(language, str):
        raise DataError(f"language must be a string, not {shown(language)}")
    return language
