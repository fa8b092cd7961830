"""Any value and any column name, from the model through plan, change set and record to the bytes that are sent: either
right, or refused with a clear error."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.load.records import RecordBuilder
from airflow_reverse_etl.sync.ports import PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint
from airflow_reverse_etl.testing import MemoryWarehouse
from tests.property import examples

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVER = {"min_value": datetime(1, 1, 2), "max_value": datetime(9999, 12, 30, 23, 59, 59, 999_999)}  # noqa: DTZ001
DIGITS = 10**38 - 1


def decimals(scale: int) -> st.SearchStrategy[Decimal]:
    def scaled(number: int) -> Decimal:
        with localcontext(prec=60):
            return Decimal(number).scaleb(-scale)

    return st.integers(-DIGITS, DIGITS).map(scaled)


text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TYPES: Mapping[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (
        pa.string(),
        st.one_of(text, st.sampled_from(["", "\0", "a\0b", "null", "\u202e\U0001f600e\u0301", "'\";--"])),
    ),
    "integer": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float64(), st.one_of(st.floats(), st.sampled_from([5e-324, -0.0, 1e308, 2.0**53, 0.1 + 0.2]))),
    "money": (pa.decimal128(38, 4), decimals(4)),
    "fraction": (pa.decimal128(38, 38), decimals(38)),
    "whole": (pa.decimal128(38, 0), decimals(0)),
    "date": (pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    "time": (pa.timestamp("us"), st.datetimes(**EVER)),  # type: ignore[arg-type]
    "instant": (pa.timestamp("us", "UTC"), st.datetimes(**EVER, timezones=st.just(UTC))),  # type: ignore[arg-type]
    "flag": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary(max_size=20)),
}
NAMES = [
    "select",
    "order",
    "group by",
    'a"b',
    "a'b",
    "a`b",
    "a;--b",
    "c0",
    "f0",
    "key_hi",
    "row_key",
    "w",
    "model",
    "ä€",
    "x" * 60,
]
names = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="."), min_size=1, max_size=12),
)


@dataclass(frozen=True)
class Model:
    """A model: a key, columns of some types, and their values by row."""

    columns: dict[str, str]
    rows: list[dict[str, Any]]

    def table(self, rows: list[dict[str, Any]]) -> pa.Table:
        schema = pa.schema([("id", pa.int64()), *((name, TYPES[kind][0]) for name, kind in self.columns.items())])
        return pa.Table.from_pylist([{"id": at, **row} for at, row in enumerate(rows)], schema)

    @property
    def sync(self) -> Sync:
        mapping = {f"field {at}": name for at, name in enumerate(self.columns)}
        return Sync(
            name="s", model="m", source="w", primary_key="id", destination={"type": "file"},
            mapping={"id": "id", **mapping}, retry={"max_attempts": 1000},
        )  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> Model:
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    columns = draw(
        st.lists(names, min_size=len(kinds), max_size=len(kinds), unique_by=lambda name: name.casefold()).filter(
            lambda found: all(name.casefold() != "id" for name in found)
        )
    )
    by_name = dict(zip(columns, kinds, strict=True))
    row = st.fixed_dictionaries({name: st.none() | TYPES[kind][1] for name, kind in by_name.items()})
    return Model(by_name, draw(st.lists(row, min_size=1, max_size=4)))


def same(one: Any, other: Any) -> bool:
    """Return whether two values have the same fingerprint: NaN is NaN, -0 is 0."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


class Planner:
    """A lake, and the records that its plans lead to."""

    def __init__(self, folder: str, sync: Sync) -> None:
        self.store, self.sync = LakeStore(folder, memory_limit="500MB", threads=1), sync
        self.runs = 0

    def run(self, table: pa.Table) -> tuple[Planned, list[dict[str, Any]]]:
        self.runs += 1
        now = NOW + timedelta(days=self.runs)
        request = PlanRequest(self.sync, "SELECT * FROM m", ("id",), f"run{self.runs}", now)
        plan = self.store.plan(request, MemoryWarehouse({"m": table}))
        builder, records = RecordBuilder(self.sync, parse_json=False), []  # JSON has no NaN
        for batch in self.store.changes(plan):
            built, failures = builder.build(batch)
            assert not failures
            assert [str(record["id"]) for record in built] == batch.column("key").to_pylist()
            records += built
        checkpoint = Checkpoint()
        if plan.total:
            checkpoint.settled.add(1, plan.total)
        self.store.commit(
            plan, checkpoint, RunReport(plan.run_id, plan.planned, plan.total, 0, 0, 0, 0, 1, 0.1), self.sync
        )
        return plan.planned, sorted(records, key=lambda record: record["id"])


