"""What counts as a hard negative."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mgte_rag.errors import InvalidOptionError
from mgte_rag.types import Output

Sampling = Literal["random", "top"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningOptions:
    """What counts as a hard negative, and how many are taken.

    Attributes:
        rank_range: candidates by their place in the ranking of the corpus without the query's positives: (10, 210)
            skips the 10 best, which are often unlabelled positives, and looks at the 200 after them.
        count: negatives of each example.
        sampling: "random" among the candidates that pass every check, or "top", the hardest of them.
        margin: a candidate's score must be at least so much below that of the example's lowest positive.
        relative_margin: likewise, as a share of that positive's score: 0.05 allows 95 % of it. NV-Retriever, arXiv
            2407.15831, calls it positive-aware.
        max_relevance: highest relevance, 0 to 1 (the sigmoid of its score), that the reranker may give a candidate.
        reranker_margin: a candidate's score by the reranker must be at least so much below the lowest positive's.
        outputs: what the model ranks by; several are added up as ``EmbeddingModel.similarity`` does.
        weights: of each output in that sum; None is the model's own.
        query_prompt: put before every query; None is the model's own, "" is none.
        document_prompt: put before every document; likewise.
        max_length: tokens read of a document; None is the model's limit.
        scored: write the model's own scores of positives and negatives too: a teacher's, for distillation.
        seed: decides what "random" takes.
    """

    rank_range: tuple[int, int] = (10, 210)
    count: int = 7
    sampling: Sampling = "random"
    margin: float | None = None
    relative_margin: float | None = None
    max_relevance: float | None = None
    reranker_margin: float | None = None
    outputs: tuple[Output, ...] = ("dense",)
    weights: Mapping[Output, float] | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = None
    scored: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options that need no model.

        Raises:
            InvalidOptionError: a value that is not allowed.
        """
        first, last = self.rank_range
        if not 0 <= first < last:
            raise InvalidOptionError(f"rank_range={self.rank_range!r}: two whole numbers, 0 <= first < last")
        if self.count < 1 or self.seed < 0:
            raise InvalidOptionError(f"count={self.count!r}, seed={self.seed!r}: count from 1 up, seed from 0 up")
        if self.sampling not in ("random", "top"):
            raise InvalidOptionError(f'sampling={self.sampling!r}: allowed are "random" and "top"')
        for option, highest in (
            ("margin", math.inf),
            ("relative_margin", 1.0),
            ("max_relevance", 1.0),
            ("reranker_margin", math.inf),
        ):
            value = getattr(self, option)
            if value is not None and not 0 <= value <= highest:
                raise InvalidOptionError(f"{option}={value!r}: a number from 0 up{' to 1' if highest == 1 else ''}")

    @property
    def needs_reranker(self) -> bool:
        """Whether a check asks the reranker."""
        return self.max_relevance is not None or self.reranker_margin is not None
