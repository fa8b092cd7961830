"""Values as they are sent, from a DuckDB and from a Postgres, planned locally and in the warehouse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.load.records import Failure, RecordBuilder
from airflow_reverse_etl.sync.ports import PlanRequest
from tests.stores.bench import NOW
from tests.stores.warehouses import Place, duckdb_place, postgres_place

#: SQL of a value → what a JSON API gets, as Python's ``json`` reads it.
EVERYWHERE: dict[str, Any] = {
    'cast(\'["a", {"b": null}]\' as json)': ["a", {"b": None}],
    'cast(\'{"a": {"b": [1, 2.5, true]}}\' as json)': {"a": {"b": [1, 2.5, True]}},
    "cast('7' as json)": 7,
    '\'{"text": "that looks like JSON"}\'': '{"text": "that looks like JSON"}',
    "cast(0 as decimal(18, 8))": 0,
    "cast(12345678901234567890.12345678 as decimal(38, 8))": Decimal("12345678901234567890.12345678"),
    "cast(0.1 as real)": 0.1,
    "cast(16777217.0 as double precision)": 16777217,
    "cast('2026-01-02' as date)": "2026-01-02",
    "cast('2026-01-02 03:04:05.678901' as timestamp)": "2026-01-02T03:04:05.678901",
    "cast('2026-01-02 03:04:05+02:00' as timestamptz)": "2026-01-02T01:04:05Z",
    "cast('03:04:05' as time)": "03:04:05",
    "true": True,
    "cast(null as date)": None,
}
IN_DUCKDB: dict[str, Any] = {
    "['a', 'b']": ["a", "b"],
    "{'a': 1, 'b': ['x']}": {"a": 1, "b": ["x"]},
    "map {'k': 1.5::real, 'l': null}": {"k": 1.5, "l": None},
    "[0.1::real]": [0.1],
    "sum(1) over ()": 1,
    "cast(170141183460469231731687303715884105727 as hugeint)": 170141183460469231731687303715884105727,
    "cast(340282366920938463463374607431768211455 as uhugeint)": 340282366920938463463374607431768211455,
    "'101'::bit": "101",
    "cast('03:04:05+02:00' as timetz)": "03:04:05+02",
    "cast('2026-01-02 03:04:05.123456789' as timestamp_ns)": "2026-01-02T03:04:05.123456",
    "cast('c0ffee00-0000-4000-8000-000000000000' as uuid)": "c0ffee00-0000-4000-8000-000000000000",
    "union_value(n := 5)": 5,
    "cast(null as union(n int, s varchar))": None,
    "[union_value(n := 5)]": [{"n": 5}],
    "[interval 1 month]": ["1 month"],
    "{'t': cast('03:04:05+02:00' as timetz), 'n': cast(340282366920938463463374607431768211455 as uhugeint)}": {
        "t": "03:04:05+02",
        "n": 340282366920938463463374607431768211455,
    },
    "{'BIT': 1}": {"BIT": 1},
}
IN_POSTGRES: dict[str, Any] = {
    "array['a', 'b']": ["a", "b"],
    "array[array[1, 2], array[3, 4]]": [[1, 2], [3, 4]],
    "cast('{\"a\": [1]}' as jsonb)": {"a": [1]},
    "numrange(1, 5, '[]')": "[1,5]",
    "cast('c0ffee00-0000-4000-8000-000000000000' as uuid)": "c0ffee00-0000-4000-8000-000000000000",
    "cast('101' as varbit)": "101",
}
SOURCES: dict[str, dict[str, Any]] = {
    "duckdb": {**EVERYWHERE, **IN_DUCKDB},
    "postgres": {**EVERYWHERE, **IN_POSTGRES},
}

Records = Callable[[str, list[str]], tuple[dict[str, Any], dict[int, Failure]]]


@pytest.fixture(params=["local", "warehouse"])
def records_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    """Return the record of a model's only row, planned one way, and its failure."""

    def build(
        source: str, values: list[str], match_on: str = "id", **options: Any
    ) -> tuple[dict[str, Any], dict[int, Failure]]:
        place: Place = duckdb_place() if source == "duckdb" else postgres_place(request.getfixturevalue("postgres"))
        names = [f"c{at}" for at in range(len(values))]
        query = f"select 1 as id, {', '.join(f'{sql} as {name}' for sql, name in zip(values, names, strict=True))}"
        mapping = {"id": "id", **{name: name for name in names}}
        destination = {"type": "file", "match_on": match_on}
        sync = Sync(name="s", model="m", source="w", destination=destination, mapping=mapping)
        store: Any = LakeStore(str(tmp_path), memory_limit="500MB", threads=1)
        if request.param == "warehouse":
            store = place.store()
        warehouse = place.open_warehouse()
        plan = store.plan(PlanRequest(sync, query, ("id",), "run", NOW), warehouse)
        [batch] = store.changes(plan)
        [record], failures = RecordBuilder(sync, **options).build(batch)
        store.discard(plan)
        return record, failures

    return build


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
def test_values_are_sent_as_they_are(records_of: Records, source: str) -> None:
    values = SOURCES[source]
    record, failures = records_of(source, list(values))
    assert not failures
    sent = json.loads(dumps(record), parse_float=Decimal)
    found = {sql: sent[f"c{at}"] for at, sql in enumerate(values)}
    expected = json.loads(json.dumps(values, default=str), parse_float=Decimal)
    expected |= {sql: value for sql, value in values.items() if isinstance(value, Decimal)}
    assert found == expected


