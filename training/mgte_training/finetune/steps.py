"""A step's texts as token ids, ready to be computed in parts."""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mgte_rag.token_rules import Inputs
from mgte_training.data.batches import TrainingBatch
from mgte_training.finetune.objective import Targets
from mgte_training.finetune.trainable import TrainableModel, TrainableReranker


class Plan(Protocol):
    """Which examples each step trains on: ``mgte_training.data.plan.BatchPlan``."""

    @property
    def steps(self) -> int:
        """How many steps there are."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """A device's share of a step's batch, a pure function of the plan and the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens kept of a text in training; None is the model's limit.

    Attributes:
        query: of a query.
        document: of a document.
        pair: of a query and a document together, for rerankers.
    """

    query: int | None = None
    document: int | None = None
    pair: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of a model of vectors computes.

    Attributes:
        parts: token ids; in each part some queries and then their documents, group by group.
        queries: how many queries each part has.
        group: documents of each query.
        first: place of the first query among those of all processes.
        excluded: bool [queries, documents of all processes]; None is nowhere.
        teacher: fp32 [queries, group]; None where there is none.
        in_batch: whether other queries' documents are negatives.
    """

    parts: list[Inputs]
    queries: list[int]
    group: int
    first: int
    excluded: Tensor | None
    teacher: Tensor | None
    in_batch: bool

    def targets(self, device: torch.device) -> Targets:
        """What is right in this step."""
        return Targets(
            own=torch.arange(self.first, self.first + sum(self.queries), device=device),
            group=self.group,
            excluded=None if self.excluded is None else self.excluded.to(device),
            teacher=None if self.teacher is None else self.teacher.to(device),
            in_batch=self.in_batch,
        )


@dataclass(frozen=True, slots=True)
class PairStep:
    """What a step of a reranker computes.

    Attributes:
        pairs: token ids of query and document, group by group, in parts of whole groups.
        group: documents of each query.
        teacher: fp32 [queries, group]; None where there is none.
    """

    pairs: list[Inputs]
    group: int
    teacher: Tensor | None


class ModelSteps(Dataset[Step]):
    """The steps of a plan for a model of vectors.

    Args:
        plan: which examples.
        model: reads the texts.
        lengths: tokens kept.
        rank: this process.
        world: how many there are.
        whole: compute a step in one part whatever the plan says: for frozen encoders, which keep no activations.
    """

    def __init__(
        self, plan: Plan, model: TrainableModel, lengths: Lengths, *, rank: int = 0, world: int = 1, whole: bool = False
    ) -> None:
        self._plan, self._model, self._lengths = plan, model, lengths
        self._rank, self._world, self._whole = rank, world, whole

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, number: int) -> Step:
        batch = self._plan.batch(number, self._rank, self._world)
        documents = [document for group in batch.groups for document in group]
        group = len(batch.groups[0])
        queries = self._model.read(batch.queries, "query", prompt=batch.query_prompt, max_length=self._lengths.query)
        found = self._model.read(documents, "document", prompt=batch.document_prompt, max_length=self._lengths.document)
        size = len(batch.queries) if self._whole else batch.sub_batch
        sides = list(zip(split(queries, size), split(found, size * group), strict=True))
        return Step(
            parts=[together(*side) for side in sides],
            queries=[len(part.ids) for part, _ in sides],
            group=group,
            first=self._rank * len(batch.queries),
            excluded=None if batch.same is None else torch.from_numpy(batch.same),
            teacher=None if batch.scores is None else torch.from_numpy(batch.scores),
            in_batch=batch.in_batch_negatives,
        )


class PairSteps(Dataset[PairStep]):
    """The steps of a plan for a reranker; the arguments are those of ``ModelSteps``."""

    def __init__(
        self, plan: Plan, model: TrainableReranker, lengths: Lengths, *, rank: int = 0, world: int = 1
    ) -> None:
        self._plan, self._model, self._lengths = plan, model, lengths
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, number: int) -> PairStep:
        batch = self._plan.batch(number, self._rank, self._world)
        pairs = [
            ((batch.query_prompt or "") + query, (batch.document_prompt or "") + document)
            for query, group in zip(batch.queries, batch.groups, strict=True)
            for document in group
        ]
        group = len(batch.groups[0])
        return PairStep(
            pairs=split(self._model.read(pairs, max_length=self._lengths.pair), batch.sub_batch * group),
            group=group,
            teacher=None if batch.scores is None else torch.from_numpy(batch.scores),
        )


def split(inputs: Inputs, size: int) -> list[Inputs]:
    """Parts of at most so many texts."""
    return [_part(inputs, slice(start, start + size)) for start in range(0, len(inputs.ids), size)]


def together(first: Inputs, second: Inputs) -> Inputs:
    """The texts of both, one after the other, for one forward pass."""
    attended = None
    if first.attended is not None or second.attended is not None:
        attended = [count for side in (first, second) for count in (side.attended or [len(ids) for ids in side.ids])]
    return Inputs(
        [*first.ids, *second.ids],
        np.concatenate([first.truncated, second.truncated]),
        attended=attended,
        asked=None if first.asked is None or second.asked is None else np.concatenate([first.asked, second.asked]),
        sparse_tokens=None if first.sparse_tokens is None else [*first.sparse_tokens, *(second.sparse_tokens or ())],
        vector_tokens=None if first.vector_tokens is None else [*first.vector_tokens, *(second.vector_tokens or ())],
    )


def _part(inputs: Inputs, places: slice) -> Inputs:
    def part(values: Any) -> Any:
        return None if values is None else values[places]

    return Inputs(**{field.name: part(getattr(inputs, field.name)) for field in fields(inputs)})
