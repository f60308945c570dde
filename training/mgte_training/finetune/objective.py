"""What a training run minimises: which heads, which losses, what each of them counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mgte_rag import scoring
from mgte_rag.errors import InvalidOptionError
from mgte_rag.types import Output
from mgte_training.finetune.losses import improved_info_nce, info_nce, kl_divergence, soft_cross_entropy
from mgte_training.finetune.representations import Representations

Directions = Literal["query", "both", "improved"]
"""InfoNCE from queries to documents, from positives to queries as well, or GTE's improved denominator."""

Score = Callable[[Representations, Representations], Tensor]
"""Scores of some texts with others, fp32 [texts, texts]."""

NO_TEACHER = (
    "the objective learns from a teacher's scores and the batch has none; add them with 'mgte-rag distill-scores', or "
    "leave 'distillation' out"
)

# Floats of token similarities that a loss keeps for the way back, 256 MB; above, they are computed again there.
_KEPT_FLOATS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLoss:
    """A head's part of the loss.

    Attributes:
        temperature: its scores are divided by it.
        weight: what it counts.
        sizes: for dense and multi_vector the sizes trained, each with what it counts (Matryoshka); empty is the
            largest alone. Dense sizes are prefixes of one vector; those of a late-interaction head are heads of their
            own where the model has one for each (Jina-ColBERT-v2, arXiv 2408.16672, section 3.1).
    """

    temperature: float
    weight: float = 1.0
    sizes: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidOptionError(f"a temperature of {self.temperature!r}; it must be above 0")
        if any(size < 1 for size in self.sizes):
            raise InvalidOptionError(f"sizes {list(self.sizes)}; whole numbers above 0 are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Learning from a teacher's scores of each query's own candidates.

    Attributes:
        weight: what it counts beside InfoNCE.
        temperature: of the student's scores.
        teacher_temperature: of the teacher's.
        min_max: scale both sides' scores to 0..1 for every query.
    """

    weight: float = 1.0
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    min_max: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfDistillation:
    """All heads learn from the sum of their scores (BGE-M3, arXiv 2402.03216, section 3.3).

    Attributes:
        shares: what each head's score counts in the sum.
        temperature: of the sum, and of the heads while they learn from it.
        ensemble_weight: what InfoNCE on the sum itself counts.
        weight: what learning from it counts, all heads together; 0 before ``start``.
        start: the first step at which the heads learn from it.
    """

    shares: Mapping[Output, float]
    temperature: float
    ensemble_weight: float = 1.0
    weight: float = 1.0
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a training run minimises.

    Attributes:
        heads: the trained outputs and their losses.
        directions: of InfoNCE.
        contrastive_weight: what InfoNCE counts; 0 learns from the teacher alone.
        distillation: learning from a teacher's scores; the data must have them.
        self_distillation: learning from the sum of the heads' scores.
    """

    heads: Mapping[Output, HeadLoss]
    directions: Directions = "query"
    contrastive_weight: float = 1.0
    distillation: Distillation | None = None
    self_distillation: SelfDistillation | None = None

    def __post_init__(self) -> None:
        if not self.heads or not set(self.heads) <= set(get_args(Output)):
            raise InvalidOptionError(
                f"heads={list(self.heads)}; at least one of {', '.join(get_args(Output))} is needed"
            )
        if self.directions not in get_args(Directions):
            raise InvalidOptionError(f"directions={self.directions!r}; allowed are {', '.join(get_args(Directions))}")
        if self.contrastive_weight == 0 and self.distillation is None:
            raise InvalidOptionError("contrastive_weight=0 and no distillation: there is nothing to learn from")
        if self.self_distillation is not None and not set(self.self_distillation.shares) <= set(self.heads):
            shares = list(self.self_distillation.shares)
            raise InvalidOptionError(f"self_distillation has shares for {shares}, trained are {list(self.heads)}")


@dataclass(frozen=True, slots=True)
class Targets:
    """What is right in a batch.

    Attributes:
        own: int64 [rows], each row's place among all queries.
        group: candidates of each query; its positive is the first of them.
        excluded: bool [rows, documents], True at documents that are no negatives of that row; None is nowhere.
        teacher: fp32 [rows, group], a teacher's scores; None where there are none.
        in_batch: whether other queries' documents are negatives.
    """

    own: Tensor
    group: int
    excluded: Tensor | None = None
    teacher: Tensor | None = None
    in_batch: bool = True

    @property
    def positives(self) -> Tensor:
        """int64 [rows], each row's positive among all documents."""
        return self.own * self.group

    def masked(self, documents: int) -> Tensor | None:
        """Bool [rows, documents]: what is no negative."""
        if self.in_batch:
            return self.excluded
        groups = torch.arange(documents, device=self.own.device) // self.group
        other = groups[None, :] != self.own[:, None]
        return other if self.excluded is None else other | self.excluded


def scores_of(output: Output, size: int) -> Score:
    """How a head scores.

    Args:
        output: the head.
        size: of its vectors; not looked at for sparse ones.
    """
    if output == "dense":
        return lambda left, right: scoring.cosine(_dense(left, size), _dense(right, size))
    if output == "sparse":
        return _sparse
    return lambda left, right: _max_sim(left.token_vectors(size), right.token_vectors(size))


def _sparse(left: Representations, right: Representations) -> Tensor:
    assert left.weights is not None, "represented without sparse vectors"
    # Vectors without any term leave no trace in the scores; the head still takes part, with a gradient of 0.
    return scoring.sparse_dot(left.terms(), right.terms()) + 0.0 * left.weights.sum()


def _dense(texts: Representations, size: int) -> Tensor:
    assert texts.dense is not None, "represented without dense vectors"
    return texts.dense[:, :size]


def _max_sim(queries: list[Tensor], documents: list[Tensor]) -> Tensor:
    """MaxSim over the query's tokens: their mean, so that one temperature suits queries of any length."""
    floats = sum(map(len, queries)) * sum(map(len, documents))
    if floats > _KEPT_FLOATS and torch.is_grad_enabled():
        step = max(1, len(documents) * _KEPT_FLOATS // floats)
        slices = [documents[start : start + step] for start in range(0, len(documents), step)]
        total = torch.cat(
            [checkpoint(scoring.max_sim_ragged, queries, part, use_reentrant=False) for part in slices], dim=1
        )
    else:
        total = scoring.max_sim_ragged(queries, documents)
    lengths = torch.tensor([max(1, len(query)) for query in queries], device=total.device)
    return total / lengths[:, None]


def total_loss(
    objective: Objective,
    queries: Representations,
    all_queries: Representations,
    documents: Representations,
    targets: Targets,
    *,
    step: int = 0,
) -> dict[str, Tensor]:
    """The loss of a batch and what it is made of.

    Args:
        objective: what counts.
        queries: this process's queries, the rows.
        all_queries: those of all processes.
        documents: of all processes, each query's group in its query's place.
        targets: what is right.
        step: of the run, from 0.

    Returns:
        "loss", the sum, and one fp32 scalar for every part before it was weighted.
    """
    excluded = targets.masked(documents.texts)
    parts: dict[str, Tensor] = {}
    weighted: list[Tensor] = []
    largest: dict[Output, Tensor] = {}
    for output, head in objective.heads.items():
        for size in sorted(head.sizes) or [_largest(output, queries)]:
            score = scores_of(output, size)
            scores = largest[output] = score(queries, documents)
            name = _named(output, head, size)
            share = head.weight * head.sizes.get(size, 1.0)
            if objective.contrastive_weight:
                parts[name] = _contrastive(objective, head, score, scores, queries, all_queries, documents, targets)
                weighted.append(objective.contrastive_weight * share * parts[name])
            if objective.distillation is not None:
                parts[f"{name}_distillation"] = _distilled(objective.distillation, scores, targets)
                weighted.append(objective.distillation.weight * share * parts[f"{name}_distillation"])
    if objective.self_distillation is not None:
        weighted.append(_self_distilled(objective, largest, targets, excluded, parts, step))
    return {"loss": torch.stack(weighted).sum(), **parts}


def candidates_of(objective: Objective, targets: Targets, *, queries: int, documents: int) -> dict[str, int]:
    """For every InfoNCE part of ``total_loss``: of how many candidates it is the logarithm where all scores are equal.

    Args:
        objective: what counts.
        targets: what is right.
        queries: of all processes.
        documents: of all processes.
    """
    own = documents if targets.in_batch else targets.group
    counts = {"query": own, "both": own * queries, "improved": own + 3 * (queries - 1)}
    both_ways = counts[objective.directions] if targets.in_batch else own
    found = {_named(output, head, size): both_ways
             for output, head in objective.heads.items() for size in head.sizes or [0]}  # fmt: skip
    return {**found, "ensemble": own}


def _named(output: Output, head: HeadLoss, size: int) -> str:
    """The name of a head's part of the loss."""
    return output if len(head.sizes) < 2 else f"{output}_{size}"


def _largest(output: Output, texts: Representations) -> int:
    if output == "dense" and texts.dense is not None:
        return texts.dense.shape[1]
    return max(texts.vectors, default=0)


def _contrastive(
    objective: Objective,
    head: HeadLoss,
    score: Score,
    scores: Tensor,
    queries: Representations,
    all_queries: Representations,
    documents: Representations,
    targets: Targets,
) -> Tensor:
    excluded, temperature = targets.masked(documents.texts), head.temperature
    if objective.directions == "query" or not targets.in_batch:
        return info_nce(scores, targets.positives, temperature=temperature, excluded=excluded)
    positives = documents.picked(targets.positives.tolist())
    asking = score(all_queries, positives).T  # [rows, queries]
    twins = None if targets.excluded is None else targets.excluded[:, :: targets.group]
    if objective.directions == "both":
        there = info_nce(scores, targets.positives, temperature=temperature, excluded=excluded)
        return there + info_nce(asking, targets.own, temperature=temperature, excluded=twins)
    everyone = torch.arange(all_queries.texts).tolist()
    all_positives = documents.picked([place * targets.group for place in everyone])
    alike = [score(queries, all_queries), asking, score(positives, all_positives)]
    if twins is not None:
        alike = [each.masked_fill(twins, -torch.inf) for each in alike]
    return improved_info_nce(
        scores,
        targets.positives,
        queries=alike[0],
        asking=alike[1],
        positives=alike[2],
        own=targets.own,
        temperature=temperature,
        excluded=excluded,
    )


def _distilled(distillation: Distillation, scores: Tensor, targets: Targets) -> Tensor:
    if targets.teacher is None:
        raise InvalidOptionError(NO_TEACHER)
    columns = targets.positives[:, None] + torch.arange(targets.group, device=scores.device)
    return kl_divergence(
        scores.gather(1, columns),
        targets.teacher,
        temperature=distillation.temperature,
        teacher_temperature=distillation.teacher_temperature,
        min_max=distillation.min_max,
    )


def _self_distilled(
    objective: Objective,
    scores: Mapping[Output, Tensor],
    targets: Targets,
    excluded: Tensor | None,
    parts: dict[str, Tensor],
    step: int,
) -> Tensor:
    """The sum's own InfoNCE and what the heads learn from it, weighted; the parts are added to ``parts``."""
    distillation = objective.self_distillation
    assert distillation is not None, "asked for a part that the objective lacks"
    temperature = distillation.temperature
    together = torch.stack([share * scores[output] for output, share in distillation.shares.items()]).sum(0)
    parts["ensemble"] = info_nce(together, targets.positives, temperature=temperature, excluded=excluded)
    total = distillation.ensemble_weight * parts["ensemble"]
    if step < distillation.start:
        return total
    for output in scores:
        learnt = soft_cross_entropy(scores[output], together, temperature=temperature, excluded=excluded)
        parts[f"{output}_self_distillation"] = learnt
        total = total + distillation.weight * objective.heads[output].weight * learnt / len(scores)
    return total
