"""How alike two encodings are. Inference and training losses call the same functions; all of them compute in fp32."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgte_rag.types import SparseVector

# Floats of one chunk of token similarities, 64 MB: documents are scored in slices that keep below it.
_CHUNK_FLOATS = 16 * 1024 * 1024
# Query tokens scored together: with the longest documents 32 MB of similarities.
_QUERY_TOKENS = 1_024


def cosine(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosine of every query with every document.

    Args:
        queries: [queries, dim], of any length and float dtype.
        documents: [documents, dim].

    Returns:
        fp32 [queries, documents] in -1..1; 0 where a vector is zero.
    """
    return F.normalize(queries.float(), dim=-1) @ F.normalize(documents.float(), dim=-1).T


def sparse_dot(queries: Sequence[SparseVector], documents: Sequence[SparseVector]) -> Tensor:
    """Sum over shared terms of the products of their weights.

    Only terms that occur in a query are looked at; nothing is as wide as the vocabulary.

    Returns:
        fp32 [queries, documents]; 0 where no term is shared.

    Source: mGTE, arXiv 2407.19669, section on sparse representations; BGE-M3, arXiv 2402.03216, s_lex.
    """
    scores = torch.zeros(len(queries), len(documents))
    if not queries or not documents:
        return scores
    terms = np.unique(np.concatenate([query.indices for query in queries]))  # ascending
    weights = torch.zeros(len(queries), len(terms))
    for row, query in enumerate(queries):
        weights[row, np.searchsorted(terms, query.indices)] = torch.from_numpy(query.values).float()
    for column, document in enumerate(documents):
        shared, places, here = np.intersect1d(terms, document.indices, assume_unique=True, return_indices=True)
        if len(shared):
            scores[:, column] = weights[:, places] @ torch.from_numpy(document.values[here]).float()
    return scores


def max_sim(queries: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """Late interaction: for each query token its best match in the document, summed over the query's tokens.

    Masked document tokens never win, whatever their vectors hold: they are set to -inf before the maximum. Masked
    query tokens add 0. A document with no token scores -1, the lowest cosine, for every query token.

    Args:
        queries: [queries, query tokens, token_dim], rows L2-normalised.
        query_mask: bool [queries, query tokens], True at tokens.
        documents: [documents, document tokens, token_dim], rows L2-normalised.
        document_mask: bool [documents, document tokens].

    Returns:
        fp32 [queries, documents].

    Source: Khattab and Zaharia 2020, arXiv 2004.12832, equation 3.
    """
    queries, documents = queries.float(), documents.float()
    per_document = max(1, queries.shape[0] * queries.shape[1] * documents.shape[1])
    step = max(1, _CHUNK_FLOATS // per_document)
    chunks = []
    for start in range(0, len(documents), step):
        part, mask = documents[start : start + step], document_mask[start : start + step]
        similarity = torch.einsum("qid,njd->qnij", queries, part)  # [queries, documents, query tokens, document tokens]
        similarity = similarity.masked_fill(~mask[None, :, None, :], -torch.inf)
        best = similarity.amax(-1) if mask.shape[1] else similarity.new_full(similarity.shape[:-1], -torch.inf)
        best = best.masked_fill(~mask.any(-1)[None, :, None], -1.0)  # [queries, documents, query tokens]
        chunks.append(best.masked_fill(~query_mask[:, None, :], 0.0).sum(-1))
    return torch.cat(chunks, dim=1) if chunks else queries.new_zeros(len(queries), 0)


def max_sim_ragged(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> Tensor:
    """``max_sim`` of multi-vectors of different lengths.

    One small matrix product per document, whose result stays in the caches: three times as fast as padding documents
    of similar length together, which copies all of them.

    Args:
        queries: [tokens, token_dim] each.
        documents: [tokens, token_dim] each.

    Returns:
        fp32 [queries, documents].
    """
    if not queries or not documents:
        return torch.zeros(len(queries), len(documents))
    documents = [document.float() for document in documents]
    parts = []
    for group in _in_groups(queries, _QUERY_TOKENS):
        tokens = torch.cat([query.float() for query in group]).T.contiguous()  # [token_dim, query tokens]
        lowest = tokens.new_full((tokens.shape[1],), -1.0)
        best = torch.stack([(rows @ tokens).amax(0) if len(rows) else lowest for rows in documents])
        parts += [part.sum(1) for part in torch.split(best, [len(query) for query in group], dim=1)]
    return torch.stack(parts)


def _in_groups(queries: Sequence[Tensor], tokens: int) -> Iterator[list[Tensor]]:
    """Neighbouring queries with so many tokens together, or one that alone has more."""
    group: list[Tensor] = []
    for query in queries:
        if group and sum(map(len, group)) + len(query) > tokens:
            yield group
            group = []
        group.append(query)
    yield group
