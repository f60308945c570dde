"""A model on one or several devices, safe to call from any thread."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import Checkpoint
from mgte_rag.devices import free_cached_memory, is_out_of_memory, token_budget
from mgte_rag.errors import InvalidOptionError
from mgte_rag.micro_batching import MicroBatcher
from mgte_rag.nn import heads
from mgte_rag.nn.attention import Attention, use_attention
from mgte_rag.nn.linear import prepare
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.nn.packing import PackedBatch, pack
from mgte_rag.token_rules import Inputs
from mgte_rag.types import Bools, Floats, Integers, SparseVector

OnBatch = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to make of the hidden states.

    Attributes:
        dim: components of the dense vectors; None is no dense vectors.
        sparse: whether to make sparse vectors.
        token_dim: components of the token vectors; None is no token vectors.
        score: whether to make the reranker's scores.
    """

    dim: int | None = None
    sparse: bool = False
    token_dim: int | None = None
    score: bool = False


@dataclass(slots=True)
class Vectors:
    """What the engine made, in the order of the inputs; None where not wanted."""

    dense: Floats | None
    sparse: list[SparseVector] | None
    multi_vector: list[Floats] | None
    scores: Floats | None = None

    @classmethod
    def empty(cls, texts: int, wanted: Wanted) -> "Vectors":
        """Room for what is wanted of so many texts."""
        nothing = SparseVector(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
        return cls(
            dense=None if wanted.dim is None else np.empty((texts, wanted.dim), dtype=np.float32),
            sparse=[nothing] * texts if wanted.sparse else None,
            multi_vector=None if wanted.token_dim is None else [nothing.values] * texts,
            scores=np.empty(texts, dtype=np.float32) if wanted.score else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Some of a call's texts, to go through the encoder together, and where their vectors go."""

    inputs: Inputs
    wanted: Wanted
    vectors: Vectors
    indices: list[int]

    @property
    def tokens(self) -> int:
        return sum(len(self.inputs.ids[i]) for i in self.indices)


@dataclass(slots=True, eq=False)
class _Replica:
    """The weights on one device, and how often they were used."""

    model: RetrievalModel
    device: torch.device
    forwards: int = 0


class Engine:
    """A model on one or several devices.

    Callers from many threads are batched together where they want the same vectors; a call with many texts takes its
    turn batch by batch, so that no query waits for another caller's long list. Where memory runs out a batch is
    halved, down to single texts, and later batches are kept that small.

    Args:
        checkpoint: the model's files.
        devices: where to compute; each gets a copy of the weights and batches of its own.
        dtype: what the projections compute in.
        attention: the attention kernel.
    """

    def __init__(
        self, checkpoint: Checkpoint, devices: Sequence[torch.device], dtype: torch.dtype, attention: Attention
    ) -> None:
        self._config = checkpoint.config
        self._replicas = [_Replica(_loaded(checkpoint, device, dtype, attention), device) for device in devices]
        self._token_budget = min(token_budget(device, self._config.encoder, dtype) for device in devices)
        self._start()

    def _start(self) -> None:
        self._batcher = MicroBatcher(self._replicas, self._compute, self._joins)
        self._pid = os.getpid()  # last: who sees it uses the batcher

    @property
    def forwards(self) -> int:
        """Forward passes so far, of all devices."""
        return sum(replica.forwards for replica in self._replicas)

    def encode(self, inputs: Inputs, wanted: Wanted, on_batch: OnBatch | None = None) -> Vectors:
        """Vectors and scores of texts, all that is wanted from one forward pass.

        Args:
            inputs: the texts' tokens, with the masks that the wanted vectors need.
            wanted: what to make.
            on_batch: called with the number of texts and tokens done after every batch.

        Returns:
            float32 dense [texts, dim], sparse vectors, token vectors [tokens, token_dim], and the reranker's raw logits
            [texts], in the inputs' order.
        """
        if os.getpid() != self._pid:
            self._survive_fork()
        vectors = Vectors.empty(len(inputs.ids), wanted)
        lengths = [len(row) for row in inputs.ids]
        works = (_Work(inputs, wanted, vectors, indices) for indices in plan_batches(lengths, self._current_budget))
        for work in self._run_all(works):
            if on_batch is not None:
                on_batch(len(work.indices), work.tokens)
        return vectors

    def _run_all(self, works: Iterator[_Work]) -> Iterator[_Work]:
        """The works, each when it is done: one after the other, or as many at a time as there are devices."""

        def run(work: _Work) -> _Work:
            self._batcher.run(work)
            return work

        if len(self._replicas) == 1:
            yield from map(run, works)
            return
        with ThreadPoolExecutor(len(self._replicas)) as threads:
            yield from threads.map(run, works)

    def _current_budget(self) -> int:
        return self._token_budget

    def _joins(self, works: list[_Work], work: _Work) -> bool:
        if work.wanted != works[0].wanted:
            return False
        return sum(each.tokens for each in works) + work.tokens <= self._token_budget

    def _survive_fork(self) -> None:
        """In a forked child the callers of the parent's other threads are gone, and their works with them.

        Raises:
            InvalidOptionError: the model is on a GPU, which a forked child cannot use.
        """
        for replica in self._replicas:
            if replica.device.type != "cpu":
                raise InvalidOptionError(
                    f"the model was loaded on {replica.device} before this process was forked; load it in the child, "
                    f"or start processes with spawn"
                )
        self._start()

    def _compute(self, works: list[_Work], replica: _Replica) -> None:
        rows = [(work, i) for work in works for i in work.indices]
        # Longest first: equally long texts, which also attend to equally many tokens, are one run for attention.
        rows.sort(key=lambda row: (-len(row[0].inputs.ids[row[1]]), _attended(row)))
        self._compute_rows(rows, replica)

    def _compute_rows(self, rows: "list[_Row]", replica: _Replica) -> None:
        """Fill the rows' places; where memory runs out, half of them at a time."""
        try:
            with torch.inference_mode():
                self._fill(rows, replica)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                tokens = len(rows[0][0].inputs.ids[rows[0][1]])
                error.add_note(f"one text of {tokens} tokens does not fit into memory; give a smaller max_length")
                raise
        # Out of the except block, so that the failed attempt's tensors are gone.
        free_cached_memory(replica.device)
        tokens = sum(len(work.inputs.ids[i]) for work, i in rows)
        self._token_budget = max(1, min(self._token_budget, tokens // 2))
        middle = len(rows) // 2
        self._compute_rows(rows[:middle], replica)
        self._compute_rows(rows[middle:], replica)

    def _fill(self, rows: "list[_Row]", replica: _Replica) -> None:
        model, wanted = replica.model, rows[0][0].wanted
        batch = _packed(rows, replica.device)
        replica.forwards += 1
        hidden = model.encoder(batch)  # fp32 [tokens, hidden]
        if wanted.dim is not None and self._config.pooling is not None:
            dense = heads.dense(heads.pool(hidden, batch, self._config.pooling), wanted.dim).cpu().numpy()
            for (work, i), vector in zip(rows, dense, strict=True):
                assert work.vectors.dense is not None, "a batch of works that want different vectors"
                work.vectors.dense[i] = vector
        if wanted.sparse:
            mask = _mask([work.inputs.sparse_tokens for work, _ in rows], rows, hidden)
            asked = torch.tensor([_is_asked(row) for row in rows], device=hidden.device)
            _scatter([work.vectors.sparse for work, _ in rows], rows, _sparse(model, hidden, batch, mask, asked))
        if wanted.token_dim is not None:
            mask = _mask([work.inputs.vector_tokens for work, _ in rows], rows, hidden)
            token_vectors = _multi_vector(model, hidden, batch, mask, wanted.token_dim)
            _scatter([work.vectors.multi_vector for work, _ in rows], rows, token_vectors)
        if wanted.score:
            assert model.classifier is not None, "asked a model without a reranker head for scores"
            assert self._config.classifier is not None, "a reranker head without its configuration"
            scores = model.classifier(heads.pool(hidden, batch, self._config.classifier.pooling)).cpu().numpy()
            for (work, i), score in zip(rows, scores, strict=True):
                assert work.vectors.scores is not None, "a batch of works that want different vectors"
                work.vectors.scores[i] = score


_Row = tuple[_Work, int]
"""A text: its call's work, and its place among that call's texts."""


def _loaded(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, attention: Attention) -> RetrievalModel:
    model = checkpoint.load_model(device, dtype)
    prepare(model)
    use_attention(model, attention)
    return model


def _attended(row: _Row) -> int:
    work, i = row
    return len(work.inputs.ids[i]) if work.inputs.attended is None else work.inputs.attended[i]


def _is_asked(row: _Row) -> bool:
    work, i = row
    return work.inputs.asked is not None and bool(work.inputs.asked[i])


def _packed(rows: list[_Row], device: torch.device) -> PackedBatch:
    types: list[Integers] | None = None
    if rows[0][0].inputs.types is not None:
        types = [work.inputs.types[i] for work, i in rows if work.inputs.types is not None]
    return pack(
        [work.inputs.ids[i] for work, i in rows], device, attended=[_attended(row) for row in rows], types=types
    )


def _mask(masks: list[list[Bools] | None], rows: list[_Row], hidden: Tensor) -> Tensor:
    """The texts' masks as one, bool [tokens]."""
    kept = [mask[i] for mask, (_, i) in zip(masks, rows, strict=True) if mask is not None]
    return torch.from_numpy(np.concatenate(kept)).to(hidden.device)


def _sparse(
    model: RetrievalModel, hidden: Tensor, batch: PackedBatch, kept: Tensor, asked: Tensor
) -> list[SparseVector]:
    assert model.sparse is not None, "asked a model without a sparse head for sparse vectors"
    found = model.sparse(hidden[kept], batch.ids[kept], batch.texts[kept], asked)
    positive = found[-1] > 0
    texts, ids, weights = (tensor[positive].cpu().numpy() for tensor in found)
    borders = np.searchsorted(texts, np.arange(len(batch.lengths) + 1))
    return [
        SparseVector(ids[start:stop].astype(np.int32), weights[start:stop].astype(np.float32))
        for start, stop in pairwise(borders)
    ]


def _multi_vector(
    model: RetrievalModel, hidden: Tensor, batch: PackedBatch, kept: Tensor, token_dim: int
) -> list[Floats]:
    assert model.multi_vector is not None, "asked a model without a late-interaction head for token vectors"
    rows = model.multi_vector(hidden[kept], token_dim).cpu().numpy()
    counts = torch.zeros_like(batch.lengths).index_add(0, batch.texts, kept.long())
    # Copied: a slice would keep the whole batch alive, other callers' texts included.
    return [part.copy() for part in np.split(rows, counts.cumsum(0)[:-1].tolist())]


def _scatter(places: list[list[T] | None], rows: list[_Row], values: list[T]) -> None:
    for place, (_, i), value in zip(places, rows, values, strict=True):
        assert place is not None, "a batch of works that want different vectors"
        place[i] = value
