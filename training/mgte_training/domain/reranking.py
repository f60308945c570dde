"""A reranker on the best that a model finds: ranking by itself, and beside the scores these were found with."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.types import Floats
from mgte_training.domain.comparison import Figures, best, figures
from mgte_training.domain.judged import Judged

ALONE, BESIDE = "reranker alone", "reranker beside"

_DEPTH = 20


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a reranker is given.

    Attributes:
        judged: the queries and their corpus.
        places: of each query's documents, the best first, int64 [queries, ranks].
        scores: that they were found with, float32 [queries, ranks].
    """

    judged: Judged
    places: NDArray[np.int64]
    scores: Floats

    @classmethod
    def find(cls, model: EmbeddingModel, judged: Judged) -> Self:
        """Each query's 20 best, by dense and sparse together where the model has both."""
        outputs = tuple(output for output in model.outputs if output != "multi_vector") or model.outputs
        found = model.encode_document(judged.documents, outputs=outputs)
        scores = model.similarity(model.encode_query(judged.queries, outputs=outputs), found).hybrid
        places = best(scores, _DEPTH)
        return cls(judged, places, np.take_along_axis(scores, places, axis=1))

    def score(self, reranker: Reranker) -> Floats:
        """The reranker's scores of them, float32 [queries, ranks]."""
        pairs = [
            (query, self.judged.documents[place])
            for query, places in zip(self.judged.queries, self.places, strict=True)
            for place in places
        ]
        return reranker.score(pairs).reshape(self.places.shape)

    def weight(self, scores: Floats) -> float:
        """The factor that gives a reranker's scores as much say as those that the documents were found with.

        The ratio of the mean deviations within a query's documents; no judgement is looked at. 0 where the reranker
        tells nothing apart.
        """
        deviation = scores.std(axis=1).mean()
        return float(self.scores.std(axis=1).mean() / deviation) if deviation else 0.0

    def measure(self, scores: Floats | None) -> dict[str, tuple[Figures, Figures]]:
        """Figures by the reranker's scores alone, and by both; None is the order they were found in, twice."""
        if scores is None:
            orders = dict.fromkeys((ALONE, BESIDE), self.scores)
        else:
            orders = {ALONE: scores, BESIDE: self.scores + self.weight(scores) * scores}
        return {
            way: figures(np.take_along_axis(self.places, best(order, _DEPTH), axis=1), self.judged.relevant)
            for way, order in orders.items()
        }
