"""LlamaIndex's embeddings cache, kept apart by role and by model.

LlamaIndex looks embeddings up by their text alone: the vector of a document would be given out for the same text as a
query, and one model's vectors for another's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from mgte_rag.async_calls import in_thread
from mgte_rag.types import Role

_role: ContextVar[Role] = ContextVar("role", default="document")


@contextmanager
def embedding_a_query() -> Iterator[None]:
    """What is looked up inside is a query's vector."""
    token = _role.set("query")
    try:
        yield
    finally:
        _role.reset(token)


class SeparatedCache(BaseKVStore):
    """A store in which every collection is one for each role and each way of embedding.

    Args:
        store: where it is all kept.
        owner: what decides the vectors of a role, as text; called when something is looked up.
    """

    def __init__(self, store: BaseKVStore, owner: Callable[[Role], str]) -> None:
        self.store = store
        self._owner = owner

    def __reduce__(self) -> tuple[Callable[[BaseKVStore], BaseKVStore], tuple[BaseKVStore]]:
        """The store alone; whoever gets it keeps it apart for himself."""
        return _as_it_is, (self.store,)

    def _named(self, collection: str) -> str:
        role = _role.get()
        return f"{collection}/{role}/{self._owner(role)}"

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        self.store.put(key, val, self._named(collection))

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        await self.store.aput(key, val, await in_thread(self._named, collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """The value kept, or None."""
        return self.store.get(key, self._named(collection))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """The value kept, or None."""
        return await self.store.aget(key, await in_thread(self._named, collection))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """All that is kept."""
        return self.store.get_all(self._named(collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """All that is kept."""
        return await self.store.aget_all(await in_thread(self._named, collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Forget a value; whether it was there."""
        return self.store.delete(key, self._named(collection))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Forget a value; whether it was there."""
        return await self.store.adelete(key, await in_thread(self._named, collection))


def _as_it_is(store: BaseKVStore) -> BaseKVStore:
    return store
