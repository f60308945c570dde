"""What a corpus gave: counts that add up, lengths, languages, scores, and examples of what was left out."""

import heapq
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mgte_training.corpus.pairs import Pair
from mgte_training.corpus.words import key_of, word_count

REASONS = (
    "language",
    "length",
    "broken characters",
    "boilerplate",
    "unsafe",
    "exact duplicate",
    "repeated text",
    "near duplicate",
    "semantic",
)
"""Why a pair is left out, in the order in which filters look; the first that speaks against a pair counts it."""

UNREADABLE, NO_PAIR = "unreadable", "no pair in it"
SCORE_STEP = 0.02

_SAMPLES = 5


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """A pair, or a record without one, to look at.

    Attributes:
        rank: what the choice among all of its kind goes by.
        source: the record.
        query: its beginning.
        positive: its beginning.
        detail: what was wrong with it.
    """

    rank: int
    source: str
    query: str
    positive: str
    detail: str


@dataclass(slots=True)
class Statistics:
    """Counts that add up: every record has pairs or is in ``without``, every pair is in ``kept`` or ``dropped``.

    Attributes:
        seed: of the choice of samples.
        files: read.
        others: files of other formats, which were not looked at.
        records: documents and rows read.
        with_pairs: of these, those with at least one pair.
        without: of these, the others, by reason.
        cut: bodies that were too long and end at a paragraph before.
        pairs: made.
        kept: written.
        dropped: left out, by reason.
        tasks: of each task, pairs made and kept.
        languages: of each language, pairs made and kept.
        query_words: pairs kept by the power of two that their query's words reach.
        positive_words: likewise of the positive.
        scores_kept: pairs kept by their score in steps of ``SCORE_STEP``; only where a model was asked.
        scores_dropped: likewise of the pairs that the semantic filter left out.
        unscored: pairs kept without a score, though a model was asked.
        samples: a few of every reason, of the pairs kept and of the records without pairs.
    """

    seed: int = 0
    files: int = 0
    others: int = 0
    records: int = 0
    with_pairs: int = 0
    without: dict[str, int] = field(default_factory=lambda: {UNREADABLE: 0, NO_PAIR: 0})
    cut: int = 0
    pairs: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    tasks: dict[str, list[int]] = field(default_factory=dict)
    languages: dict[str, list[int]] = field(default_factory=dict)
    query_words: dict[str, int] = field(default_factory=dict)
    positive_words: dict[str, int] = field(default_factory=dict)
    scores_kept: dict[str, int] = field(default_factory=dict)
    scores_dropped: dict[str, int] = field(default_factory=dict)
    unscored: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def add_record(self, pairs: int, cut: int) -> None:
        """Count a record that could be read."""
        self.records += 1
        self.cut += cut
        if pairs:
            self.with_pairs += 1
        else:
            self.without[NO_PAIR] += 1

    def add_unreadable(self, name: str, reason: str) -> None:
        """Count a record that could not be read."""
        self.records += 1
        self.without[UNREADABLE] += 1
        self._show(UNREADABLE, name, "", "", reason)

    def add_kept(self, pair: Pair, score: float | None = None, *, asked: bool = False) -> None:
        """Count a pair that is written."""
        self._add(pair, kept=1)
        self.kept += 1
        for words, text in ((self.query_words, pair.query), (self.positive_words, pair.positive)):
            _count(words, str(1 << max(0, word_count(text).bit_length() - 1)))
        if score is not None:
            _count(self.scores_kept, _step(score))
        self.unscored += asked and score is None
        self._show("kept", pair.source, pair.query, pair.positive, "" if score is None else f"score {score:.2f}")

    def add_dropped(self, pair: Pair, reason: str, detail: str, score: float | None = None) -> None:
        """Count a pair that is left out."""
        self._add(pair, kept=0)
        self.dropped[reason] += 1
        if score is not None:
            _count(self.scores_dropped, _step(score))
        self._show(reason, pair.source, pair.query, pair.positive, detail)

    def check(self) -> None:
        """Fail where a record or a pair was lost or counted twice."""
        assert self.records == self.with_pairs + sum(self.without.values()), f"records do not add up: {self}"
        assert self.pairs == self.kept + sum(self.dropped.values()), f"pairs do not add up: {self}"
        for counts in (self.tasks, self.languages):
            assert [sum(each) for each in zip(*counts.values(), strict=True)] in ([], [self.pairs, self.kept])
        assert sum(self.query_words.values()) == sum(self.positive_words.values()) == self.kept

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON has them."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        samples = {kind: [Sample(**each) for each in kept] for kind, kept in content["samples"].items()}
        return cls(**{**content, "samples": samples})

    def _add(self, pair: Pair, kept: int) -> None:
        self.pairs += 1
        for counts, name in ((self.tasks, pair.task), (self.languages, pair.language)):
            both = counts.setdefault(name, [0, 0])
            both[0] += 1
            both[1] += kept

    def _show(self, kind: str, source: str, query: str, positive: str, detail: str) -> None:
        """Keep a sample if its rank, drawn by a hash, is among the lowest: the choice is the same in any order."""
        kept = self.samples.setdefault(kind, [])
        rank = key_of(str(self.seed), source, query, positive)
        if len(kept) < _SAMPLES or rank < kept[-1].rank:
            sample = Sample(rank, source, _short(query, 120), _short(positive, 300), detail)
            self.samples[kind] = heapq.nsmallest(_SAMPLES, [*kept, sample])

    def __str__(self) -> str:
        share = 100 / max(1, self.pairs)
        lines = [
            f"{self.records:,} records of {self.files:,} files, {self.with_pairs:,} with pairs",
            *(f"  {count:>12,}          {reason}" for reason, count in self.without.items() if count),
            f"{self.pairs:,} pairs made",
            f"  {self.kept:>12,} {self.kept * share:5.1f} %  kept",
            *(f"  {count:>12,} {count * share:5.1f} %  {reason}" for reason, count in self.dropped.items() if count),
        ]
        lines += _table("task", self.tasks) + _table("language", self.languages)
        if self.others:
            lines.append(f"{self.others:,} files of other formats were not looked at")
        if self.cut:
            lines.append(f"{self.cut:,} bodies were too long and end at a paragraph before")
        if self.unscored:
            lines.append(f"{self.unscored:,} pairs are in languages that the model was not asked about")
        return "\n".join(lines)


def _table(name: str, counts: Mapping[str, Iterable[int]]) -> list[str]:
    rows = sorted(counts.items(), key=lambda each: (-next(iter(each[1])), each[0]))[:12]
    return [
        f"{name:<20} {'made':>10} {'kept':>10}",
        *(f"{each:<20} {made:>10,} {kept:>10,}" for each, (made, kept) in rows),
    ]


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _step(score: float) -> str:
    """The lower end of the step that a score is in."""
    return f"{int((score + 1) // SCORE_STEP) * SCORE_STEP - 1:.2f}"


def _short(text: str, length: int) -> str:
    return textwrap.shorten(text, length, placeholder=" ...") if " " in text else text[:length]
