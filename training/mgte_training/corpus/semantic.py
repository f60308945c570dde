"""The semantic filter: whether a query and its positive are about the same, in the eyes of a model."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mgte_rag.errors import DataError, InvalidOptionError, shown
from mgte_training.corpus.pairs import Pair

if TYPE_CHECKING:
    from mgte_rag import EmbeddingModel

Floats = npt.NDArray[np.float64]

MINI_MIN_SCORE = 0.32
"""For the embedded default and English text: 5 in 100 pairs with exchanged positives reach it, 92 in 100 as they are.

By ``score_shuffled`` over 400 pairs each of seven sources (titles and abstracts, medical and reading questions,
manuals, command pages, standards); of one source it is 0.19 to 0.39. C-Pack's 0.43 is for its own scorer. In Chinese
and Japanese the embedded default cannot tell pairs from exchanged ones: give ``score_languages``.
"""

_RATES = (0.01, 0.02, 0.05, 0.1)


def pair_scores(model: "EmbeddingModel", pairs: Sequence[tuple[str, str]], *, max_tokens: int) -> Floats:
    """The cosine of each query and its positive, by the model's dense vectors and with its own prompts.

    Raises:
        InvalidOptionError: the model has no dense output.
    """
    if "dense" not in model.outputs:
        raise InvalidOptionError(
            f"a model with a dense output is needed, not one with {', '.join(model.outputs)} alone"
        )
    length = min(max_tokens, model.max_length)
    queries = model.encode_query([query for query, _ in pairs], outputs=("dense",), max_length=length).dense
    positives = model.encode_document([text for _, text in pairs], outputs=("dense",), max_length=length).dense
    assert queries is not None
    assert positives is not None
    scores: Floats = np.einsum("ij,ij->i", queries, positives, dtype=np.float64)
    return scores


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold that keeps a stated share of pairs that do not match.

    Attributes:
        value: the lowest score that passes.
        mismatched: share of the mismatched pairs that pass.
        matched: share of the matched pairs that pass.
    """

    value: float
    mismatched: float
    matched: float


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Scores of pairs that match and of pairs that do not.

    Attributes:
        matched: of each pair that matches.
        mismatched: of each pair that does not.
    """

    matched: Floats
    mismatched: Floats

    @classmethod
    def together(cls, every: Sequence["LabelledScores"]) -> "LabelledScores":
        """Several samples as one."""
        return cls(*(np.concatenate(side) for side in zip(*((e.matched, e.mismatched) for e in every), strict=True)))

    def threshold(self, rate: float) -> Threshold:
        """The lowest threshold that lets at most that share of the mismatched pairs pass."""
        allowed = int(rate * len(self.mismatched))
        highest_first = np.sort(self.mismatched)[::-1]
        value = float(np.nextafter(highest_first[allowed], np.inf)) if allowed < len(highest_first) else -1.0
        return Threshold(value, float(np.mean(self.mismatched >= value)), float(np.mean(self.matched >= value)))

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched):,} pairs that match, {len(self.mismatched):,} that do not; mean scores "
            f"{self.matched.mean():.3f} and {self.mismatched.mean():.3f}",
            f"{'mismatched that pass':>22} {'threshold':>10} {'matched that pass':>18}",
        ]
        for found in map(self.threshold, _RATES):
            lines.append(f"{found.mismatched:>22.1%} {found.value:>10.3f} {found.matched:>18.1%}")
        return "\n".join(lines)


def is_labelled(path: str | Path) -> bool:
    """Whether a file's first row says that its query and text match, or that they do not."""
    from mgte_training.data.readers import json_lines  # on use, as below: it loads torch

    first = next(json_lines(Path(path)), ("", None))[1] if Path(path).is_file() else None
    return isinstance(first, dict) and "matches" in first


