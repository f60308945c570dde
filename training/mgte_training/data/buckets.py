"""Batch sizes by length: short texts in large batches, long ones in small batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mgte_rag.errors import InvalidOptionError


@dataclass(frozen=True, slots=True)
class Bucket:
    """Examples whose longest text has at most so many tokens.

    Attributes:
        max_tokens: of the longest text, markers included.
        batch: queries of a batch, over all devices.
        sub_batch: queries computed at once on a device.
    """

    max_tokens: int
    batch: int
    sub_batch: int

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            InvalidOptionError: a size below 1.
        """
        for option in ("max_tokens", "batch", "sub_batch"):
            size = getattr(self, option)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InvalidOptionError(f"bucket: {option}={size!r}; it is a whole number above 0")


# mGTE, arXiv 2407.19669, fine-tuning of the text representation model and of the reranker.
MGTE_BUCKETS = (
    Bucket(500, 768, 256),
    Bucket(1_000, 384, 128),
    Bucket(2_000, 256, 64),
    Bucket(3_000, 160, 48),
    Bucket(8_000, 80, 16),
)
MGTE_RERANKER_BUCKETS = (Bucket(500, 512, 256), *MGTE_BUCKETS[1:])


def scale_buckets(
    buckets: Sequence[Bucket], scale: float = 1.0, *, group: int = 1, token_budget: int | None = None
) -> tuple[Bucket, ...]:
    """The same table for another amount of hardware.

    Args:
        buckets: to be scaled.
        scale: factor on every batch and sub-batch; a batch keeps at least two queries, a sub-batch one.
        group: documents of each query, for ``token_budget``.
        token_budget: tokens that a device computes at once. Where it is given, it alone decides the sub-batch: as many
            queries with their documents as fit even if every text has ``max_tokens``, at least one.

    Raises:
        InvalidOptionError: a scale or a budget that is not above zero.
    """
    if not scale > 0 or (token_budget is not None and token_budget < 1) or group < 1:
        raise InvalidOptionError(
            f"scale={scale!r}, group={group!r}, token_budget={token_budget!r}: all must be above zero"
        )
    scaled = []
    for bucket in buckets:
        batch = max(2, round(bucket.batch * scale))
        fitting = (
            bucket.sub_batch * scale if token_budget is None else token_budget // (bucket.max_tokens * (1 + group))
        )
        scaled.append(Bucket(bucket.max_tokens, batch, min(batch, max(1, int(fitting)))))
    return tuple(scaled)


def check_buckets(buckets: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """The buckets as a tuple.

    Raises:
        InvalidOptionError: there is none, or they do not ascend.
    """
    limits = [bucket.max_tokens for bucket in buckets]
    if not limits or any(b <= a for a, b in pairwise(limits)):
        raise InvalidOptionError(f"buckets with max_tokens {limits}: give at least one, ascending")
    return tuple(buckets)
