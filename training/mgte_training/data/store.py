"""A source's examples in memory: compact, by number, with what a plan needs to know of their texts."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError
from mgte_rag.progress import Progress
from mgte_training.data.examples import Example
from mgte_training.data.readers import read_examples
from mgte_training.data.sources import Source

NO_LABEL = -1


class SourceData(Sequence[Example]):
    """All examples of one source, read and checked.

    Texts are kept as one UTF-8 buffer, about the size of the uncompressed file; an example is made when it is asked
    for. Beside them stands a 64-bit hash of every text, by which equal texts are found.

    Args:
        source: what the examples are of.
        examples: the examples in their order.

    Attributes:
        labels: int32 [examples], equal for equal labels, ``NO_LABEL`` without one.
        positive_counts: int32 [examples].
        negative_counts: int32 [examples], of own negatives.
        has_scores: a teacher scored every document of every example.

    Raises:
        DataError: there is no example, or a teacher scored some of them and not others.
    """

    def __init__(self, source: Source, examples: Iterable[Example]) -> None:
        self.source = source
        buffer, ends = bytearray(), array("q", [0])
        text_keys, key_ends = array("Q"), array("q", [0])
        counts, labels = array("i"), array("i")
        label_numbers: dict[str, int] = {}
        scored = 0
        for example in examples:
            buffer += _to_bytes(example)
            ends.append(len(buffer))
            text_keys.extend(map(_hash, (example.query, *example.positives, *example.negatives)))
            key_ends.append(len(text_keys))
            counts.append(len(example.positives))
            label = example.label
            labels.append(NO_LABEL if label is None else label_numbers.setdefault(label, len(label_numbers)))
            scored += example.has_scores
        if not counts:
            raise DataError(f"source {source.name!r} ({source.path}) has no example")
        if scored not in (0, len(counts)):
            raise DataError(
                f"source {source.name!r} ({source.path}): a teacher scored {scored:,} of {len(counts):,} examples; it "
                f"scores all or none. Score the others, or make them a source of their own"
            )
        self._buffer, self._ends = bytes(buffer), np.frombuffer(ends, dtype=np.int64)
        self._keys, self._key_ends = np.frombuffer(text_keys, dtype=np.uint64), np.frombuffer(key_ends, dtype=np.int64)
        self.labels: NDArray[np.int32] = np.frombuffer(labels, dtype=np.int32)
        self.positive_counts: NDArray[np.int32] = np.frombuffer(counts, dtype=np.int32)
        self.negative_counts: NDArray[np.int32] = (np.diff(self._key_ends) - 1 - self.positive_counts).astype(np.int32)
        self.has_scores = scored > 0

    @classmethod
    def read(cls, source: Source, *, show_progress: bool = False) -> "SourceData":
        """Read a source.

        Args:
            source: what to read.
            show_progress: draw a progress bar on standard error.

        Raises:
            DataError: it cannot be read or has a wrong row; the message names file and line.
            MissingExtraError: parquet files, folders and hub datasets need the package datasets.
        """
        with Progress(f"reading {source.name}", unit="examples", total=None, show=show_progress) as progress:
            return cls(source, _counted(read_examples(source), progress))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every example, in order."""
        return hashlib.sha256(self._buffer).hexdigest()

    def keys(self, number: int) -> NDArray[np.uint64]:
        """Hashes of one example's texts: the query, its positives, its negatives."""
        return self._keys[self._key_ends[number] : self._key_ends[number + 1]]

    def own_keys(self, number: int) -> NDArray[np.uint64]:
        """Hashes of one example's query and positives: what must not be its negative."""
        return self.keys(number)[: 1 + self.positive_counts[number]]

    def document_key(self, number: int, place: int) -> int:
        """Hash of one document, by its place among an example's positives and, after them, its negatives."""
        return int(self._keys[self._key_ends[number] + 1 + place])

    def __len__(self) -> int:
        return len(self.positive_counts)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"example {number} of {len(self)}")
        number %= len(self)
        return _from_bytes(self._buffer[self._ends[number] : self._ends[number + 1]])

    def __repr__(self) -> str:
        return f"SourceData({self.source.name!r}, {len(self):,} examples)"


def _counted(examples: Iterable[Example], progress: Progress) -> Iterator[Example]:
    for example in examples:
        yield example
        progress.advance(1, 0)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _to_bytes(example: Example) -> bytes:
    row = (
        example.query,
        example.positives,
        example.negatives,
        example.positive_scores,
        example.negative_scores,
        example.label,
    )
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _from_bytes(row: bytes) -> Example:
    query, positives, negatives, positive_scores, negative_scores, label = json.loads(
        row.decode("utf-8", "surrogatepass")
    )
    return Example(
        query, tuple(positives), tuple(negatives), _as_tuple(positive_scores), _as_tuple(negative_scores), label
    )


def _as_tuple(scores: list[Any] | None) -> tuple[Any, ...] | None:
    return None if scores is None else tuple(scores)
