"""Retrieval for a LlamaIndex application over real documents, offline, in half a minute.

    python examples/02_llama_index_rag.py [folder]

The documentation of some of Python's standard modules goes through an ingestion pipeline into a hybrid store, dense,
sparse and token vectors from one forward pass. Then one question in several query modes, a filter, a query engine
whose nodes are ranked again, and a second run that embeds only what changed. The language model is a mock that repeats
its prompt: put yours in its place.
"""

import sys
import tempfile
import textwrap
import time
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeWithScore
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mgte import MGTEEmbedding, MGTELateInteractionReranker, MGTEVectorStore
from mgte_cli.stdlib_docs import collect

MODULES = {"csv", "difflib", "glob", "json", "pathlib", "random", "sched", "shelve", "zlib"}
QUESTION = "find all files that match a pattern in a directory tree"


def documents() -> list[Document]:
    """Real texts with ids, so that they are known again, and metadata that is not embedded."""
    return [
        Document(
            id_=entry.name,
            text=f"{entry.name}{entry.signature}\n\n{entry.text}",
            metadata={"module": entry.module, "kind": entry.kind, "length": len(entry.text)},
            excluded_embed_metadata_keys=["module", "kind", "length"],
        )
        for entry in collect()
        if entry.module in MODULES
    ]


def show(title: str, nodes: list[NodeWithScore]) -> None:
    """Print what was found, one line each, and the beginning of the best."""
    print(f"\n{title}")
    for rank, found in enumerate(nodes, start=1):
        print(f"  {rank}. {found.score:.3f}  {found.node.ref_doc_id}")
    print(textwrap.indent(textwrap.shorten(nodes[0].node.get_content(), 100, placeholder=" ..."), "     "))


def main(folder: Path) -> None:
    """Ingest, ask, answer, and ingest again."""
    embedding = MGTEEmbedding()  # the embedded default; model_name= takes a hub id or a folder
    splitter = SentenceSplitter(
        chunk_size=embedding.model.max_length - 16,  # counted in the model's own tokens: nothing is cut
        chunk_overlap=20,
        tokenizer=lambda text: list(embedding.model.token_offsets(text)[0]),
    )
    with MGTEVectorStore(location=folder / "index", token_dim=64).open() as store:  # open: one pass for all vectors
        pipeline = IngestionPipeline(
            transformations=[splitter, embedding],
            vector_store=store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )
        started = time.perf_counter()
        nodes = pipeline.run(documents=documents())
        print(f"{len(nodes)} nodes with {', '.join(store.collection.outputs)} vectors from "
              f"{embedding.model.forwards} forward passes, {time.perf_counter() - started:.1f} s")  # fmt: skip

        index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        for mode in ("default", "sparse", "hybrid", "semantic_hybrid", "mmr"):
            retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
            show(f"{mode}: {QUESTION}", retriever.retrieve(QUESTION))

        filters = MetadataFilters(
            filters=[
                MetadataFilter(key="kind", operator=FilterOperator.IN, value=["class", "module"]),
                MetadataFilter(key="length", operator=FilterOperator.GTE, value=200),
            ]
        )
        retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3, filters=filters)
        show("only classes and modules with long documentation", retriever.retrieve(QUESTION))

        engine = index.as_query_engine(
            llm=MockLLM(),
            vector_store_query_mode="hybrid",
            similarity_top_k=10,
            node_postprocessors=[MGTELateInteractionReranker(top_n=2)],
        )
        answer = engine.query(QUESTION)
        show("ranked again by late interaction, relevance from 0 to 1", answer.source_nodes)
        print(f"\nthe language model was given {len(str(answer)):,} characters with these two nodes in them")

        changed = documents()
        changed[0].set_content("Elephants never forget.")
        again = pipeline.run(documents=changed)
        print(f"\nagain, with one document changed: {len(again)} node embedded, "
              f"{len(store.get_nodes())} nodes in the store")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
