"""How long one short query takes: this package, sentence-transformers, ONNX Runtime and OpenVINO, in turns.

    python benchmarks/query_latency.py [--queries 300]

Every query is another text of 4 to 16 words, tokenisation included; engines take turns every 30 queries, the first 5
of which do not count: their thread pools get out of each other's way, and a machine whose speed drifts slows all of
them. Medians and 99th percentiles are of the same queries.
"""

import argparse
import random
import time

import numpy as np
import torch
from machine import describe
from peers import Encode, onnx_runtime, openvino, sentence_transformers

from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model

_TURN, _WARM_UP = 30, 5


def main() -> None:
    """Run every engine on the same queries, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=330)
    options = parser.parse_args()

    folder, threads = find_model(None).path, torch.get_num_threads()
    engines: dict[str, Encode] = {
        "sentence-transformers, defaults": sentence_transformers(folder),
        "ONNX Runtime, fp32": onnx_runtime(folder, threads=threads, max_length=256),
        "OpenVINO, f32": openvino(folder, dtype="f32", threads=threads, max_length=256),
        "OpenVINO, bf16": openvino(folder, dtype="bf16", threads=threads, max_length=256),
    }
    for dtype in ("float32", "bfloat16"):
        model = EmbeddingModel.load(device="cpu", dtype=dtype)
        engines[f"mgte-rag, {dtype}"] = lambda texts, model=model: model.encode_query(texts).dense  # type: ignore[misc]

    seconds: dict[str, list[float]] = {name: [] for name in engines}
    asked = queries(options.queries)
    for start in range(0, len(asked), _TURN):
        for name, encode in engines.items():
            time.sleep(0.3)  # until the other engines' threads no longer spin
            for number, query in enumerate(asked[start : start + _TURN]):
                started = time.perf_counter()
                encode([query])
                if start and number >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - started)
    report(seconds)


def queries(count: int) -> list[str]:
    """Runs of words of the standard library's documentation."""
    words = " ".join(entry.text for entry in collect()).split()
    chance = random.Random(0)
    starts = [(chance.randrange(len(words) - 16), chance.randint(4, 16)) for _ in range(count)]
    return [" ".join(words[start : start + length]) for start, length in starts]


def report(seconds: dict[str, list[float]]) -> None:
    """Print the table: median, 99th percentile, and the first engine's median over each engine's."""
    print(describe())
    print(f"{len(next(iter(seconds.values())))} queries of 4 to 16 words, one at a time\n")
    reference = float(np.median(next(iter(seconds.values()))))
    for name, times in seconds.items():
        median, slowest = np.percentile(times, [50, 99]) * 1e3
        ratio = reference * 1e3 / median
        print(f"{name:34} p50 {median:6.2f} ms   p99 {slowest:6.2f} ms   {ratio:5.2f}x")


if __name__ == "__main__":
    main()
