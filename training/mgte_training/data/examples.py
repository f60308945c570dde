"""One training example, and the row formats it is read from and written to."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgte_rag.errors import DataError, shown

# Fields that describe an example and take no part in training.
DESCRIPTIVE_FIELDS = frozenset({"_id", "id", "language", "source", "task", "type"})

# Each part of an example under every name it may have: sentence-transformers', this project's, FlagEmbedding's.
_POSITIVES = ("positive", "positives", "pos")
_NEGATIVES = ("negative", "negatives", "neg")
_POSITIVE_SCORES = ("positive_scores", "pos_scores")
_NEGATIVE_SCORES = ("negative_scores", "neg_scores")
_DISTILLED = ("documents", "scores")
_FIELDS = frozenset({"query", "label", *_POSITIVES, *_NEGATIVES, *_POSITIVE_SCORES, *_NEGATIVE_SCORES, *_DISTILLED})


@dataclass(frozen=True, slots=True)
class Example:
    """A query with documents that answer it and documents that do not.

    Attributes:
        query: the query, without a prompt.
        positives: documents that answer it, at least one, no two the same.
        negatives: documents that look as if they did, no two the same, none of them a positive.
        positive_scores: a teacher's score of each positive, or None.
        negative_scores: a teacher's score of each negative, or None.
        label: examples with the same label are no negatives of each other.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    label: str | None = None

    @property
    def has_scores(self) -> bool:
        """Whether a teacher scored every document."""
        return self.positive_scores is not None and (self.negative_scores is not None or not self.negatives)


def parse_row(row: object, place: str, *, ignored_fields: Collection[str] = ()) -> Example:
    """An example from one row of a file.

    Formats, told apart by their fields; a field that is null counts as not there:

    - pairs ``{query, positive}`` and triples ``{query, positive, negative}``;
    - n-tuples ``{query, positive or positives: [...], negatives: [...]}``, with ``positive_scores`` and
      ``negative_scores`` where a teacher scored them;
    - FlagEmbedding's ``{query, pos: [...], neg: [...], pos_scores, neg_scores}``;
    - distillation as PyLate and sentence-transformers have it, texts in place of ids: ``{query, documents: [...],
      scores: [...]}``. The document with the highest score becomes the positive, the first of equals.

    Each may have a ``label``, a string or a whole number, and the fields of ``DESCRIPTIVE_FIELDS``, which are not
    read. Where both ``positive`` and ``positives`` stand, the one must be among the others; the same for negatives. A
    text that is repeated in one list counts once, with its first score.

    Args:
        row: what was read.
        place: file and line, for messages.
        ignored_fields: further fields that are allowed and not read.

    Raises:
        DataError: a field is missing, unknown, empty or of another type, a count or a score is wrong, or a negative is
            a positive as well. The message names the place.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: an example is an object with fields such as query and positive, not {shown(row)}")
    fields = {name: value for name, value in row.items() if value is not None}
    unknown = sorted(str(name) for name in fields.keys() - _FIELDS - DESCRIPTIVE_FIELDS - set(ignored_fields))
    if unknown:
        raise DataError(
            f"{place}: unknown field {unknown[0]!r}. Known are {', '.join(sorted(_FIELDS))}; rename it with columns= "
            f"or name it in ignored_fields= of the source"
        )
    query = _text(fields.get("query"), "query", place)
    label = _label(fields.get("label"), place)
    if "documents" in fields or "scores" in fields:
        return _distilled(fields, query, label, place)
    positives, positive_scores = _side(fields, _POSITIVES, _POSITIVE_SCORES, place)
    if not positives:
        raise DataError(f"{place}: no positive; give positive, a string, or positives (or pos), a list of strings")
    negatives, negative_scores = _side(fields, _NEGATIVES, _NEGATIVE_SCORES, place)
    return _checked(Example(query, positives, negatives, positive_scores, negative_scores, label), place)


def example_to_row(example: Example) -> dict[str, Any]:
    """The n-tuple that ``parse_row`` reads back to the same example."""
    row: dict[str, Any] = {
        "query": example.query,
        "positives": list(example.positives),
        "negatives": list(example.negatives),
    }
    if example.positive_scores is not None:
        row["positive_scores"] = list(example.positive_scores)
    if example.negative_scores is not None:
        row["negative_scores"] = list(example.negative_scores)
    if example.label is not None:
        row["label"] = example.label
    return row


def _distilled(fields: Mapping[str, Any], query: str, label: str | None, place: str) -> Example:
    mixed = sorted(fields.keys() & {*_POSITIVES, *_NEGATIVES, *_POSITIVE_SCORES, *_NEGATIVE_SCORES})
    if mixed:
        raise DataError(f"{place}: documents with scores have no field {mixed[0]!r}; give one format or the other")
    documents = _texts(fields.get("documents"), "documents", place)
    scores = _scores(fields.get("scores"), "scores", len(documents), place)
    if not documents:
        raise DataError(f"{place}: documents is empty; an example has at least one document")
    documents, scores = _without_repeats(documents, scores)
    best = max(range(len(documents)), key=lambda i: scores[i])
    others = [i for i in range(len(documents)) if i != best]
    negatives = tuple(documents[i] for i in others)
    return Example(query, (documents[best],), negatives, (scores[best],), tuple(scores[i] for i in others), label)


def _side(
    fields: Mapping[str, Any], names: Sequence[str], score_names: Sequence[str], place: str
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The positives or the negatives, with their scores."""
    alone, *lists = names
    given = [name for name in lists if name in fields]
    if len(given) > 1:
        raise DataError(f"{place}: both {given[0]} and {given[1]}; give one of them")
    texts = _texts(fields[given[0]], given[0], place) if given else ()
    if alone in fields:
        one = _text(fields[alone], alone, place)
        if given and one not in texts:
            raise DataError(f"{place}: {alone} is not among {given[0]}: {shown(one)}")
        texts = texts or (one,)
    scored = [name for name in score_names if name in fields]
    if len(scored) > 1:
        raise DataError(f"{place}: both {scored[0]} and {scored[1]}; give one of them")
    if not scored:
        return tuple(dict.fromkeys(texts)), None
    return _without_repeats(texts, _scores(fields[scored[0]], scored[0], len(texts), place))


