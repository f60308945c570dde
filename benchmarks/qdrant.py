"""Search, writing, size and recall of collections, beside qdrant-client's local mode and langchain-qdrant.

    python benchmarks/qdrant.py speed                    # synthetic vectors, the three engines in one run
    python benchmarks/qdrant.py recall "$MGTE_DATA"      # real texts, encoded with the embedded default
    python benchmarks/qdrant.py ingest "$MGTE_DATA"      # how busy the encoder is while a collection is filled

langchain-qdrant has no multi-vectors and stands on local mode too: it is measured where it can take part. Encoding the
query is left out everywhere. Times are medians; the engines get the same vectors and the same queries.
"""

import argparse
import gzip
import json
import platform
import statistics
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from mgte_rag import EmbeddingModel, SparseVector
from qdrant_mgte import HybridCollection
from qdrant_mgte.edge import EdgeStore
from qdrant_mgte.memory import open_memory
from qdrant_mgte.schema import Point, Schema
from qdrant_mgte.store import Rrf, Stage, Store

DOCUMENTS, TOKENS, TOKEN_DIM, DIM = 5_000, 100, 128, 384
FILTERED = 100_000
CHANCE = np.random.default_rng(0)


def main() -> None:
    """Run the parts named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "recall", "ingest"])
    parser.add_argument("data", nargs="?", type=Path, help="folder with pairs/*.jsonl.gz, for recall and ingest")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # local mode warns of its own limits
    print(f"{platform.machine()}, Python {platform.python_version()}")
    if options.part == "speed":
        speed()
    elif options.data is None:
        parser.error("recall and ingest need the data folder")
    elif options.part == "recall":
        recall(options.data)
    else:
        ingest(options.data)


def speed() -> None:
    """The synthetic tables."""
    points = list(synthetic(DOCUMENTS, tokens=True))
    queries = [hybrid_query() for _ in range(200)]
    print(f"\n{DOCUMENTS:,} documents: {DIM} dense, 60 sparse terms, {TOKENS} x {TOKEN_DIM} tokens; top 10")
    schema = Schema(dense=DIM, sparse=True, multi_vector=TOKEN_DIM, preset="balanced")
    with folder_store(schema) as ours:
        seconds = written(ours, points)
        row("embedded, hybrid + late interaction", p50(ours, [late(*query) for query in queries]))
        row("embedded, hybrid", p50(ours, [fused(*query[:2]) for query in queries]))
        print(f"embedded, writing: {DOCUMENTS / seconds:,.0f} documents/s")
        ours.optimize()
        row("embedded, optimized, hybrid + late interaction", p50(ours, [late(*query) for query in queries]))
    local = open_memory(schema, {})
    seconds = written(local, points)
    row("local mode, hybrid + late interaction", p50(local, [late(*query) for query in queries[:8]]))
    row("local mode, hybrid", p50(local, [fused(*query[:2]) for query in queries[:8]]))
    print(f"local mode, writing: {DOCUMENTS / seconds:,.0f} documents/s (in memory)")
    local.close()
    langchain_hybrid(points, queries[:8])
    sizes(points)
    del points
    filtered()


def filtered() -> None:
    """A dense search of which one point in a hundred passes the filter."""
    print(f"\n{FILTERED:,} documents: {DIM} dense; 1 % pass the filter; top 10")
    points = list(synthetic(FILTERED, tokens=False))
    only = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=7))])
    stages = [Stage(query=unit(CHANCE.normal(size=DIM)), using="dense", limit=10, filter=only) for _ in range(200)]
    schema = Schema(dense=DIM, preset="balanced", indexes={"group": "integer"})
    with folder_store(schema) as ours:
        seconds = written(ours, points)
        row("embedded", p50(ours, stages))
        print(f"embedded, writing: {FILTERED / seconds:,.0f} documents/s")
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={"dense": models.VectorParams(size=DIM, distance="Cosine")})
    for batch in batched(points, 5_000):
        client.upsert(
            "c",
            models.Batch(
                ids=[str(point.id) for point in batch],
                vectors={"dense": [np.asarray(point.vectors["dense"]).tolist() for point in batch]},
                payloads=[dict(point.payload) for point in batch],
            ),
        )
    row(
        "local mode",
        median_of(
            lambda stage: client.query_points("c", stage.query.tolist(), using="dense", query_filter=only, limit=10),
            stages[:5],
        ),
    )
    store, embeddings = langchain_store(client, "c", hybrid=False)
    metadata = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=7))])

    def search(stage: Stage) -> None:
        embeddings.dense = np.asarray(stage.query).tolist()
        store.similarity_search_with_score("query", k=10, filter=metadata)

    row("langchain-qdrant on local mode", median_of(search, stages[:5]))
    client.close()


def langchain_hybrid(points: Sequence[Point], queries: Sequence[Any]) -> None:
    """langchain-qdrant's hybrid mode, which fuses as many candidates as it returns."""
    client = QdrantClient(":memory:")
    client.create_collection(
        "c",
        vectors_config={"dense": models.VectorParams(size=DIM, distance="Cosine")},
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    store, embeddings = langchain_store(client, "c", hybrid=True)
    started = time.perf_counter()
    for batch in batched(points, 500):
        embeddings.batch = batch
        store.add_texts([str(point.payload["text"]) for point in batch], ids=[str(point.id) for point in batch])
    seconds = time.perf_counter() - started

    def search(query: Any) -> None:
        embeddings.dense, embeddings.sparse = query[0].tolist(), query[1]
        store.similarity_search_with_score("query", k=10)

    row("langchain-qdrant on local mode, hybrid (no late interaction)", median_of(search, queries))
    print(f"langchain-qdrant, writing without tokens: {len(points) / seconds:,.0f} documents/s (in memory)")
    client.close()


def langchain_store(client: QdrantClient, name: str, *, hybrid: bool) -> tuple[Any, Any]:
    """A store whose embeddings are those put into the second value."""
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
    from langchain_qdrant import SparseVector as TheirSparseVector

    class Given(Embeddings):
        batch: Sequence[Point] = ()
        dense: list[float] = [0.0] * DIM
        sparse = SparseVector(np.zeros(1, np.int32), np.ones(1, np.float32))

        def embed_query(self, text: str) -> list[float]:
            return self.dense

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [np.asarray(point.vectors["dense"]).tolist() for point in self.batch[: len(texts)]]

    class GivenSparse(SparseEmbeddings):
        def embed_query(self, text: str) -> TheirSparseVector:
            return theirs(given.sparse)

        def embed_documents(self, texts: list[str]) -> list[TheirSparseVector]:
            return [theirs(point.vectors["sparse"]) for point in given.batch[: len(texts)]]

    def theirs(vector: Any) -> TheirSparseVector:
        return TheirSparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())

    given = Given()
    store = QdrantVectorStore(
        client,
        name,
        embedding=given,
        sparse_embedding=GivenSparse() if hybrid else None,
        retrieval_mode=RetrievalMode.HYBRID if hybrid else RetrievalMode.DENSE,
        vector_name="dense",
        sparse_vector_name="sparse",
        validate_collection_config=False,
    )
    return store, given


