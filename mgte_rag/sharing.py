"""The process's engines, each once however many handles name it."""

import os
import threading
from dataclasses import dataclass, field

import torch

from mgte_rag.checkpoints import Checkpoint
from mgte_rag.engine import Engine
from mgte_rag.hand_off import HandOff
from mgte_rag.nn.attention import Attention


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What two handles must agree on to share one copy of the weights."""

    fingerprint: str
    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    attention: Attention


@dataclass(slots=True)
class Shared:
    """What the handles of one key share.

    Attributes:
        engine: the weights, on their devices.
        hand_off: outputs that one caller's forward pass made for another caller.
        handles: how many there are.
    """

    engine: Engine
    hand_off: HandOff = field(default_factory=HandOff)
    handles: int = 0


@dataclass(slots=True)
class EnginePool:
    """The process's engines, counted by the handles that use them."""

    _engines: dict[EngineKey, Shared] = field(default_factory=dict)
    # Re-entrant: the garbage collector may release a handle while this thread acquires another.
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _computed: bool = False

    def acquire(self, key: EngineKey, checkpoint: Checkpoint) -> Shared:
        """The engine of that key, loaded if this is its first handle."""
        with self._lock:
            self._computed = True
            shared = self._engines.get(key)  # held here: a handle collected meanwhile cannot take it away
            if shared is None:
                shared = Shared(Engine(checkpoint, key.devices, key.dtype, key.attention))
            self._engines[key] = shared
            shared.handles += 1
            return shared

    def release(self, key: EngineKey) -> None:
        """Give one handle back; the last one frees the weights."""
        with self._lock:
            self._engines[key].handles -= 1
            if not self._engines[key].handles:
                del self._engines[key]

    def survive_fork(self) -> None:
        """In a forked child: locks may have been held by threads that are gone, as are those torch computes with.

        Waiting for torch's threads would never end, so what the forked thread computes from now on it computes alone.
        """
        self._lock = threading.RLock()
        for shared in self._engines.values():
            shared.hand_off.survive_fork()
        if self._computed:
            torch.set_num_threads(1)

    def __len__(self) -> int:
        return len(self._engines)


POOL = EnginePool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.survive_fork)
