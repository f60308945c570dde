"""Pairs per second of ``Reranker`` and of sentence-transformers' CrossEncoder with its defaults, in turns.

    python benchmarks/rerank.py [--pairs 100] [--rounds 5]

The weights are all-MiniLM-L6-v2's with a classifier drawn at random: speed and agreement are measured, not quality.
Pairs join a short query with docstrings of Python's standard library of all lengths.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertForSequenceClassification

from mgte_cli.stdlib_docs import collect
from mgte_rag import Reranker
from mgte_rag.checkpoints import find_model


def main() -> None:
    """Run both on the same pairs, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    entries = collect()
    chosen = random.Random(0).sample(entries, options.pairs)
    pairs = [("how do I read a file line by line?", entry.to_document()["text"]) for entry in chosen]
    with tempfile.TemporaryDirectory() as folder:
        write_cross_encoder(Path(folder))
        run(Path(folder), pairs, options.rounds)


def write_cross_encoder(folder: Path) -> None:
    """MiniLM with a pooler and a classifier drawn at random."""
    torch.manual_seed(0)
    source = find_model(None).path
    BertForSequenceClassification.from_pretrained(source, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, model_max_length=512).save_pretrained(folder)


def run(folder: Path, pairs: list[tuple[str, str]], rounds: int) -> None:
    """Take turns, and print the table."""
    peer = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    engines = {"CrossEncoder, defaults": lambda: peer.predict(pairs, show_progress_bar=False)}
    for dtype in ("float32", "bfloat16"):
        reranker = Reranker.load(folder, device="cpu", dtype=dtype)
        engines[f"mgte-rag, {dtype}"] = lambda reranker=reranker: reranker.score(pairs)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    scores = {}
    for round_number in range(rounds + 1):  # the first is the warm-up
        for name, score in engines.items():
            started = time.perf_counter()
            scores[name] = np.asarray(score()).reshape(-1)
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    print(describe())
    print(f"{len(pairs)} pairs; best of {rounds} rounds each\n")
    reference = next(iter(engines))
    for name, times in seconds.items():
        ratio = min(seconds[reference]) / min(times)
        off = np.abs(scores[name] - scores[reference]).max()
        print(f"{name:28} {min(times) * 1e3:8.1f} ms  {ratio:5.2f}x  largest difference of a logit {off:.5f}")


if __name__ == "__main__":
    main()
