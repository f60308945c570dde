"""Where a model computes and in what: device, dtype, attention kernel, size of a batch."""

from collections.abc import Sequence
from importlib.util import find_spec
from inspect import signature
from typing import Any, get_args

import torch

from mgte_rag.config import EncoderConfig
from mgte_rag.errors import InputTypeError, InvalidOptionError, MissingExtraError, shown
from mgte_rag.nn.attention import Attention

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Tokens of one forward pass. On a CPU more do not help: the activations leave its caches (measured: 4,096 is
# within about a tenth of the best in fp32 and in bf16). On CUDA as many as fill the device and its memory allows.
_TOKEN_BUDGET = {"cpu": 4_096, "mps": 16_384, "cuda": 65_536}
_LEAST_BUDGET = 1_024

_OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "MPS backend out of memory")


def choose_devices(
    device: str | torch.device | None, devices: Sequence[str | torch.device] | None
) -> tuple[torch.device, ...]:
    """The devices asked for, else one: CUDA, Apple's MPS or the CPU, whichever is there first.

    Raises:
        InputTypeError: ``devices`` is no list.
        InvalidOptionError: a device is not one of this machine's, or both arguments are given.
    """
    if devices is None:
        return (choose_device(device),)
    if isinstance(devices, str) or not isinstance(devices, Sequence):
        raise InputTypeError(f"devices must be a list of devices, not {shown(devices)}; one device is device=")
    if device is not None or not devices:
        raise InvalidOptionError(
            f"device={shown(device)} and devices={shown(devices)}: give one of them, devices as a list of at least one"
        )
    return tuple(choose_device(each) for each in devices)


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


def choose_dtype(dtype: str | torch.dtype | None, devices: Sequence[torch.device]) -> torch.dtype:
    """The dtype asked for; None or "auto" is bf16 where all devices compute in it, else fp32.

    Raises:
        InvalidOptionError: not one of the dtypes a model can run in.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if all(map(_computes_in_bf16, devices)) else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise InvalidOptionError(f"dtype {dtype!r} is not supported; choose one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_attention(attention: str | None, devices: Sequence[torch.device], dtype: torch.dtype) -> Attention:
    """The attention kernel asked for; None or "auto" is the fastest that the devices and the dtype allow.

    "flash" is the package flash-attn, "varlen" torch's own kernel for packed batches, both for 16 bits on CUDA devices
    from Ampere on; "sdpa" runs everywhere.

    Raises:
        InvalidOptionError: no such kernel, or not with these devices and this dtype.
        MissingExtraError: "flash" without the package.
    """
    possible: list[Attention] = [
        name for name in get_args(Attention) if name == "sdpa" or _runs_packed(name, devices, dtype)
    ]
    if attention is None or attention == "auto":
        return possible[0]
    chosen = next((name for name in possible if name == attention), None)
    if attention == "flash" and find_spec("flash_attn") is None:
        raise MissingExtraError("flash-attn", "attention='flash'")
    if chosen is None:
        where = ", ".join(map(str, devices))
        raise InvalidOptionError(
            f"attention {attention!r} is not to be had with {str(dtype).removeprefix('torch.')} on {where}; "
            f"choose one of auto, {', '.join(possible)}"
        )
    return chosen


def _runs_packed(attention: Attention, devices: Sequence[torch.device], dtype: torch.dtype) -> bool:
    if dtype.itemsize != 2 or any(device.type != "cuda" for device in devices):
        return False
    if any(torch.cuda.get_device_capability(device) < (8, 0) for device in devices):
        return False
    return find_spec("flash_attn") is not None if attention == "flash" else _has_varlen()


def _has_varlen() -> bool:
    """Whether torch has its own kernel for packed batches, with windows: torch 2.10 has one without."""
    if find_spec("torch.nn.attention.varlen") is None:
        return False
    from torch.nn.attention.varlen import varlen_attn

    return "window_size" in signature(varlen_attn).parameters


def token_budget(device: torch.device, config: EncoderConfig, dtype: torch.dtype) -> int:
    """Tokens of one forward pass on a device, at most half of whose free memory they may fill."""
    budget = _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])
    if device.type != "cuda":
        return budget
    free, _ = torch.cuda.mem_get_info(device)
    return max(_LEAST_BUDGET, min(budget, free // 2 // bytes_per_token(config, dtype)))


def bytes_per_token(config: EncoderConfig, dtype: torch.dtype) -> int:
    """Activations that live at once in a layer: the fp32 stream, its sum and norm, and the wider block."""
    stream = 3 * 4 * config.hidden
    attention = 5 * config.hidden * dtype.itemsize  # query, key, value, what they give, the projection
    gated = 1 if config.gate == "none" else 3  # both halves and their product
    return int(stream + max(attention, (gated * config.intermediate + 2 * config.hidden) * dtype.itemsize))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocators for the CPU and for MPS raise a plain RuntimeError.
    return type(error) is RuntimeError and any(words in str(error) for words in _OUT_OF_MEMORY)


def free_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    backend: Any = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    if backend is not None:
        backend.empty_cache()
