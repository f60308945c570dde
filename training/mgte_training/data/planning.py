"""Sources, batch sizes and a seed to the plan of a whole training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError, InvalidOptionError
from mgte_training.data.buckets import MGTE_BUCKETS, Bucket, check_buckets
from mgte_training.data.draws import draw_rule
from mgte_training.data.lengths import TokenLengths, example_lengths
from mgte_training.data.passes import OVER_MAXIMUM, UNSCORED, pack_pass, shared_keys
from mgte_training.data.plan import Schedule, TrainingPlan
from mgte_training.data.statistics import PassStatistics
from mgte_training.data.store import SourceData

# One stream of random numbers for each purpose; the plan's draws are another.
_CHOICE, _PASS, _ORDER = 0, 1, 2
_NEARLY = 1e-9


def make_plan(
    data: Sequence[SourceData],
    *,
    lengths: TokenLengths | None,
    buckets: Sequence[Bucket] = MGTE_BUCKETS,
    alpha: float = 0.5,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    multiple_of: int = 1,
    drop_last: bool = False,
    show_progress: bool = False,
) -> TrainingPlan:
    """Plan every batch of a training run.

    Every batch has one source and one length bucket, and no query or positive twice. Source i gives the share
    q_i = w_i n_i^alpha / sum_j w_j n_j^alpha of an epoch, which has as many queries as there are examples. Each source
    is gone through in shuffled passes, one after the other over the epochs: with alpha = 1 and equal weights an epoch
    is one pass over every source, with a smaller alpha a part of a pass over large sources and several over small ones.
    A pass uses every example once but those that ``TrainingPlan.passes`` counts as dropped.

    Args:
        data: the sources.
        lengths: counts tokens, such as ``checkpoint_lengths``; None is allowed with a single bucket. An example is as
            long as its longest text.
        buckets: batch sizes by length, ascending; longer examples go in the last.
        alpha: sampling exponent, 0 (equal shares) to 1 (proportional).
        epochs: how many; None where ``steps`` says it.
        steps: how many; None where ``epochs`` says it.
        seed: decides everything, a whole number from 0 up.
        multiple_of: every batch's size is divisible by it: the number of devices.
        drop_last: leave out incomplete batches: in a pass of a source less than the last bucket's batch, besides
            examples whose query or positive is too frequent. Otherwise only those under a quarter of it are left out.
        show_progress: draw progress bars on standard error.

    Raises:
        InvalidOptionError: an option's value is not allowed.
        DataError: a source cannot give a single batch.

    Source: sampling exponent and buckets mGTE, arXiv 2407.19669; one source per batch GTE, arXiv 2308.03281.
    """
    buckets = _check(data, buckets, alpha, epochs, steps, seed, multiple_of, lengths)
    streams = []
    for number, each in enumerate(data):
        longest = (
            np.zeros(len(each)) if lengths is None else example_lengths(each, lengths, show_progress=show_progress)
        )
        streams.append(_Stream(each, number, longest, buckets, seed, multiple_of=multiple_of, drop_last=drop_last))
    counts = np.array([stream.usable for stream in streams], dtype=np.float64)
    weights = np.array([1.0 if each.source.weight is None else each.source.weight for each in data])
    shares = weights * counts**alpha
    passes = shares / shares.sum() * counts.sum() / counts  # over each source in an epoch
    batches: list[tuple[int, int, list[int]]] = []
    ends: list[int] = []
    while len(ends) < (epochs or np.inf) and len(batches) < (steps or np.inf):
        epoch = [batch for stream, count in zip(streams, passes, strict=True) for batch in stream.take(count)]
        order = np.random.default_rng([seed, _ORDER, len(ends)]).permutation(len(epoch))
        batches += [epoch[i] for i in order]
        ends.append(len(batches))
    batches = batches[:steps]
    statistics = tuple(each for stream in streams for each in stream.statistics)
    schedule = _schedule(batches, np.minimum(ends, len(batches)))
    return TrainingPlan(data, buckets, schedule, statistics, seed=seed, multiple_of=multiple_of)


class _Stream:
    """The batches of one source, pass after pass."""

    def __init__(
        self,
        data: SourceData,
        number: int,
        lengths: NDArray[Any],
        buckets: tuple[Bucket, ...],
        seed: int,
        *,
        multiple_of: int,
        drop_last: bool,
    ) -> None:
        self._data, self._number, self._buckets, self._seed = data, number, buckets, seed
        self._multiple_of, self._drop_last = multiple_of, drop_last
        limits = [bucket.max_tokens for bucket in buckets[:-1]]
        self._bucket_of = np.searchsorted(limits, lengths, side="left").astype(np.int8)
        self._shared = shared_keys(data)
        self._rule = draw_rule(data)
        self._numbers, self._left_out = self._usable_numbers()
        self.usable = len(self._numbers)
        self.statistics: list[PassStatistics] = []
        self._until = 0.0  # passes asked for so far
        self._done = 0  # whole passes
        self._pass: list[tuple[int, list[int]]] | None = None
        self._taken = 0  # of its batches

    def take(self, passes: float) -> list[tuple[int, int, list[int]]]:
        """Source, bucket and examples of the batches of the next so many passes, or parts of one."""
        self._until += passes
        whole = int(self._until + _NEARLY)
        part = self._until - whole
        taken: list[tuple[int, list[int]]] = []
        while self._done < whole:
            taken += self._current()[self._taken :]
            self._pass, self._taken, self._done = None, 0, self._done + 1
        if part > _NEARLY:
            end = max(self._taken, round(part * len(self._current())))
            taken += self._current()[self._taken : end]
            self._taken = end
        return [(self._number, bucket, examples) for bucket, examples in taken]

    def _current(self) -> list[tuple[int, list[int]]]:
        """The batches of the pass that is under way."""
        if self._pass is not None:
            return self._pass
        packed = pack_pass(
            self._numbers,
            self._bucket_of,
            self._buckets,
            self._shared,
            np.random.default_rng([self._seed, _PASS, self._number, self._done]),
            multiple_of=self._multiple_of,
            drop_last=self._drop_last,
            smallest=1 if self._rule.group > 1 else 2,
        )
        dropped = {**self._left_out, **packed.dropped}
        name = self._data.source.name
        if not packed.batches:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
            raise DataError(f"source {name!r} gives no batch: of {len(self._data):,} examples {reasons}")
        in_batches = sum(len(examples) for _, examples in packed.batches)
        by_bucket = np.bincount([bucket for bucket, _ in packed.batches], minlength=len(self._buckets))
        self.statistics.append(
            PassStatistics(name, self._done, len(self._data), in_batches, tuple(by_bucket.tolist()), dropped)
        )
        self._pass = packed.batches
        return self._pass

    def _usable_numbers(self) -> tuple[NDArray[np.int64], dict[str, int]]:
        source = self._data.source
        numbers = np.arange(len(self._data))
        if self._rule.scored:
            numbers = numbers[self._data.negative_counts >= self._rule.own]
        unscored = len(self._data) - len(numbers)
        maximum = source.max_examples
        over = 0 if maximum is None else max(0, len(numbers) - maximum)
        if over:
            chance = np.random.default_rng([self._seed, _CHOICE, self._number])
            numbers = np.sort(chance.permutation(numbers)[:maximum])
        if not len(numbers):
            raise DataError(f"source {source.name!r} gives no batch: {unscored:,} of its examples have {UNSCORED}")
        return numbers, {UNSCORED: unscored, OVER_MAXIMUM: over}


def _schedule(batches: Sequence[tuple[int, int, list[int]]], epoch_ends: NDArray[np.int64]) -> Schedule:
    sizes = [len(examples) for _, _, examples in batches]
    return Schedule(
        sources=np.array([source for source, _, _ in batches], dtype=np.int16),
        buckets=np.array([bucket for _, bucket, _ in batches], dtype=np.int8),
        ends=np.cumsum([0, *sizes], dtype=np.int64),
        examples=np.fromiter((number for _, _, each in batches for number in each), dtype=np.int32, count=sum(sizes)),
        epoch_ends=epoch_ends.astype(np.int64),
    )


def _check(
    data: Sequence[SourceData],
    buckets: Sequence[Bucket],
    alpha: float,
    epochs: int | None,
    steps: int | None,
    seed: int,
    multiple_of: int,
    lengths: TokenLengths | None,
) -> tuple[Bucket, ...]:
    checked = check_buckets(buckets)
    names = [each.source.name for each in data]
    if not names or len(set(names)) < len(names):
        raise InvalidOptionError(f"sources {names}: give at least one, each with a name of its own")
    if not 0 <= alpha <= 1:
        raise InvalidOptionError(f"alpha={alpha!r}; the sampling exponent is a number from 0 to 1")
    if (epochs is None) == (steps is None):
        raise InvalidOptionError(f"epochs={epochs!r}, steps={steps!r}: give one of them")
    counts = (("epochs", epochs, 1), ("steps", steps, 1), ("multiple_of", multiple_of, 1), ("seed", seed, 0))
    for option, count, lowest in counts:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < lowest):
            raise InvalidOptionError(f"{option}={count!r}; it is a whole number from {lowest} up")
    for bucket in checked:
        if bucket.batch < multiple_of:
            raise InvalidOptionError(f"multiple_of={multiple_of}: the batch of {bucket} cannot be divided by it")
    if lengths is None and len(checked) > 1:
        raise InvalidOptionError(f"lengths=None with {len(checked)} buckets; give lengths, or a single bucket")
    return checked
