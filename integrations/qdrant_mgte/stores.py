"""The folders that this process has open, each once however many collections are handles on it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.manifest import Manifest


@dataclass(slots=True)
class StorePool:
    """Open stores, counted by their handles."""

    _handles: dict[EdgeStore, int] = field(default_factory=dict)
    _by_folder: dict[Path, EdgeStore] = field(default_factory=dict)
    # Re-entrant: the garbage collector may release a handle while this thread acquires another.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def acquire(self, folder: Path, manifest: Manifest) -> EdgeStore:
        """The store of a folder, opened if this is its first handle.

        A store whose folder was deleted or replaced on the disk is left to its handles, and the folder opened anew.
        """
        with self._lock:
            store = self._by_folder.get(folder)
            if store is None or not store.is_where_it_was:
                store = EdgeStore(folder, manifest)
                self._by_folder[folder] = store
                self._handles[store] = 0
            self._handles[store] += 1
            return store

    def release(self, store: EdgeStore) -> None:
        """Give one handle back; the last one closes the store."""
        with self._lock:
            self._handles[store] -= 1
            if self._handles[store]:
                return
            del self._handles[store]
            self._by_folder = {folder: kept for folder, kept in self._by_folder.items() if kept is not store}
        store.close()


STORES = StorePool()
