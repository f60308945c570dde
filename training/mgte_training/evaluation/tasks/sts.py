"""Semantic textual similarity: how well cosines agree with people's scores of sentence pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgte_rag import DataError, EmbeddingModel
from mgte_training.evaluation.tasks.measures import correlation_scores
from mgte_training.evaluation.tasks.prompts import symmetric_prompt
from mgte_training.evaluation.tasks.rows import Row, by_language, read_rows, task_name
from mgte_training.evaluation.tasks.scores import TaskScore

GROUP = "STS"


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two sentences and how alike people find them, on any scale."""

    sentence1: str
    sentence2: str
    score: float
    language: str


def read_scored_pairs(path: str | Path, *, split: str | None = None) -> list[ScoredPair]:
    """Lines of {"sentence1", "sentence2", "score"}, perhaps with "language" and "split".

    Raises:
        DataError: the file cannot be used; the message names file and line.
    """
    return [_scored_pair(row) for row in read_rows(path, split=split)]


def _scored_pair(row: Row) -> ScoredPair:
    return ScoredPair(row.text("sentence1"), row.text("sentence2"), row.number("score"), row.language)


def evaluate_sts(
    model: EmbeddingModel,
    path: str | Path,
    *,
    split: str | None = None,
    dim: int | None = None,
    task: str | None = None,
    show_progress: bool = False,
) -> list[TaskScore]:
    """Spearman's and Pearson's correlation of the dense vectors' cosines with gold scores, for every language.

    The same as sentence-transformers' EmbeddingSimilarityEvaluator gives. Sentences get the prompt of
    ``symmetric_prompt``.

    Args:
        model: with a dense output.
        path: lines of {"sentence1", "sentence2", "score"}, perhaps with "language" and "split".
        split: take only rows of this split.
        dim: components of the dense vectors; None is all.
        task: what to call it; None is the file's name.
        show_progress: draw a progress bar on standard error.

    Raises:
        DataError: the file cannot be used, or all scores of a language are the same.
        UnsupportedOutputError: the model has no dense output.
    """
    pairs = read_scored_pairs(path, split=split)
    languages = by_language(pairs, lambda pair: pair.language)
    for language, places in languages.items():
        if len({pairs[place].score for place in places}) < 2:
            raise DataError(f"{path}: all {len(places)} scores of language {language!r} are the same; nothing to rank")
    cosines = _cosines(model, pairs, dim, show_progress)
    gold = np.array([pair.score for pair in pairs])
    return [
        score
        for language, places in languages.items()
        for score in correlation_scores(
            cosines[places], gold[places], task=task or task_name(path), group=GROUP, language=language
        )
    ]


def _cosines(
    model: EmbeddingModel, pairs: Sequence[ScoredPair], dim: int | None, show_progress: bool
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Float32 [pairs]; a sentence that occurs often is encoded once."""
    sentences = {text: 0 for pair in pairs for text in (pair.sentence1, pair.sentence2)}
    places = {text: place for place, text in enumerate(sentences)}
    encodings = model.encode_document(
        list(places), outputs=("dense",), dim=dim, prompt=symmetric_prompt(model), show_progress=show_progress
    )
    assert encodings.dense is not None, "asked for above"
    left = encodings.dense[[places[pair.sentence1] for pair in pairs]]
    right = encodings.dense[[places[pair.sentence2] for pair in pairs]]
    cosines: np.ndarray[tuple[int], np.dtype[np.float32]] = np.einsum("ij,ij->i", left, right)
    return cosines
