"""Long documents: how much is lost by reading only their beginning."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mgte_rag import EmbeddingModel, Encodings, InvalidOptionError, scoring
from mgte_rag.types import Floats, Integers, Output
from mgte_training.evaluation.breakdown import by_part, in_order, length_buckets
from mgte_training.evaluation.build_systems import term_matrices
from mgte_training.evaluation.cached_model import CachedModel
from mgte_training.evaluation.measures import MAIN, Values, estimate, measure
from mgte_training.evaluation.ranking import best, joined
from mgte_training.evaluation.results import LengthVariant
from mgte_training.evaluation.retrieval_sets import RetrievalSet
from mgte_training.evaluation.systems import DEPTH
from qdrant_mgte.splitting import Splitting, split_texts

# Scores held at a time, 64 MB.
_BLOCK = 16 * 1024 * 1024

Scores = Callable[[slice], Floats]


def check_lengths(model: EmbeddingModel, lengths: Sequence[int]) -> None:
    """Fail before hours of work, not after them.

    Raises:
        InvalidOptionError: a length that the model does not read, or a model with neither dense nor sparse vectors.
    """
    if not {"dense", "sparse"} & set(model.outputs):
        raise InvalidOptionError(
            f"quality by length is measured by dense and sparse vectors; the model {model.identity.name!r} has "
            f"{', '.join(model.outputs)}"
        )
    for length in lengths:
        model.encode_document([], max_length=length)


def length_variants(
    data: RetrievalSet, model: CachedModel, tokens: Integers, lengths: Sequence[int] = ()
) -> list[LengthVariant]:
    """Quality with documents cut at each length, and read whole.

    A document that is longer than the model reads is read whole in pieces, cut as a collection cuts them, and its
    score is that of its best piece.

    Args:
        data: the set.
        model: encodes documents cut and whole.
        tokens: of each whole document.
        lengths: to cut at, in tokens, markers included; none: halvings of what the model reads.
    """
    outputs: tuple[Output, ...] = tuple(output for output in ("dense", "sparse") if output in model.outputs)
    wanted = sorted(set(lengths or _halvings(model.max_length)))
    queries = model.encode_query(data.queries, outputs=outputs)
    buckets = length_buckets(data, tokens)
    single = np.arange(len(data.documents), dtype=np.int32)
    variants = []
    for length in wanted:
        cut = model.encode_document(data.documents, outputs=outputs, max_length=length)
        variants += _variants(f"first {length} tokens", data, queries, cut, single, buckets)
    pieces, owners = _pieces(data, model)
    if len(pieces) > len(data.documents):
        whole = model.encode_document(pieces, outputs=outputs)
        variants += _variants("whole, best piece", data, queries, whole, owners, buckets)
    elif model.max_length not in wanted:
        whole = model.encode_document(data.documents, outputs=outputs)
        variants += _variants("whole", data, queries, whole, single, buckets)
    return variants


def _halvings(longest: int) -> list[int]:
    """What the model reads, a half, a quarter, ... down to 32 tokens."""
    halvings: list[int] = []
    while longest >= 32 and len(halvings) < 5:
        halvings.append(longest)
        longest //= 2
    return halvings


def _pieces(data: RetrievalSet, model: CachedModel) -> tuple[list[str], Integers]:
    """The pieces of all documents, and whose they are."""
    max_tokens, overlap = Splitting().resolved(model)
    pieces, owners = [], []
    for place, text in enumerate(data.documents):
        for piece in split_texts([text], model, max_tokens=max_tokens, overlap=overlap)[0]:
            pieces.append(text[piece.start : piece.end])
            owners.append(place)
    return pieces, np.array(owners, dtype=np.int32)


def _variants(
    name: str,
    data: RetrievalSet,
    queries: Encodings,
    documents: Encodings,
    owners: Integers,
    buckets: Sequence[str],
) -> list[LengthVariant]:
    """A variant for each output of the encodings."""
    scored: list[tuple[Output, Scores]] = []
    if queries.dense is not None and documents.dense is not None:
        dense = torch.from_numpy(queries.dense), torch.from_numpy(documents.dense)
        scored.append(("dense", lambda rows: scoring.cosine(dense[0][rows], dense[1]).numpy()))
    if queries.sparse is not None and documents.sparse is not None:
        sparse = term_matrices(queries.sparse, documents.sparse)
        scored.append(("sparse", lambda rows: (sparse[0][rows] @ sparse[1].T).toarray()))
    found = []
    for output, scores in scored:
        values = _measured(data, scores, owners, above_zero=output == "sparse")
        parts = by_part(values, buckets)
        ordered = {bucket: parts[bucket] for bucket in in_order(parts)}
        found.append(LengthVariant(name=name, output=output, overall=estimate(values), by_length=ordered))
    return found


def _measured(data: RetrievalSet, scores: Scores, owners: Integers, *, above_zero: bool) -> Values:
    """nDCG@10 of each query where a document's score is its best piece's; pieces stand in the order of documents."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    step = max(1, _BLOCK // max(1, len(owners)))
    rankings = []
    for start in range(0, len(data.queries), step):
        of_pieces = scores(slice(start, start + step))
        rankings.append(best(np.maximum.reduceat(of_pieces, starts, axis=1), DEPTH, above_zero=above_zero))
    return measure(joined(rankings), data)[MAIN]
