"""A model on a device, one per process however many handles name it, safe to call from any thread."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import Checkpoint
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn import heads
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.nn.packing import PackedBatch, pack
from mgte_rag.token_rules import Inputs
from mgte_rag.types import Bools, Floats, SparseVector

Attention = Literal["sdpa"]
OnBatch = Callable[[int, int], None]
T = TypeVar("T")

# Tokens of one forward pass. Larger batches do not speed a CPU up: the activations leave its caches.
_TOKEN_BUDGET = {"cpu": 8_192, "mps": 16_384, "cuda": 65_536}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What two handles must agree on to share one copy of the weights."""

    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    attention: Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which vectors to make of the hidden states.

    Attributes:
        dim: components of the dense vectors; None is no dense vectors.
        sparse: whether to make sparse vectors.
        token_dim: components of the token vectors; None is no token vectors.
    """

    dim: int | None = None
    sparse: bool = False
    token_dim: int | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """What the engine made, in the order of the inputs; None where not wanted."""

    dense: Floats | None
    sparse: list[SparseVector] | None
    multi_vector: list[Floats] | None


class Engine:
    """A model on a device.

    Args:
        model: the model, weights on the device.
        checkpoint: where it came from; its configuration says how to pool.
        device: the device.
    """

    def __init__(self, model: RetrievalModel, checkpoint: Checkpoint, device: torch.device) -> None:
        self._model = model
        self._config = checkpoint.config
        self._device = device
        self._token_budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])
        self._turn = threading.Lock()
        self._pid = os.getpid()

    def encode(self, inputs: Inputs, wanted: Wanted, on_batch: OnBatch | None = None) -> Vectors:
        """Vectors of texts, all wanted ones from one forward pass.

        Args:
            inputs: the texts' tokens, with the masks that the wanted vectors need.
            wanted: which vectors.
            on_batch: called with the number of texts and tokens done after every batch.

        Returns:
            float32 dense [texts, dim], sparse vectors and token vectors [tokens, token_dim], in the inputs' order.
        """
        texts = len(inputs.ids)
        dense = None if wanted.dim is None else np.empty((texts, wanted.dim), dtype=np.float32)
        sparse: list[SparseVector | None] = [None] * texts
        multi_vector: list[Floats | None] = [None] * texts
        for indices in self._batches(inputs):
            with self._turn, torch.inference_mode():
                batch, hidden = self._hidden(inputs, indices)
                if dense is not None and wanted.dim is not None and self._config.pooling is not None:
                    pooled = heads.pool(hidden, batch, self._config.pooling)  # [batch texts, hidden]
                    dense[indices] = heads.dense(pooled, wanted.dim).cpu().numpy()
                if wanted.sparse:
                    mask = _mask(inputs.sparse_tokens, indices, hidden)
                    _scatter(sparse, indices, self._sparse(hidden, batch, mask))
                if wanted.token_dim is not None:
                    mask = _mask(inputs.vector_tokens, indices, hidden)
                    _scatter(multi_vector, indices, self._multi_vector(hidden, batch, mask, wanted.token_dim))
            _report(on_batch, inputs, indices)
        return Vectors(
            dense,
            [vector for vector in sparse if vector is not None] if wanted.sparse else None,
            None if wanted.token_dim is None else [rows for rows in multi_vector if rows is not None],
        )

    def score(self, inputs: Inputs, on_batch: OnBatch | None = None) -> Floats:
        """The reranker's raw logit of every pair: float32 [pairs], in the inputs' order."""
        classifier, config = self._model.classifier, self._config.classifier
        assert classifier is not None, "asked a model without a reranker head for scores"
        assert config is not None, "a reranker head without its configuration"
        scores = np.empty(len(inputs.ids), dtype=np.float32)
        for indices in self._batches(inputs):
            with self._turn, torch.inference_mode():
                batch, hidden = self._hidden(inputs, indices)
                scores[indices] = classifier(heads.pool(hidden, batch, config.pooling)).cpu().numpy()
            _report(on_batch, inputs, indices)
        return scores

    def _batches(self, inputs: Inputs) -> Iterator[list[int]]:
        """Which texts go together. Threads take turns batch by batch: no query waits for another thread's long list."""
        if os.getpid() != self._pid:
            self._survive_fork()
        lengths, attended = [len(row) for row in inputs.ids], inputs.attended
        for indices in plan_batches(lengths, self._token_budget):
            if attended is not None:  # equally long texts are one run where they also attend to equally many tokens
                indices.sort(key=lambda i: (-lengths[i], attended[i]))
            yield indices

    def _survive_fork(self) -> None:
        """In a forked child torch's threads are gone, and waiting for them would never end: compute in one thread.

        Raises:
            InvalidOptionError: the model is on a GPU, which a forked child cannot use.
        """
        if self._device.type != "cpu":
            raise InvalidOptionError(
                f"the model was loaded on {self._device} before this process was forked; load it in the child, or "
                f"start processes with spawn"
            )
        torch.set_num_threads(1)
        self._turn = threading.Lock()  # another thread may have held it at the fork
        self._pid = os.getpid()

    def _hidden(self, inputs: Inputs, indices: list[int]) -> tuple[PackedBatch, Tensor]:
        """One forward pass: the packed batch and its hidden states, fp32 [tokens, hidden]."""
        batch = pack(
            [inputs.ids[i] for i in indices],
            self._device,
            attended=None if inputs.attended is None else [inputs.attended[i] for i in indices],
            types=None if inputs.types is None else [inputs.types[i] for i in indices],
        )
        return batch, self._model.encoder(batch)

    def _sparse(self, hidden: Tensor, batch: PackedBatch, terms: Tensor) -> list[SparseVector]:
        head = self._model.sparse
        assert head is not None, "asked a model without a sparse head for sparse vectors"
        found = heads.strongest_terms(head(hidden[terms]), batch.ids[terms], batch.texts[terms])
        texts, ids, weights = (tensor.cpu().numpy() for tensor in found)
        borders = np.searchsorted(texts, np.arange(len(batch.lengths) + 1))
        return [
            SparseVector(ids[start:stop].astype(np.int32), weights[start:stop].astype(np.float32))
            for start, stop in pairwise(borders)
        ]

    def _multi_vector(self, hidden: Tensor, batch: PackedBatch, kept: Tensor, token_dim: int) -> list[Floats]:
        head = self._model.multi_vector
        assert head is not None, "asked a model without a late-interaction head for token vectors"
        rows = head(hidden[kept], token_dim).cpu().numpy()
        counts = torch.zeros_like(batch.lengths).index_add(0, batch.texts, kept.long())
        return np.split(rows, counts.cumsum(0)[:-1].tolist())


