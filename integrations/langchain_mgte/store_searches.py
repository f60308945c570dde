"""The searches of the vector store: LangChain's names and arguments for those of a collection."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_mgte.documents import from_hits
from langchain_mgte.settings import check_k
from mgte_rag import InvalidOptionError
from qdrant_mgte import Hit, HybridCollection
from qdrant_mgte.encodings import dense_query
from qdrant_mgte.filters import Filter

_FETCHED = 20  # what LangChain hands to MMR
# What a search takes beside k and filter: arguments of HybridCollection.search.
_OPTIONS = (
    "offset", "mode", "fusion", "candidates", "rerank", "rerank_candidates", "mmr", "group_by_parent",
    "score_threshold", "exact",
)  # fmt: skip


class StoreSearches(VectorStore):
    """A vector store over a collection, as far as it searches."""

    _collection: HybridCollection

    def similarity_search(self, query: str, k: int = 4, filter: Filter | None = None, **options: Any) -> list[Document]:
        """The documents that answer a question best, best first; ``options`` are those of the class."""
        arguments = _arguments(k, filter, options)
        return _documents(self._collection.search(query, **arguments), arguments)

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[Document]:
        """``similarity_search`` without blocking the event loop."""
        arguments = _arguments(k, filter, options)
        return _documents(await self._collection.asearch(query, **arguments), arguments)

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """The same with raw scores of the last stage, higher is better."""
        arguments = _arguments(k, filter, options)
        return _with_scores(self._collection.search(query, **arguments), arguments)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """``similarity_search_with_score`` without blocking the event loop."""
        arguments = _arguments(k, filter, options)
        return _with_scores(await self._collection.asearch(query, **arguments), arguments)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[Document]:
        """The documents whose dense vectors are most like this one."""
        arguments = _by_vector(k, filter, options)
        return _documents(self._collection.search(dense_query(embedding), **arguments), arguments)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[Document]:
        """``similarity_search_by_vector`` without blocking the event loop."""
        arguments = _by_vector(k, filter, options)
        return _documents(await self._collection.asearch(dense_query(embedding), **arguments), arguments)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """The same with their cosines."""
        arguments = _by_vector(k, filter, options)
        return _with_scores(self._collection.search(dense_query(embedding), **arguments), arguments)

    async def asimilarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """``similarity_search_with_score_by_vector`` without blocking the event loop."""
        arguments = _by_vector(k, filter, options)
        return _with_scores(await self._collection.asearch(dense_query(embedding), **arguments), arguments)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = _FETCHED,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **options: Any,
    ) -> list[Document]:
        """Documents that answer and differ from each other, by their dense vectors.

        Args:
            query: the question.
            k: documents at most.
            fetch_k: the best by the search's mode, of which MMR chooses.
            lambda_mult: from 1 (like the question) to 0 (unlike each other).
            filter: on metadata.
            options: those of the class but ``mmr`` and ``candidates``.
        """
        arguments = _mmr(_arguments(k, filter, options), fetch_k, lambda_mult)
        return _documents(self._collection.search(query, **arguments), arguments)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = _FETCHED,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **options: Any,
    ) -> list[Document]:
        """``max_marginal_relevance_search`` without blocking the event loop."""
        arguments = _mmr(_arguments(k, filter, options), fetch_k, lambda_mult)
        return _documents(await self._collection.asearch(query, **arguments), arguments)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = _FETCHED,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **options: Any,
    ) -> list[Document]:
        """``max_marginal_relevance_search`` by a dense vector."""
        arguments = _mmr(_by_vector(k, filter, options), fetch_k, lambda_mult)
        return _documents(self._collection.search(dense_query(embedding), **arguments), arguments)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = _FETCHED,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **options: Any,
    ) -> list[Document]:
        """``max_marginal_relevance_search_by_vector`` without blocking the event loop."""
        arguments = _mmr(_by_vector(k, filter, options), fetch_k, lambda_mult)
        return _documents(await self._collection.asearch(dense_query(embedding), **arguments), arguments)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        arguments = self._with_relevance(_arguments(k, filter, options))
        return _with_relevance(self._collection.search(query, **arguments), arguments)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        arguments = self._with_relevance(_arguments(k, filter, options))
        return _with_relevance(await self._collection.asearch(query, **arguments), arguments)

    def _with_relevance(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments, where the scores of such a search say something by themselves."""
        mode = arguments.get("mode") or self._collection.mode
        is_fused = mode in ("hybrid", "sparse") or arguments.get("mmr") is not None
        if is_fused and arguments.get("rerank") is None:
            named = "MMR" if arguments.get("mmr") is not None else mode
            raise InvalidOptionError(
                f"{named} scores have no relevance from 0 to 1; search with mode='dense', mode='late_interaction' or "
                f"rerank=MGTEReranker(...), or use similarity_search_with_score"
            )
        return arguments


def _arguments(k: int, filter: Filter | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """LangChain's arguments of a search as the collection's.

    Raises:
        TypeError: an option that there is not.
        InvalidOptionError: k is below 1.
    """
    check_names(options.keys())
    return {**options, "limit": check_k(k), "filter": filter}


def check_names(names: Iterable[str]) -> None:
    """Check the names of a search's options.

    Raises:
        TypeError: one that there is not.
    """
    unknown = sorted(set(names) - set(_OPTIONS))
    if unknown:
        raise TypeError(f"unknown arguments {', '.join(unknown)}; a search takes k, filter, {', '.join(_OPTIONS)}")


def _by_vector(k: int, filter: Filter | None, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": "dense", **_arguments(k, filter, options)}


def _mmr(arguments: dict[str, Any], fetch_k: int, lambda_mult: float) -> dict[str, Any]:
    twice = {"mmr", "candidates"} & arguments.keys()
    if twice:
        raise TypeError(f"{', '.join(sorted(twice))}: say it by lambda_mult and fetch_k")
    return {**arguments, "mmr": lambda_mult, "candidates": fetch_k}


def _documents(hits: Sequence[Hit], arguments: Mapping[str, Any]) -> list[Document]:
    return from_hits(hits, scored=False, grouped=bool(arguments.get("group_by_parent")))


def _with_scores(hits: Sequence[Hit], arguments: Mapping[str, Any]) -> list[tuple[Document, float]]:
    return [(document, hit.score) for document, hit in zip(_documents(hits, arguments), hits, strict=True)]


def _with_relevance(hits: Sequence[Hit], arguments: Mapping[str, Any]) -> list[tuple[Document, float]]:
    pairs = zip(_documents(hits, arguments), hits, strict=True)
    return [(document, hit.relevance) for document, hit in pairs if hit.relevance is not None]
