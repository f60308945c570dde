"""Labelled data from JSON Lines files, every line checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mgte_rag import DataError
from mgte_rag.errors import shown
from mgte_training.data.readers import json_lines

UNDETERMINED = "und"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file, which knows where it stands.

    Attributes:
        place: "file, line 3".
        fields: the object.
    """

    place: str
    fields: Mapping[str, Any]

    def error(self, problem: str) -> DataError:
        """An error that names file and line."""
        return DataError(f"{self.place}: {problem}")

    def text(self, name: str) -> str:
        """A field that must be a text with something in it."""
        value = self._needed(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name!r} must be a text that is not empty, not {shown(value)}")
        return value

    def number(self, name: str) -> float:
        """A field that must be a finite number."""
        value = self._needed(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise self.error(f"{name!r} must be a finite number, not {shown(value)}")
        return float(value)

    def label(self, name: str) -> str:
        """A field that must name a class: a text, a whole number, or true or false, which count as 1 and 0."""
        value = self._needed(name)
        if isinstance(value, bool):
            return str(int(value))
        if not isinstance(value, str | int) or value == "":
            raise self.error(f"{name!r} must be a text or a whole number, not {shown(value)}")
        return str(value)

    def texts(self, name: str) -> list[str]:
        """A field that must be a list of texts."""
        value = self._needed(name)
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise self.error(f"{name!r} must be a list of texts, none empty, not {shown(value)}")
        return value

    @property
    def language(self) -> str:
        """The field "language", "und" where there is none."""
        return self.text("language") if "language" in self.fields else UNDETERMINED

    def _needed(self, name: str) -> Any:
        if name not in self.fields:
            raise self.error(f"lacks the field {name!r}; it has {', '.join(map(repr, self.fields)) or 'none'}")
        return self.fields[name]


def read_rows(path: str | Path, *, split: str | None = None) -> list[Row]:
    """Every object of a JSON Lines file, ``.jsonl`` or ``.jsonl.gz``, UTF-8; blank lines are passed over.

    Args:
        path: the file.
        split: take only rows whose field "split" is this; None takes all.

    Raises:
        DataError: the file is missing or damaged, a line is no JSON object, or nothing is left; the message names
            file and line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = [Row(place, _object(place, value)) for place, value in json_lines(path)]
    kept = [row for row in rows if split is None or row.fields.get("split") == split]
    if not kept:
        found = sorted({str(row.fields.get("split")) for row in rows})
        reason = f"no row of {len(rows)} has split {split!r}; there are {', '.join(found)}" if rows else "it is empty"
        raise DataError(f"{path}: nothing to read: {reason}")
    return kept


def _object(place: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: must be a JSON object, not {shown(value)}")
    return value


def by_language(items: Sequence[T], language: Callable[[T], str]) -> dict[str, list[int]]:
    """The places of the items of every language, languages ascending."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(language(item), []).append(place)
    return dict(sorted(places.items()))


def task_name(path: str | Path) -> str:
    """What a file's task is called unless someone says otherwise: its name without endings."""
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
