"""The collections that this process has open, each once however many handles there are on it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.memory import open_memory
from qdrant_mgte.schema import Schema
from qdrant_mgte.server import open_server
from qdrant_mgte.store import ServerOptions, Store

MEMORY = ":memory:"
_Key = Path | tuple[str, str, ServerOptions]


@dataclass(slots=True, eq=False)
class _Place:
    """Where a collection is; one thread at a time opens or closes it."""

    # Re-entrant, as the pool's: the garbage collector may release a handle while this thread acquires another.
    lock: threading.RLock = field(default_factory=threading.RLock)
    store: Store | None = None


@dataclass(slots=True)
class StorePool:
    """Open stores, counted by their handles.

    The pool's own lock is never held while something is opened or closed: that may wait for a server, whose thread the
    garbage collector may have chosen to release a handle in.
    """

    _handles: dict[Store, int] = field(default_factory=dict)
    _place_of: dict[Store, _Place] = field(default_factory=dict)
    _places: dict[_Key, _Place] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def acquire(
        self,
        location: Path | str,
        *,
        name: str = "documents",
        schema: Schema | None,
        metadata: Mapping[str, Any],
        options: ServerOptions = ServerOptions(),  # noqa: B008 - frozen
    ) -> Store:
        """The store of a location, opened if this is its first handle.

        A store whose folder was deleted or replaced on the disk is left to its handles, and the folder opened anew.

        Args:
            location: a folder as a Path, ":memory:" for a new and empty collection, or a URL.
            name: of the collection on a server; ignored elsewhere.
            schema: what a new collection gets, an existing one keeps its own; None: it must be there.
            metadata: what a new collection gets.
            options: how to reach a server; ignored elsewhere.
        """
        place = self._place(location, name, options)
        with place.lock:
            store = place.store
            if store is None or (isinstance(store, EdgeStore) and not store.is_where_it_was):
                store = _open(location, name, schema, metadata, options)
                place.store = store
            with self._lock:
                self._place_of[store] = place
                self._handles[store] = self._handles.get(store, 0) + 1
        return store

    def release(self, store: Store) -> None:
        """Give one handle back; the last one closes the store."""
        place = self._place_of[store]
        with place.lock:
            with self._lock:
                self._handles[store] -= 1
                if self._handles[store]:
                    return
                del self._handles[store], self._place_of[store]
            if place.store is store:
                place.store = None
            store.close()

    def _place(self, location: Path | str, name: str, options: ServerOptions) -> _Place:
        if location == MEMORY:
            return _Place()
        key = location if isinstance(location, Path) else (location, name, options)
        with self._lock:
            return self._places.setdefault(key, _Place())


def _open(
    location: Path | str, name: str, schema: Schema | None, metadata: Mapping[str, Any], options: ServerOptions
) -> Store:
    if isinstance(location, Path):
        return EdgeStore.open(location, schema, metadata)
    if location == MEMORY:
        return open_memory(schema, metadata)
    return open_server(location, name, schema, metadata, options)


STORES = StorePool()
