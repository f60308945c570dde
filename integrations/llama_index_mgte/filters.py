"""LlamaIndex's metadata filters to those of a collection."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_mgte.nodes import NODE
from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown

_COMPARED = {
    FilterOperator.EQ: "eq",
    FilterOperator.NE: "ne",
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.CONTAINS: "eq",  # of a list, one item is enough
    FilterOperator.TEXT_MATCH_INSENSITIVE: "text",
}
_LISTED = {FilterOperator.IN: "in", FilterOperator.NIN: "nin", FilterOperator.ANY: "in"}


def to_filter(filters: MetadataFilters | None) -> dict[str, Any]:
    """The same filter as ``HybridCollection.search(filter=...)`` takes it; empty where nothing is asked.

    A field with a dot in its name is a path into nested metadata. A field that is missing is unequal to everything.
    TEXT_MATCH_INSENSITIVE finds every word of its value, in any order; on a Qdrant server index the field as "text".

    Raises:
        InvalidOptionError: TEXT_MATCH, which no engine does with regard to case, or a value that an operator cannot
            have.
    """
    if filters is None:
        return {}
    if not isinstance(filters, MetadataFilters):
        raise InvalidOptionError(
            f"filters must be MetadataFilters(filters=[MetadataFilter(...)]), not {shown(filters)}"
        )
    parts = [part for each in filters.filters if (part := _part(each))]
    if not parts:
        return {}
    if filters.condition == FilterCondition.NOT:  # none of them holds
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition == FilterCondition.OR else "$and": parts}


def all_of(*filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """What all of them keep; None where none of them asks for anything."""
    parts = [dict(each) for each in filters if each]
    return {"$and": parts} if parts else None


def _part(given: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(given, MetadataFilters):
        return to_filter(given)
    key, value, operator = given.key, given.value, given.operator
    if key.startswith("$") or key.split(".")[0] == NODE:
        raise InvalidOptionError(f"{shown(key)} is no metadata field that can be filtered by")
    if operator in _COMPARED:
        if isinstance(value, list):
            raise InvalidOptionError(
                f"the filter {key} {operator.value} {shown(value)} needs one value; IN takes a list"
            )
        return {key: {_COMPARED[operator]: value}}
    if operator in _LISTED:
        return {key: {_LISTED[operator]: _values(given)}}
    if operator == FilterOperator.ALL:
        return {"$and": [{key: {"eq": each}} for each in _values(given)]}
    if operator == FilterOperator.IS_EMPTY:
        return {"$or": [{key: {"exists": False}}, {key: ""}]}
    raise InvalidOptionError(
        f"the filter operator {operator.name} ({key} {operator.value} {shown(value)}) is not supported: no engine "
        f"matches text with regard to case. TEXT_MATCH_INSENSITIVE finds words; the others compare values"
    )


def _values(given: MetadataFilter) -> Sequence[Any]:
    if not isinstance(given.value, list) or not given.value:
        raise InvalidOptionError(
            f"the filter {given.key} {given.operator.value} needs a list that is not empty, not {shown(given.value)}"
        )
    return given.value
