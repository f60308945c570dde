"""Tokens per second of this package, sentence-transformers, ONNX Runtime and OpenVINO: same weights, texts and threads.

    python benchmarks/encode.py [--texts 512] [--rounds 5]

Texts are docstrings of Python's standard library; tokenisation is included. The engines take turns round by round, so
that a machine whose speed drifts slows all of them, and the best round of each counts. Beside the speed stand the
lowest cosine with the fp32 vectors of sentence-transformers, and how much of the machine's rate of matrix products, of
the same dtype and measured in every round, the encoder's own products made use of.
"""

import argparse
import random
import time

import numpy as np
import torch
from machine import describe, matrix_product_rate
from peers import Encode, onnx_runtime, openvino, sentence_transformers

from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model

# Parameters of MiniLM's projections, each of which multiplies and adds once for every token: 6 layers of 12 * 384^2.
_FLOP_PER_TOKEN = 2 * 6 * 12 * 384 * 384
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Run every engine on the same texts, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    texts = [entry.to_document()["text"] for entry in collect()]
    random.Random(0).shuffle(texts)
    texts = texts[: options.texts]

    folder, threads = find_model(None).path, torch.get_num_threads()
    models = {dtype: EmbeddingModel.load(device="cpu", dtype=dtype) for dtype in _DTYPES}
    engines: dict[str, Encode] = {
        "sentence-transformers, defaults": sentence_transformers(folder),
        "sentence-transformers, bfloat16": sentence_transformers(folder, dtype="bfloat16"),
        "ONNX Runtime, float32": onnx_runtime(folder, threads=threads, max_length=256),
        "OpenVINO, float32": openvino(folder, dtype="f32", threads=threads, max_length=256),
        "OpenVINO, bfloat16": openvino(folder, dtype="bf16", threads=threads, max_length=256),
    }
    for dtype, model in models.items():
        engines[f"mgte-rag, {dtype}"] = lambda t, model=model: model.encode_document(t).dense  # type: ignore[misc]
        engines[f"mgte-rag, {dtype}, three heads"] = lambda t, model=model: (  # type: ignore[misc]
            model.encode_document(t, outputs=model.outputs).dense
        )
    tokens = int(models["float32"].encode_document(texts).token_counts.sum())
    check_forwards(models["float32"], texts)

    seconds: dict[str, list[float]] = {name: [] for name in engines}
    limits: dict[str, list[float]] = {dtype: [] for dtype in _DTYPES}
    vectors = {}
    for round_number in range(options.rounds + 1):  # the first is the warm-up
        for dtype, torch_dtype in _DTYPES.items():
            limits[dtype].append(matrix_product_rate(torch_dtype) / _FLOP_PER_TOKEN)
        for name, encode in engines.items():
            time.sleep(0.3)  # until the other engines' threads no longer spin
            started = time.perf_counter()
            vectors[name] = encode(texts)
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    report(seconds, vectors, {dtype: max(rates) for dtype, rates in limits.items()}, tokens)


def check_forwards(model: EmbeddingModel, texts: list[str]) -> None:
    """Nothing is kept from one call to the next: the same texts again are as many forward passes again."""
    before = model.forwards
    model.encode_document(texts)
    between = model.forwards
    model.encode_document(texts)
    assert model.forwards - between == between - before > 0, "a call was answered from another's results"


def report(
    seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], limits: dict[str, float], tokens: int
) -> None:
    """Print the table: speed, ratio to the first engine, share of the limit, lowest cosine against the first."""
    print(describe())
    rounds = len(next(iter(seconds.values())))
    print(f"{len(next(iter(vectors.values())))} texts, {tokens:,} tokens; best of {rounds} rounds each")
    print("limit by matrix products: " + ", ".join(f"{d} {rate:,.0f} tokens/s" for d, rate in limits.items()) + "\n")
    reference = next(iter(seconds))
    for name, times in seconds.items():
        rate = tokens / min(times)
        limit = limits["bfloat16" if "bfloat16" in name else "float32"]
        lowest = float((vectors[name] * vectors[reference]).sum(1).min())
        ratio = min(seconds[reference]) / min(times)
        print(f"{name:34} {rate:9,.0f} tokens/s {ratio:5.2f}x  {rate / limit:4.2f} of the limit  cosine {lowest:.6f}")


if __name__ == "__main__":
    main()
