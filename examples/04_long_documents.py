"""Long documents: read whole by a long-context model, or in pieces that are found under their document.

    python examples/04_long_documents.py                                         # offline, in pieces of 256 tokens
    python examples/04_long_documents.py Alibaba-NLP/gte-multilingual-base       # 8,192 tokens, nothing cut

Each document is the documentation of a whole standard module: thousands of words. The embedded default reads 256
tokens, so that documents are cut at paragraphs and sentences, with an overlap, and every piece is found; grouping by
parent gives one hit for each document. A model that reads 8,192 tokens takes most of these documents as they are.
"""

import sys
import tempfile
import textwrap
import time
from collections import defaultdict
from pathlib import Path

from langchain_core.documents import Document

from langchain_mgte import MGTERetriever
from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection, Splitting

MODULES = ("argparse", "difflib", "glob", "json", "pathlib", "sched", "shelve", "zlib")
QUESTIONS = (
    "show where two lists of lines differ",
    "run events one after the other at given times",
    "the name of a file without its last suffix",
)
LONG = 8_192


def long_documents() -> list[Document]:
    """One document for each module, all of its docstrings one after the other."""
    texts: dict[str, list[str]] = defaultdict(list)
    for entry in collect():
        name = entry.module.split(".")[0]
        if name in MODULES:
            texts[name].append(f"{entry.name}{entry.signature}\n\n{entry.text}")
    return [Document("\n\n\n".join(parts), id=name, metadata={"module": name}) for name, parts in texts.items()]


def main(folder: Path, model_name: str | None = None) -> None:
    """Index long documents and say for every question where its answer is."""
    documents = long_documents()
    with EmbeddingModel.load(model_name) as model:
        max_tokens = min(model.max_length, LONG)
        lengths = [len(places) for places in model.token_offsets([document.page_content for document in documents])]
        print(f"{model.identity.name} reads {model.max_length:,} tokens; {len(documents)} documents of "
              f"{min(lengths):,} to {max(lengths):,}, {sum(n <= max_tokens for n in lengths)} fit whole")  # fmt: skip

        outputs = [output for output in model.outputs if output != "multi_vector"] or None
        with HybridCollection.open(folder / "index", model=model, outputs=outputs) as collection:
            started = time.perf_counter()
            report = collection.upsert(
                [{"id": d.id, "text": d.page_content, "metadata": d.metadata} for d in documents],
                split=Splitting(max_tokens=max_tokens),
            )
            report.raise_for_rejected()
            print(f"{report.written} documents in {report.chunks} pieces, {report.tokens:,} tokens, "
                  f"{time.perf_counter() - started:.1f} s; nothing is cut off: {not report.truncated}")  # fmt: skip

            retriever = MGTERetriever(collection=collection, k=2, group_by_parent=True)
            for question in QUESTIONS:
                print(f"\n? {question}")
                for document in retriever.invoke(question):
                    start = document.metadata.get("mgte_start", 0)
                    print(f"  {document.id}, best from character {start:,} on:")
                    passage = textwrap.shorten(document.page_content, 110, placeholder=" ...")
                    print(textwrap.indent(passage, "    "))
            whole = collection.get(documents[0].id or "")[0]
            is_same = whole is not None and whole.text == documents[0].page_content
            print(f"\nthe whole text of {documents[0].id} comes back as it was: {is_same}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), sys.argv[1] if len(sys.argv) > 1 else None)
