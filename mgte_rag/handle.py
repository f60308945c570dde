"""One user's hold on a shared model."""

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mgte_rag.checkpoints import MINI, MINI_RERANKER, Checkpoint, find_model, load_checkpoint
from mgte_rag.devices import choose_attention, choose_devices, choose_dtype
from mgte_rag.engine import Engine
from mgte_rag.errors import ClosedError, InputTypeError
from mgte_rag.sharing import POOL, EngineKey


class ModelHandle:
    """A model's checkpoint and its engine, which all handles with the same options share.

    Args:
        checkpoint: the model's folder, read.
        key: what handles must agree on to share an engine.
        source: the arguments of ``open`` that open the same model again, in another process too.
    """

    def __init__(self, checkpoint: Checkpoint, key: EngineKey, source: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.key = key
        self.source = source
        shared = POOL.acquire(key, checkpoint)
        self.shared_engine: Engine | None = shared.engine
        self.hand_off = shared.hand_off
        self._release = weakref.finalize(self, POOL.release, key)

    @classmethod
    def open(
        cls,
        name: str | os.PathLike[str] | None,
        *,
        device: str | torch.device | None,
        dtype: str | torch.dtype | None,
        attention: str | None,
        revision: str | None,
        local_files_only: bool,
        check: Callable[[Checkpoint], None],
        attend_to_mask: bool | None = None,
        devices: Sequence[str | torch.device] | None = None,
    ) -> "ModelHandle":
        """Find, read and load a model.

        Args are those of ``EmbeddingModel.load``, and ``check``, which raises where the model is not of the kind that
        is wanted; it is called before the weights are read.
        """
        if name is not None and not isinstance(name, str | os.PathLike):
            raise InputTypeError(f"name must be a string, a path or None, not {type(name).__name__}")
        name = None if name is None else os.fspath(name)
        chosen_devices = choose_devices(device, devices)
        chosen_dtype = choose_dtype(dtype, chosen_devices)
        chosen_attention = choose_attention(attention, chosen_devices, chosen_dtype)
        folder = find_model(name, revision=revision, local_files_only=local_files_only)
        checkpoint = load_checkpoint(folder, attend_to_mask=attend_to_mask)
        check(checkpoint)
        is_embedded = folder.name in (MINI, MINI_RERANKER)
        source = {
            "name": folder.name if folder.revision or is_embedded else str(folder.path),
            "devices": [str(each) for each in chosen_devices],
            "dtype": str(chosen_dtype).removeprefix("torch."),
            "attention": chosen_attention,
            "revision": None if is_embedded else folder.revision,
            "local_files_only": local_files_only,
        }
        if attend_to_mask is not None:
            source["attend_to_mask"] = attend_to_mask
        key = EngineKey(checkpoint.identity.fingerprint, chosen_devices, chosen_dtype, chosen_attention)
        return cls(checkpoint, key, source)

    @property
    def engine(self) -> Engine:
        """The shared engine.

        Raises:
            ClosedError: the handle was closed.
        """
        if self.shared_engine is None:
            name = self.checkpoint.identity.name
            raise ClosedError(f"the model {name!r} was closed; load it again with load()")
        return self.shared_engine

    def close(self) -> None:
        """Give the handle back; the last one frees the weights. Closing twice is allowed."""
        self.shared_engine = None
        self._release()

    def __repr__(self) -> str:
        state = f"{', '.join(map(str, self.key.devices))}, {str(self.key.dtype).removeprefix('torch.')}"
        return f"{self.checkpoint.identity.name!r}, {'closed' if self.shared_engine is None else state}"