@pytest.mark.long
@settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), data=st.data())
def test_values_arrive_as_they_are_and_a_fingerprint_tells_them_apart(model: Model, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        planner = Planner(folder, model.sync)
        planned, records = planner.run(model.table(model.rows))
        assert planned == Planned(added=len(model.rows))
        for row, record in zip(model.rows, records, strict=True):
            for at, name in enumerate(model.columns):
                assert same(record[f"field {at}"], row[name]), name
        assert planner.run(model.table(model.rows))[0] == Planned(), "the same values have the same fingerprint"
        name = data.draw(st.sampled_from(sorted(model.columns)))
        other = data.draw(st.none() | TYPES[model.columns[name]][1])
        assume(not same(other, model.rows[0][name]))
        changed = [{**model.rows[0], name: other}, *model.rows[1:]]
        assert planner.run(model.table(changed))[0] == Planned(changed=1), "another value has another fingerprint"


def expected(value: Any) -> Any:
    """Return a value as JSON read with exact numbers returns it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return value
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return value
    if isinstance(value, datetime) and value.tzinfo:
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat()


@settings(max_examples=examples(75), deadline=None)
@given(model=models())
@example(Model({"a": "fraction"}, [{"a": Decimal("1E-38")}]))
@example(Model({"a": "whole"}, [{"a": Decimal(DIGITS)}]))
@example(Model({"a": "text"}, [{"a": "\0" * 1_000_000}]))
def test_what_is_sent_is_the_value_or_it_is_refused(model: Model) -> None:
    body, problems = dumps_rows(model.rows)
    sent = json.loads(body, parse_float=Decimal, parse_int=Decimal)
    good = [row for at, row in enumerate(model.rows) if at not in problems]
    for at in problems:
        assert any(isinstance(value, float) and not math.isfinite(value) for value in model.rows[at].values())
    for row, record in zip(good, sent, strict=True):
        assert list(record) == list(row)
        for value, found in zip(row.values(), record.values(), strict=True):
            if isinstance(value, float):
                assert float(found) == value
            else:
                assert found == expected(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((value, "NaN or Infinity has no JSON form") for value in (math.nan, math.inf, -math.inf)),
        *((Decimal(text), "NaN or Infinity has no JSON form") for text in ("NaN", "Infinity")),
        ("secret \ud800", "text that is not Unicode"),
        (Fraction(31337, 2), "a value of type Fraction has no JSON form"),
    ],
)
def test_what_has_no_json_form_is_refused_by_its_kind_and_not_its_value(value: Any, kind: str) -> None:
    for place in (value, {"a": value}, [{"a": {"b": [value]}}]):
        with pytest.raises(NotJsonError) as error:
            dumps(place)
        assert str(error.value) == kind


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 5e-324, 1.7976931348623157e308, None]


def test_large_texts_and_every_special_number_through_the_lake() -> None:
    values = [("x" * 1_000_000 + str(at), number) for at, number in enumerate(SPECIAL)]
    values.append(("\0" * 1_000_000, 1.0))
    model = Model({"order": "text", 'a"b': "float"}, [{"order": one, 'a"b': other} for one, other in values])
    with tempfile.TemporaryDirectory() as folder:
        planner = Planner(folder, model.sync)
        _, records = planner.run(model.table(model.rows))
        assert [len(record["field 0"]) for record in records] == [1_000_001] * 7 + [1_000_000]
        assert all(same(record["field 1"], other) for record, (_, other) in zip(records, values, strict=True))


def test_every_special_number_has_a_fingerprint_of_its_own() -> None:
    pairs = list(itertools.permutations(SPECIAL, 2))
    model = Model({"n": "float"}, [{"n": one} for one, _ in pairs])
    with tempfile.TemporaryDirectory() as folder:
        planner = Planner(folder, model.sync)
        planner.run(model.table(model.rows))
        changed = model.table([{"n": other} for _, other in pairs])
        assert planner.run(changed)[0] == Planned(changed=len(pairs))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["upsert", "mirror"])
def test_a_column_of_any_name_can_be_key_field_cursor_and_template(name: str, mode: str) -> None:
    mapping: dict[str, Any] = {name: name, "t": {"template": f"{{{{ row[{json.dumps(name)}] }}}}"}}
    more = {"track": {"cursor": name}} if mode == "upsert" else {}
    sync = Sync(
        name="s",
        model="m",
        source="w",
        primary_key=name,
        mode=mode,
        destination={"type": "file"},
        mapping=mapping,
        **more,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = LakeStore(folder, threads=1)
        table = pa.table({name: pa.array([1, 2], pa.int64())})
        request = PlanRequest(sync, "SELECT * FROM m", (name,), "run1", NOW)
        plan = store.plan(request, MemoryWarehouse({"m": table}))
        records = [record for batch in store.changes(plan) for record in RecordBuilder(sync).build(batch)[0]]
        assert sorted(record["t"] for record in records) == ["1", "2"]
        assert sorted(record[name] for record in records) == [1, 2]
        checkpoint = Checkpoint()
        checkpoint.settled.add(1, 2)
        store.commit(plan, checkpoint, RunReport("run1", plan.planned, 2, 0, 0, 0, 0, 1, 0.1), sync)
        again = PlanRequest(sync, "SELECT * FROM m", (name,), "run2", NOW + timedelta(days=1))
        plan = store.plan(again, MemoryWarehouse({"m": table.slice(1)}))
        if mode == "mirror":
            [row] = [row for batch in store.changes(plan) for row in batch.to_pylist()]
            assert json.loads(row["identifiers"]) == {name: 1}
        else:
            assert (plan.total, plan.model_rows) == (0, 1)
