"""Pairs that were there before: exactly, nearly, or with a query or a positive that has become frequent."""

from collections import Counter
from typing import Any

from mgte_rag.errors import MissingExtraError
from mgte_training.corpus.pairs import Pair
from mgte_training.corpus.words import key_of, tokens

# Numbers of a sketch, and the bands of four that candidates share one of: of two texts with the threshold's similarity
# half are found, with .05 more than it 99 in 100, with .05 less 5 in 100.
_NUMBERS, _BANDS = 128, 32
_SHINGLE = 3


class Duplicates:
    """What was kept so far: 64 bits of every pair, query and positive, and a sketch of every positive.

    A sketch is the MinHash (Broder 1997) of a positive's three-word sequences, single characters being the words of
    scripts without spaces; candidates come from locality-sensitive hashing and are compared by their sketches. Together
    with its place in the index a positive takes about 2 kB.

    Args:
        near: Jaccard similarity from which positives are near duplicates; None looks for no near duplicates.
        max_repeats: pairs with the same query, or with the same positive, at most.
        seed: of the sketches.

    Raises:
        MissingExtraError: rensa is not installed, and near duplicates are looked for.
    """

    def __init__(self, near: float | None, max_repeats: int, seed: int) -> None:
        self._max_repeats, self._seed = max_repeats, seed
        self._pairs: set[int] = set()
        self._queries, self._positives = Counter[int](), Counter[int]()
        self._near = None if near is None else _near_duplicates(near, seed)

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, pair: Pair) -> tuple[str, str]:
        """Take a pair in.

        A positive that is there already, to the letter, may come with several queries; one that is only nearly there
        is a near duplicate.

        Returns:
            The kind of duplicate it is and, in a few words, why; two empty texts where it is none and was taken in.
        """
        key, query, positive = _keys(pair)
        if key in self._pairs:
            return "exact duplicate", "query and positive"
        if self._queries[query] >= self._max_repeats:
            return "repeated text", f"query of {self._max_repeats} pairs before"
        if self._positives[positive] >= self._max_repeats:
            return "repeated text", f"positive of {self._max_repeats} pairs before"
        is_new = not self._positives[positive]
        if self._near is not None and is_new and not self._near.add(str(positive), self._sketch(pair.positive)):
            return "near duplicate", "positive"
        self._pairs.add(key)
        self._queries[query] += 1
        self._positives[positive] += 1
        return "", ""

    def remove(self, pair: Pair) -> None:
        """Forget a pair that was taken in."""
        key, query, positive = _keys(pair)
        self._pairs.remove(key)
        for counts, each in ((self._queries, query), (self._positives, positive)):
            counts[each] -= 1
            if not counts[each]:
                del counts[each]
        if self._near is not None and positive not in self._positives:
            self._near.remove(str(positive))

    def _sketch(self, text: str) -> Any:
        from rensa import RMinHash  # type: ignore[import-untyped]

        words = tokens(text.casefold())
        sketch = RMinHash(num_perm=_NUMBERS, seed=self._seed)
        sketch.update([" ".join(words[start : start + _SHINGLE]) for start in range(max(1, len(words) - _SHINGLE + 1))])
        return sketch


def _keys(pair: Pair) -> tuple[int, int, int]:
    """Of the pair, its query and its positive."""
    return key_of(pair.query, pair.positive), key_of(pair.query), key_of(pair.positive)


def _near_duplicates(near: float, seed: int) -> Any:
    try:
        from rensa import RMinHashDeduplicator
    except ImportError as error:
        raise MissingExtraError("rensa", "finding near duplicates") from error
    return RMinHashDeduplicator(threshold=near, num_perm=_NUMBERS, use_lsh=True, num_bands=_BANDS, seed=seed)
