"""Records built from a batch of the change set."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import NullValue, Sync
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.templates import template_columns
from airflow_reverse_etl.sync.load.batches import Batcher
from airflow_reverse_etl.sync.load.records import RecordBuilder
from airflow_reverse_etl.sync.ports import USUAL, Capabilities


def sync(mapping: dict[str, Any], **values: Any) -> Sync:
    destination = {"type": "http"}
    return Sync.load(
        {"name": "s", "model": "m", "source": "w", "destination": destination, "mapping": mapping, **values}
    )


def batch(**columns: list[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def test_dots_nest_and_constants_are_the_same_in_every_row() -> None:
    builder = RecordBuilder(sync({"id": "id", "p.plan": {"sql": "upper(plan)"}, "p.q.origin": {"value": "dbt"}}))
    records, failures = builder.build(batch(f0=[1, 2], f1=["A", None]))
    assert records == [
        {"id": 1, "p": {"plan": "A", "q": {"origin": "dbt"}}},
        {"id": 2, "p": {"plan": None, "q": {"origin": "dbt"}}},
    ]
    assert failures == {}


def test_omit_drops_null_fields_and_objects_left_empty() -> None:
    builder = RecordBuilder(sync({"id": "id", "p.a": "a", "p.b": "b"}, nulls="omit"))
    records, _ = builder.build(batch(f0=[1, 2], f1=[None, "x"], f2=[None, None]))
    assert records == [{"id": 1}, {"id": 2, "p": {"a": "x"}}]


def test_another_value_may_stand_for_null() -> None:
    columns = batch(f0=[1, None], f1=[None, 0])
    mapping = {"id": "id", "p.a": "a"}
    records, _ = RecordBuilder(sync(mapping, nulls={"value": ""})).build(columns)
    assert records == [{"id": 1, "p": {"a": ""}}, {"id": "", "p": {"a": 0}}]
    # The destination's way to clear a field is the default, and the sync's own comes first.
    assert RecordBuilder(sync(mapping), NullValue(value="#N/A")).build(columns)[0][0] == {"id": 1, "p": {"a": "#N/A"}}
    assert RecordBuilder(sync(mapping, nulls="send"), "omit").build(columns)[0][0] == {"id": 1, "p": {"a": None}}


def test_a_sync_that_says_nothing_of_nulls_has_the_digest_of_one_that_sends_them() -> None:
    assert sync({"id": "id"}).digest == sync({"id": "id"}, nulls="send").digest
    assert sync({"id": "id"}).digest != sync({"id": "id"}, nulls={"value": ""}).digest


def test_values_keep_their_types() -> None:
    value = Decimal("12345678901234567890.123456789012345678")
    records, _ = RecordBuilder(sync({"d": "d"})).build(batch(f0=[value]))
    assert records == [{"d": value}]


def test_instants_arrive_in_utc() -> None:
    moment = datetime(2026, 3, 29, 3, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    column = pa.array([moment], pa.timestamp("us", "Europe/Berlin"))
    records, _ = RecordBuilder(sync({"at": "at"})).build(pa.RecordBatch.from_arrays([column], ["f0"]))
    assert records[0]["at"] == moment
    assert records[0]["at"].utcoffset() == timedelta(0)


#: Names of fields, except the one that stands for every column.
FIELDS = st.text(st.characters(exclude_characters="."), min_size=1, max_size=8).filter(lambda name: name != "*")


@given(st.lists(FIELDS, min_size=1, unique=True))
def test_any_field_name_arrives_as_it_is(names: list[str]) -> None:
    """Field names are part of generated code, and must not change its meaning."""
    builder = RecordBuilder(sync({name: f"c{at}" for at, name in enumerate(names)}))
    records, _ = builder.build(batch(**{f"f{at}": [at] for at in range(len(names))}))
    assert records == [{name: at for at, name in enumerate(names)}]


def test_a_mapping_of_constants_gives_one_record_a_row() -> None:
    records, _ = RecordBuilder(sync({"a": {"value": 1}})).build(batch(seq=[1, 2]))
    assert records == [{"a": 1}, {"a": 1}]


def test_templates_read_columns_and_a_failing_row_is_named_without_its_values() -> None:
    spec = sync({"id": "id", "hi": {"template": "Dear {{ row.first }} {{ 10 // row['n'] }}"}})
    assert template_columns(spec) == ("first", "n")
    records, failures = RecordBuilder(spec).build(batch(f0=[1, 2], r0=["Ada", "Secret"], r1=[5, 0]))
    assert records[0] == {"id": 1, "hi": "Dear Ada 2"}
    assert failures == {1: ("template_failed", "template of field 'hi' failed: ZeroDivisionError")}


def cut(sync: Sync, rows: pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, tuple[str, str]]]:
    """Return the records that are sent, and the codes and messages of rows that are not."""
    batches = list(Batcher(sync, Capabilities(USUAL), run_id="run", plan_id="plan").cut(rows, RangeSet()))
    records = [record for batch, _ in batches for record in batch.records]
    receipts = {seq: (receipt.code, receipt.outcome.value) for _, failed in batches for seq, receipt in failed.items()}
    return records, receipts


@pytest.mark.parametrize("mode", ["upsert", "insert", "update", "append", "delete"])
def test_a_template_that_leaves_an_identifier_blank_is_rejected_before_it_is_sent(mode: str) -> None:
    spec = sync(
        {"p.mail": {"template": "{{ row.mail | trim }}"}, "t": {"template": "{{ 1 // row.n }}"}},
        mode=mode,
        track="none",
        destination={"type": "http", "match_on": "p.mail"},
    )
    rows = batch(
        seq=[1, 2, 3, 4],
        change=["added"] * 4,
        key=["1", "2", "3", "4"],
        r0=["a", " ", "\u00a0", " "],
        r1=[1, 1, 1, 0],
    )
    records, receipts = cut(spec, rows)
    assert [record["p"]["mail"] for record in records] == ["a"]
    rejected = ("no_identifier", "rejected")
    assert receipts == {2: rejected, 3: rejected, 4: ("template_failed", "rejected")}


def test_a_delete_without_an_identifier_is_never_sent() -> None:
    """An earlier version may have planned such a row. Identifiers that lack the field were stored before it counted."""
    destination = {"type": "http", "match_on": ["p.mail"]}
    spec = sync({"p.mail": "mail"}, mode="mirror", destination=destination)
    texts = ['{"p": {"mail": "a"}}', '{"p": {"mail": null}}', '{"p": {"mail": " "}}', '{"id": 4}']
    rows = batch(seq=[1, 2, 3, 4], change=["removed"] * 4, key=["1", "2", "3", "4"], identifiers=texts)
    records, receipts = cut(spec, rows)
    assert records == [{"p": {"mail": "a"}}, {"id": 4}]
    assert receipts == dict.fromkeys((2, 3), ("no_identifier", "rejected"))


def test_templates_are_sandboxed() -> None:
    spec = sync({"x": {"template": "{{ row.a.__class__.__mro__[1].__subclasses__() }}"}})
    _, failures = RecordBuilder(spec).build(batch(r0=["x"]))
    assert failures == {0: ("template_failed", "template of field 'x' failed: SecurityError")}


def test_templates_that_cannot_be_used_are_reported_together() -> None:
    spec = sync({"a": {"template": "{{ row.x"}, "b": {"template": "{{ row }}"}})
    with pytest.raises(SpecError) as error:
        template_columns(spec)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["mapping.a.template", "mapping.b.template"]


def test_a_null_in_a_template_is_no_text_and_no_identifier() -> None:
    destination = {"type": "http", "match_on": "email"}
    spec = sync({"email": {"template": "{{ row.a }}"}}, track="none", destination=destination)
    rows = batch(seq=[1, 2], change=["added"] * 2, key=["1", "2"], f0=[None, None], r0=["a@x", None])
    records, receipts = cut(spec, rows)
    assert records == [{"email": "a@x"}]
    assert receipts == {2: ("no_identifier", "rejected")}


def test_nulls_are_handled_field_by_field() -> None:
    mapping = {"id": "id", "p.a": "a", "p.b": "b", "q.c": "c", "d": "d"}
    nulls = {"fields": {"p.a": "omit", "q.c": "omit", "d": {"value": ""}}, "default": "send"}
    [record], _ = RecordBuilder(sync(mapping, nulls=nulls), "omit").build(
        batch(f0=[1], f1=[None], f2=[None], f3=[None], f4=[None])
    )
    assert record == {"id": 1, "p": {"b": None}, "d": ""}


def test_fields_without_a_rule_of_their_own_are_handled_as_the_destination_wants() -> None:
    given = sync({"id": "id", "a": "a", "b": "b"}, nulls={"fields": {"a": "send"}})
    assert RecordBuilder(given, "omit").build(batch(f0=[1], f1=[None], f2=[None]))[0] == [{"id": 1, "a": None}]


def test_a_record_says_its_kind_of_change() -> None:
    builder = RecordBuilder(sync({"id": "id", "event.name": {"change": {"added": "Created", "changed": ["Updated"]}}}))
    rows = batch(f0=[1])
    assert builder.build(rows, "added")[0] == [{"id": 1, "event": {"name": "Created"}}]
    assert builder.build(rows, "changed")[0] == [{"id": 1, "event": {"name": ["Updated"]}}]
