"""Retrieval quality of each output of a model on folders in the BEIR layout, by exact search.

    python benchmarks/retrieval.py "$MGTE_DATA"/retrieval/{cranfield,cisi,xquad-en} [--model mini] [--reranker mini]
    python benchmarks/retrieval.py "$MGTE_DATA"/retrieval/{cranfield,cisi,xquad-en} --fusions

nDCG@10 with binary relevance; a query's documents are ranked by raw score, ties by their place in the corpus. Beside
the model stands BM25 (bm25s, stemmed English) and its rank fusion with the dense vectors; "hybrid" adds late
interaction to "dense + sparse", with the weights the model was published with. "reranked" is the hybrid's best 20 by a
cross-encoder alone, "hybrid + reranker" by both, the cross-encoder's score times --rerank-weight. With ``--fusions``
by what a collection's search returns, for dense, sparse, and each way to fuse them.
"""

import argparse
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.types import Floats, Integers
from mgte_training.evaluation.bm25 import Bm25, analysis_for
from qdrant_mgte import HybridCollection, dbsf, rrf, weighted

FUSIONS = {
    **{f"rrf(k={k})": rrf(k) for k in (1, 2, 5, 10, 20, 61)},
    "dbsf": dbsf(),
    **{f"1 : {sparse}": weighted({"dense": 1, "sparse": sparse}) for sparse in (0.03, 0.1, 0.2)},
    "the model's": None,
}
_RERANKED = 20
_RRF_K = 60


def main() -> None:
    """Print a row for each folder, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default=None, help="hub id or folder (default: the embedded default)")
    parser.add_argument("--fusions", action="store_true", help="compare the ways to fuse dense and sparse instead")
    parser.add_argument("--reranker", default=None, help="hub id or folder, or mini: also rerank the hybrid's best")
    parser.add_argument("--rerank-weight", type=float, default=0.05, help="factor on its scores beside the hybrid's")
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with ExitStack() as opened:
        model = opened.enter_context(EmbeddingModel.load(options.model))
        reranker = opened.enter_context(Reranker.load(options.reranker)) if options.reranker else None
        for folder in options.folders:
            rows.append(
                evaluate_fusions(model, folder)
                if options.fusions
                else evaluate(model, folder, reranker, options.rerank_weight)
            )
            show(folder.name, rows[-1])
    show("mean", {name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def show(name: str, figures: dict[str, float]) -> None:
    """Print one row."""
    print(f"{name:16}" + "   ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)


def evaluate(model: EmbeddingModel, folder: Path, reranker: Reranker | None, weight: float) -> dict[str, float]:
    """nDCG@10 by output, and of the hybrid score with the model's own weights, with and without late interaction."""
    texts, questions, judged = read_folder(folder)
    found = model.encode_document(texts, outputs=model.outputs)
    asked = model.encode_query(questions, outputs=model.outputs)
    scores = model.similarity(asked, found)
    matrices = {"BM25": Bm25(texts, analysis_for("en")).scores(questions)}
    matrices |= {output: getattr(scores, output) for output in model.outputs}
    if "dense" in model.outputs:
        matrices["RRF(dense, BM25)"] = fused_ranks(matrices["dense"], matrices["BM25"])
    if {"dense", "sparse"} <= set(model.outputs):
        sides = (replace(side, multi_vector=None) for side in (asked, found))
        matrices["dense + sparse"] = model.similarity(*sides).hybrid
    matrices["hybrid"] = scores.hybrid
    figures = {name: ndcg_at_10(np.argsort(-matrix, kind="stable"), judged) for name, matrix in matrices.items()}
    if reranker is not None:
        best = np.argsort(-scores.hybrid, kind="stable")[:, :_RERANKED]
        pairs = [(question, texts[place]) for question, places in zip(questions, best, strict=True) for place in places]
        read = np.asarray(reranker.score(pairs)).reshape(best.shape)
        beside = np.take_along_axis(scores.hybrid, best, 1) + weight * read
        for name, values in (("reranked", read), ("hybrid + reranker", beside)):
            figures[name] = ndcg_at_10(np.take_along_axis(best, np.argsort(-values, kind="stable"), 1), judged)
    return figures


def fused_ranks(*matrices: Floats) -> Floats:
    """Reciprocal rank fusion, the sum of 1 / (60 + rank) (Cormack, Clarke and Buettcher, SIGIR 2009)."""
    ranks = [np.argsort(np.argsort(-matrix, kind="stable")) for matrix in matrices]
    return np.sum([1 / (_RRF_K + 1 + each) for each in ranks], axis=0, dtype=np.float32)


def evaluate_fusions(model: EmbeddingModel, folder: Path) -> dict[str, float]:
    """nDCG@10 of a collection's hits, by mode and fusion."""
    texts, questions, judged = read_folder(folder)
    ways: dict[str, dict[str, Any]] = {"dense": {"mode": "dense"}, "sparse": {"mode": "sparse"}}
    ways |= {name: {"mode": "hybrid", "fusion": fusion} for name, fusion in FUSIONS.items()}
    with (
        tempfile.TemporaryDirectory() as place,
        HybridCollection.open(f"{place}/c", model=model, outputs=("dense", "sparse"), preset="exact") as collection,
    ):
        documents = ({"id": str(place), "text": text or " "} for place, text in enumerate(texts))
        collection.upsert(documents, split=False).raise_for_rejected()
        asked = model.encode_query(questions, outputs=("dense", "sparse"))
        figures = {}
        for name, way in ways.items():
            hits = collection.search_batch(asked, limit=10, **way)
            figures[name] = ndcg_at_10([[int(hit.id) for hit in each] for each in hits], judged)
    return figures


def read_folder(folder: Path) -> tuple[list[str], list[str], list[set[int]]]:
    """The texts of the corpus, the questions, and the places of the documents that are relevant to each."""
    corpus, queries = read_lines(folder / "corpus.jsonl.gz"), read_lines(folder / "queries.jsonl.gz")
    places = {document["_id"]: place for place, document in enumerate(corpus)}
    relevant: dict[str, set[int]] = defaultdict(set)
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        relevant[query].add(places[document])
    texts = [f"{document['title']} {document['text']}".strip() for document in corpus]
    return texts, [query["text"] for query in queries], [relevant[query["_id"]] for query in queries]


def read_lines(path: Path) -> list[dict[str, str]]:
    """The objects of a compressed jsonl file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ndcg_at_10(rankings: Sequence[Sequence[int]] | Integers, relevant: list[set[int]]) -> float:
    """Mean over queries: gains 1 / log2(rank + 1) of the relevant among the first ten, over the best possible sum."""
    gains = 1 / np.log2(np.arange(2, 12))
    values = []
    for ranking, wanted in zip(rankings, relevant, strict=True):
        hits = np.array([place in wanted for place in ranking[:10]], dtype=bool)
        values.append(gains[: len(hits)][hits].sum() / gains[: len(wanted)].sum())
    return float(np.mean(values))


if __name__ == "__main__":
    main()
