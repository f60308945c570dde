"""What becomes a pair and what is left out."""

from dataclasses import dataclass

from mgte_rag.errors import InvalidOptionError
from mgte_training.corpus.pairs import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """What becomes a pair and what is left out.

    Attributes:
        tasks: kinds of pairs that are made; rows that are pairs already have a task of their own and are always read.
        languages: of the pairs kept, as ISO 639-1 codes; None is every one. Both of a translation must be among them.
        query_words: fewest and most words of a query; two characters of a script without spaces count as one word.
        positive_words: fewest and most words of a positive.
        body_words: a document's text that is longer ends at the last paragraph before.
        near_duplicates: Jaccard similarity of two positives' three-word sequences from which the later one is left out;
            None keeps them.
        max_repeats: so many pairs have the same query at most, and so many the same positive.
        blocked_sites: names of hosts; a text with a link to one of them, or to one under it, is left out.
        blocked_words: a text that has one is left out.
        min_score: lowest cosine similarity of query and positive by the model; None asks no model.
        score_languages: languages that the model knows; pairs in others are kept without a score. None is every one.
        score_tokens: tokens that the model reads of a text.
        skip_unreadable: count files and lines that cannot be read and go on; else the first is an error.
        shard_rows: rows of a file of the output.
        seed: of the sketches that near duplicates are found by, and of the choice of examples in the report.
    """

    tasks: tuple[str, ...] = tuple(task for task in TASKS if task != "pair")
    languages: tuple[str, ...] | None = None
    query_words: tuple[int, int] = (1, 64)
    positive_words: tuple[int, int] = (12, 6_000)
    body_words: int = 1_000
    near_duplicates: float | None = 0.8
    max_repeats: int = 5
    blocked_sites: tuple[str, ...] = ()
    blocked_words: tuple[str, ...] = ()
    min_score: float | None = None
    score_languages: tuple[str, ...] | None = None
    score_tokens: int = 256
    skip_unreadable: bool = False
    shard_rows: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidOptionError: a value that is not allowed.
        """
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise InvalidOptionError(f"tasks={unknown[0]!r}: allowed are {', '.join(TASKS)}")
        for option in ("query_words", "positive_words"):
            fewest, most = getattr(self, option)
            if not 0 <= fewest <= most:
                raise InvalidOptionError(f"{option}={(fewest, most)!r}: fewest and most, 0 <= fewest <= most")
        for option in ("body_words", "max_repeats", "score_tokens", "shard_rows"):
            if getattr(self, option) < 1:
                raise InvalidOptionError(f"{option}={getattr(self, option)!r}: a whole number from 1 up")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise InvalidOptionError(f"near_duplicates={self.near_duplicates!r}: above 0 and up to 1, or None")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise InvalidOptionError(f"min_score={self.min_score!r}: a cosine, -1 to 1, or None")
        if self.seed < 0:
            raise InvalidOptionError(f"seed={self.seed!r}: a whole number from 0 up")
