"""A teacher's scores of training examples, for distillation."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mgte_rag import Reranker
from mgte_rag.errors import DataError
from mgte_rag.progress import Progress
from mgte_training.data import Example
from mgte_training.negatives.resumable import ResumableLines, fingerprint_of

_EXAMPLES = 256  # scored and written together


@dataclass(slots=True)
class DistillationReport:
    """What a teacher thinks of the examples.

    Attributes:
        examples: written.
        pairs: of query and document, scored.
        agreeing: examples whose every positive scores above every negative.
        negatives_above: negatives that score above one of their example's positives, perhaps unlabelled positives.
    """

    examples: int = 0
    pairs: int = 0
    agreeing: int = 0
    negatives_above: int = 0

    def __str__(self) -> str:
        share = self.agreeing / max(1, self.examples)
        return (
            f"{self.examples:,} examples, {self.pairs:,} pairs scored\n"
            f"{self.agreeing:,} examples ({share:.1%}) have every positive above every negative\n"
            f"{self.negatives_above:,} negatives score above a positive"
        )


def distill_scores(
    reranker: Reranker,
    examples: Sequence[Example],
    output: str | Path,
    *,
    max_length: int | None = None,
    show_progress: bool = False,
) -> DistillationReport:
    """Write every example with a reranker's raw score of each of its documents.

    Scores that the examples had are replaced. Stopped at any moment, the same call goes on where it was.

    Args:
        reranker: the teacher.
        examples: a list, or ``SourceData``.
        output: a new .jsonl file; examples in their order as n-tuples with ``positive_scores`` and ``negative_scores``.
            The report stands beside it in ``<output>.report.json``.
        max_length: tokens read of a pair; None is the reranker's limit.
        show_progress: draw a progress bar on standard error.

    Raises:
        InvalidOptionError: a max_length that the reranker does not allow, or the output is no .jsonl file.
        DataError: there is no example, the output exists, or another run is under way there.
    """
    if not len(examples):
        raise DataError("there is no example to score")
    reranker.score([], max_length=max_length)  # a wrong option is an error before anything is written
    settings = {"reranker": reranker.identity.fingerprint, "max_length": max_length}
    lines = ResumableLines(Path(output), fingerprint_of(settings, examples))
    report = DistillationReport(**lines.state)
    with Progress("scoring", unit="examples", total=len(examples), show=show_progress) as progress:
        progress.advance(lines.done, 0)
        while lines.done < len(examples):
            window = examples[lines.done : lines.done + _EXAMPLES]
            scored = _scored(reranker, window, max_length)
            for example in scored:
                _count(example, report)
            lines.append(scored, asdict(report))
            progress.advance(len(scored), 0)
    lines.finish()
    return report


def _scored(reranker: Reranker, examples: Sequence[Example], max_length: int | None) -> list[Example]:
    pairs = [(each.query, text) for each in examples for text in (*each.positives, *each.negatives)]
    scores = reranker.score(pairs, max_length=max_length).tolist()
    scored, start = [], 0
    for example in examples:
        middle = start + len(example.positives)
        end = middle + len(example.negatives)
        positive_scores, negative_scores = tuple(scores[start:middle]), tuple(scores[middle:end])
        scored.append(replace(example, positive_scores=positive_scores, negative_scores=negative_scores))
        start = end
    return scored


def _count(example: Example, report: DistillationReport) -> None:
    lowest = min(example.positive_scores or ())
    above = sum(score > lowest for score in example.negative_scores or ())
    report.examples += 1
    report.pairs += len(example.positives) + len(example.negatives)
    report.agreeing += above == 0
    report.negatives_above += above
