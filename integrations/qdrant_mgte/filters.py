"""Filters as plain dictionaries, to Qdrant's own.

{"lang": "de"}                                    equal; a list: any of these; None: missing, null or empty
{"year": {"gte": 2020, "lt": 2024}}               eq ne gt gte lt lte in nin exists text, with or without a "$" before
{"title": {"text": "rows columns"}}               has every word, in any order and case (servers: index it as text)
{"author.name": "Kim", "tags": ["a", "b"]}        a path into metadata; a list there matches if one of its items does
{"$or": [{...}, {...}], "$not": {...}, "$and": [...]}
{"$id": ["a", "b"]}                               ids of documents
"""

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from qdrant_client import models

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown

DOC_ID = "doc_id"
METADATA = "metadata"
_RANGES = ("gt", "gte", "lt", "lte")
_OPERATORS = ("eq", "ne", *_RANGES, "in", "nin", "exists", "text")
_LOGIC = ("$and", "$or", "$not", "$id")
_MAX_DEPTH = 32
_PLAIN_NAME = re.compile(r"[\w-]+(\[\d*\])*")

Filter = Mapping[str, Any] | models.Filter


def native_filter(given: Filter | None) -> models.Filter | None:
    """A filter in Qdrant's form; one that already is stays as it is, and names payload fields ("metadata.lang").

    Raises:
        InvalidOptionError: an operator, a field or a value that cannot be filtered by; the message says where.
    """
    if given is None or isinstance(given, models.Filter):
        return given
    if not isinstance(given, Mapping):
        raise InvalidOptionError(
            f"a filter must be a dictionary such as {{'lang': 'de'}} or a qdrant_client Filter, not {shown(given)}"
        )
    return _filter(given, "filter", 1) if given else None


def field_path(name: str) -> str:
    """Payload path of a metadata field, "metadata.author.name"; names with unusual characters are quoted.

    Raises:
        InvalidOptionError: no name that a path can hold.
    """
    if not isinstance(name, str) or not name or '"' in name:
        raise InvalidOptionError(
            f"{shown(name)} is no metadata field; it must be a string that is not empty and without quotation marks"
        )
    parts = name.split(".")
    if not all(parts):
        raise InvalidOptionError(f"the metadata field {shown(name)} has an empty part; write author.name")
    return ".".join([METADATA, *(part if _PLAIN_NAME.fullmatch(part) else f'"{part}"' for part in parts)])


def both(first: models.Filter | None, second: models.Filter | None) -> models.Filter | None:
    """What matches both."""
    if first is None or second is None:
        return first or second
    return models.Filter(must=[first, second])


def is_document() -> models.FieldCondition:
    """Matches one point of every document: its first piece."""
    return models.FieldCondition(key="chunk_no", match=models.MatchValue(value=0))


def _filter(given: Mapping[str, Any], path: str, depth: int) -> models.Filter:
    if depth > _MAX_DEPTH:
        raise InvalidOptionError(f"the filter is nested more than {_MAX_DEPTH} deep")
    must: list[models.Condition] = []
    for name, value in given.items():
        here = f"{path}[{shown(name)}]"
        if isinstance(name, str) and name.startswith("$"):
            must.append(_logic(name, value, here, depth))
        elif isinstance(value, Mapping):
            must.extend(_operators(field_path(name), value, here))
        else:
            must.append(_equal(field_path(name), value, here))
    return models.Filter(must=must)


