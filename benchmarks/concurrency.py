"""Many callers at once: queries per second and their latencies, one caller against 32 threads and 32 coroutines.

    python benchmarks/concurrency.py [--queries 1600] [--callers 32]

Every caller sends one query after the other; callers who come while a batch computes go into the next one together.
sentence-transformers gets the same queries from as many threads.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from machine import describe
from query_latency import queries
from sentence_transformers import SentenceTransformer

from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model


def main() -> None:
    """Run each way once on the same queries, after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1600)
    parser.add_argument("--callers", type=int, default=32)
    options = parser.parse_args()
    asked = queries(options.queries)
    print(f"{describe()}\n{len(asked)} queries of 4 to 16 words\n")

    peer = SentenceTransformer(str(find_model(None).path), device="cpu")
    for dtype in ("float32", "bfloat16"):
        with EmbeddingModel.load(device="cpu", dtype=dtype) as model:
            in_threads(model.encode_query, asked[:200], options.callers)
            report(f"mgte-rag, {dtype}, 1 thread", *in_threads(model.encode_query, asked, 1))
            before = model.forwards
            report(
                f"mgte-rag, {dtype}, {options.callers} threads", *in_threads(model.encode_query, asked, options.callers)
            )
            print(f"    {len(asked) / (model.forwards - before):.1f} queries per forward pass")
            report(
                f"mgte-rag, {dtype}, {options.callers} coroutines",
                *asyncio.run(in_coroutines(model, asked, options.callers)),
            )
    for callers in (1, options.callers):
        report(f"sentence-transformers, {callers} threads", *in_threads(peer.encode, asked[:400], callers))


def in_threads(encode: Callable[[str], object], asked: list[str], callers: int) -> tuple[float, list[float]]:
    """Seconds in all, and of every query."""

    def timed(query: str) -> float:
        started = time.perf_counter()
        encode(query)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        latencies = list(threads.map(timed, asked))
    return time.perf_counter() - started, latencies


async def in_coroutines(model: EmbeddingModel, asked: list[str], callers: int) -> tuple[float, list[float]]:
    """The same from coroutines of one event loop."""
    waiting = list(reversed(asked))
    latencies = []

    async def call() -> None:
        while waiting:
            query, begun = waiting.pop(), time.perf_counter()
            await model.aencode_query(query)
            latencies.append(time.perf_counter() - begun)

    started = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return time.perf_counter() - started, latencies


def report(name: str, seconds: float, latencies: list[float]) -> None:
    """One line of the table."""
    median, slowest = np.percentile(latencies, [50, 99]) * 1e3
    rate = len(latencies) / seconds
    print(f"{name:36} {rate:7.0f} queries/s   p50 {median:6.1f} ms   p99 {slowest:6.1f} ms   {slowest / median:4.1f}")


if __name__ == "__main__":
    main()