def _without_repeats(texts: Sequence[str], scores: Sequence[float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    kept = dict(zip(reversed(texts), reversed(scores), strict=True))  # the first of a repeated text wins
    unique = tuple(dict.fromkeys(texts))
    return unique, tuple(kept[text] for text in unique)


def _checked(example: Example, place: str) -> Example:
    for text in example.negatives:
        if text in example.positives:
            raise DataError(f"{place}: a negative is a positive as well: {shown(text)}")
    if example.negatives and (example.positive_scores is None) != (example.negative_scores is None):
        there, missing = ("negative", "positive") if example.positive_scores is None else ("positive", "negative")
        raise DataError(f"{place}: {there}_scores without {missing}_scores; a teacher scores all documents or none")
    return example


def _text(value: object, field: str, place: str) -> str:
    if not isinstance(value, str):
        if value is None:
            raise DataError(f"{place}: {field} is missing; it must be a string")
        raise DataError(f"{place}: {field} must be a string, not {shown(value)}")
    if not value.strip():
        raise DataError(f"{place}: {field} is empty")
    return value


def _texts(value: object, field: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        hint = f" (write [{shown(value)}] for one)" if isinstance(value, str) else ""
        raise DataError(f"{place}: {field} must be a list of strings, not {shown(value)}{hint}")
    return tuple(_text(text, f"{field}[{position}]", place) for position, text in enumerate(value))


def _scores(value: object, field: str, count: int, place: str) -> tuple[float, ...]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: {field} must be a list of numbers, not {shown(value)}")
    if len(value) != count:
        raise DataError(f"{place}: {field} has {len(value)} numbers for {count} documents")
    for position, score in enumerate(value):
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not math.isfinite(score):
            raise DataError(f"{place}: {field}[{position}] must be a finite number, not {shown(score)}")
    return tuple(float(score) for score in value)


def _label(value: object, place: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{place}: label must be a string or a whole number, not {shown(value)}")
    return str(value)
