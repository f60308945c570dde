"""What a task gives to the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskScore:
    """One figure of one task.

    Attributes:
        task: what the task is called, such as "stsb".
        group: its kind, such as "STS" or "Classification"; mteb's word where mteb has one.
        language: ISO 639-1 code such as "en"; "und" where nothing says so.
        measure: what was measured, such as "spearman".
        value: the figure, 0 to 1, of correlations -1 to 1.
        low: lower end of its 95 % interval, of examples drawn anew; None where there is none.
        high: upper end.
        examples: how many examples it is measured on: pairs, texts, questions or queries.
    """

    task: str
    group: str
    language: str
    measure: str
    value: float
    low: float | None
    high: float | None
    examples: int
