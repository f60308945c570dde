"""``mgte-rag demo``: search the documentation of Python's standard library, from nothing to answers in one command."""

import argparse
import os
import platform
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mgte_cli.arguments import positive

if TYPE_CHECKING:
    from langchain_mgte import MGTERetriever
    from mgte_rag import EmbeddingModel

QUESTIONS = (
    "how do I read a csv file into dictionaries",
    "run a function in another process with a timeout",
    "wait for the first of several coroutines to finish",
    "find all files with a given extension in a directory tree",
    "compare two strings and show where they differ",
)

# The smallest token vectors: a quarter of the space.
_TOKEN_DIM = 32
_RERANKED = 20
_RERANKER_WEIGHT = 0.05  # beside the model's own weights, chosen on none of these questions (mgte_rag/mini/README.md)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="index Python's own documentation and ask it questions",
        description="Index the documentation of Python's standard library with the embedded default model and answer "
        "questions through a LangChain retriever: dense and sparse vectors find candidates, late interaction and then "
        "a reranker order them. The first run indexes; later runs answer in seconds.",
    )
    parser.add_argument("question", nargs="*", help="ask this instead of a few prepared questions")
    parser.add_argument("-k", type=positive, default=3, help="answers to each question (default 3)")
    parser.add_argument("--index", type=Path, default=None, help="folder of the index (default: in the user's cache)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Index what is not indexed yet, then answer."""
    from langchain_mgte import MGTERetriever  # all on use: other commands need no extra and answer at once
    from mgte_cli.stdlib_docs import collect
    from mgte_rag import EmbeddingModel, Reranker
    from qdrant_mgte import HybridCollection, weighted
    from qdrant_mgte.fusion import published_fusion

    started = time.perf_counter()
    with EmbeddingModel.load() as model, Reranker.load() as reranker:
        folder = options.index or default_index(model)
        with HybridCollection.open(folder, model=model, token_dim=_TOKEN_DIM, mode="late_interaction") as collection:
            print(f"model {model.identity.name} on {model.device} in {model.dtype}; index {folder}")
            known = collection.count()
            entries = collect()
            if known < len(entries):
                print(f"indexing the documentation of Python {platform.python_version()}: {len(entries):,} documents")
            report = collection.upsert([entry.to_document() for entry in entries], show_progress=known < len(entries))
            print(
                f"{collection.count():,} documents, {report.written:,} of them indexed now, "
                f"{time.perf_counter() - started:.1f} s\n"
            )
            retriever = MGTERetriever(
                collection=collection,
                k=options.k,
                fusion=weighted({**published_fusion(model).weights, "rerank": _RERANKER_WEIGHT}),
                reranker=reranker,
                rerank_candidates=_RERANKED,
            )
            for question in (" ".join(options.question),) if options.question else QUESTIONS:
                answer(retriever, question)
    if not options.question:
        print_next_commands()
    return 0


def answer(retriever: "MGTERetriever", question: str) -> None:
    """Print the ranked documents for a question."""
    started = time.perf_counter()
    documents = retriever.invoke(question)
    print(f"? {question}   ({(time.perf_counter() - started) * 1000:.0f} ms)")
    for rank, document in enumerate(documents, start=1):
        heading, _, body = document.page_content.partition("\n\n")
        print(f"  {rank}. {document.metadata['mgte_score']:.3f}  {document.metadata['name']}  "
              f"[{document.metadata['kind']} in {document.metadata['module']}]")  # fmt: skip
        print(textwrap.indent(textwrap.shorten(body or heading, 160, placeholder=" ..."), " " * 12))
    print()


def default_index(model: "EmbeddingModel") -> Path:
    """A folder in the user's cache, one for each Python release and each model's weights."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mgte-rag" / f"python-{platform.python_version()}-docs-late-{model.identity.fingerprint[:8]}"


def print_next_commands() -> None:
    """Where to go from here."""
    print(
        'ask your own:    mgte-rag demo "your question"\n'
        "what runs here:  mgte-rag doctor\n"
        "in your code:    README.md has ten lines each for LangChain, LlamaIndex and the core"
    )
