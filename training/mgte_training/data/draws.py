"""How many documents are drawn for each query of a source, worked out from its options and its examples."""

from dataclasses import dataclass

from mgte_rag.errors import InvalidOptionError
from mgte_training.data.store import SourceData


@dataclass(frozen=True, slots=True)
class DrawRule:
    """What is drawn for each query, besides one positive.

    Attributes:
        own: of the example's own negatives, or random ones in their place.
        random: random negatives besides.
        scored: hand on the teacher's scores; then every example needs its own negatives.
    """

    own: int
    random: int
    scored: bool

    @property
    def group(self) -> int:
        """Documents of each query."""
        return 1 + self.own + self.random


def draw_rule(data: SourceData) -> DrawRule:
    """The rule of one source.

    Raises:
        InvalidOptionError: the number of negatives is not said and examples differ in it, random negatives are to have
            a teacher's scores, or there is nothing to tell a positive from.
    """
    source = data.source
    least, most = int(data.negative_counts.min()), int(data.negative_counts.max())
    if source.negatives is None and least != most:
        raise InvalidOptionError(
            f"source {source.name!r}: its examples have {least} to {most} negatives; say how many are drawn with "
            f"negatives="
        )
    own = most if source.negatives is None else source.negatives
    rule = DrawRule(own, source.random_negatives, scored=source.use_scores and data.has_scores)
    if rule.scored and rule.random:
        raise InvalidOptionError(
            f"source {source.name!r}: random_negatives={rule.random} have no score of the teacher; set "
            f"use_scores=false or random_negatives=0"
        )
    if rule.scored and own > most:
        raise InvalidOptionError(f"source {source.name!r}: negatives={own}, but no scored example has more than {most}")
    if rule.group == 1 and not source.in_batch_negatives:
        raise InvalidOptionError(
            f"source {source.name!r}: with neither in-batch nor other negatives there is nothing to learn; set "
            f"negatives= or random_negatives="
        )
    return rule
