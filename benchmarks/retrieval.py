"""Retrieval quality of each output of a model on folders in the BEIR layout, by exact search.

    python benchmarks/retrieval.py "$MGTE_DATA"/retrieval/{cranfield,cisi,xquad-en} [--model mini]

nDCG@10 with binary relevance; a query's documents are ranked by raw score, ties by their place in the corpus.
"""

import argparse
import gzip
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from mgte_rag import EmbeddingModel
from mgte_rag.types import Floats


def main() -> None:
    """Print a row for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default=None, help="hub id or folder (default: the embedded default)")
    options = parser.parse_args()
    with EmbeddingModel.load(options.model) as model:
        for folder in options.folders:
            figures = evaluate(model, folder)
            print(
                f"{folder.name:16}" + "   ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True
            )


def evaluate(model: EmbeddingModel, folder: Path) -> dict[str, float]:
    """nDCG@10 by output, and of the hybrid score with the model's own weights, with and without late interaction."""
    corpus, queries = read_lines(folder / "corpus.jsonl.gz"), read_lines(folder / "queries.jsonl.gz")
    places = {document["_id"]: place for place, document in enumerate(corpus)}
    relevant: dict[str, set[int]] = defaultdict(set)
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        relevant[query].add(places[document])
    texts = [f"{document['title']} {document['text']}".strip() for document in corpus]
    found = model.encode_document(texts, outputs=model.outputs)
    asked = model.encode_query([query["text"] for query in queries], outputs=model.outputs)
    scores = model.similarity(asked, found)
    matrices = {output: getattr(scores, output) for output in model.outputs}
    if {"dense", "sparse"} <= set(model.outputs):
        sides = (replace(side, multi_vector=None) for side in (asked, found))
        matrices["dense + sparse"] = model.similarity(*sides).hybrid
    matrices["hybrid"] = scores.hybrid
    judged = [relevant[query["_id"]] for query in queries]
    return {name: ndcg_at_10(matrix, judged) for name, matrix in matrices.items()}


def read_lines(path: Path) -> list[dict[str, str]]:
    """The objects of a compressed jsonl file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ndcg_at_10(scores: Floats, relevant: list[set[int]]) -> float:
    """Mean over queries: gains 1 / log2(rank + 1) of the relevant among the first ten, over the best possible sum."""
    gains = 1 / np.log2(np.arange(2, 12))
    values = []
    for row, wanted in zip(scores, relevant, strict=True):
        first = np.argsort(-row, kind="stable")[:10]
        hits = np.array([place in wanted for place in first])
        values.append(gains[: len(hits)][hits].sum() / gains[: len(wanted)].sum())
    return float(np.mean(values))


if __name__ == "__main__":
    main()
