"""Which documents are being written, so that no two writers of this process work on one document at once."""

import contextlib
import threading
import weakref
from collections.abc import Collection, Iterator

from qdrant_mgte.store import Store


class Reservations:
    """Ids of documents that somebody is writing or deleting."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._ids: set[str] = set()
        self._all = False

    def take(self, ids: Collection[str]) -> None:
        """Wait until nobody has any of the ids, then have them."""
        with self._condition:
            self._condition.wait_for(lambda: not self._all and self._ids.isdisjoint(ids))
            self._ids.update(ids)

    def give_back(self, ids: Collection[str]) -> None:
        """Let others have the ids."""
        with self._condition:
            self._ids.difference_update(ids)
            self._condition.notify_all()

    @contextlib.contextmanager
    def holding(self, ids: Collection[str]) -> Iterator[None]:
        """Have the ids within the block."""
        self.take(ids)
        try:
            yield
        finally:
            self.give_back(ids)

    @contextlib.contextmanager
    def everything(self) -> Iterator[None]:
        """Nobody else writes within the block; reading goes on."""
        with self._condition:
            self._condition.wait_for(lambda: not self._all)
            self._all = True  # from here on nobody new comes in
            try:
                self._condition.wait_for(lambda: not self._ids)
            except BaseException:
                self._all = False
                self._condition.notify_all()
                raise
        try:
            yield
        finally:
            with self._condition:
                self._all = False
                self._condition.notify_all()


_OF_STORES: weakref.WeakKeyDictionary[Store, Reservations] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def reservations_of(store: Store) -> Reservations:
    """The reservations that all handles on a store share."""
    with _LOCK:
        return _OF_STORES.setdefault(store, Reservations())
