"""What a training step trains on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import DataError
from mgte_training.data.store import NO_LABEL, SourceData

# Positives of other examples drawn for a random negative until one fits.
_TRIES = 64


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """What a step trains on: one device's share of a batch.

    Attributes:
        source: name of the source; a batch has one.
        queries: without prompt.
        groups: documents of each query: a positive first, then its negatives; all groups are of one length.
        scores: float32 [queries, group], a teacher's; None without one.
        same: bool [queries, all queries * group], True where another query's document must not count as a negative: its
            text is the query or one of its positives, or it is the positive of an example with the same label. The
            columns are the documents of all devices, rank after rank, group after group; with one device its own.
            None where it would be False everywhere, on all devices.
        query_prompt: put before every query; None is the model's own.
        document_prompt: put before every document; None is the model's own.
        in_batch_negatives: whether other queries' documents count as negatives.
        sub_batch: queries to be computed at once.
    """

    source: str
    queries: list[str]
    groups: list[list[str]]
    scores: NDArray[np.float32] | None
    same: NDArray[np.bool_] | None
    query_prompt: str | None
    document_prompt: str | None
    in_batch_negatives: bool
    sub_batch: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """Which documents of which examples a whole batch has, by number.

    Attributes:
        examples: example numbers.
        owners: int64 [examples, group], the example that a document is of.
        places: int64 [examples, group], its place among that example's positives and negatives.
    """

    examples: NDArray[np.int64]
    owners: NDArray[np.int64]
    places: NDArray[np.int64]


def draw(data: SourceData, examples: NDArray[np.int64], own: int, random: int, chance: np.random.Generator) -> Drawn:
    """Draw a positive, negatives of its own and random ones for each example of a batch.

    Args:
        data: the source.
        examples: numbers of the batch's examples.
        own: negatives of the example itself; those it lacks become random ones.
        random: further negatives, positives of the source's other examples.
        chance: decides.

    Raises:
        DataError: no other example has a positive that may be a negative.
    """
    owners = np.repeat(examples[:, None], 1 + own + random, axis=1)
    places = np.zeros_like(owners)
    for row, number in enumerate(examples.tolist()):
        positives, negatives = int(data.positive_counts[number]), int(data.negative_counts[number])
        places[row, 0] = chance.integers(positives)
        there = min(own, negatives)
        places[row, 1 : 1 + there] = positives + chance.permutation(negatives)[:there]
        taken = {data.document_key(number, place) for place in places[row, : 1 + there].tolist()}
        for column in range(1 + there, owners.shape[1]):
            other, place = _random_negative(data, number, taken, chance)
            owners[row, column], places[row, column] = other, place
            taken.add(data.document_key(other, place))
    return Drawn(examples, owners, places)


def _random_negative(data: SourceData, number: int, taken: set[int], chance: np.random.Generator) -> tuple[int, int]:
    own = set(data.own_keys(number).tolist())
    label = data.labels[number]
    for _ in range(_TRIES):
        other = int(chance.integers(len(data)))
        place = int(chance.integers(data.positive_counts[other]))
        key = data.document_key(other, place)
        if key not in own and key not in taken and (label == NO_LABEL or data.labels[other] != label):
            return other, place
    raise DataError(
        f"source {data.source.name!r}: no random negative for the query {data[number].query!r}: {_TRIES} positives of "
        f"other examples were its own, drawn already, or of its label. Ask for fewer negatives"
    )


def same_documents(data: SourceData, drawn: Drawn, rows: range) -> NDArray[np.bool_] | None:
    """``TrainingBatch.same`` for some queries of a whole batch.

    Args:
        data: the source.
        drawn: the whole batch.
        rows: positions of the queries.
    """
    owners, places = drawn.owners.ravel(), drawn.places.ravel()
    keys = [data.document_key(owner, place) for owner, place in zip(owners.tolist(), places.tolist(), strict=True)]
    columns: dict[int, list[int]] = {}
    for column, key in enumerate(keys):
        columns.setdefault(key, []).append(column)
    labels = data.labels[drawn.examples]
    document_labels = np.where(places < data.positive_counts[owners], data.labels[owners], NO_LABEL)
    group = drawn.owners.shape[1]
    same = np.zeros((len(rows), len(keys)), dtype=np.bool_)
    any_same = False
    for row, number in enumerate(drawn.examples.tolist()):
        found = [column for key in set(data.own_keys(number).tolist()) for column in columns.get(key, ())]
        if labels[row] != NO_LABEL:
            found += np.flatnonzero(document_labels == labels[row]).tolist()
        others = [column for column in found if column // group != row]
        any_same = any_same or bool(others)
        if row in rows:
            same[row - rows.start, others] = True
    return same if any_same else None


def texts_of(data: SourceData, drawn: Drawn, rows: range) -> tuple[list[str], list[list[str]]]:
    """Queries and groups of some queries of a whole batch."""
    here = slice(rows.start, rows.stop)
    found = {number: data[number] for number in np.unique(drawn.owners[here]).tolist()}
    documents = {number: (*example.positives, *example.negatives) for number, example in found.items()}
    groups = [
        [documents[owner][place] for owner, place in zip(owners, places, strict=True)]
        for owners, places in zip(drawn.owners[here].tolist(), drawn.places[here].tolist(), strict=True)
    ]
    return [found[number].query for number in drawn.examples[here].tolist()], groups


def scores_of(data: SourceData, drawn: Drawn, rows: range) -> NDArray[np.float32]:
    """A teacher's scores of some groups of a whole batch, float32 [queries, group]."""
    scores = []
    for row in rows:
        example = data[int(drawn.examples[row])]
        own: Sequence[float] = (*(example.positive_scores or ()), *(example.negative_scores or ()))
        scores.append([own[place] for place in drawn.places[row].tolist()])
    return np.array(scores, dtype=np.float32)
