"""Queries and the sections that answer them, from the structure of documents; no document is on both sides."""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mgte_rag.errors import DataError, shown
from mgte_training.corpus.documents import Document

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query whose answers are known.

    Attributes:
        query: a heading, with the document's title before it where it says little, or a question.
        document: the name of the document that has the answers.
        sections: places of the answers among all sections, ascending.
    """

    query: str
    document: str
    sections: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries and sections.

    Attributes:
        sections: texts, none twice: the corpus.
        owners: the name of each section's document.
        asked: the queries, none twice.
        counts: what became of all sections and queries, by reason; see ``describe``.
    """

    sections: tuple[str, ...]
    owners: tuple[str, ...]
    asked: tuple[Asked, ...]
    counts: Mapping[str, int]

    def describe(self) -> str:
        """The counts in a few lines."""
        return "\n".join(f"  {count:>8,}  {reason}" for reason, count in self.counts.items() if count)

    def split(self, share: float, seed: int) -> tuple[list[Asked], list[Asked]]:
        """The queries to train on and those held out; a document's are all on one side.

        Args:
            share: of the documents with queries that is held out, above 0 and below 1; at least one on each side.
            seed: decides which.

        Raises:
            DataError: fewer than two documents have queries.
        """
        names = sorted({each.document for each in self.asked})
        if len(names) < 2:
            raise DataError(
                f"{len(names)} documents have sections with headings; at least two are needed, to train on one and "
                f"measure on the other:\n{self.describe()}"
            )
        random.Random(seed).shuffle(names)
        held_out = set(names[: min(len(names) - 1, max(1, round(share * len(names))))])
        train = [each for each in self.asked if each.document not in held_out]
        return train, [each for each in self.asked if each.document in held_out]


def make_pairs(documents: Sequence[Document], *, min_words: int = 12, questions: str | Path | None = None) -> Pairs:
    """Ask every heading for its section.

    A heading of one word, and one that several documents have, is asked as "title: heading"; what stands directly
    under the title is asked by the title. A query that would be the same in several documents is left out.

    Args:
        documents: as ``read_documents`` gives them.
        min_words: sections of fewer words are left out of everything.
        questions: a .jsonl file of ``{question, text}`` or ``{question, document}``: a section's text or a part of it,
            or the name of a document, any section of which then counts as an answer.

    Raises:
        DataError: a line of the questions is malformed or names what is not there; or there is no pair at all.
    """
    counts = Counter[str]()
    kept = _kept(documents, min_words, counts)
    texts = tuple(text for _, _, text in kept)
    owners = tuple(document.name for document, _, _ in kept)
    headings = _headings(kept)
    answers: defaultdict[str, list[int]] = defaultdict(list)
    for place, (document, heading, _) in enumerate(kept):
        query, form = _query(document.title, heading, headings)
        counts[form] += 1
        if query:
            answers[query].append(place)
    if questions is not None:
        _add_questions(Path(questions), texts, owners, answers, counts)
    asked = []
    for query, places in answers.items():
        names = {owners[place] for place in places}
        if len(names) > 1:
            counts["queries left out: several documents answer them"] += 1
        else:
            asked.append(Asked(query, names.pop(), tuple(sorted(set(places)))))
    counts["queries"] = len(asked)
    pairs = Pairs(texts, owners, tuple(asked), counts)
    if not asked:
        raise DataError(
            f"no section of {len(documents):,} documents has a heading and {min_words} words or more; documents with "
            f"headings are needed, or lower min_words:\n{pairs.describe()}"
        )
    return pairs


def _kept(documents: Iterable[Document], min_words: int, counts: Counter[str]) -> list[tuple[Document, str, str]]:
    """Document, heading and text of each section that is long enough and stands in one place only."""
    every = [(document, section.heading, section.text) for document in documents for section in document.sections]
    counts["sections"] = len(every)
    times = Counter(_folded(text) for _, _, text in every)
    kept = []
    for document, heading, text in every:
        if len(_WORD.findall(text)) < min_words:
            counts[f"sections left out: fewer than {min_words} words"] += 1
        elif times[_folded(text)] > 1:
            counts["sections left out: the same text in several places"] += 1
        else:
            kept.append((document, heading, text))
    return kept


def _headings(kept: Iterable[tuple[Document, str, str]]) -> dict[str, int]:
    """How many documents have each heading."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for document, heading, _ in kept:
        names[_folded(heading)].add(document.name)
    return {heading: len(found) for heading, found in names.items()}


def _query(title: str, heading: str, headings: Mapping[str, int]) -> tuple[str, str]:
    """What asks for a section, and which form of query that is."""
    if not _WORD.search(heading):
        return (title, "sections asked by the title") if _WORD.search(title) else ("", "sections without a query")
    if len(_WORD.findall(heading)) > 1 and headings[_folded(heading)] == 1:
        return heading, "sections asked by their heading"
    return f"{title}: {heading}", "sections asked by title and heading"


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _add_questions(
    path: Path,
    texts: Sequence[str],
    owners: Sequence[str],
    answers: defaultdict[str, list[int]],
    counts: Counter[str],
) -> None:
    folded = [_folded(text) for text in texts]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the questions in {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question, field, value = _question(line, f"{path}:{number}")
        if field == "document":
            places = [place for place, owner in enumerate(owners) if owner == value]
        else:
            places = [place for place, text in enumerate(folded) if _folded(value) in text]
        if not places:
            counts["questions left out: no section that was kept has that text or document"] += 1
        else:
            counts["questions"] += 1
            answers[question] += places


def _question(line: str, place: str) -> tuple[str, str, str]:
    """The question, and which of "text" and "document" answers it, and its value."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: no JSON: {error}") from error
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: an object with question and text or document is needed, not {shown(row)}")
    given = [field for field in ("text", "document") if field in row]
    if len(given) != 1 or set(row) != {"question", *given}:
        raise DataError(f"{place}: question and one of text and document are needed, not {', '.join(map(str, row))}")
    for field in ("question", given[0]):
        if not isinstance(row[field], str) or not row[field].strip():
            raise DataError(f"{place}: {field} must be a string that is not empty, not {shown(row[field])}")
    return row["question"].strip(), given[0], row[given[0]]
