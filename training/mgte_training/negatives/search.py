"""Exact search of a whole corpus for many queries at once, in bounded memory."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgte_rag import EmbeddingModel, scoring
from mgte_rag.progress import Progress
from mgte_rag.types import Encodings, Floats
from mgte_training.negatives.options import MiningOptions

# Scores of one step: 32 MB for dense vectors; token vectors take more room, so their documents come in smaller blocks.
_QUERIES = 1_024
_DENSE_DOCUMENTS = 8_192
_OTHER_DOCUMENTS = 1_024
_SAVE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Known:
    """Pairs of query and document whose document is no candidate of that query.

    Attributes:
        queries: int64 [pairs].
        documents: int64 [pairs], ascending.
    """

    queries: NDArray[np.int64]
    documents: NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Ranking:
    """The best documents of every query so far.

    Attributes:
        documents: int32 [queries, depth], the best first, -1 where there is none.
        scores: float32 [queries, depth], -inf where there is none.
        known_scores: float32 [pairs], of the known pairs.
        searched: documents compared so far.
    """

    documents: NDArray[np.int32]
    scores: Floats
    known_scores: Floats
    searched: int = 0

    @classmethod
    def empty(cls, queries: int, depth: int, known: int) -> Self:
        """A ranking before the first document."""
        return cls(
            np.full((queries, depth), -1, dtype=np.int32),
            np.full((queries, depth), -np.inf, dtype=np.float32),
            np.full(known, np.nan, dtype=np.float32),
        )

    def save(self, path: Path) -> None:
        """Write to a file that replaces an older one as a whole."""
        unfinished = path.with_name(path.name + ".part")
        with unfinished.open("wb") as file:
            np.savez(
                file,
                documents=self.documents,
                scores=self.scores,
                known_scores=self.known_scores,
                searched=np.array(self.searched),
            )
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            return cls(file["documents"], file["scores"], file["known_scores"], int(file["searched"]))


def search(
    model: EmbeddingModel,
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    candidates: int,
    known: Known,
    options: MiningOptions,
    saved: Path,
    show_progress: bool,
) -> Ranking:
    """Compare every query with every document; documents are encoded block by block and not kept.

    Memory: vectors of all queries, and 8 bytes for each query and place of the ranking.

    Args:
        model: encodes both.
        queries: all queries.
        documents: all documents.
        candidates: documents from this number on are only scored in known pairs.
        known: pairs that are scored and not ranked.
        options: rank range, outputs, weights, prompts and length.
        saved: where the ranking is kept every two minutes and at the end; if it is there, the search goes on from it.
        show_progress: draw a progress bar on standard error.

    Returns:
        The ranking, as deep as the range's end.
    """
    if saved.exists():
        ranking = Ranking.load(saved)
        if ranking.searched == len(documents):
            return ranking
    else:
        ranking = Ranking.empty(len(queries), options.rank_range[1], len(known.queries))
    blocks = [queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES)]
    encoded = [_queries(model, block, options) for block in blocks]
    last_saved = time.monotonic()
    with Progress("searching", unit="documents", total=len(documents), show=show_progress) as progress:
        progress.advance(ranking.searched, 0)
        for rows in _document_blocks(ranking.searched, len(documents), options):
            block_encodings = _documents(model, documents[rows.start : rows.stop], options)
            for number, block in enumerate(encoded):
                scores = _scores(model, block, block_encodings, options)
                _merge(ranking, scores, number * _QUERIES, rows, candidates, known)
            ranking.searched = rows.stop
            progress.advance(len(rows), int(block_encodings.token_counts.sum()))
            if time.monotonic() - last_saved > _SAVE_SECONDS:
                ranking.save(saved)
                last_saved = time.monotonic()
    ranking.save(saved)
    return ranking


def _document_blocks(start: int, stop: int, options: MiningOptions) -> Iterator[range]:
    size = _DENSE_DOCUMENTS if options.outputs == ("dense",) else _OTHER_DOCUMENTS
    for first in range(start, stop, size):
        yield range(first, min(first + size, stop))


def check_model(model: EmbeddingModel, options: MiningOptions) -> None:
    """Find out whether the model can do what the options ask, before anything is computed or written.

    Raises:
        UnsupportedOutputError: an output the model lacks.
        InvalidOptionError: a max_length or weights that the model does not allow.
    """
    model.similarity(_queries(model, [], options), _documents(model, [], options), weights=options.weights)


def _queries(model: EmbeddingModel, texts: Sequence[str], options: MiningOptions) -> Encodings:
    return model.encode_query(texts, outputs=options.outputs, prompt=options.query_prompt)


def _documents(model: EmbeddingModel, texts: Sequence[str], options: MiningOptions) -> Encodings:
    return model.encode_document(
        texts, outputs=options.outputs, prompt=options.document_prompt, max_length=options.max_length
    )


def _scores(model: EmbeddingModel, queries: Encodings, documents: Encodings, options: MiningOptions) -> Tensor:
    """fp32 [queries, documents]; of dense vectors on the model's own device."""
    if options.outputs != ("dense",):
        return torch.from_numpy(model.similarity(queries, documents, weights=options.weights).hybrid)
    assert queries.dense is not None, "asked for above"
    assert documents.dense is not None, "asked for above"
    device = torch.device(model.device.split(",")[0])
    return scoring.cosine(torch.from_numpy(queries.dense).to(device), torch.from_numpy(documents.dense).to(device))


def _merge(ranking: Ranking, scores: Tensor, first_query: int, documents: range, candidates: int, known: Known) -> None:
    """Note the known pairs' scores, and rank the others' among the best so far."""
    here = slice(first_query, first_query + len(scores))
    start, stop = np.searchsorted(known.documents, [documents.start, documents.stop])
    own = start + np.flatnonzero((known.queries[start:stop] >= here.start) & (known.queries[start:stop] < here.stop))
    rows = torch.from_numpy(known.queries[own] - here.start).to(scores.device)
    columns = torch.from_numpy(known.documents[own] - documents.start).to(scores.device)
    ranking.known_scores[own] = scores[rows, columns].cpu().numpy()
    scores[rows, columns] = -torch.inf
    scores[:, max(0, candidates - documents.start) :] = -torch.inf
    best, places = scores.topk(min(ranking.scores.shape[1], scores.shape[1]))
    new_documents = (places + documents.start).int().masked_fill(best == -torch.inf, -1).cpu()
    joined_scores = torch.cat([torch.from_numpy(ranking.scores[here]), best.cpu()], dim=1)
    joined_documents = torch.cat([torch.from_numpy(ranking.documents[here]), new_documents], dim=1)
    best, places = joined_scores.topk(ranking.scores.shape[1])
    ranking.scores[here] = best.numpy()
    ranking.documents[here] = joined_documents.gather(1, places).numpy()
