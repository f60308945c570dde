"""Tokens per second of this package and of sentence-transformers: same weights, same texts, same threads, one run.

    python benchmarks/encode.py [--texts 512] [--rounds 3]

Texts are docstrings of Python's standard library; tokenisation is included. The engines take turns round by round, so
that a machine whose speed drifts slows all of them, and the best round of each counts.
"""

import argparse
import platform
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as peer_version

import mgte_rag
from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model

Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    """Run every engine on the same texts, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    texts = [entry.to_document()["text"] for entry in collect()]
    random.Random(0).shuffle(texts)
    texts = texts[: options.texts]

    peer = SentenceTransformer(str(find_model(None).path), device="cpu")
    engines: dict[str, Encode] = {"sentence-transformers, defaults": lambda t: peer.encode(t, show_progress_bar=False)}
    models = {dtype: EmbeddingModel.load(device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")}
    for dtype, model in models.items():
        engines[f"mgte-rag, {dtype}"] = lambda t, model=model: model.encode_document(t).dense  # type: ignore[misc]
    tokens = int(models["float32"].encode_document(texts).token_counts.sum())

    seconds = {name: [] for name in engines}  # type: dict[str, list[float]]
    vectors = {}
    for round_number in range(options.rounds + 1):  # the first is the warm-up
        for name, encode in engines.items():
            started = time.perf_counter()
            vectors[name] = encode(texts)
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    report(seconds, vectors, tokens, len(texts))


def report(seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], tokens: int, texts: int) -> None:
    """Print the table: speed, ratio to the first engine, lowest cosine against it."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    print(f"torch {torch.__version__}, mgte-rag {mgte_rag.__version__}, sentence-transformers {peer_version}")
    print(f"{texts} texts, {tokens:,} tokens; best of {len(next(iter(seconds.values())))} rounds each\n")
    reference_name = next(iter(seconds))
    for name, times in seconds.items():
        lowest = float((vectors[name] * vectors[reference_name]).sum(1).min())
        ratio = min(seconds[reference_name]) / min(times)
        print(f"{name:34} {tokens / min(times):10,.0f} tokens/s   {ratio:5.2f}x   lowest cosine {lowest:.6f}")


if __name__ == "__main__":
    main()