def test_the_text_of_json_goes_to_destinations_that_hold_text(records_of: Any) -> None:
    text = '{"a": [1]}'
    assert records_of("duckdb", [f"cast('{text}' as json)"], parse_json=False)[0]["c0"] == text


@pytest.mark.parametrize("source", SOURCES)
def test_an_identifier_is_sent_as_the_text_by_which_the_plan_knows_it(records_of: Any, source: str) -> None:
    record, _ = records_of(source, ["cast('{\"a\":1}' as json)"], match_on="c0")
    assert record["c0"] == '{"a":1}'


@pytest.mark.parametrize("planner", ["local", "warehouse"])
def test_json_that_an_expression_passes_on_is_sent_as_json(
    planner: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = postgres_place(request.getfixturevalue("postgres"))
    expected: dict[str, Any] = {
        "j": {"a": [1]},
        "coalesce(j, j)": {"a": [1]},
        "case when id = 1 then j end": {"a": [1]},
        "j -> 'a'": [1],
        "j ->> 'b'": None,
        "coalesce(l, l)": ["x"],
        "coalesce(t, t)": "[text]",
    }
    mapping = {f"v{at}": {"sql": sql} for at, sql in enumerate(expected)}
    sync = Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping=mapping)
    store: Any = LakeStore(str(tmp_path), memory_limit="500MB", threads=1)
    if planner == "warehouse":
        store = place.store()
    query = "select 1 as id, cast('{\"a\": [1]}' as jsonb) as j, array['x'] as l, '[text]'::text as t"
    plan = store.plan(PlanRequest(sync, query, ("id",), "run", NOW), place.open_warehouse())
    [batch] = store.changes(plan)
    [record], failures = RecordBuilder(sync).build(batch)
    store.discard(plan)
    assert not failures
    assert list(record.values()) == list(expected.values())


