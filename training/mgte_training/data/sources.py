"""One data set of a recipe: where it is, how it is read, what is drawn from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mgte_rag.errors import InvalidOptionError


@dataclass(frozen=True, slots=True)
class Source:
    """One data set of a recipe. A batch never mixes sources.

    Attributes:
        name: for people and in the plan; unique in a recipe.
        path: a file (.jsonl, .jsonl.gz, .parquet), a folder that ``datasets`` wrote or reads, or a hub dataset's id.
        query_prompt: put before every query; None is the model's own, "" is none.
        document_prompt: put before every document; likewise.
        in_batch_negatives: whether other queries' documents count as negatives.
        max_examples: train on so many at most, a seeded choice; None is all.
        weight: factor on the source's share of the examples, which is n to the power alpha; None is 1.
        negatives: drawn for each query from its own ones. None is all of them, and an error where examples have
            different numbers. What an example lacks is drawn like ``random_negatives``; where a teacher's scores are
            used, examples that lack any are left out instead.
        random_negatives: drawn for each query from the source's other positives, besides ``negatives``.
        use_scores: hand on the teacher's scores where the source has them.
        split: split of a hub dataset or a folder.
        subset: configuration of a hub dataset.
        revision: branch, tag or commit of a hub dataset.
        columns: the source's own names of fields to those of ``parse_row``: {"question": "query"}.
        ignored_fields: fields that are allowed and not read, besides the descriptive ones.
    """

    name: str
    path: str
    query_prompt: str | None = None
    document_prompt: str | None = None
    in_batch_negatives: bool = True
    max_examples: int | None = None
    weight: float | None = None
    negatives: int | None = None
    random_negatives: int = 0
    use_scores: bool = True
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    ignored_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidOptionError: a count below what makes sense, a weight that is not above zero, or one string where
                names belong.
        """
        if not self.name:
            raise InvalidOptionError("a source needs a name")
        for option, lowest in (("max_examples", 1), ("negatives", 0), ("random_negatives", 0)):
            count = getattr(self, option)
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < lowest):
                raise InvalidOptionError(
                    f"source {self.name!r}: {option}={count!r}; it is a whole number from {lowest} up"
                )
        if isinstance(self.ignored_fields, str):  # type: ignore[unreachable]  # recipes are not type-checked
            raise InvalidOptionError(f"source {self.name!r}: ignored_fields is a list of names, not one string")
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidOptionError(f"source {self.name!r}: weight={self.weight!r}; it is a number above zero")
