"""A model on a device, one per process however many handles name it, safe to call from any thread."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import Checkpoint
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn import heads
from mgte_rag.nn.encoder import Encoder
from mgte_rag.nn.packing import pack
from mgte_rag.types import Floats, Integers

Attention = Literal["sdpa"]

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


class Engine:
    """An encoder on a device.

    Args:
        encoder: the encoder, weights on the device.
        checkpoint: where it came from; its configuration says how to pool.
        device: the device.
    """

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint, device: torch.device) -> None:
        self._encoder = encoder
        self._pooling = checkpoint.config.pooling
        self._device = device
        self._token_budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])
        self._turn = threading.Lock()

    def dense(
        self, sequences: Sequence[Integers], dim: int, on_batch: Callable[[int, int], None] | None = None
    ) -> Floats:
        """Dense vectors of token id sequences.

        Threads take turns batch by batch, so that a short query does not wait for another thread's long list.

        Args:
            sequences: int32 [length] each, none empty.
            dim: components kept.
            on_batch: called with the number of texts and tokens done after every batch.

        Returns:
            float32 [texts, dim], L2-normalised, in the order of the sequences.
        """
        vectors = np.empty((len(sequences), dim), dtype=np.float32)
        for indices in plan_batches([len(sequence) for sequence in sequences], self._token_budget):
            with self._turn, torch.inference_mode():
                batch = pack([sequences[i] for i in indices], self._device)
                pooled = heads.pool(self._encoder(batch), batch, self._pooling)  # [batch texts, hidden]
                vectors[indices] = heads.dense(pooled, dim).cpu().numpy()
            if on_batch is not None:
                on_batch(len(indices), sum(len(sequences[i]) for i in indices))
        return vectors


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
            if key not in self._engines:
                encoder = checkpoint.load_encoder(key.device, key.dtype)
                self._engines[key] = _Shared(Engine(encoder, checkpoint, key.device))
            shared = self._engines[key]
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
    except RuntimeError as error:
        raise InvalidOptionError(
            f"device {device!r} is not a device; this machine has {', '.join(available)}"
        ) from error
    if chosen.type not in available:
        raise InvalidOptionError(f"device {str(chosen)!r} is not on this machine; it has {', '.join(available)}")
    return chosen


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
