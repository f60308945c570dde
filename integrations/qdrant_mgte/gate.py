"""Operations under way on something that may be closed or exchanged while threads use it."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from mgte_rag import ClosedError


class Gate:
    """Lets operations in until it is closed; what it guards is released when the last one has left.

    Args:
        name: of what is guarded, for the message after closing.
        release: called once, when closed and nobody is inside.
    """

    def __init__(self, name: str, release: Callable[[], None]) -> None:
        self._name = name
        self._release = release
        self._condition = threading.Condition()  # re-entrant: a signal handler may close in the middle of anything
        self._inside: list[int] = []  # threads with an operation under way
        self._held_by: int | None = None
        self._closing = self._released = False

    @contextlib.contextmanager
    def operation(self) -> Iterator[None]:
        """What is guarded stays as it is until the block is left."""
        this = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: self._held_by in (None, this))
            if self._closing:
                raise ClosedError(f"{self._name} was closed; open it again with HybridCollection.open()")
            self._inside.append(this)
        try:
            yield
        finally:
            with self._condition:
                self._inside.remove(this)
                self._release_if_due()
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is inside, and whoever comes waits, until the block is left. Not from within an operation."""
        this = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: self._held_by is None and not self._inside)
            if self._closing:
                raise ClosedError(f"{self._name} was closed; open it again with HybridCollection.open()")
            self._held_by = this
        try:
            yield
        finally:
            with self._condition:
                self._held_by = None
                self._release_if_due()
                self._condition.notify_all()

    def close(self) -> None:
        """Refuse new operations and wait for those of other threads; closing twice is allowed.

        Called in the middle of an operation of this thread, by a signal handler say, it returns at once and that
        operation's end releases.
        """
        this = threading.get_ident()
        with self._condition:
            self._closing = True
            self._release_if_due()
            if this not in self._inside and this != self._held_by:
                self._condition.wait_for(lambda: self._released)

    def _release_if_due(self) -> None:
        if self._released or self._inside or self._held_by is not None or not self._closing:
            return
        try:
            self._release()
        finally:
            self._released = True
            self._condition.notify_all()
