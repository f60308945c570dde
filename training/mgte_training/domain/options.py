"""What a domain fine-tuning does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mgte_rag.errors import InvalidOptionError
from mgte_rag.types import Output
from mgte_training.finetune.lora import LoRA

NEW_RERANKER = "new"
"""A reranker that is begun anew on the tuned model's encoder."""

# Of inputs scored as this project scores them: cosine, the embedded default's sparse products, MaxSim by query token.
_TEMPERATURES: Mapping[Output, float] = MappingProxyType({"dense": 0.05, "sparse": 0.2, "multi_vector": 0.02})


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """What a domain fine-tuning does.

    Attributes:
        model: a hub id or a folder; None is the embedded default.
        reranker: a reranker to tune as well, a hub id, a folder or "mini"; "new" for one begun on the tuned model's
            encoder (it needs thousands of pairs), or None.
        questions: a .jsonl file of questions besides the headings; ``make_pairs`` says how it looks.
        held_out: share of the documents that the figures are of.
        min_words: sections of fewer words are left out.
        max_pairs: train on so many at most, a seeded choice.
        max_queries: the figures are of so many held-out queries at most, a seeded choice.
        max_sections: they search so many sections at most: all that answer these queries, and a seeded choice of all
            others.
        epochs: how often each is trained on.
        batch: queries of a batch; the others' sections are negatives too.
        negatives: mined ones of each query.
        reranker_negatives: of each query for the reranker.
        max_length: tokens of a section that training reads; None is the model's limit.
        query_length: of a query.
        learning_rate: highest, after the first tenth of the steps; it falls to 0.
        reranker_learning_rate: likewise.
        temperatures: of each output's InfoNCE.
        lora: low-rank adapters on the encoder instead of all weights.
        forgetting: the most that any way of searching may lose, nDCG@10, on the half of the other set that the share
            of the tuned weights is chosen on.
        seed: decides everything that is drawn.
    """

    model: str | None = None
    reranker: str | None = None
    questions: str | None = None
    held_out: float = 0.2
    min_words: int = 12
    max_pairs: int = 2000
    max_queries: int = 1000
    max_sections: int = 5000
    epochs: int = 1
    batch: int = 32
    negatives: int = 1
    reranker_negatives: int = 2
    max_length: int | None = 128
    query_length: int | None = 64
    learning_rate: float = 3e-5
    reranker_learning_rate: float = 5e-5
    temperatures: Mapping[Output, float] = field(default_factory=lambda: dict(_TEMPERATURES))
    lora: LoRA | None = None
    forgetting: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InvalidOptionError: a value that is not allowed.
        """
        for option in ("min_words", "max_pairs", "max_queries", "max_sections", "epochs", "negatives",
                       "reranker_negatives"):  # fmt: skip
            if getattr(self, option) < 1:
                raise InvalidOptionError(f"{option}={getattr(self, option)!r}; it is a whole number above 0")
        for option in ("learning_rate", "reranker_learning_rate"):
            if not getattr(self, option) > 0:
                raise InvalidOptionError(f"{option}={getattr(self, option)!r}; it is a number above 0")
        if self.batch < 2:
            raise InvalidOptionError(f"batch={self.batch!r}; at least 2, since the others' sections are the negatives")
        if set(self.temperatures) != set(_TEMPERATURES):
            raise InvalidOptionError(
                f"temperatures={dict(self.temperatures)!r}; one for each of {', '.join(_TEMPERATURES)} is needed"
            )
        if not 0 < self.held_out < 1:
            raise InvalidOptionError(f"held_out={self.held_out!r}; a share above 0 and below 1")
        if not 0 <= self.forgetting <= 1:
            raise InvalidOptionError(f"forgetting={self.forgetting!r}; a difference of nDCG@10 from 0 to 1")