def sizes(points: Sequence[Point]) -> None:
    """Bytes on the disk of the multi-vectors alone."""
    print(f"\nMulti-vectors alone, {DOCUMENTS:,} x {TOKENS} x {TOKEN_DIM}, on the disk")
    for preset in ("exact", "balanced", "compact"):
        schema = Schema(multi_vector=TOKEN_DIM, preset=preset)
        with folder_store(schema) as store:
            written(store, [Point(p.id, {"multi_vector": p.vectors["multi_vector"]}, {}) for p in points])
            store.optimize()
            log = {"wal"}  # of fixed size, emptied as it goes
            files = [f for f in Path(store.location).rglob("*") if f.is_file() and not log & set(f.parts)]
            print(f"  {preset:10} {sum(f.stat().st_blocks for f in files) * 512 / 1e6:6,.0f} MB")


def recall(data: Path) -> None:
    """Recall of each preset and of two-stage search against exact search, on real texts."""
    model = EmbeddingModel.load()
    pairs = [*read(data / "pairs" / "qamr.jsonl.gz"), *read(data / "pairs" / "nqg-test.jsonl.gz")]
    papers = list(read(data / "pairs" / "arxiv.jsonl.gz"))
    sentences = list(dict.fromkeys(pair["positive"] for pair in pairs))
    texts = list(dict.fromkeys([*sentences, *(paper["query"] for paper in papers)]))
    questions = [pair["query"] for pair in spread(pairs, 150)]
    questions += [" ".join(paper["positive"].split()[:40]) for paper in spread(papers, 150)]
    asked = model.encode_query(questions, outputs=("dense",)).dense
    dense = model.encode_document(texts, outputs=("dense",)).dense
    assert asked is not None
    assert dense is not None
    exact = np.argsort(-(asked @ dense.T), axis=1)[:, :10]
    print(
        f"\n{len(texts):,} sentences and titles, {len(asked)} queries, {dense.shape[1]} dense; recall at 10, median ms"
    )
    prefix = 128
    for preset in ("exact", "balanced", "compact"):
        for two_stage in (False, True):
            schema = Schema(dense=dense.shape[1], dense_prefix=prefix if two_stage else None, preset=preset)
            with folder_store(schema) as store:
                written(store, dense_points(dense, prefix if two_stage else None))
                store.optimize()
                for limit in (50, 100, 200, 400) if two_stage else (0,):
                    stages = [two_stages(query, prefix, limit) if limit else plain(query) for query in asked]
                    name = f"{preset}, prefix {prefix} of {limit} -> full" if limit else preset
                    report_recall(name, store, stages, exact)
    late_recall(model, sentences[:3_000], questions[:100])


