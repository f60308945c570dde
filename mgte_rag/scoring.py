"""How alike two encodings are. Inference and training losses call the same functions; all of them compute in fp32."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Terms:
    """The sparse vectors of some texts, one after the other.

    Attributes:
        texts: int64 [terms], the text of each term, ascending.
        ids: int64 [terms], the term; none twice in a text.
        weights: fp32 [terms], above 0; gradients pass.
        count: how many texts there are, those without a term included.
    """

    texts: Tensor
    ids: Tensor
    weights: Tensor
    count: int

    @classmethod
    def of(cls, vectors: Sequence[SparseVector]) -> "Terms":
        """Sparse vectors one after the other."""
        lengths = torch.tensor([len(vector.indices) for vector in vectors], dtype=torch.int64)
        nothing = SparseVector(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
        parts = [nothing, *vectors]
        return cls(
            texts=torch.arange(len(vectors)).repeat_interleave(lengths),
            ids=torch.from_numpy(np.concatenate([part.indices for part in parts])).long(),
            weights=torch.from_numpy(np.concatenate([part.values for part in parts])).float(),
            count=len(vectors),
        )


def sparse_dot(queries: Terms, documents: Terms) -> Tensor:
    """Sum over shared terms of the products of their weights.

    Only terms that occur in a query are looked at; nothing is as wide as the vocabulary.

    Returns:
        fp32 [queries, documents]; 0 where no term is shared.

    Source: mGTE, arXiv 2407.19669, section on sparse representations; BGE-M3, arXiv 2402.03216, s_lex.
    """
    asked = torch.unique(queries.ids)  # ascending
    if not len(asked):
        return queries.weights.new_zeros(queries.count, documents.count)
    wide = _spread(queries, asked, 0, queries.count)  # [queries, asked]
    step = max(1, _CHUNK_FLOATS // len(asked))
    parts = [
        wide @ _spread(documents, asked, start, min(start + step, documents.count)).T
        for start in range(0, documents.count, step)
    ]
    return torch.cat(parts, dim=1) if parts else wide.new_zeros(queries.count, 0)


def _spread(terms: Terms, asked: Tensor, start: int, stop: int) -> Tensor:
    """The weights of the texts ``start`` to ``stop`` for the terms asked for, fp32 [stop - start, asked]."""
    first, last = torch.searchsorted(terms.texts, torch.tensor([start, stop], device=terms.texts.device)).tolist()
    ids, weights = terms.ids[first:last], terms.weights[first:last]
    columns = torch.searchsorted(asked, ids).clamp(max=len(asked) - 1)
    shared = asked[columns] == ids
    rows = terms.texts[first:last][shared] - start
    wide = weights.new_zeros(stop - start, len(asked))
    return wide.index_put((rows, columns[shared]), weights[shared])


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
