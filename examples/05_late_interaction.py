"""Late interaction over real documents, without a store and with one, and which words matched; offline.

    python examples/05_late_interaction.py [folder]

A dense vector says of a text what it is about as a whole. Late interaction keeps a vector for every token: each word
of the question looks for the word in the document that is most like it, and the likenesses are added up (MaxSim). So
it can be said which words a document was found for.
"""

import re
import string
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_mgte import MGTELateInteractionRetriever
from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from qdrant_mgte import HybridCollection

MODULES = {"csv", "glob", "json", "pathlib", "random", "sched", "shelve", "zlib"}
QUESTIONS = ("find all files that match a pattern", "pick several random elements of a population")


def show(title: str, nodes: list[NodeWithScore]) -> None:
    """Print what was found, one line each."""
    print(f"\n{title}")
    for rank, found in enumerate(nodes, start=1):
        print(f"  {rank}. {found.score:5.2f}  {found.node.node_id}")


def words_of(model: EmbeddingModel, text: str, *, is_query: bool) -> list[str]:
    """The word behind each token vector: this model has none for its first marker, nor for a document's punctuation."""
    words = []
    for start, end in model.token_offsets(text)[0][1:]:
        if not is_query and end > start and text[start:end] in string.punctuation:
            continue
        word = next((w.group() for w in re.finditer(r"\w+", text) if w.start() <= start < w.end()), text[start:end])
        words.append(word or "(end)")
    return words


def explain(model: EmbeddingModel, question: str, document: str) -> None:
    """Print each word of the question beside the word that it found."""
    asked = model.encode_query(question, outputs=("multi_vector",)).multi_vector[0]
    there = model.encode_document(document, outputs=("multi_vector",)).multi_vector[0]
    likeness = asked @ there.T  # cosine of every pair of tokens
    found = words_of(model, document, is_query=False)
    for place, word in enumerate(words_of(model, question, is_query=True)):
        best = int(np.argmax(likeness[place]))
        print(f"     {word:>10} ~ {found[best]:<14} {likeness[place, best]:5.2f}")
    print(f"     {'':>10}   {'MaxSim':<14} {likeness.max(axis=1).sum():5.2f}")


def main(folder: Path) -> None:
    """Search without a store and with one, and say why."""
    nodes = [
        TextNode(id_=entry.name, text=" ".join(entry.text.split("\n\n")[0].split()[:60]), metadata={"kind": entry.kind})
        for entry in collect()
        if entry.module in MODULES
    ]
    for node in nodes:
        node.excluded_embed_metadata_keys = ["kind"]

    with EmbeddingModel.load() as model:
        started = time.perf_counter()
        retriever = MGTELateInteractionRetriever.from_nodes(nodes, model=model, similarity_top_k=3)
        print(f"{len(nodes)} texts encoded in {time.perf_counter() - started:.1f} s, nothing stored")
        for question in QUESTIONS:
            found = retriever.retrieve(question)
            show(f"without a store: {question}", found)
            explain(model, question, found[0].node.text)

        with HybridCollection.open(folder / "index", model=model, token_dim=64) as collection:
            collection.upsert([{"id": n.id_, "text": n.text, "metadata": n.metadata} for n in nodes])
            question = QUESTIONS[0]
            everything = MGTELateInteractionRetriever(collection, similarity_top_k=3)
            show(f"in a collection, every document compared: {question}", everything.retrieve(question))
            some = MGTELateInteractionRetriever(collection, similarity_top_k=3, candidates=50)
            show("the 50 best by dense and sparse vectors compared", some.retrieve(question))
            methods = MGTELateInteractionRetriever(collection, similarity_top_k=3, filters={"kind": "method"})
            show("methods only", methods.retrieve(question))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
