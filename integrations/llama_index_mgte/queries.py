"""LlamaIndex's query modes to a collection's."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from llama_index_mgte.filters import all_of, to_filter
from llama_index_mgte.loading import refuse_arguments
from llama_index_mgte.nodes import REF_DOC_ID
from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from mgte_rag.types import Output
from qdrant_mgte import HybridCollection, rrf

_MODES = {
    VectorStoreQueryMode.SPARSE: "sparse",
    VectorStoreQueryMode.TEXT_SEARCH: "sparse",  # by the terms of the text, weighted by the model
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SEMANTIC_HYBRID: "late_interaction",  # the best of hybrid, ranked again by meaning
}
# What a call may add: options of HybridCollection.search, and those of LlamaIndex's own store for MMR.
_SEARCH_OPTIONS = ("candidates", "exact", "fusion", "offset", "score_threshold")
_MMR_OPTIONS = ("mmr_threshold", "mmr_prefetch_k", "mmr_prefetch_factor")


def search_options(
    query: VectorStoreQuery, given: Mapping[str, Any], collection: HybridCollection, default_mode: str | None
) -> dict[str, Any]:
    """The arguments of ``HybridCollection.search`` that a query stands for, beside the query itself.

    Raises:
        InvalidOptionError: a mode, a field or an argument that a collection has nothing for.
    """
    refuse_arguments(dict(given), "query()", (*_SEARCH_OPTIONS, *_MMR_OPTIONS))
    for name in ("output_fields", "embedding_field"):
        if getattr(query, name, None) is not None:
            raise InvalidOptionError(
                f"{name}={shown(getattr(query, name))}: nodes are returned whole, by one embedding"
            )
    options = {name: given[name] for name in _SEARCH_OPTIONS if given.get(name) is not None}
    options |= {"limit": query.similarity_top_k, "filter": query_filter(query), "group_by_parent": True}
    options["mode"] = default_mode or ("dense" if "dense" in collection.outputs else collection.mode)
    if query.mode == VectorStoreQueryMode.MMR:
        return options | _mmr(query, given)
    misplaced = [name for name in _MMR_OPTIONS if given.get(name) is not None]
    if misplaced or query.mmr_threshold is not None:
        raise InvalidOptionError(
            f"{(misplaced or ['mmr_threshold'])[0]} is for the query mode MMR, not {query.mode.name}"
        )
    if query.mode in _MODES:
        options["mode"] = _MODES[query.mode]
    elif query.mode != VectorStoreQueryMode.DEFAULT:
        allowed = ", ".join(mode.name for mode in (VectorStoreQueryMode.DEFAULT, *_MODES, VectorStoreQueryMode.MMR))
        named = getattr(query.mode, "name", shown(query.mode))
        raise InvalidOptionError(f"the query mode {named} is not supported; there are {allowed}")
    if query.mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH) and query.sparse_top_k:
        options["limit"] = query.sparse_top_k
    if query.mode in (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID):
        options["limit"] = query.hybrid_top_k or query.similarity_top_k
        options |= _weighed(query, options)
    return options


def needed_outputs(options: Mapping[str, Any], collection: HybridCollection) -> tuple[Output, ...]:
    """The outputs of a question that a search looks at."""
    names: Mapping[str, tuple[Output, ...]] = {
        "dense": ("dense",),
        "sparse": ("sparse",),
        "hybrid": ("dense", "sparse"),
        "late_interaction": collection.outputs,
    }
    needed = set(names[options["mode"]]) | ({"dense"} if options.get("mmr") is not None else set())
    return tuple(output for output in collection.outputs if output in needed)


def query_filter(query: VectorStoreQuery) -> dict[str, Any] | None:
    """The filter of a query: its metadata filters, its documents and its nodes.

    Raises:
        InvalidOptionError: one string where ids belong.
    """
    for name in ("doc_ids", "node_ids"):
        if isinstance(getattr(query, name), str):
            raise InvalidOptionError(f"{name} must be a list of ids, not one string: {shown(getattr(query, name))}")
    ref_doc_ids = {REF_DOC_ID: list(query.doc_ids)} if query.doc_ids else {}
    node_ids = {"$id": list(query.node_ids)} if query.node_ids else {}
    return all_of(to_filter(query.filters), ref_doc_ids, node_ids)


def _mmr(query: VectorStoreQuery, given: Mapping[str, Any]) -> dict[str, Any]:
    """LlamaIndex's threshold is Qdrant's too: 1 is like the query, 0 unlike each other, 0.5 the default."""
    threshold = given.get("mmr_threshold")
    threshold = query.mmr_threshold if threshold is None else threshold
    options: dict[str, Any] = {"mmr": 0.5 if threshold is None else threshold}
    if given.get("mmr_prefetch_k") is not None:
        options["candidates"] = given["mmr_prefetch_k"]
    elif given.get("mmr_prefetch_factor") is not None:
        options["candidates"] = int(given["mmr_prefetch_factor"] * query.similarity_top_k)
    return options


def _weighed(query: VectorStoreQuery, options: Mapping[str, Any]) -> dict[str, Any]:
    """LlamaIndex's alpha: 1 is dense alone, 0 sparse alone, 0.5 both alike; None is the collection's own fusion."""
    alpha = query.alpha
    if alpha is None:
        return {}
    if "fusion" in options:
        raise InvalidOptionError("alpha and fusion say the same; give one of them")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 <= alpha <= 1:
        raise InvalidOptionError(f"alpha must be from 0 (sparse alone) to 1 (dense alone), not {shown(alpha)}")
    if query.mode == VectorStoreQueryMode.HYBRID and alpha in (0, 1):
        return {"mode": "dense" if alpha else "sparse"}
    if alpha in (0, 1):
        raise InvalidOptionError(f"alpha={alpha} leaves nothing to fuse for {query.mode.name}; give one in between")
    return {"fusion": rrf(weights={"dense": 2 * alpha, "sparse": 2 * (1 - alpha)})}
