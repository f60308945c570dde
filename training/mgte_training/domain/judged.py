"""Queries with known answers in a corpus: what models are compared on."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgte_rag.errors import DataError, shown
from mgte_training.data.readers import json_lines
from mgte_training.domain.pairs import Asked


@dataclass(frozen=True, slots=True)
class Judged:
    """Queries, a corpus, and which documents answer which query.

    Attributes:
        queries: texts.
        documents: texts, the corpus.
        relevant: for each query the places of the documents that answer it, at least one.
        groups: for each query what it was made of, its document's name say; queries of one group are no independent
            observations.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    groups: tuple[str, ...]

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[str, str]]) -> "Judged":
        """Each query has one document, and is a group of its own."""
        queries, documents = (tuple(side) for side in zip(*pairs, strict=True)) if pairs else ((), ())
        return cls(queries, documents, tuple(frozenset({place}) for place in range(len(pairs))), queries)

    @classmethod
    def of_sections(cls, asked: Sequence[Asked], sections: Sequence[str]) -> "Judged":
        """Queries of some documents against the sections of all."""
        return cls(
            tuple(each.query for each in asked),
            tuple(sections),
            tuple(frozenset(each.sections) for each in asked),
            tuple(each.document for each in asked),
        )

    def halves(self, seed: int) -> tuple["Judged", "Judged"]:
        """The queries in two halves, drawn at random by groups, each against the whole corpus.

        Raises:
            DataError: fewer than two groups of queries.
        """
        groups = sorted(set(self.groups))
        if len(groups) < 2:
            raise DataError(f"{len(groups)} groups of queries cannot be halved")
        random.Random(seed).shuffle(groups)
        first = set(groups[: len(groups) // 2])
        sides = [
            [place for place, group in enumerate(self.groups) if (group in first) == side] for side in (True, False)
        ]
        chosen, reported = (self.picked(places) for places in sides)
        return chosen, reported

    def picked(self, places: Sequence[int]) -> "Judged":
        """Some of the queries against the whole corpus."""
        return Judged(
            tuple(self.queries[place] for place in places),
            self.documents,
            tuple(self.relevant[place] for place in places),
            tuple(self.groups[place] for place in places),
        )

    def limited(self, queries: int, documents: int, seed: int) -> "Judged":
        """A seeded choice of so many queries at most, against a smaller corpus.

        Args:
            queries: at most.
            documents: all that answer a chosen query, and a seeded choice of the others up to so many.
            seed: of both choices.
        """
        chance = random.Random(seed)
        if len(self.queries) > queries:
            chosen = self.picked(sorted(chance.sample(range(len(self.queries)), queries)))
        else:
            chosen = self
        answers = frozenset[int]().union(*chosen.relevant)
        others = [place for place in range(len(self.documents)) if place not in answers]
        room = max(0, min(len(others), documents - len(answers)))
        kept = sorted([*answers, *chance.sample(others, room)])
        places = {old: new for new, old in enumerate(kept)}
        return Judged(
            chosen.queries,
            tuple(self.documents[place] for place in kept),
            tuple(frozenset(places[place] for place in relevant) for relevant in chosen.relevant),
            chosen.groups,
        )


def read_beir(folder: str | Path, *, max_queries: int = 1000, max_documents: int = 2000, seed: int = 0) -> Judged:
    """Read a folder in the BEIR layout: corpus.jsonl, queries.jsonl (or .gz) and qrels.tsv or qrels/test.tsv.

    Args:
        folder: of the set.
        max_queries: as ``Judged.limited`` chooses them.
        max_documents: likewise.
        seed: of both choices.

    Raises:
        DataError: a file is missing or malformed, or no query has an answer.
    """
    root = Path(folder)
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for row in _judgements(root):
        answers[row[0]].append(row[1])
    queries = {row["_id"]: row["text"] for row in _rows(root, "queries") if row["_id"] in answers}
    corpus = {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in _rows(root, "corpus")}
    places = {document: place for place, document in enumerate(corpus)}
    names = [name for name in queries if any(document in places for document in answers[name])]
    if not names:
        raise DataError(f"{root}: no query has a relevant document in the corpus")
    relevant = (frozenset(places[document] for document in answers[name] if document in places) for name in names)
    whole = Judged(tuple(queries[name] for name in names), tuple(corpus.values()), tuple(relevant), tuple(names))
    return whole.limited(max_queries, max_documents, seed)


def _judgements(root: Path) -> Iterator[tuple[str, str]]:
    """Query and document of every judgement above 0."""
    path = next((path for path in (root / "qrels.tsv", root / "qrels" / "test.tsv") if path.is_file()), None)
    if path is None:
        raise DataError(f"{root} has neither qrels.tsv nor qrels/test.tsv; a folder in the BEIR layout is needed")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}") from error
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        try:
            query, document, score = cells
            is_relevant = float(score) > 0
        except ValueError as error:
            raise DataError(f"{path}:{number}: query, document and score are needed, not {line!r}") from error
        if is_relevant:
            yield query, document


def _rows(root: Path, name: str) -> Iterator[Mapping[str, Any]]:
    path = next((path for path in (root / f"{name}.jsonl", root / f"{name}.jsonl.gz") if path.is_file()), None)
    if path is None:
        raise DataError(f"{root} has no {name}.jsonl; a folder in the BEIR layout is needed")
    for place, row in json_lines(path):
        if not isinstance(row, Mapping) or not {"_id", "text"} <= row.keys():
            raise DataError(f"{place}: an object with _id and text is needed, not {shown(row)}")
        yield row