def late_recall(model: EmbeddingModel, texts: list[str], questions: list[str]) -> None:
    """The same for late interaction over all documents."""
    found = model.encode_document(texts, outputs=("multi_vector",)).multi_vector
    asked = model.encode_query(questions, outputs=("multi_vector",)).multi_vector
    assert found is not None
    assert asked is not None
    scores = np.array([[(query @ tokens.T).max(axis=1).sum() for tokens in found] for query in asked])
    exact = np.argsort(-scores, axis=1)[:, :10]
    print(f"\n{len(texts):,} sentences, {len(asked)} questions, token vectors of {found[0].shape[1]}, MaxSim over all")
    for preset in ("exact", "balanced", "compact"):
        with folder_store(Schema(multi_vector=found[0].shape[1], preset=preset)) as store:
            written(store, [Point(uuid.UUID(int=n + 1), {"multi_vector": v}, {}) for n, v in enumerate(found)])
            store.optimize()
            report_recall(preset, store, [Stage(query=q, using="multi_vector", limit=10) for q in asked], exact)


def ingest(data: Path) -> None:
    """Which part of the time of filling a collection the model computes."""
    texts = list(dict.fromkeys(pair["positive"] for pair in islice(read(data / "pairs" / "medquad.jsonl.gz"), 3_000)))
    with EmbeddingModel.load() as model, tempfile.TemporaryDirectory() as folder:
        watched = Watched(model)
        with HybridCollection.open(Path(folder) / "c", model=watched) as collection:
            started = time.perf_counter()
            report = collection.upsert([{"id": str(n), "text": text} for n, text in enumerate(texts)])
            seconds = time.perf_counter() - started
        speed = report.tokens / seconds
        print(f"\n{report.written:,} documents, {report.tokens:,} tokens in {seconds:.1f} s: {speed:,.0f} tokens/s")
        print(f"the model computed {watched.seconds / seconds:.0%} of the time (outputs {', '.join(model.outputs)})")


class Watched:
    """A model that measures how long it encodes documents."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self.seconds = 0.0

    def encode_document(self, *arguments: Any, **options: Any) -> Any:
        """The model's, with the time it took."""
        started = time.perf_counter()
        try:
            return self._model.encode_document(*arguments, **options)
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - started

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def synthetic(count: int, *, tokens: bool) -> Iterator[Point]:
    """Random points; every hundredth is in the same group."""
    for n in range(count):
        vectors: dict[str, Any] = {"dense": unit(CHANCE.normal(size=DIM))}
        if tokens:
            vectors["sparse"] = sparse(60)
            vectors["multi_vector"] = unit(CHANCE.normal(size=(TOKENS, TOKEN_DIM)))
        yield Point(uuid.UUID(int=n + 1), vectors, {"group": n % 100, "text": f"document {n}"})


