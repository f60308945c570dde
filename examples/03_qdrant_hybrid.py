"""Hybrid search over real documents, offline, in under a minute.

    python examples/03_qdrant_hybrid.py [folder]

The documentation of a dozen of Python's standard modules goes into a collection: dense, sparse and token vectors from
one forward pass, long texts split. Then one question in every mode, with the scores of every stage; a filter;
documents instead of pieces; a cheap change of metadata; and a copy that answers the same.
"""

import sys
import tempfile
import textwrap
import time
from pathlib import Path

from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from qdrant_mgte import Hit, HybridCollection, weighted

MODULES = {
    "argparse",
    "asyncio",
    "csv",
    "difflib",
    "glob",
    "json",
    "pathlib",
    "random",
    "re",
    "sched",
    "shelve",
    "zlib",
}
QUESTION = "find all files that match a pattern in a directory tree"


def show(title: str, hits: list[Hit]) -> None:
    """Print hits, one line each, with the scores they have."""
    print(f"\n{title}")
    for rank, hit in enumerate(hits, start=1):
        scores = "  ".join(f"{stage} {score:.3f}" for stage, score in hit.scores.items())
        print(f"  {rank}. {hit.chunk_id:<28} {scores}")
    print(textwrap.indent(textwrap.shorten(hits[0].text, 100, placeholder=" ..."), "     "))


def main(folder: Path) -> None:
    """Index, search, change, copy."""
    documents = [entry.to_document() for entry in collect() if entry.module.split(".")[0] in MODULES]
    for document in documents:
        document["metadata"]["length"] = len(document["text"])

    with EmbeddingModel.load() as model:
        indexes = {"kind": "keyword", "length": "integer"}
        with HybridCollection.open(folder / "index", model=model, token_dim=64, indexes=indexes) as docs:
            started = time.perf_counter()
            report = docs.upsert(documents)
            report.raise_for_rejected()
            print(f"{report.written} documents in {report.chunks} pieces, {report.tokens:,} tokens, "
                  f"{time.perf_counter() - started:.1f} s; outputs {', '.join(docs.outputs)}")  # fmt: skip

            for mode in ("dense", "sparse", "hybrid", "late_interaction"):
                show(f"{mode}: {QUESTION}", docs.search(QUESTION, mode=mode, limit=3, all_scores=True))

            as_published = weighted({"dense": 1, "sparse": 0.2})
            show("hybrid, as a weighted sum", docs.search(QUESTION, fusion=as_published, limit=3, all_scores=True))

            classes = {"kind": "class", "length": {"gte": 200}, "$not": {"module": "asyncio"}}
            show("only classes with long documentation", docs.search(QUESTION, filter=classes, limit=3))
            show("documents, not pieces", docs.search("command line arguments", group_by_parent=True, limit=3))

            again = docs.upsert([{**documents[0], "metadata": {"read": True}}, *documents[1:]])
            print(f"\nagain, with new metadata of one: {again.unchanged} unchanged, {again.metadata_only} with new "
                  f"metadata, {again.tokens} tokens encoded")  # fmt: skip

            copied = docs.copy_to(folder / "copy")
            print(f"copied {copied.copied} points with their vectors, checksum {copied.checksum[:12]}")
            with HybridCollection.open(folder / "copy", model=model) as copy:
                same = [hit.id for hit in copy.search(QUESTION)] == [hit.id for hit in docs.search(QUESTION)]
                print(f"the copy answers {'the same' if same else 'differently'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
