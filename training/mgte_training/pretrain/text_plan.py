"""Which texts every step of pre-training reads: a function of plan and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError, InvalidOptionError
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import Integers
from mgte_training.pretrain.token_store import TokenStore

# One stream of random numbers for each purpose.
_SOURCES, _PASS, _SHORT, MASKS = 10, 11, 12, 13


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Texts of one kind, a language say.

    Attributes:
        name: in messages.
        path: a file or a folder of them: .jsonl and .parquet with text and perhaps title, .txt.
        weight: factor on its share.
    """

    name: str
    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.name or not self.weight > 0:
            raise InvalidOptionError(f"name={self.name!r}, weight={self.weight!r}: a name and a weight above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatches:
    """How texts become batches.

    Attributes:
        steps: how many batches.
        batch: texts of a batch, over all devices; a longer text than ``length`` is several.
        length: tokens of a text at most, markers included.
        alpha: sampling exponent of the sources, 0 (equal shares) to 1 (proportional).
        token_budget: tokens that a device computes at once.
        min_tokens: shorter texts, and shorter ends of longer ones, are left out.
        short_tokens: texts, and ends of longer ones, of fewer tokens (without markers) are down-sampled to
        keep_short: this share of them.
    """

    steps: int
    batch: int
    length: int
    alpha: float = 0.5
    token_budget: int = 16_384
    min_tokens: int = 8
    short_tokens: int = 0
    keep_short: float = 1.0

    def __post_init__(self) -> None:
        for option in ("steps", "batch", "length", "token_budget", "min_tokens"):
            if getattr(self, option) < 1:
                raise InvalidOptionError(f"{option}={getattr(self, option)!r}; a whole number above 0 is needed")
        if not 0 <= self.alpha <= 1 or not 0 <= self.keep_short <= 1:
            raise InvalidOptionError(
                f"alpha={self.alpha!r}, keep_short={self.keep_short!r}: numbers from 0 to 1 are needed"
            )


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Texts, or parts of long ones, of one source.

    Attributes:
        starts: int64 [pieces], in the store.
        lengths: int32 [pieces], without markers.
        left_out: how many were too short or not kept.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    left_out: int


class TextPlan:
    """All batches of a pre-training run.

    A batch mixes the sources: source i has the share q_i = w_i n_i^alpha / sum_j w_j n_j^alpha of n_i texts. Each is
    gone through in shuffled passes, one after the other, so that no text comes again before all have been read.

    Args:
        sources: what there is.
        stores: their tokens.
        batches: how to make batches.
        tokenizer: the model's, for its markers.
        seed: decides everything.

    Raises:
        DataError: a source has no text that is long enough.
        InvalidOptionError: a length without room for a token.

    Source: sampling exponent mGTE, arXiv 2407.19669, appendix A.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        stores: Sequence[TokenStore],
        batches: TextBatches,
        tokenizer: TextTokenizer,
        *,
        seed: int,
    ) -> None:
        markers = tokenizer.tokenize([""], prompt="", max_length=tokenizer.min_length).ids[0]
        self._before, self._after = np.split(markers, [tokenizer.prefix_length])
        room = batches.length - len(markers)
        if room < 1:
            raise InvalidOptionError(f"length={batches.length}: the tokenizer's markers alone are {len(markers)}")
        self.sources, self.batches, self.seed = tuple(sources), batches, seed
        self._stores = tuple(stores)
        self._pieces = [_pieces(store, number, batches, room, seed) for number, store in enumerate(stores)]
        for source, pieces in zip(sources, self._pieces, strict=True):
            if not len(pieces.starts):
                raise DataError(
                    f"the texts {source.name!r} ({source.path}) have none with {batches.min_tokens} tokens or more "
                    f"that is kept; lower min_tokens or raise keep_short"
                )
        counts = np.array([len(pieces.starts) for pieces in self._pieces], dtype=np.float64)
        weights = np.array([source.weight for source in sources]) * counts**batches.alpha
        self.shares = weights / weights.sum()
        chance = np.random.default_rng([seed, _SOURCES])
        self._counts = chance.multinomial(batches.batch, self.shares, size=batches.steps).astype(np.int32)
        self._starts = np.cumsum(self._counts, axis=0, dtype=np.int64) - self._counts
        self._order = lru_cache(maxsize=2 * len(self._stores))(self._shuffled)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return self.batches.steps

    def texts(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[int, Integers]]:
        """What a device reads in a step, longest first: place in the whole batch, and ids with markers.

        Args:
            step: from 0.
            rank: number of the device.
            world: how many devices share the batch: each has about as many tokens as the others.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a plan with {self.steps:,}")
        drawn = [
            (number, int(piece))
            for number, count in enumerate(self._counts[step].tolist())
            for piece in self._drawn(number, int(self._starts[step, number]), count)
        ]
        lengths = np.array([self._pieces[number].lengths[piece] for number, piece in drawn])
        own = np.argsort(-lengths, kind="stable")[rank::world]
        return [(place, self._ids(*drawn[place])) for place in own.tolist()]

    def _drawn(self, number: int, start: int, count: int) -> NDArray[np.int64]:
        """Pieces of a source, from the one at which the step begins."""
        places = np.arange(start, start + count)
        size = len(self._pieces[number].starts)
        passes = places // size
        return np.concatenate(
            [self._order(number, each)[places[passes == each] % size] for each in np.unique(passes).tolist()]
            or [np.zeros(0, dtype=np.int64)]
        )

    def _shuffled(self, number: int, which: int) -> NDArray[np.int64]:
        chance = np.random.default_rng([self.seed, _PASS, number, which])
        return chance.permutation(len(self._pieces[number].starts))

    def _ids(self, number: int, piece: int) -> Integers:
        pieces = self._pieces[number]
        own = self._stores[number].read(int(pieces.starts[piece]), int(pieces.lengths[piece]))
        return np.concatenate([self._before, own, self._after])

    def describe(self) -> str:
        """For people: sources, their shares, how often each is read, what is left out."""
        total = self._counts.sum(axis=0, dtype=np.int64)
        lines = [
            f"{self.steps:,} steps of {self.batches.batch:,} texts of up to {self.batches.length:,} tokens, "
            f"seed {self.seed}",
            f"{'source':24} {'texts':>12} {'tokens':>14} {'mean':>7} {'share':>7} {'passes':>7} {'left out':>9}",
        ]
        for source, pieces, share, read in zip(self.sources, self._pieces, self.shares, total.tolist(), strict=True):
            texts, tokens = len(pieces.starts), int(pieces.lengths.sum(dtype=np.int64))
            lines.append(
                f"{source.name:24.24} {texts:>12,} {tokens:>14,} {tokens / texts:>7.0f} {share:>7.1%} "
                f"{read / texts:>7.2f} {pieces.left_out:>9,}"
            )
        return "\n".join(lines)


def _pieces(store: TokenStore, number: int, batches: TextBatches, room: int, seed: int) -> _Pieces:
    sizes = np.diff(store.ends, prepend=0)
    counts = -(-sizes // room)
    first = np.repeat(store.ends - sizes, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first + room * within
    lengths = np.minimum(room, np.repeat(store.ends, counts) - starts)
    kept = lengths >= min(batches.min_tokens, room)
    short = lengths < batches.short_tokens
    kept &= ~short | (np.random.default_rng([seed, _SHORT, number]).random(len(lengths)) < batches.keep_short)
    return _Pieces(starts[kept], lengths[kept].astype(np.int32), int((~kept).sum()))
