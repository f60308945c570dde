"""A model of gte-multilingual-base's size on a GPU: tokens per second by length, beside the device's own limit.

    python benchmarks/gpu.py [--device cuda] [--tokens 262144] [--lengths 16,128,512,2048,8192]

Random weights in the published layout: what they are changes no time. For every length as many texts as make up
``--tokens``, tokenisation included: ours in 16 bits, and sentence-transformers in the same dtype, padded, with its
default attention and, where flash-attn is installed, with that. Beside each stands the share of the rate of matrix
products, measured in the same run, and how fast the tokenizer alone is. It also runs on a CPU, with small numbers.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from machine import describe
from real_size import GTE, PIECES, write_gte

from mgte_rag import EmbeddingModel

# Projections of a layer: query, key, value and output (4 h^2), and the gated feed-forward (3 h * i).
_FLOP_PER_TOKEN = 2 * 12 * (4 * 768 * 768 + 3 * 768 * 3072)
_ATTENTION_FLOP = 4 * 12 * 768  # times the length: scores and their sum over values


def main() -> None:
    """Write the model, run every engine at every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--lengths", default="16,128,512,2048,8192")
    options = parser.parse_args()
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu --tokens 4096 --lengths 16,128 shows that it runs")
    lengths = [int(length) for length in options.lengths.split(",")]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "gte-multilingual-base"
        folder.mkdir()
        write_gte(folder)
        run(folder, options.device, options.tokens, lengths)


def run(folder: Path, device: str, tokens: int, lengths: list[int]) -> None:
    """Print a line for every engine and length."""
    print(describe())
    if device.startswith("cuda"):
        print(torch.cuda.get_device_name(device))
    with EmbeddingModel.load(folder, device=device, dtype="bfloat16") as model:
        rate = matrix_product_rate(device)
        print(f"matrix products in bf16: {rate / 1e12:.1f} TFLOP/s; attention: {model._handle.key.attention}\n")
        engines: dict[str, Callable[[list[str]], object]] = {"mgte-rag": model.encode_document}
        engines |= peers(model, folder.parent / "exported", device)
        for length in lengths:
            texts = [text_of(length, number) for number in range(max(1, tokens // length))]
            flop = _FLOP_PER_TOKEN + _ATTENTION_FLOP * length
            for name, encode in engines.items():
                spent = best_seconds(lambda encode=encode, texts=texts: encode(texts), device)  # type: ignore[misc]
                speed = len(texts) * length / spent
                print(f"{length:6} tokens  {name:32} {speed:12,.0f} tokens/s  {speed * flop / rate:5.2f} of the limit")
            offsets = best_seconds(lambda texts=texts: model.token_offsets(texts), "cpu")  # type: ignore[misc]
            print(f"{length:6} tokens  {'tokenising alone':32} {len(texts) * length / offsets:12,.0f} tokens/s")


def peers(model: EmbeddingModel, folder: Path, device: str) -> dict[str, Callable[[list[str]], object]]:
    """sentence-transformers with the same weights."""
    from sentence_transformers import SentenceTransformer

    model.export(folder)
    kernels = {"default": "sdpa"} | ({"flash-attn": "flash_attention_2"} if find_spec("flash_attn") else {})
    engines: dict[str, Callable[[list[str]], object]] = {}
    for name, kernel in kernels.items():
        dtype = torch.float16 if device.startswith("cuda") else torch.bfloat16
        settings = {"dtype": dtype, "attn_implementation": kernel}
        peer = SentenceTransformer(str(folder), device=device, model_kwargs=settings)
        engines[f"sentence-transformers, {name}"] = lambda texts, peer=peer: peer.encode(  # type: ignore[misc]
            texts, show_progress_bar=False
        )
    return engines


def text_of(length: int, number: int) -> str:
    """A text of so many tokens, markers included."""
    return " ".join(f"w{(number * 7919 + word) % (PIECES - 5)}" for word in range(length - 2))


def matrix_product_rate(device: str) -> float:
    """FLOP per second of a projection of this model, large enough to fill the device."""
    rows = 65_536 if device.startswith("cuda") else 2_048
    width, inner = GTE["hidden_size"], 2 * GTE["intermediate_size"]
    assert isinstance(width, int), "a size"
    left = torch.randn(rows, width, dtype=torch.bfloat16, device=device)
    right = torch.randn(width, inner, dtype=torch.bfloat16, device=device)
    return 2 * rows * width * inner / best_seconds(lambda: left @ right, device, rounds=20)


def best_seconds(call: Callable[[], object], device: str, rounds: int = 3) -> float:
    """The fastest of some rounds, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


if __name__ == "__main__":
    main()
