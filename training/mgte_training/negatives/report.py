"""What mining took, what it dropped and why, with examples to look at."""

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SAME_LABEL = "positive of an example with the same label"
MARGIN = "score within the margin of the positive's"
RELATIVE_MARGIN = "score above the share of the positive's"
RELEVANT = "relevant in the reranker's eyes"
RERANKER_MARGIN = "reranker's score within the margin of the positive's"
REASONS = (SAME_LABEL, MARGIN, RELATIVE_MARGIN, RELEVANT, RERANKER_MARGIN)

_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """A candidate that was taken or dropped.

    Attributes:
        query: the query.
        positive: its lowest-scoring positive.
        candidate: the document.
        score: the candidate's, by the model, or by the reranker where that is the reason.
        positive_score: the lowest of the positives', by the same.
    """

    query: str
    positive: str
    candidate: str
    score: float
    positive_score: float


@dataclass(slots=True)
class MiningReport:
    """Counts that add up: ``looked_at`` is ``taken``, ``not_needed`` and everything in ``dropped`` together.

    Attributes:
        examples: written.
        documents: of the corpus, without repeated texts.
        excluded: pairs of a query and a document of the corpus that is one of its positives or the query's own text;
            these are not candidates, whatever their rank.
        looked_at: candidates in the range of ranks.
        taken: negatives written.
        not_needed: candidates that nothing spoke against, or that were not checked, since there were enough.
        dropped: candidates by reason.
        fewer: examples with some negatives, but fewer than asked for.
        without: examples with no negative.
        samples: the first few candidates taken, under "taken", and dropped, by reason; each of another query.
    """

    examples: int = 0
    documents: int = 0
    excluded: int = 0
    looked_at: int = 0
    taken: int = 0
    not_needed: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    fewer: int = 0
    without: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def show(self, kind: str, sample: Sample) -> None:
        """Keep one of the first few samples of a kind, each of another query."""
        kept = self.samples.setdefault(kind, [])
        if len(kept) < _SAMPLES and all(other.query != sample.query for other in kept):
            kept.append(sample)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        samples = {kind: [Sample(**each) for each in kept] for kind, kept in content["samples"].items()}
        return cls(**{**content, "samples": samples})

    def __str__(self) -> str:
        share = 100 / max(1, self.looked_at)
        lines = [
            f"{self.examples:,} examples, {self.documents:,} documents, {self.taken:,} negatives taken",
            f"{self.fewer:,} examples have fewer negatives than asked for, {self.without:,} have none",
            f"{self.looked_at:,} candidates looked at",
            f"  {self.taken:>12,} {self.taken * share:5.1f} %  taken",
            f"  {self.not_needed:>12,} {self.not_needed * share:5.1f} %  not needed",
        ]
        lines += [f"  {count:>12,} {count * share:5.1f} %  {reason}" for reason, count in self.dropped.items() if count]
        lines.append(f"{self.excluded:,} times a document was a positive of the query, or its own text: no candidate")
        for kind, kept in self.samples.items():
            lines.append(f"\n{kind}:")
            for sample in kept:
                lines += [
                    f"  query      {_short(sample.query)}",
                    f"  positive   {sample.positive_score:8.4f}  {_short(sample.positive)}",
                    f"  candidate  {sample.score:8.4f}  {_short(sample.candidate)}",
                ]
        return "\n".join(lines)


def _short(text: str) -> str:
    return textwrap.shorten(text, 90, placeholder=" ...")
