"""Seconds and memory from nothing to the first vector, each in a process of its own, and memory over 10,000 calls.

python benchmarks/start_up.py [--calls 10000]
"""

import argparse
import subprocess
import sys

from machine import describe

_OURS = """
import time; started = time.perf_counter()
from mgte_rag import EmbeddingModel
imported = time.perf_counter()
model = EmbeddingModel.load()
loaded = time.perf_counter()
model.encode_query("how do I read a file?")
"""
_THEIRS = """
import time; started = time.perf_counter()
from sentence_transformers import SentenceTransformer
imported = time.perf_counter()
from mgte_rag.checkpoints import find_model
model = SentenceTransformer(str(find_model(None).path), device="cpu")
loaded = time.perf_counter()
model.encode("how do I read a file?")
"""
_REPORT = """
import psutil
print(f"import {imported - started:5.2f} s   load {loaded - imported:5.2f} s   "
      f"first query {time.perf_counter() - loaded:5.2f} s   {psutil.Process().memory_info().rss / 2**20:5.0f} MB")
"""
_CALLS = """
import gc, psutil, sys
from mgte_rag import EmbeddingModel
model, process = EmbeddingModel.load(), psutil.Process()
calls, sizes = int(sys.argv[1]), []
for number in range(calls):
    model.encode_query("how do I read a file? " * (1 + number % 12))
    if number in (calls // 10, calls - 1):
        gc.collect()
        sizes.append(process.memory_info().rss / 2**20)
print(f"after {calls // 10} calls {sizes[0]:.0f} MB, after {calls} calls {sizes[1]:.0f} MB")
"""


def main() -> None:
    """Run every script in a new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{describe()}\n")
    for name, script in {"mgte-rag": _OURS + _REPORT, "sentence-transformers": _THEIRS + _REPORT}.items():
        run(script)  # files into the system's cache
        print(f"{name:24} {run(script)}")
    print(f"{'mgte-rag, memory':24} {run(_CALLS, str(options.calls))}")


def run(script: str, *arguments: str) -> str:
    """What the script prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
