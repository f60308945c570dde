"""One pass over a source: every example into a batch of its length, no text twice in a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgte_training.data.buckets import Bucket
from mgte_training.data.store import SourceData

INCOMPLETE = "in an incomplete batch"
REPEATED = "its query or positive stands in every batch already"
UNSCORED = "fewer negatives than asked for, and random ones have no score"
OVER_MAXIMUM = "over max_examples"

# Of its bucket's batch size: smaller incomplete batches are dropped. Their loss would weigh as much as a full batch's.
_LEAST_SHARE = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass gives.

    Attributes:
        batches: bucket and example numbers of each, in random order.
        dropped: examples in none of them, by reason.
    """

    batches: list[tuple[int, list[int]]]
    dropped: Mapping[str, int]


def shared_keys(data: SourceData) -> dict[int, tuple[int, ...]]:
    """Hashes of queries and positives that several examples have, for each example that has one."""
    own = [set(data.own_keys(number).tolist()) for number in range(len(data))]
    keys, counts = np.unique(np.fromiter((key for each in own for key in each), dtype=np.uint64), return_counts=True)
    repeated = set(keys[counts > 1].tolist())
    return {number: tuple(found) for number, each in enumerate(own) if (found := each & repeated)}


def pack_pass(
    numbers: NDArray[np.int64],
    bucket_of: NDArray[np.int8],
    buckets: Sequence[Bucket],
    shared: Mapping[int, tuple[int, ...]],
    chance: np.random.Generator,
    *,
    multiple_of: int,
    drop_last: bool,
    smallest: int,
) -> Pass:
    """Shuffle examples and put them into batches.

    What does not fill a batch of its bucket goes into batches of the next longer one, so only the last bucket's may
    stay incomplete. Those are kept unless ``drop_last``, if they have a quarter of its size, and the first one also
    where it is the source's only batch.

    Args:
        numbers: examples to use.
        bucket_of: int8 [examples], bucket of each example of the source.
        buckets: ascending.
        shared: ``shared_keys``; examples that share one never meet in a batch.
        chance: decides the order.
        multiple_of: every batch's size is divisible by it.
        drop_last: leave out incomplete batches.
        smallest: queries that a batch needs.
    """
    order = chance.permutation(numbers)
    batches: list[tuple[int, list[int]]] = []
    incomplete: list[list[int]] = []
    for place, bucket in enumerate(buckets):
        left = [number for batch in incomplete for number in batch]
        waiting = left + order[bucket_of[order] == place].tolist()
        size = bucket.batch // multiple_of * multiple_of
        full, incomplete = _fill(waiting, size, shared)
        batches += [(place, batch) for batch in full]
    dropped = {INCOMPLETE: 0, REPEATED: 0}
    for position, batch in enumerate(incomplete):
        kept = len(batch) // multiple_of * multiple_of
        enough = kept >= smallest and (kept * _LEAST_SHARE >= size or not batches) and not drop_last
        if enough:
            batches.append((len(buckets) - 1, batch[:kept]))
        dropped[REPEATED if position and not enough else INCOMPLETE] += len(batch) - (kept if enough else 0)
    return Pass([batches[i] for i in chance.permutation(len(batches))], dropped)


def _fill(
    waiting: list[int], size: int, shared: Mapping[int, tuple[int, ...]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Full batches and those that stay incomplete; what was left over is tried again while that fills another one."""
    full: list[list[int]] = []
    while True:
        batches = _first_fit(waiting, size, shared)
        new = [batch for batch in batches if len(batch) == size]
        incomplete = [batch for batch in batches if len(batch) < size]
        full += new
        if not new:
            return full, incomplete
        waiting = [number for batch in incomplete for number in batch]


def _first_fit(waiting: list[int], size: int, shared: Mapping[int, tuple[int, ...]]) -> list[list[int]]:
    """Each example into the first batch with room behind all batches that have one of its texts; in linear time."""
    batches: list[list[int]] = []
    skip = [0]  # where to look for room instead of in a full batch; one entry more than batches
    last: dict[int, int] = {}  # the last batch with a text
    for number in waiting:
        keys = shared.get(number, ())
        place = max((last[key] + 1 for key in keys if key in last), default=0)
        while skip[place] != place:
            skip[place] = skip[skip[place]]
            place = skip[place]
        if place == len(batches):
            batches.append([])
            skip.append(len(batches))
        batches[place].append(number)
        if len(batches[place]) == size:
            skip[place] = place + 1
        for key in keys:
            last[key] = place
    return batches
