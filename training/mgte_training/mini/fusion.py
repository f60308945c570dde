"""What each output counts in the hybrid score of the embedded default: chosen on pairs that no head has seen."""

import gzip
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.config import HybridWeights
from mgte_rag.types import Floats
from mgte_training.mini.pairs import Pair

UNSEEN = ("eips", "nqg-test", "selqa-dev")
"""Sources that nothing is trained on. Each question is searched among all their answers of one source."""

_PAIRS = 1_000  # of each source, at most
_CUTOFF = 10
_RERANKED = 300  # questions of each source that a reranker answers
_DEPTH = 20  # documents of each
_TRIED = (0.0, 0.02, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of questions with documents.

    Attributes:
        scores: fp32 [questions, documents] by what they are of.
        own: the document that answers each question.
    """

    scores: Mapping[str, Floats]
    own: list[int]

    def ndcg(self, weights: Mapping[str, float]) -> float:
        """nDCG@10 of the weighted sum, one answer to each question, ties counted against it."""
        total = np.sum([factor * self.scores[output] for output, factor in weights.items()], axis=0)
        ranks = (total >= total[np.arange(len(self.own)), self.own][:, None]).sum(1)
        return float(np.mean(np.where(ranks <= _CUTOFF, 1 / np.log2(ranks + 1), 0.0)))


def unseen_pairs(data: Path, source: str, *, seed: int = 0) -> list[Pair]:
    """Some pairs of a source."""
    with gzip.open(data / "pairs" / f"{source}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(row["query"], row["positive"]) for row in random.Random(seed).sample(rows, min(_PAIRS, len(rows)))]


def judge(model: EmbeddingModel, pairs: list[Pair]) -> Judged:
    """Every output's scores of each question with the documents of all."""
    places: dict[str, int] = {}
    own = [places.setdefault(document, len(places)) for _, document in pairs]
    queries = model.encode_query([query for query, _ in pairs], outputs=model.outputs)
    documents = model.encode_document(list(places), outputs=model.outputs)
    scores = model.similarity(queries, documents)
    return Judged({output: getattr(scores, output) for output in model.outputs}, own)


def judge_reranked(judged: Judged, weights: HybridWeights, reranker: Reranker, pairs: list[Pair]) -> dict[float, float]:
    """nDCG@10 of some questions' best documents by the hybrid score and so much of a reranker's, by that factor.

    Args:
        judged: the questions' scores.
        weights: of the hybrid score.
        reranker: reads the best documents.
        pairs: the questions, and the documents as they were first met.
    """
    documents = list(dict.fromkeys(document for _, document in pairs))
    hybrid = np.sum([getattr(weights, output) * judged.scores[output] for output in judged.scores], axis=0)[:_RERANKED]
    best = np.argsort(-hybrid, axis=1, kind="stable")[:, :_DEPTH]
    asked = [(pairs[row][0], documents[place]) for row, places in enumerate(best) for place in places]
    read = np.asarray(reranker.score(asked)).reshape(best.shape)
    found = {}
    for factor in _TRIED:
        total = np.full_like(hybrid, -np.inf)
        np.put_along_axis(total, best, np.take_along_axis(hybrid, best, 1) + factor * read, 1)
        found[factor] = Judged({"reranked": total}, judged.own[: len(total)]).ndcg({"reranked": 1.0})
    return found


def best_factor(found: Mapping[str, Mapping[float, float]]) -> float:
    """The factor of ``judge_reranked`` that is best on average over the sources."""
    return max(_TRIED, key=lambda factor: float(np.mean([each[factor] for each in found.values()])))


def choose_weights(judged: Mapping[str, Judged]) -> tuple[HybridWeights, dict[str, dict[str, float]]]:
    """The factors beside the dense score that are best on average, and all figures by source.

    First the sparse factor, without late interaction; then, with it, that of late interaction.
    """

    def mean(weights: Mapping[str, float]) -> float:
        return float(np.mean([each.ndcg(weights) for each in judged.values()]))

    sparse = max(_TRIED, key=lambda factor: mean({"dense": 1.0, "sparse": factor}))
    late = max(_TRIED, key=lambda factor: mean({"dense": 1.0, "sparse": sparse, "multi_vector": factor}))
    compared: dict[str, Mapping[str, float]] = {
        "dense": {"dense": 1.0},
        "sparse": {"sparse": 1.0},
        "late interaction": {"multi_vector": 1.0},
        "dense + sparse": {"dense": 1.0, "sparse": sparse},
        "hybrid": {"dense": 1.0, "sparse": sparse, "multi_vector": late},
    }
    figures = {
        source: {name: round(each.ndcg(weights), 4) for name, weights in compared.items()}
        for source, each in judged.items()
    }
    tried = {
        f"sparse {s}, late interaction {m}": round(mean({"dense": 1.0, "sparse": s, "multi_vector": m}), 4)
        for s, m in product(_TRIED, _TRIED)
        if s == sparse or m == 0.0
    }
    return HybridWeights(dense=1.0, sparse=sparse, multi_vector=late), figures | {"mean nDCG@10 of weights": tried}
