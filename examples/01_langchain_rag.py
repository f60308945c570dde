"""Questions answered from documents with LangChain, offline, in under a minute.

    python examples/01_langchain_rag.py [folder]

The documentation of a few of Python's standard modules goes into a vector store; a chain of retriever, prompt and
language model answers questions from it, streamed and several at a time; late interaction reranks; and LangChain's
indexing keeps the store in step with its sources. The language model is a stand-in that quotes the first passage: put
any of LangChain's chat models in its place.
"""

import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.language_models import SimpleChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from langchain_mgte import MGTEEmbeddings, MGTELateInteractionReranker, MGTERetriever, MGTEVectorStore
from mgte_cli.stdlib_docs import collect

MODULES = {"csv", "difflib", "glob", "json", "pathlib", "random", "sched", "shelve", "tempfile", "zlib"}
QUESTIONS = (
    "How do I read a csv file into dictionaries?",
    "How do I make a temporary directory that is deleted afterwards?",
    "How do I shuffle a list in place?",
)
PROMPT = ChatPromptTemplate.from_template(
    "Answer from these passages and name them:\n\n{context}\n\nQuestion: {question}"
)


class Quoting(SimpleChatModel):
    """A stand-in for a language model: quotes the first passage of the prompt, word by word."""

    @property
    def _llm_type(self) -> str:
        return "quoting"

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        passage = str(messages[-1].content).split("\n\n[")[1]
        return "The documentation says: [" + textwrap.shorten(passage, 150, placeholder=" ...")

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for word in self._call(messages).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))


def in_words(documents: list[Document]) -> str:
    """Documents as a prompt's context."""
    return "\n\n".join(f"[{document.metadata['name']}] {document.page_content}" for document in documents)


def main(folder: Path) -> None:
    """Index, ask, rerank, update."""
    entries = [entry for entry in collect() if entry.module.split(".")[0] in MODULES]
    documents = [
        Document(f"{entry.name}{entry.signature}\n\n{entry.text}", metadata={"name": entry.name, "kind": entry.kind})
        for entry in entries
    ]
    with MGTEVectorStore(MGTEEmbeddings(), location=folder / "index") as store:
        started = time.perf_counter()
        records = InMemoryRecordManager("python-docs")
        sync = {"cleanup": "full", "source_id_key": "name", "key_encoder": "sha256"}
        added = index(documents, records, store, **sync)
        print(f"{added['num_added']} documents in {time.perf_counter() - started:.1f} s")

        retriever = MGTERetriever(collection=store.collection, k=3)
        chain = (
            {"context": retriever | in_words, "question": RunnablePassthrough()}
            | PROMPT
            | Quoting()
            | StrOutputParser()
        )

        print(f"\n? {QUESTIONS[0]}\n  ", end="")
        for piece in chain.stream(QUESTIONS[0]):
            print(piece, end="", flush=True)
        print()
        for question, answer in zip(QUESTIONS[1:], chain.batch(list(QUESTIONS[1:])), strict=True):
            print(f"\n? {question}\n  {answer}")

        question = "find all files that match a pattern in a directory tree"
        print(f"\nretrieved, then reranked by late interaction: {question}")
        candidates = retriever.invoke(question, k=20, filter={"kind": ["function", "method"]})
        for document in MGTELateInteractionReranker(top_n=3).compress_documents(candidates, question):
            print(f"  {document.metadata['relevance_score']:.3f}  {document.metadata['name']}")

        changed = [
            *documents[1:],
            Document("glob.everything\n\nFinds everything.", metadata={"name": "glob.everything"}),
        ]
        synced = index(changed, records, store, **sync)
        print(f"\nagain, with one document new and one gone: {synced['num_added']} added, "
              f"{synced['num_skipped']} skipped, {synced['num_deleted']} deleted")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
