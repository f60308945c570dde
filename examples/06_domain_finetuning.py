"""A folder of one's documents to a model that knows them, offline.

    python examples/06_domain_finetuning.py [documents] [out]

Headings become queries for their sections; a fifth of the documents is held out, and the report compares the model
with what it was on these, and on another set for what it has forgotten. Then the LangChain retriever searches with it.
Without a folder a small slice of the standard library's documentation is taken: a minute, which shows how it goes and
little more. ``mgte-rag tune`` does the same on the command line, with all options.
"""

import random
import sys
import tempfile
from pathlib import Path

from langchain_core.documents import Document

from langchain_mgte import MGTERetriever
from mgte_cli.stdlib_docs import collect
from mgte_training.domain import Judged, TuningOptions, read_documents, tune

MODULES = {"csv", "glob", "heapq", "json", "sched", "shelve", "textwrap", "zlib"}
OTHER_MODULES = {"datetime", "fractions", "random", "statistics"}
A_FEW_STEPS = TuningOptions(max_pairs=48, batch=16, max_length=64)


def write_slice(folder: Path) -> None:
    """A Markdown file for each module: a heading for every function, class and method."""
    parts: dict[str, list[str]] = {}
    for entry in collect():
        if entry.module in MODULES:
            heading = f"## {entry.name}{entry.signature}\n" if entry.kind != "module" else ""
            parts.setdefault(entry.module, [f"# The module {entry.module}"]).append(f"{heading}{entry.text}")
    folder.mkdir(parents=True)
    for module, texts in parts.items():
        (folder / f"{module}.md").write_text("\n\n".join(texts), encoding="utf-8")


def other_set() -> Judged:
    """Names to docstrings of other modules: what the model must not forget."""
    pairs = [(entry.name, entry.text) for entry in collect() if entry.module in OTHER_MODULES]
    return Judged.of_pairs(random.Random(0).sample(pairs, min(len(pairs), 60)))


def main(documents: Path | None, out: Path) -> None:
    """Tune, compare, search."""
    options = TuningOptions()
    if documents is None:
        documents, options = out / "documents", A_FEW_STEPS
        if not documents.exists():
            write_slice(documents)

    tuned = tune(documents, out / "tuned", other=other_set(), options=options, say=print)
    print(f"\n{tuned.report}\n\nplot: {tuned.plot}")

    pages = [
        Document(section.text, metadata={"title": page.title, "heading": section.heading})
        for page in read_documents(documents).documents
        for section in page.sections
        if section.text
    ]
    question = pages[-1].metadata["heading"] or pages[-1].metadata["title"]
    with MGTERetriever.from_documents(pages, location=out / "index", model=str(tuned.folder), k=3) as retriever:
        print(f"\n? {question}")
        for rank, page in enumerate(retriever.invoke(question), start=1):
            print(f"  {rank}. {page.metadata['title']}: {page.metadata['heading']}")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    if len(given) > 1:
        main(*given[:2])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(given[0] if given else None, Path(temporary))
