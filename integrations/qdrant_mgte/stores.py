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


@dataclass(slots=True)
class StorePool:
    """Open stores, counted by their handles."""

    _handles: dict[Store, int] = field(default_factory=dict)
    _by_key: dict[_Key, Store] = field(default_factory=dict)
    # Re-entrant: the garbage collector may release a handle while this thread acquires another.
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
        key = location if isinstance(location, Path) else (location, name, options)
        with self._lock:
            store = self._by_key.get(key)
            if store is None or (isinstance(store, EdgeStore) and not store.is_where_it_was):
                store = _open(location, name, schema, metadata, options)
                if location != MEMORY:
                    self._by_key[key] = store
                self._handles[store] = 0
            self._handles[store] += 1
            return store

    def release(self, store: Store) -> None:
        """Give one handle back; the last one closes the store."""
        with self._lock:
            self._handles[store] -= 1
            if self._handles[store]:
                return
            del self._handles[store]
            self._by_key = {key: kept for key, kept in self._by_key.items() if kept is not store}
        store.close()


def _open(
    location: Path | str, name: str, schema: Schema | None, metadata: Mapping[str, Any], options: ServerOptions
) -> Store:
    if isinstance(location, Path):
        return EdgeStore.open(location, schema, metadata)
    if location == MEMORY:
        return open_memory(schema, metadata)
    return open_server(location, name, schema, metadata, options)


STORES = StorePool()
