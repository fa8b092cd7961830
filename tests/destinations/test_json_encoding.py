"""The JSON that destinations write."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
        (2**80, str(2**80)),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), '"2026-01-01T12:00:00Z"'),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), '"2026-01-01T10:00:00Z"'),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(-timedelta(hours=3, minutes=30))), '"2026-01-01T15:30:00Z"'),
        (datetime.fromisoformat("2026-01-01T12:00:00"), '"2026-01-01T12:00:00"'),
        (date(2026, 1, 1), '"2026-01-01"'),
        (b"\x00\xff", '"AP8="'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ([None, True, {"a": Decimal("1.10")}], '[null,true,{"a":1.10}]'),
    ],
)
def test_values_are_written_exactly(value: Any, text: str) -> None:
    assert dumps({"v": value}).decode() == f'{{"v":{text}}}'


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, Decimal("NaN"), "\ud800", timedelta(1), {"a": [None, math.nan]}, object()]
)
def test_a_value_without_json_form_is_never_sent_as_null(value: Any) -> None:
    with pytest.raises(NotJsonError):
        dumps({"v": value})
    data, problems = dumps_rows([{"v": 1}, {"v": value}, {"v": None}])
    assert (json.loads(data), list(problems)) == ([{"v": 1}, {"v": None}], [1])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=4), max_size=4))
def test_any_json_value_comes_back_as_it_was(records: list[dict[str, Any]]) -> None:
    data, problems = dumps_rows(records)
    assert (json.loads(data), problems) == (records, {})
