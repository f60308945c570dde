"""Outputs of one forward pass, kept for the caller who asks for them next.

Frameworks call a dense and a sparse class one after the other on the same texts. While both share a model, the pass
that makes the one output makes the other as well, and it waits here for at most a minute.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mgte_rag.types import Floats, Output, Role, SparseVector

MAX_BYTES = 256 * 1024 * 1024
MAX_SECONDS = 60.0
# Bytes of the Python objects around one text's numbers, which of a short text's vectors are the larger part (measured).
_OBJECTS = 600


class Slot(NamedTuple):
    """An output of a size, for which somebody asks.

    A tuple: comparing two runs no Python, in which the garbage collector could change the list that is searched.

    Attributes:
        output: which.
        size: components of a dense vector or of a token's; 0 for sparse.
    """

    output: Output
    size: int


@dataclass(frozen=True, slots=True)
class TextKey:
    """What decides a text's vectors."""

    role: Role
    prompt: str
    max_length: int
    text: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One text's vector or vectors, and what is said of the text."""

    value: Floats | SparseVector
    truncated: bool
    tokens: int

    @property
    def nbytes(self) -> int:
        """Size of the numbers."""
        if isinstance(self.value, SparseVector):
            return self.value.indices.nbytes + self.value.values.nbytes
        return self.value.nbytes


@dataclass(slots=True)
class HandOff:
    """What a model's passes made beyond what was asked; each is handed over once. Any thread may use it.

    Args:
        max_bytes: bound on what is kept, texts included; the oldest goes first.
        max_seconds: how long it is kept at most.
    """

    max_bytes: int = MAX_BYTES
    max_seconds: float = MAX_SECONDS
    _askers: list[Slot] = field(default_factory=list)
    _kept: OrderedDict[tuple[TextKey, Slot], tuple[float, Kept]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    # Re-entrant: the garbage collector may let an asker leave while this thread is inside.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def join(self, slot: Slot) -> None:
        """From now on somebody asks for that output."""
        with self._lock:
            self._askers.append(slot)

    def leave(self, slot: Slot) -> None:
        """One who asked for that output is gone; what nobody asks for any more is dropped."""
        with self._lock:
            self._askers.remove(slot)
            if slot not in self._askers:
                for key in [key for key in list(self._kept) if key[1] == slot]:
                    self._drop(key)

    def partners(self, slot: Slot) -> tuple[Slot, ...]:
        """The other outputs that are asked for, one slot for each: the one that joined last."""
        with self._lock:
            latest = {asker.output: asker for asker in list(self._askers) if asker.output != slot.output}
            return tuple(latest.values())

    def keep(self, keys: Sequence[TextKey], slot: Slot, values: Sequence[Kept]) -> None:
        """Keep outputs for whoever asks for that slot."""
        now = time.monotonic()
        with self._lock:
            if slot not in self._askers:
                return
            for text, value in zip(keys, values, strict=True):
                self._drop((text, slot))
                self._kept[text, slot] = (now, value)
                size = _size(text, value)  # a call, in which the garbage collector may change the sum
                self._bytes += size
            self._shrink(now)

    def take(self, keys: Sequence[TextKey], slot: Slot) -> list[Kept | None]:
        """What is there of those texts, which is then no longer here."""
        with self._lock:
            self._shrink(time.monotonic())
            return [self._drop((text, slot)) for text in keys]

    def survive_fork(self) -> None:
        """In a forked child: begin anew, as another thread of the parent may have been inside."""
        self._lock = threading.RLock()
        self._kept, self._bytes = OrderedDict(), 0

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, key: tuple[TextKey, Slot]) -> Kept | None:
        _, value = self._kept.pop(key, (0.0, None))
        if value is not None:
            size = _size(key[0], value)  # as above
            self._bytes -= size
        return value

    def _shrink(self, now: float) -> None:
        while self._kept:
            key, (since, _) = next(iter(self._kept.items()))
            if self._bytes <= self.max_bytes and now - since <= self.max_seconds:
                return
            self._drop(key)


def _size(key: TextKey, value: Kept) -> int:
    return value.nbytes + len(key.text) + _OBJECTS
