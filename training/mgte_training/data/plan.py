"""A whole training run's batches, known before it starts; each is a function of the plan and the step."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError, InvalidOptionError
from mgte_training.data.batches import TrainingBatch, draw, same_documents, scores_of, texts_of
from mgte_training.data.buckets import Bucket
from mgte_training.data.draws import DrawRule, draw_rule
from mgte_training.data.statistics import PassStatistics, describe
from mgte_training.data.store import SourceData

_FORMAT = 1
DRAWS = 3  # the plan's seed has one stream for each purpose; the others are in planning


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """What every step trains on, in numbers.

    Attributes:
        sources: int16 [steps], number of the source.
        buckets: int8 [steps], number of the bucket.
        ends: int64 [steps + 1], where each step's examples start and, last, end.
        examples: int32 [queries], example numbers in their source, step after step.
        epoch_ends: int64 [epochs], steps until the end of each epoch.
    """

    sources: NDArray[np.int16]
    buckets: NDArray[np.int8]
    ends: NDArray[np.int64]
    examples: NDArray[np.int32]
    epoch_ends: NDArray[np.int64]


class TrainingPlan:
    """All batches of a training run; made by ``make_plan`` or read back by ``TrainingPlan.read``.

    Two plans with the same data, options and seed give equal batches, whatever was asked for before.

    Args:
        data: the sources, in the plan's order.
        buckets: batch sizes by length.
        schedule: what every step trains on.
        passes: what was put in batches and what was dropped.
        seed: decides everything.
        multiple_of: every batch's size is divisible by it.
    """

    def __init__(
        self,
        data: Sequence[SourceData],
        buckets: tuple[Bucket, ...],
        schedule: Schedule,
        passes: tuple[PassStatistics, ...],
        *,
        seed: int,
        multiple_of: int,
    ) -> None:
        self.data = tuple(data)
        self.buckets = buckets
        self.schedule = schedule
        self.passes = passes
        self.seed = seed
        self.multiple_of = multiple_of
        self._rules: list[DrawRule] = [draw_rule(each) for each in self.data]

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return len(self.schedule.sources)

    @property
    def epochs(self) -> int:
        """How many epochs there are, the last maybe cut short."""
        return len(self.schedule.epoch_ends)

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step is in."""
        return int(np.searchsorted(self.schedule.epoch_ends, step, side="right"))

    def examples(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Number of the source of a step, and its examples' numbers.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a plan with {self.steps:,}")
        start, end = self.schedule.ends[step : step + 2]
        return int(self.schedule.sources[step]), self.schedule.examples[start:end].astype(np.int64)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """What one device trains on in one step; a function of plan, step, rank and world alone.

        Args:
            step: from 0.
            rank: number of the device.
            world: how many devices share the batch equally.

        Raises:
            IndexError: there is no such step.
            InvalidOptionError: no such rank, or the batch cannot be shared equally.
            DataError: a random negative was asked for and none can be had.
        """
        number, examples = self.examples(step)
        if not 0 <= rank < world:
            raise InvalidOptionError(f"rank={rank!r}, world={world!r}: ranks go from 0 to world - 1")
        if len(examples) % world:
            raise InvalidOptionError(
                f"step {step} has {len(examples)} queries, which {world} devices cannot share equally; make the plan "
                f"with multiple_of={world}"
            )
        data, rule = self.data[number], self._rules[number]
        drawn = draw(data, examples, rule.own, rule.random, np.random.default_rng([self.seed, DRAWS, step]))
        share = len(examples) // world
        rows = range(rank * share, (rank + 1) * share)
        queries, groups = texts_of(data, drawn, rows)
        source = data.source
        return TrainingBatch(
            source=source.name,
            queries=queries,
            groups=groups,
            scores=scores_of(data, drawn, rows) if rule.scored else None,
            same=same_documents(data, drawn, rows) if source.in_batch_negatives else None,
            query_prompt=source.query_prompt,
            document_prompt=source.document_prompt,
            in_batch_negatives=source.in_batch_negatives,
            sub_batch=min(self.buckets[self.schedule.buckets[step]].sub_batch, share),
        )

    def describe(self) -> str:
        """For people: sources, their shares, batches by length, and what is dropped and why."""
        names = [each.source.name for each in self.data]
        sizes = np.diff(self.schedule.ends)
        own = [self.schedule.sources == number for number in range(len(names))]
        return describe(
            self.passes,
            self.buckets,
            queries={name: int(sizes[each].sum()) for name, each in zip(names, own, strict=True)},
            batches={
                name: np.bincount(self.schedule.buckets[each], minlength=len(self.buckets)).tolist()
                for name, each in zip(names, own, strict=True)
            },
            epochs=self.epochs,
            seed=self.seed,
        )

    def write(self, path: str | Path) -> None:
        """Write the plan, without the texts, to one compressed .npz file; an older one is replaced as a whole."""
        path = Path(path)
        header = {
            "format": _FORMAT,
            "seed": self.seed,
            "multiple_of": self.multiple_of,
            "buckets": [asdict(bucket) for bucket in self.buckets],
            "passes": [asdict(each) for each in self.passes],
            "sources": [_recorded(each) for each in self.data],
        }
        arrays = {name: getattr(self.schedule, name) for name in Schedule.__dataclass_fields__}
        unfinished = path.with_name(path.name + ".part")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)
        os.replace(unfinished, path)

    @classmethod
    def read(cls, path: str | Path, data: Sequence[SourceData]) -> "TrainingPlan":
        """Read a plan that ``write`` wrote.

        Args:
            path: the file.
            data: the same sources, read anew, in the same order.

        Raises:
            DataError: the file is no plan, or a source's options or examples are not those it was made with.
        """
        try:
            with Path(path).open("rb") as opened:
                file = np.load(opened, allow_pickle=False)
                header = json.loads(str(file["header"]))
                schedule = Schedule(**{name: file[name] for name in Schedule.__dataclass_fields__})
        except Exception as error:  # numpy, zipfile and json raise errors of many kinds
            raise DataError(f"{path}: cannot be read as a training plan: {error}") from error
        if header.get("format") != _FORMAT:
            raise DataError(f"{path}: a plan of format {header.get('format')!r}, this version reads {_FORMAT}")
        _check_sources(path, header["sources"], [_recorded(each) for each in data])
        return cls(
            data,
            tuple(Bucket(**bucket) for bucket in header["buckets"]),
            schedule,
            tuple(PassStatistics(**{**each, "batches": tuple(each["batches"])}) for each in header["passes"]),
            seed=header["seed"],
            multiple_of=header["multiple_of"],
        )


def _recorded(data: SourceData) -> dict[str, Any]:
    """A source's options and fingerprint as JSON has them; where it lies does not matter."""
    options = {**asdict(data.source), "columns": dict(data.source.columns)}
    options["ignored_fields"] = list(data.source.ignored_fields)
    del options["path"]
    return {**options, "examples": len(data), "fingerprint": data.fingerprint}


def _check_sources(path: str | Path, planned: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> None:
    names = [[source["name"] for source in side] for side in (planned, given)]
    if names[0] != names[1]:
        raise DataError(f"{path}: the plan was made for the sources {names[0]}, not {names[1]}, in that order")
    for then, now in zip(planned, given, strict=True):
        for option in sorted(then.keys() | now.keys()):
            if then.get(option) != now.get(option):
                raise DataError(
                    f"{path}: the source {now['name']!r} has another {option} than when the plan was made: "
                    f"{now.get(option)!r}, then {then.get(option)!r}. Restore it, or make a new plan"
                )
