"""Tests of the drift under a sync since its last run."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from airflow_reverse_etl.check.drift import catalog_drift, column_drift, project_drift, retired_syncs
from airflow_reverse_etl.check.findings import Level
from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.spec.columns import Column
from tests.dbt.projects import Node, data_test, keyed, manifest, model, sync

THERE = [Column("ID", "NUMBER(38,0)"), Column("EMAIL", "VARCHAR"), Column("PLAN", "VARCHAR(20)")]


def summaries(findings: Any) -> list[tuple[str, Level, str | None]]:
    return [(finding.rule, finding.level, finding.column) for finding in findings]


def test_the_first_run_and_one_without_changes_have_no_findings() -> None:
    assert column_drift(sync(), THERE, None) == []
    assert column_drift(sync(), THERE, THERE) == []


def test_a_missing_used_column_is_reported_at_the_first_run_too() -> None:
    assert summaries(column_drift(sync(), THERE[:1], None)) == [("column-missing", Level.BREAKING, "email")]


def test_a_renamed_column_is_named() -> None:
    (missing, added) = column_drift(sync(), [THERE[0], Column("E_MAIL"), THERE[2]], THERE)
    assert "probably renamed to E_MAIL" in missing.message
    assert added.rule == "column-added"


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [
        ("VARCHAR(500)", []),
        ("TEXT", [("column-type", Level.WARNING, "email")]),
        ("NUMBER", [("column-type", Level.BREAKING, "email")]),
        ("MYSTERY", [("column-type", Level.BREAKING, "email")]),
    ],
)
def test_retyped(data_type: str, expected: list[Any]) -> None:
    assert summaries(column_drift(sync(), [THERE[0], Column("EMAIL", data_type), THERE[2]], THERE)) == expected


def test_a_cursor_is_a_used_column() -> None:
    tracked = sync(track={"cursor": "changed_at"}, primary_key="id")
    assert summaries(column_drift(tracked, THERE, THERE)) == [("column-missing", Level.BREAKING, "changed_at")]


def test_a_field_inside_a_column_is_missing_or_retyped() -> None:
    reader = sync(mapping={"x": {"sql": "address.city"}})
    types = ("STRUCT(city VARCHAR, zip VARCHAR)", "STRUCT(city VARCHAR)", "STRUCT(zip VARCHAR)", "STRUCT(city INTEGER)")
    full, same, lost, retyped = ([Column("address", data_type)] for data_type in types)
    assert column_drift(reader, same, full, dialect="duckdb") == []
    for now in (lost, retyped):
        expected = [("column-missing", Level.BREAKING, "address")]
        assert summaries(column_drift(reader, now, full, dialect="duckdb")) == expected


def test_a_name_in_quotes_is_compared_as_the_warehouse_compares_it() -> None:
    reader = sync(mapping={"x": {"sql": 'upper("Email")'}})
    before, now = ([Column(name, "VARCHAR")] for name in ("Email", "EMAIL"))
    assert column_drift(reader, before, before, dialect="snowflake") == []
    expected = [("column-missing", Level.BREAKING, "Email")]
    assert summaries(column_drift(reader, now, before, dialect="snowflake")) == expected
    assert column_drift(reader, now, before, dialect="duckdb") == []


def test_columns_that_the_sync_does_not_use_are_warnings() -> None:
    now = [*THERE[:2], Column("SCORE", "FLOAT")]
    expected = [("column-added", Level.WARNING, None), ("column-removed", Level.WARNING, None)]
    assert summaries(column_drift(sync(), now, THERE)) == expected


def catalog(*nodes: Node) -> Catalog:
    """Read a catalog through its stored form, as a task does."""
    return Catalog.from_json(read_manifest(manifest(*nodes)).to_json())


TODAY = date(2026, 1, 1)
COLUMNS = {"id": "integer", "email": "varchar"}
BEFORE = catalog(model("customers", columns=COLUMNS), *keyed("customers"))


@pytest.mark.parametrize(
    ("after", "rule"),
    [
        ([model("customers", columns=COLUMNS, schema="marts"), *keyed("customers")], "relation-moved"),
        ([model("customers", columns=COLUMNS), data_test("unique", "customers", "id")], "key-test-removed"),
        ([model("customers", columns=COLUMNS)], "key-changed"),
        ([model("customers", columns={**COLUMNS, "email": "json"}), *keyed("customers")], "column-type"),
        ([model("customers", columns={"id": "integer"}), *keyed("customers")], "column-missing"),
        ([model("customers", columns={**COLUMNS, "plan": "text"}), *keyed("customers")], "column-added"),
        ([model("people", columns=COLUMNS)], "model-missing"),
        ([model("customers", "select 2", columns=COLUMNS), *keyed("customers")], None),
    ],
)
def test_catalogs(after: list[Node], rule: str | None) -> None:
    found = catalog_drift([sync()], BEFORE, catalog(*after), today=TODAY)
    assert [finding.rule for finding in found] == ([rule] if rule else [])


@pytest.mark.parametrize("reads", [{"table": "main.customers"}, {"sql": "select email from main.customers"}])
def test_a_table_and_a_query_get_the_findings_of_the_model_they_read(reads: dict[str, str]) -> None:
    """Report only that model, and only the columns that a query names."""
    source = sync(model=reads, primary_key="id")
    moved = catalog(model("customers", columns={"id": "integer"}, schema="marts"), *keyed("customers"))
    found = catalog_drift([source], BEFORE, moved, today=TODAY)
    assert [finding.rule for finding in found] == ["relation-moved", "column-missing"]
    other = sync(model={"table": "main.orders"})
    assert catalog_drift([other], BEFORE, moved, today=TODAY) == []


def test_every_model_of_a_project_where_no_sync_is_known() -> None:
    """Report removed, added, renamed and retyped columns, moved tables, lost tests and missing models; nothing else."""
    before = catalog(
        model("customers", columns={**COLUMNS, "plan": "text", "age": "integer"}),
        *keyed("customers"),
        model("orders"),
        model("same", columns=COLUMNS),
    )
    after = catalog(
        model("customers", columns={**COLUMNS, "plan_name": "text", "age": "text"}, schema="marts"),
        data_test("unique", "customers", "id"),
        model("same", columns=COLUMNS),
        model("new"),
    )
    found = project_drift(before, after, today=TODAY)
    assert {finding.sync for finding in found} == {""}
    assert sorted(finding.rule for finding in found) == [
        "column-added", "column-missing", "column-type", "key-test-removed", "model-missing", "relation-moved",
    ]  # fmt: skip
    texts = "; ".join(finding.message for finding in found)
    assert "column plan is missing; it was probably renamed to plan_name" in texts
    assert "model orders is no longer in the project" in texts


def test_a_sync_removed_from_its_models_meta_is_a_warning() -> None:
    def tagged(*names: str) -> Catalog:
        specs = [{**sync().sync.model_dump(exclude={"model"}, exclude_unset=True), "name": name} for name in names]
        return catalog(model("customers", columns=COLUMNS, meta={"reverse_etl": specs}))

    (found,) = retired_syncs(tagged("a", "b"), tagged("b", "c"))
    assert (found.rule, found.level, found.sync) == ("sync-removed", Level.WARNING, "a")
