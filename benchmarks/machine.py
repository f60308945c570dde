"""What a benchmark ran on, and how fast that can be at most."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F

_PEERS = ("sentence-transformers", "transformers", "onnxruntime", "openvino", "pylate", "tokenizers", "numpy")


def describe() -> str:
    """Machine and versions, for the head of a table."""
    versions = [f"{name} {found}" for name in _PEERS if (found := _version(name))]
    return "\n".join(
        [
            f"{_processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}",
            f"mgte-rag {_version('mgte-rag')}, torch {torch.__version__}, {', '.join(versions)}",
        ]
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
            flags = {
                "amx_bf16": torch.cpu._is_amx_tile_supported(),
                "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
            }
            return " ".join([names[0], *(flag for flag, there in flags.items() if there)])
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def matrix_product_rate(dtype: torch.dtype, *, rows: int = 4096, width: int = 384, inner: int = 1536) -> float:
    """FLOP per second of the encoder's widest projection, in the fastest form there is: the limit to compare with."""
    from mgte_rag.nn.linear import Linear, prepare

    layer = Linear(width, inner).to(dtype)
    inputs = torch.randn(rows, width, dtype=dtype)
    weight, bias = layer.weight.detach().clone(), layer.bias
    prepare(layer)
    with torch.inference_mode():
        fastest = min(_seconds(lambda: layer(inputs)), _seconds(lambda: F.linear(inputs, weight, bias)))
    return 2 * rows * width * inner / fastest


def _seconds(call: object, rounds: int = 30) -> float:
    assert callable(call)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
