"""Conversion of values to the types of a destination's fields."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.fields.conversion import Converter
from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema

TYPES = ("text", "integer", "number", "boolean", "date", "datetime", "choice", "choices", "any")


def convert(value: Any, **field: Any) -> Any:
    """Return the converted value, or the problem as an exception."""
    sync = Sync.load(
        {
            "name": "people",
            "model": "people",
            "source": "warehouse",
            "mapping": {"id": "id", "properties.x": "column_x"},
            "destination": {"type": "fake"},
        }
    )
    record = {"id": "1", "properties": {"x": value}}
    problems = list(Converter(sync, ObjectSchema([ObjectField("properties.x", **field)])).convert([record]))
    if problems:
        [(position, text)] = problems
        assert position == 0
        raise ValueError(text)
    return record["properties"]["x"]


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("text", 1, "1"),
        ("text", Decimal("1E+3"), "1000"),
        ("text", True, "true"),
        ("text", date(2026, 1, 2), "2026-01-02"),
        ("text", {"a": ["ä"]}, '{"a": ["ä"]}'),
        ("integer", "12", 12),
        ("integer", 3.0, 3),
        ("integer", Decimal("4.00"), 4),
        ("number", "1.50", Decimal("1.50")),
        ("boolean", "False", False),
        ("boolean", 1, True),
        ("date", datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2)),
        ("date", "2026-01-02", date(2026, 1, 2)),
        ("datetime", date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC)),
        ("datetime", "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("any", [1, {"a": 2}], [1, {"a": 2}]),
    ],
)
def test_a_value_becomes_what_its_field_takes(type_: Any, value: Any, expected: Any) -> None:
    found = convert(value, type=type_)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("type_", "value", "problem"),
    [
        ("text", b"1", "the field takes text, not bytes"),
        ("integer", 1.5, "the field takes a whole number"),
        ("integer", True, "the field takes a number"),
        ("number", "many", "the field takes a number"),
        ("number", float("nan"), "the field takes a number"),
        ("number", "Infinity", "the field takes a number"),
        ("boolean", "perhaps", "the field takes true or false"),
        ("date", datetime(2026, 1, 2, 3, tzinfo=UTC), "the field takes a date, not a time"),
        ("date", 20260102, "the field takes a date"),
        ("datetime", "yesterday", "the field takes a time"),
    ],
)
def test_a_value_that_does_not_fit_is_a_problem_of_its_column(type_: Any, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^column 'column_x', field 'properties\.x': ") as caught:
        convert(value, type=type_)
    assert str(caught.value).endswith(problem)


def test_choices_are_spelled_as_the_destination_spells_them() -> None:
    assert convert(" GOLD ", type="choice", choices=("free", "Gold")) == "Gold"
    assert convert(["gold", "free"], type="choices", choices=("free", "Gold")) == ["Gold", "free"]
    assert convert("gold", type="choices", choices=("free", "Gold")) == ["Gold"]
    with pytest.raises(ValueError, match="not one of the field's 2 choices"):
        convert("silver", type="choice", choices=("free", "Gold"))


def test_null_fits_every_field_but_a_required_one() -> None:
    assert [convert(None, type=type_) for type_ in TYPES] == [None] * len(TYPES)
    with pytest.raises(ValueError, match="the destination requires a value"):
        convert(None, type="any", required=True)


VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.booleans(),
    st.dates(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=5, minutes=30)))),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.uuids(),
)


@given(type_=st.sampled_from(TYPES), value=VALUES)
def test_every_value_is_converted_or_rejected_without_showing_it(type_: Any, value: Any) -> None:
    text = ""
    try:
        convert(value, type=type_, choices=("a", "b"))
    except ValueError as error:
        text = str(error)
    assert len(str(value)) < 8 or str(value) not in text
