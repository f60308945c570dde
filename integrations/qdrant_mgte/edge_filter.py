"""Filters for the embedded engine: ``qdrant_client.models.Filter`` as the engine's own."""

import datetime
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown


def edge_filter(given: models.Filter | None) -> "edge.Filter | None":
    """The same filter for the embedded engine.

    Raises:
        InvalidOptionError: it has a condition the engine does not know, or cannot read.
    """
    if given is None:
        return None
    try:
        return _filter(given)
    except ValueError as error:  # a JSON path or a date and time that is none
        raise InvalidOptionError(f"the filter cannot be read: {error}") from error


def _filter(given: models.Filter) -> "edge.Filter":
    least = given.min_should
    return edge.Filter(
        must=_conditions(given.must),
        should=_conditions(given.should),
        must_not=_conditions(given.must_not),
        min_should=None if least is None else edge.MinShould(_conditions(least.conditions) or [], least.min_count),
    )


def _conditions(given: Any) -> list[Any] | None:
    if given is None:
        return None
    return [_condition(item) for item in (given if isinstance(given, Sequence) else [given])]


def _condition(given: Any) -> Any:
    match given:
        case models.Filter():
            return _filter(given)
        case models.FieldCondition():
            return _field(given)
        case models.HasIdCondition():
            return edge.HasIdCondition(set(given.has_id))
        case models.HasVectorCondition():
            return edge.HasVectorCondition(given.has_vector)
        case models.IsEmptyCondition():
            return edge.IsEmptyCondition(given.is_empty.key)
        case models.IsNullCondition():
            return edge.IsNullCondition(given.is_null.key)
        case models.NestedCondition():
            return edge.NestedCondition(given.nested.key, _filter(given.nested.filter))
    raise InvalidOptionError(f"the embedded engine has no {type(given).__name__}: {shown(given)}")


def _field(given: models.FieldCondition) -> "edge.FieldCondition":
    box, radius, polygon = given.geo_bounding_box, given.geo_radius, given.geo_polygon
    count = given.values_count
    return edge.FieldCondition(
        given.key,
        match=None if given.match is None else _match(given.match),
        range=None if given.range is None else _range(given.range),
        geo_bounding_box=None if box is None else edge.GeoBoundingBox(_geo(box.top_left), _geo(box.bottom_right)),
        geo_radius=None if radius is None else edge.GeoRadius(_geo(radius.center), radius.radius),
        geo_polygon=None if polygon is None else _polygon(polygon),
        values_count=None
        if count is None
        else edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte),
        is_empty=given.is_empty,
        is_null=given.is_null,
    )


def _match(given: Any) -> Any:
    match given:
        case models.MatchValue():
            # Python's own booleans are read as the numbers 0 and 1 (Edge 0.9); numpy's are read right.
            return edge.MatchValue(cast(bool, np.bool_(given.value)) if isinstance(given.value, bool) else given.value)
        case models.MatchAny():
            return edge.MatchAny(cast(list[str], given.any))
        case models.MatchExcept():
            return edge.MatchExcept(cast(list[str], given.except_))
        case models.MatchText():
            return edge.MatchText(given.text)
        case models.MatchTextAny():
            return edge.MatchTextAny(given.text_any)
        case models.MatchPhrase():
            return edge.MatchPhrase(given.phrase)
    raise InvalidOptionError(f"the embedded engine has no {type(given).__name__}: {shown(given)}")


def _range(given: Any) -> Any:
    bounds = {name: getattr(given, name) for name in ("gte", "gt", "lte", "lt")}
    if isinstance(given, models.DatetimeRange):
        return edge.RangeDateTime(
            **{name: b.isoformat() if isinstance(b, datetime.date) else b for name, b in bounds.items()}
        )
    return edge.RangeFloat(**bounds)


def _polygon(given: models.GeoPolygon) -> "edge.GeoPolygon":
    return edge.GeoPolygon(
        [_geo(point) for point in given.exterior.points],
        [[_geo(point) for point in ring.points] for ring in given.interiors or []],
    )


def _geo(given: models.GeoPoint) -> "edge.GeoPoint":
    return edge.GeoPoint(given.lon, given.lat)