def score_labelled(model: "EmbeddingModel", path: str | Path, *, max_tokens: int = 256) -> LabelledScores:
    """Scores of a labelled sample.

    Args:
        model: the one that will filter.
        path: .jsonl or .jsonl.gz of ``{query, text, matches}``, the last true or false.
        max_tokens: read of a text.

    Raises:
        DataError: a row is malformed, or one of the two kinds is missing.
    """
    from mgte_training.data.readers import json_lines

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    sides: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for place, row in json_lines(Path(path)):
        if not isinstance(row, dict) or not isinstance(row.get("matches"), bool):
            raise DataError(f"{place}: an object with query, text and matches, true or false, not {shown(row)}")
        if not all(isinstance(row.get(name), str) and row[name].strip() for name in ("query", "text")):
            raise DataError(f"{place}: query and text must be strings that are not empty, not {shown(row)}")
        sides[row["matches"]].append((row["query"], row["text"]))
    return _scored(model, sides[True], sides[False], str(path), max_tokens)


def score_shuffled(
    model: "EmbeddingModel", path: str | Path, *, sample: int = 400, seed: int = 0, max_tokens: int = 256
) -> LabelledScores:
    """Scores of pairs as they are and with positives exchanged among them, which nobody has to label.

    Some exchanged pairs match by chance, as questions about one topic do, and some given ones do not match: a
    threshold from them is a little too high, and keeps a little more of the true pairs than it says.

    Args:
        model: the one that will filter.
        path: training pairs, in one language that the model knows.
        sample: pairs drawn.
        seed: of the draw and the exchange.
        max_tokens: read of a text.

    Raises:
        DataError: the file cannot be read or has fewer than two different pairs.
    """
    from mgte_training.data import Source, read_examples

    pairs = [(each.query, each.positives[0]) for each in read_examples(Source(str(path), str(path)))]
    pairs = random.Random(seed).sample(pairs, min(sample, len(pairs)))
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for query, positive in pairs:
        answers[query].add(positive)
    others = pairs[1:] + pairs[:1]  # the draw is in random order: a neighbour is any other pair
    exchanged = [(q, other) for (q, _), (_, other) in zip(pairs, others, strict=True) if other not in answers[q]]
    return _scored(model, pairs, exchanged, str(path), max_tokens)


def _scored(
    model: "EmbeddingModel",
    matched: Sequence[tuple[str, str]],
    mismatched: Sequence[tuple[str, str]],
    where: str,
    max_tokens: int,
) -> LabelledScores:
    if not matched or not mismatched:
        raise DataError(f"{where}: {len(matched)} pairs that match and {len(mismatched)} that do not; "
                        f"some of each are needed")  # fmt: skip
    return LabelledScores(
        pair_scores(model, matched, max_tokens=max_tokens), pair_scores(model, mismatched, max_tokens=max_tokens)
    )


class SemanticFilter:
    """Pairs by their score.

    Args:
        model: with a dense output.
        min_score: lowest score that passes.
        languages: that the model knows; pairs in others pass without a score. None is every one.
        max_tokens: read of a text.
    """

    def __init__(
        self, model: "EmbeddingModel", min_score: float, languages: tuple[str, ...] | None, max_tokens: int
    ) -> None:
        self._model, self._min_score = model, min_score
        self._languages, self._max_tokens = languages, max_tokens

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The score of each pair, None where it is in a language that the model does not know."""
        known = [number for number, pair in enumerate(pairs) if self._knows(pair)]
        scores: list[float | None] = [None] * len(pairs)
        if known:
            texts = [(pairs[number].query, pairs[number].positive) for number in known]
            for number, score in zip(known, pair_scores(self._model, texts, max_tokens=self._max_tokens), strict=True):
                scores[number] = float(score)
        return scores

    def passes(self, score: float | None) -> bool:
        """Whether a pair with that score is kept."""
        return score is None or score >= self._min_score

    def _knows(self, pair: Pair) -> bool:
        return self._languages is None or all(each in self._languages for each in pair.language.split("-"))