def _report(on_batch: OnBatch | None, inputs: Inputs, indices: list[int]) -> None:
    if on_batch is not None:
        on_batch(len(indices), sum(len(inputs.ids[i]) for i in indices))


def _mask(masks: list[Bools] | None, indices: list[int], hidden: Tensor) -> Tensor:
    """The texts' masks as one, bool [tokens]."""
    assert masks is not None, "the inputs were read without the masks that the wanted vectors need"
    return torch.from_numpy(np.concatenate([masks[i] for i in indices])).to(hidden.device)


def _scatter(places: list[T | None], indices: list[int], values: list[T]) -> None:
    for index, value in zip(indices, values, strict=True):
        places[index] = value


@dataclass(slots=True)
class _Shared:
    engine: Engine
    handles: int = 0


@dataclass(slots=True)
class EnginePool:
    """The process's engines, counted by the handles that use them."""

    _engines: dict[EngineKey, _Shared] = field(default_factory=dict)
    # Re-entrant: the garbage collector may release a handle while this thread acquires another.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def acquire(self, key: EngineKey, checkpoint: Checkpoint) -> Engine:
        """The engine of that key, loaded if this is its first handle."""
        with self._lock:
            shared = self._engines.get(key)  # held here: a handle collected meanwhile cannot take it away
            if shared is None:
                shared = _Shared(Engine(checkpoint.load_model(key.device, key.dtype), checkpoint, key.device))
            self._engines[key] = shared
            shared.handles += 1
            return shared.engine

    def release(self, key: EngineKey) -> None:
        """Give one handle back; the last one frees the weights."""
        with self._lock:
            self._engines[key].handles -= 1
            if not self._engines[key].handles:
                del self._engines[key]

    def __len__(self) -> int:
        return len(self._engines)


POOL = EnginePool()


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else CUDA, Apple's MPS or the CPU, whichever is there first.

    Raises:
        InvalidOptionError: the device is not one of this machine's.
    """
    available = [name for name, there in _available_devices().items() if there]
    if device is None:
        return torch.device(available[0])
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidOptionError(
            f"device {device!r} is not a device; this machine has {', '.join(available)}"
        ) from error
    if chosen.type not in available:
        raise InvalidOptionError(f"device {str(chosen)!r} is not on this machine; it has {', '.join(available)}")
    count = torch.cuda.device_count() if chosen.type == "cuda" else 1
    index = chosen.index or 0
    if index >= count:
        raise InvalidOptionError(f"device {str(chosen)!r} is not on this machine; it has {count} of {chosen.type}")
    return torch.device("cuda", index) if chosen.type == "cuda" else torch.device(chosen.type)


def _available_devices() -> dict[str, bool]:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for; None or "auto" is bf16 where the device computes in it, else fp32.

    Raises:
        InvalidOptionError: not one of the dtypes a model can run in.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if _computes_in_bf16(device) else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise InvalidOptionError(f"dtype {dtype!r} is not supported; choose one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_attention(attention: str | None) -> Attention:
    """The attention kernel; there is one so far, torch's own scaled dot-product attention.

    Raises:
        InvalidOptionError: any other name.
    """
    if attention not in (None, "auto", "sdpa"):
        raise InvalidOptionError(f"attention {attention!r} is not supported; choose one of auto, sdpa")
    return "sdpa"