def hybrid_query() -> tuple[Any, SparseVector, Any]:
    """A dense, a sparse and a multi-vector query."""
    return unit(CHANCE.normal(size=DIM)), sparse(20), unit(CHANCE.normal(size=(32, TOKEN_DIM)))


def fused(dense: Any, terms: SparseVector, limit: int = 10) -> Stage:
    """100 dense and 100 sparse candidates, fused."""
    legs = (Stage(query=dense, using="dense", limit=100), Stage(query=terms, using="sparse", limit=100))
    return Stage(query=Rrf(k=61), prefetch=legs, limit=limit)


def late(dense: Any, terms: SparseVector, tokens: Any) -> Stage:
    """The best 100 of them scored by MaxSim."""
    return Stage(query=tokens, using="multi_vector", limit=10, prefetch=(fused(dense, terms, limit=100),))


def plain(query: Any) -> Stage:
    """The ten nearest, as the preset finds them."""
    return Stage(query=query, using="dense", limit=10)


def two_stages(query: Any, prefix: int, limit: int) -> Stage:
    """The nearest by prefix, of which the ten nearest."""
    coarse = Stage(query=unit(query[:prefix]), using=f"dense_{prefix}", limit=limit)
    return Stage(query=query, using="dense", limit=10, prefetch=(coarse,))


def dense_points(dense: Any, prefix: int | None) -> list[Point]:
    """Points of the rows, with their prefixes."""
    return [
        Point(
            uuid.UUID(int=n + 1),
            {"dense": row_} if prefix is None else {"dense": row_, f"dense_{prefix}": unit(row_[:prefix])},
            {},
        )
        for n, row_ in enumerate(dense)
    ]


def report_recall(name: str, store: Store, stages: Sequence[Stage], exact: Any) -> None:
    """A line with the part of the exact ten that is found, and the time."""
    hits = [{found.id.int - 1 for found in store.query([stage], fields=())[0]} for stage in stages]
    share = statistics.fmean(len(hit & set(best.tolist())) / 10 for hit, best in zip(hits, exact, strict=True))
    print(f"  {name:40} {share:.4f}   {p50(store, stages):6.2f} ms", flush=True)


@contextmanager
def folder_store(schema: Schema) -> Iterator[EdgeStore]:
    """An embedded collection in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore.open(Path(folder) / "c", schema, {})
        try:
            yield store
        finally:
            store.close()


def written(store: Store, points: Sequence[Point]) -> float:
    """Seconds that it takes to write the points in batches of 100 or, without tokens, 2,000."""
    started = time.perf_counter()
    for batch in batched(points, 100 if "multi_vector" in points[0].vectors else 2_000):
        store.upsert(batch)
    return time.perf_counter() - started


def p50(store: Store, stages: Sequence[Stage]) -> float:
    """Median milliseconds of a search."""
    return median_of(lambda stage: store.query([stage]), stages)


def median_of(search: Callable[[Any], Any], queries: Iterable[Any]) -> float:
    """Median milliseconds, after one search for warming up."""
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[1:])


def batched(items: Sequence[Point], size: int) -> Iterator[Sequence[Point]]:
    """Slices of a size."""
    return (items[start : start + size] for start in range(0, len(items), size))


def spread(items: Sequence[Any], count: int) -> Sequence[Any]:
    """So many of the items, at even distances."""
    return items[:: len(items) // count][:count]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a compressed jsonl file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def row(name: str, milliseconds: float) -> None:
    """Print a measurement."""
    print(f"{name:60} {milliseconds:9.2f} ms", flush=True)


def sparse(terms: int) -> SparseVector:
    """Random terms of a vocabulary of 30,000."""
    indices = np.sort(CHANCE.choice(30_000, size=terms, replace=False)).astype(np.int32)
    return SparseVector(indices, (CHANCE.random(terms) + 0.01).astype(np.float32))


def unit(vector: Any) -> Any:
    """Of length 1, float32."""
    return (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
