"""What a plan does, in numbers and for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mgte_training.data.buckets import Bucket


@dataclass(frozen=True, slots=True)
class PassStatistics:
    """One pass over one source, as it was planned; the plan may end before it does.

    Attributes:
        source: the source's name.
        number: of the pass, from 0.
        examples: of the source; those in batches and those dropped together.
        in_batches: examples in a batch.
        batches: number of batches in each bucket.
        dropped: examples in no batch, by reason.
    """

    source: str
    number: int
    examples: int
    in_batches: int
    batches: tuple[int, ...]
    dropped: Mapping[str, int]


def describe(
    passes: Sequence[PassStatistics],
    buckets: Sequence[Bucket],
    *,
    queries: Mapping[str, int],
    batches: Mapping[str, Sequence[int]],
    epochs: int,
    seed: int,
) -> str:
    """A table of the sources, and what is dropped and why.

    Args:
        passes: all passes.
        buckets: the plan's.
        queries: of each source in the whole plan.
        batches: of each source in the whole plan, by bucket.
        epochs: of the plan.
        seed: of the plan.
    """
    total = sum(queries.values())
    steps = sum(sum(each) for each in batches.values())
    limits = [f"<={bucket.max_tokens:,}" for bucket in buckets]
    lines = [
        f"{steps:,} steps, {total:,} queries, {epochs:,} epochs, seed {seed}",
        "batches by tokens of the longest text: "
        + ", ".join(f"{limit} {b.batch}/{b.sub_batch}" for limit, b in zip(limits, buckets, strict=True)),
        _row("source", "examples", "queries", "share", limits),
    ]
    for name in queries:
        examples = next(each.examples for each in passes if each.source == name)
        share = f"{queries[name] / total:.1%}"
        counts = [f"{count:,}" for count in batches[name]]
        lines.append(_row(name, f"{examples:,}", f"{queries[name]:,}", share, counts))
    for name in queries:
        own = [each.dropped for each in passes if each.source == name]
        for reason in own[0]:
            least, most = min(each[reason] for each in own), max(each[reason] for each in own)
            if most:
                count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
                lines.append(f"{name}: {count} examples dropped in a pass: {reason}")
    return "\n".join(lines)


def _row(name: str, examples: str, queries: str, share: str, buckets: Sequence[str]) -> str:
    return f"{name:24.24} {examples:>12} {queries:>12} {share:>7}" + "".join(f" {each:>9}" for each in buckets)
