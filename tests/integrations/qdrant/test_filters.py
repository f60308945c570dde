"""Plain dictionaries to Qdrant's filters; what they keep is tested on the engines."""

import datetime

import pytest
from qdrant_client import models

from mgte_rag import InvalidOptionError
from qdrant_mgte.filters import field_path, native_filter


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lang", "metadata.lang"),
        ("author.name", "metadata.author.name"),
        ("tags[].kind", "metadata.tags[].kind"),
        ("my field", 'metadata."my field"'),
        ("语言", "metadata.语言"),
    ],
)
def test_a_field_is_a_path_into_metadata(name: str, path: str) -> None:
    assert field_path(name) == path


def test_an_empty_filter_is_none_and_a_native_one_stays() -> None:
    native = models.Filter(must=[models.FieldCondition(key="metadata.lang", match=models.MatchValue(value="de"))])
    assert native_filter(None) is None
    assert native_filter({}) is None
    assert native_filter(native) is native
    assert native_filter({"lang": "de"}) == native
    assert native_filter({"lang": {"eq": "de"}}) == native_filter({"lang": {"$eq": "de"}}) == native


def nested(depth: int) -> dict:
    filter: dict = {"a": 1}
    for _ in range(depth):
        filter = {"$not": filter}
    return filter


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("lang = 'de'", "a filter must be a dictionary"),
        ({"year": {"above": 2020}}, r"filter\['year'\]\['above'\]: 'above' is unknown; the operators are eq, ne, gt"),
        ({"$xor": []}, r"'\$xor' is unknown; there are \$and, \$or, \$not, \$id"),
        ({"$or": {}}, r"filter\['\$or'\] must be a list"),
        ({"$or": []}, "is an empty list, which nothing matches"),
        ({"$or": [{}]}, "must be a list of filters that is not empty"),
        ({"$or": [{"a": {"b": 1}}]}, r"filter\['\$or'\]\[0\]\['a'\]\['b'\]: 'b' is unknown.*with a dot"),
        ({"$not": 5}, "must be a filter that is not empty, not 5"),
        ({"$id": 5}, r"filter\['\$id'\] must be a list"),
        ({"$id": [5]}, "which are strings"),
        ({"": 1}, "is no metadata field"),
        ({5: 1}, "5 is no metadata field"),
        ({"a..b": 1}, "has an empty part"),
        ({'a"b': 1}, "without quotation marks"),
        ({"a": {}}, "is empty; give an operator"),
        ({"a": []}, "is an empty list"),
        ({"a": float("nan")}, r"filter\['a'\] is nan; allowed are"),
        ({"a": {"gte": float("inf")}}, "is inf; allowed are"),
        ({"a": 2**64}, "allowed are .* numbers of 64 bits"),
        ({"a": object()}, "allowed are strings"),
        ({"a": [1, object()]}, r"filter\['a'\]\[1\] is <object"),
        ({"a": {"gt": "abc"}}, "must be a number or a date such as 2024-01-31, not 'abc'"),
        ({"a": {"gt": 1, "lt": "2024-01-01"}}, "must be a number or a date, as the other bound is"),
        ({"a": {"gt": True}}, "must be a number or a date"),
        ({"a": {"exists": 1}}, "must be True or False, not 1"),
        ({"a": {"text": 1}}, r"filter\['a'\]\['text'\] must be words to look for, not 1"),
        ({"a": {"text": " "}}, "must be words to look for"),
        (nested(40), "nested more than 32 deep"),
    ],
)
def test_what_cannot_be_filtered_by_is_an_error_saying_where(wrong: object, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        native_filter(wrong)  # type: ignore[arg-type]


def test_dates_become_date_ranges_and_floats_equal_themselves() -> None:
    after = native_filter({"when": {"gte": datetime.date(2024, 1, 31)}})
    assert isinstance(after, models.Filter)
    assert isinstance(after.must[0].range, models.DatetimeRange)  # type: ignore[index,union-attr]
    half = native_filter({"share": 0.5})
    assert half.must[0].range == models.Range(gte=0.5, lte=0.5)  # type: ignore[index,union-attr]