@pytest.mark.parametrize("planner", ["local", "warehouse"])
def test_json_inside_other_values_is_json(planner: str, tmp_path: Path) -> None:
    """Only columns of JSON in lists go to SQL tables and CSV as texts, as the items of an array of texts."""
    place = duckdb_place()
    struct = (
        """{'a': '[1]'::json, 'text': '[1]', 'deep': [{'b': '{"c": null}'::json}], 'map': map {'k': 'true'::json}}"""
    )
    expected: dict[str, tuple[Any, Any]] = {
        "s": (found := {"a": [1], "text": "[1]", "deep": [{"b": {"c": None}}], "map": {"k": True}}, found),
        "coalesce(s, s)": (found, found),
        "s.a": ([1], "[1]"),
        "s.text": ("[1]", "[1]"),
        "[s.a, null]": ([[1], None], ["[1]", None]),
        "s.map": ({"k": True}, {"k": True}),
        "case when id = 2 then s end": (None, None),
    }
    mapping = {f"v{at}": "s" if sql == "s" else {"sql": sql} for at, sql in enumerate(expected)}
    sync = Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping=mapping)
    store: Any = LakeStore(str(tmp_path), memory_limit="500MB", threads=1)
    if planner == "warehouse":
        store = place.store()
    plan = store.plan(PlanRequest(sync, f"select 1 as id, {struct} as s", ("id",), "run", NOW), place.open_warehouse())
    [batch] = store.changes(plan)
    for at, parse_json in enumerate((True, False)):
        [record], failures = RecordBuilder(sync, parse_json=parse_json).build(batch)
        assert not failures
        assert list(record.values()) == [both[at] for both in expected.values()]
    store.discard(plan)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("duckdb", "date 'infinity'"),
        ("duckdb", "timestamp '10000-01-01 00:00:00'"),
        ("duckdb", "date '0044-03-15 (BC)'"),
        ("duckdb", "time '24:00:00'"),
        ("postgres", "date 'infinity'"),
        ("postgres", "date '0044-03-15 BC'"),
        ("postgres", "timestamp '-infinity'"),
        ("postgres", "timestamptz '10000-01-01 00:00:00'"),
        ("postgres", "time '24:00'"),
    ],
)
def test_a_value_that_cannot_be_sent_concerns_its_row_alone(records_of: Records, source: str, value: str) -> None:
    _, failures = records_of(source, ["1", value])
    [(_, failure)] = failures.items()
    assert failure.code == "wrong_value"
    assert failure.message.startswith("column 'c1', field 'c1': ")
    assert failure.message.endswith(("dates are in the years 1 to 9999", "the time 24:00 cannot be sent"))
    assert "infinity" not in failure.message


@pytest.mark.parametrize("value", ["cast('NaN' as numeric)", "cast('-Infinity' as numeric)", "1e60::numeric"])
@pytest.mark.parametrize("parse_json", [True, False])
def test_a_numeric_that_cannot_be_read_concerns_its_row_alone(records_of: Any, value: str, parse_json: bool) -> None:
    """It is so for every destination, as its digits are not known."""
    _, failures = records_of("postgres", ["1", value], parse_json=parse_json)
    text = "column 'c1', field 'c1': NaN, Infinity and numbers with too many digits cannot be sent"
    assert failures == {0: Failure("wrong_value", text)}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("duckdb", "cast('nan' as double)"),
        ("duckdb", "cast('-infinity' as real)"),
        ("duckdb", "[1.5, cast('nan' as double)]"),
        ("duckdb", "{'a': [cast('infinity' as double)]}"),
        ("postgres", "cast('NaN' as double precision)"),
        ("postgres", "cast('infinity' as real)"),
    ],
)
def test_a_number_that_json_has_not_concerns_its_row_alone(records_of: Records, source: str, value: str) -> None:
    _, failures = records_of(source, ["1", value])
    assert failures == {0: Failure("wrong_value", "column 'c1', field 'c1': NaN and Infinity have no JSON form")}


def test_a_number_that_json_has_not_goes_to_destinations_of_other_kinds(records_of: Any) -> None:
    record, failures = records_of("postgres", ["cast('NaN' as double precision)"], parse_json=False)
    assert (str(record["c0"]), failures) == ("nan", {})


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("12345678901234567890.12", "12345678901234567890.12"),
        ("1.10", "1.1"),
        ("1e-50", "1e-50"),
        ("1e300", "1e+300"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_numbers_inside_json_keep_their_digits(records_of: Records, text: str, sent: str) -> None:
    record, _ = records_of("duckdb", [f"cast('[{text}]' as json)"])
    assert dumps(record["c0"]).decode() == f"[{sent}]"


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.long
@given(VALUES)
@settings(max_examples=200)
def test_a_json_value_is_what_its_text_says(value: Any) -> None:
    assert json.loads(dumps({"x": value}))["x"] == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=8))
def test_a_decimal_is_written_with_all_its_digits_and_no_exponent(value: Decimal) -> None:
    text = dumps({"x": value}).decode()
    assert "e" not in text.lower()
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal)["x"] == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("0E-8"), "0.00000000"),
        (Decimal("1E+5"), "100000"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), '"2026-01-02T01:00:00Z"'),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), '"2026-01-02T03:00:00Z"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(3, 4), '"03:04:00"'),
    ],
)
def test_the_json_of_a_value(value: Any, text: str) -> None:
    assert dumps(value).decode() == text
