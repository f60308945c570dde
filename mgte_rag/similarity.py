"""How alike two lists of encodings are, per output and together."""

from collections.abc import Mapping

import numpy as np
import torch

from mgte_rag import scoring
from mgte_rag.config import HybridWeights
from mgte_rag.errors import InputTypeError, InvalidOptionError, shown
from mgte_rag.scoring import Terms
from mgte_rag.types import Encodings, Floats, Output, Similarity


def compare(
    queries: Encodings,
    documents: Encodings,
    *,
    weights: Mapping[Output, float] | None,
    published: HybridWeights,
    mean_max_sim: bool,
) -> Similarity:
    """Score every query against every document, for each output that both have.

    Args:
        queries: encoded queries.
        documents: encoded documents, with the same dim and token_dim.
        weights: of each output in the hybrid score; an output not named counts 0. None is what was published.
        published: the model's own weights.
        mean_max_sim: MaxSim is divided by the number of the query's tokens.

    Raises:
        InputTypeError: not encodings.
        InvalidOptionError: the two share no output, their sizes differ, or a weight names an output they lack.
    """
    for side in (queries, documents):
        if not isinstance(side, Encodings):
            raise InputTypeError(f"similarity compares what encode_query and encode_document return, not {shown(side)}")
    scores: dict[Output, Floats] = {}
    if queries.dense is not None and documents.dense is not None:
        _check_widths("dim", queries.dense.shape[1], documents.dense.shape[1])
        dense = scoring.cosine(torch.from_numpy(queries.dense), torch.from_numpy(documents.dense))
        scores["dense"] = dense.numpy()
    if queries.sparse is not None and documents.sparse is not None:
        scores["sparse"] = scoring.sparse_dot(Terms.of(queries.sparse), Terms.of(documents.sparse)).numpy()
    if queries.multi_vector is not None and documents.multi_vector is not None:
        sides = [[torch.from_numpy(rows) for rows in side.multi_vector or ()] for side in (queries, documents)]
        if sides[0] and sides[1]:
            _check_widths("token_dim", sides[0][0].shape[1], sides[1][0].shape[1])
        max_sim = scoring.max_sim_ragged(*sides).numpy()
        if mean_max_sim:
            max_sim /= np.array([max(1, len(rows)) for rows in sides[0]], dtype=np.float32)[:, None]
        scores["multi_vector"] = max_sim
    if not scores:
        raise InvalidOptionError("the queries and the documents share no output; encode both with the same outputs=")
    factors = _factors(scores, weights, published)
    hybrid = sum(np.float32(factors[name]) * score for name, score in scores.items())
    return Similarity(hybrid=np.asarray(hybrid, dtype=np.float32), **scores)


def _factors(
    scores: Mapping[Output, Floats], weights: Mapping[Output, float] | None, published: HybridWeights
) -> dict[Output, float]:
    if weights is not None:
        unknown = sorted(weights.keys() - scores.keys())
        if unknown:
            raise InvalidOptionError(
                f"weights name {', '.join(unknown)}; the queries and the documents share {', '.join(scores)}"
            )
        return {name: weights.get(name, 0.0) for name in scores}
    own: dict[Output, float] = {name: getattr(published, name) for name in scores}
    total = sum(own.values()) if published.averaged else 1.0
    return {name: factor / total for name, factor in own.items()}


def _check_widths(name: str, query: int, document: int) -> None:
    if query != document:
        raise InvalidOptionError(
            f"queries have {name} {query}, documents {document}; encode both with the same {name}="
        )
