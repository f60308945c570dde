"""Alarms: a run that cannot succeed is stopped, with what was seen and what to try."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mgte_rag.errors import InvalidOptionError, TrainingError
from mgte_training.finetune.representations import Representations

# Texts whose effective rank is looked at: enough to see a collapse, few enough to cost nothing.
_RANKED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """When a run is stopped. A number that is not finite stops it at once, the rest only after ``patience`` steps.

    Attributes:
        patience: steps in a row that an alarm waits, and steps that a loss is averaged over.
        least_rank: effective rank of a batch's dense vectors below which they count as collapsed.
        stuck: a loss within this share of that of equal scores counts as stuck.
        least_spread: standard deviation of a reranker's scores within a group below which they count as equal.
    """

    patience: int = 200
    least_rank: float = 2.0
    stuck: float = 0.01
    least_spread: float = 1e-3

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InvalidOptionError(f"patience={self.patience!r}; a number of steps above 0 is needed")


class Watch:
    """Looks at every step of a run.

    Args:
        alarms: when to stop it.
    """

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._losses: dict[str, deque[float]] = {}
        self._for: dict[str, int] = {}

    def losses(self, parts: Mapping[str, Tensor], candidates: Mapping[str, int]) -> None:
        """Look at a step's losses.

        Args:
            parts: fp32 scalars.
            candidates: for those parts that equal scores would put at its logarithm, what a positive competes with,
                itself included.

        Raises:
            TrainingError: one is not finite, or has stayed that of equal scores.
        """
        for name, tensor in parts.items():
            value = tensor.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss {name!r} is {value}. Lower the learning rate, set max_grad_norm, or raise the "
                    f"temperature; in 16 bits try bf16 instead of fp16"
                )
            if name not in candidates:
                continue
            # Above 1 where it is worse than chance; what is watched is that it never leaves it.
            past = self._losses.setdefault(name, deque(maxlen=self._alarms.patience))
            past.append(value / math.log(candidates[name]) if candidates[name] > 1 else 0.0)
            if len(past) == self._alarms.patience and abs(sum(past) / len(past) - 1) < self._alarms.stuck:
                raise TrainingError(
                    f"the loss {name!r} has stayed at ln({candidates[name]}), that of equal scores, for {len(past)} "
                    f"steps: nothing is learnt. A learning rate too high for this model is the most frequent cause "
                    f"(6e-5 and above for rerankers), data whose positives answer nothing another"
                )

    def representations(self, documents: Representations) -> None:
        """Look at a batch's documents.

        Raises:
            TrainingError: dense vectors have collapsed, or sparse weights have been all zero or all positive too long.
        """
        if documents.weights is not None and len(documents.weights):
            positive = float((documents.weights > 0).float().mean())
            self._wait(
                "no sparse weight above 0",
                positive == 0.0,
                "every sparse vector is empty and gets no gradient any more. Begin the sparse head anew with a lower "
                "learning rate or a smaller weight in the objective",
            )
            self._wait(
                "no sparse weight at 0",
                positive == 1.0,
                "every token of every text is a term, so the vectors are not sparse. Raise the sparse loss's weight or "
                "train longer before judging; the alarm's patience may be raised",
            )
        if documents.dense is not None and documents.texts >= 8:
            vectors = documents.dense[:_RANKED].detach()
            rank = effective_rank(vectors) if torch.isfinite(vectors).all() else math.inf  # the loss will be no number
            self._wait(
                "collapsed dense vectors",
                rank < self._alarms.least_rank,
                f"the dense vectors of a batch have an effective rank of {rank:.2f}: all texts look alike. Lower the "
                f"learning rate, raise the temperature, or use larger batches",
            )

    def scores(self, logits: Tensor) -> None:
        """Look at a reranker's scores of one step, fp32 [queries, group].

        Raises:
            TrainingError: the scores of each query's candidates have been equal too long.
        """
        if logits.shape[1] > 1:
            spread = float(logits.detach().std(dim=1).mean())
            self._wait(
                "equal scores",
                spread < self._alarms.least_spread,
                f"a query's candidates all get the same score (they spread by {spread:.1e}). Lower the learning rate: "
                f"6e-5 is too high for most rerankers",
            )

    def _wait(self, alarm: str, seen: bool, explanation: str) -> None:
        self._for[alarm] = self._for.get(alarm, 0) + 1 if seen else 0
        if self._for[alarm] >= self._alarms.patience:
            raise TrainingError(f"{alarm} for {self._for[alarm]} steps: {explanation}")


def effective_rank(vectors: Tensor) -> float:
    """How many dimensions vectors really use: the exponential of the entropy of their singular values' shares.

    Args:
        vectors: [texts, dim].

    Returns:
        1 where all are parallel, at most the smaller of texts and dim.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    values = torch.linalg.svdvals(torch.nn.functional.normalize(vectors.float(), dim=-1))
    shares = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum()))