def _logic(name: str, value: Any, path: str, depth: int) -> models.Condition:
    if name == "$id":
        ids = [value] if isinstance(value, str) else _listed(value, path)
        if not all(isinstance(each, str) for each in ids):
            raise InvalidOptionError(f"{path} must be an id or a list of ids, which are strings, not {shown(value)}")
        return models.FieldCondition(key=DOC_ID, match=models.MatchAny(any=cast(list[str], ids)))
    if name == "$not" and isinstance(value, Mapping) and value:
        return models.Filter(must_not=[_filter(value, path, depth + 1)])
    if name in ("$and", "$or"):
        parts = _listed(value, path)
        if parts and all(isinstance(part, Mapping) and part for part in parts):
            filters: list[models.Condition] = [_filter(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(parts)]
            return models.Filter(must=filters) if name == "$and" else models.Filter(should=filters)
    if name in _LOGIC:
        wanted = "a filter" if name == "$not" else "a list of filters"
        raise InvalidOptionError(f"{path} must be {wanted} that is not empty, not {shown(value)}")
    raise InvalidOptionError(f"{path}: {shown(name)} is unknown; there are {', '.join(_LOGIC)} and metadata fields")


def _operators(key: str, operators: Mapping[str, Any], path: str) -> list[models.Condition]:
    ranges: dict[str, Any] = {}
    conditions: list[models.Condition] = []
    for given, value in operators.items():
        operator = given.removeprefix("$") if isinstance(given, str) else given
        here = f"{path}[{shown(given)}]"
        if operator in _RANGES:
            ranges[operator] = value
        elif operator in _SIMPLE:
            conditions.append(_SIMPLE[operator](key, value, here))
        else:
            raise InvalidOptionError(
                f"{here}: {shown(given)} is unknown; the operators are {', '.join(_OPERATORS)}, "
                f"and a field inside a field is written with a dot"
            )
    if ranges:
        conditions.append(_range(key, ranges, path))
    if not conditions:
        raise InvalidOptionError(f"{path} is empty; give an operator: {', '.join(_OPERATORS)}")
    return conditions


def _equal(key: str, value: Any, path: str) -> models.Condition:
    if isinstance(value, list | tuple | set | frozenset):
        return _any_of(key, value, path)
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    value = _scalar(value, path)
    if isinstance(value, float):
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _any_of(key: str, values: Any, path: str) -> models.Condition:
    listed = [
        _scalar(value, f"{path}[{i}]") if value is not None else None for i, value in enumerate(_listed(values, path))
    ]
    for kind in (str, int):
        if all(type(value) is kind for value in listed):
            return models.FieldCondition(key=key, match=models.MatchAny(any=cast(Any, listed)))
    return models.Filter(should=[_equal(key, value, path) for value in listed])


def _none_of(key: str, values: Any, path: str) -> models.Condition:
    return models.Filter(must_not=[_any_of(key, values, path)])


def _not_equal(key: str, value: Any, path: str) -> models.Condition:
    return models.Filter(must_not=[_equal(key, value, path)])


def _exists(key: str, value: Any, path: str) -> models.Condition:
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{path} must be True or False, not {shown(value)}")
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    return models.Filter(must_not=[empty]) if value else empty


def _text(key: str, value: Any, path: str) -> models.Condition:
    if not isinstance(value, str) or not value.strip():
        raise InvalidOptionError(f"{path} must be words to look for, not {shown(value)}")
    return models.FieldCondition(key=key, match=models.MatchText(text=value))


_SIMPLE: Mapping[str, Callable[[str, Any, str], models.Condition]] = {
    "eq": _equal,
    "ne": _not_equal,
    "in": _any_of,
    "nin": _none_of,
    "exists": _exists,
    "text": _text,
}


def _range(key: str, bounds: Mapping[str, Any], path: str) -> models.Condition:
    if all(isinstance(bound, str | datetime.date) for bound in bounds.values()):
        dates = {name: _date(bound, f"{path}[{name!r}]") for name, bound in bounds.items()}
        return models.FieldCondition(key=key, range=models.DatetimeRange(**cast(Any, dates)))
    for name, bound in bounds.items():
        checked = _scalar(bound, f"{path}[{name!r}]")
        if isinstance(checked, str | bool):
            raise InvalidOptionError(
                f"{path}[{name!r}] must be a number or a date, as the other bound is, not {shown(bound)}"
            )
    return models.FieldCondition(key=key, range=models.Range(**{name: float(b) for name, b in bounds.items()}))


def _date(value: str | datetime.date, path: str) -> datetime.datetime | datetime.date:
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.datetime.fromisoformat(value)
    except ValueError:
        raise InvalidOptionError(f"{path} must be a number or a date such as 2024-01-31, not {shown(value)}") from None


def _scalar(value: Any, path: str) -> str | int | float | bool:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, datetime.date | datetime.time):  # stored as such
        return value.isoformat()
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidOptionError(
        f"{path} is {shown(value)}; allowed are strings, finite numbers of 64 bits, booleans, dates, None and lists "
        f"of these"
    )


def _listed(values: Any, path: str) -> Sequence[Any]:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidOptionError(f"{path} must be a list, not {shown(values)}")
    if not values:
        raise InvalidOptionError(f"{path} is an empty list, which nothing matches; leave it out or name values")
    return list(values)
