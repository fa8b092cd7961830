"""What changed under a sync since its last run."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.drift import catalog_drift, column_drift
from airflow_reverse_etl.dbt.findings import Level
from airflow_reverse_etl.sync.ports import Column
from tests.dbt.projects import Node, data_test, keyed, manifest, model, sync

THERE = [Column("ID", "NUMBER(38,0)"), Column("EMAIL", "VARCHAR"), Column("PLAN", "VARCHAR(20)")]


def told(findings: Any) -> list[tuple[str, Level, str | None]]:
    return [(finding.rule, finding.level, finding.column) for finding in findings]


def test_the_first_run_and_one_without_changes_say_nothing() -> None:
    assert column_drift(sync(), THERE, None) == []
    assert column_drift(sync(), THERE, THERE) == []


def test_a_used_column_that_is_gone_is_told_at_the_first_run_too() -> None:
    assert told(column_drift(sync(), THERE[:1], None)) == [("column-missing", Level.BREAKING, "email")]


def test_a_renamed_column_is_named() -> None:
    (missing, added) = column_drift(sync(), [THERE[0], Column("E_MAIL"), THERE[2]], THERE)
    assert "probably E_MAIL now" in missing.message
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
    assert told(column_drift(sync(), [THERE[0], Column("EMAIL", data_type), THERE[2]], THERE)) == expected


def test_columns_that_the_sync_does_not_use_are_warnings() -> None:
    now = [*THERE[:2], Column("SCORE", "FLOAT")]
    expected = [("column-added", Level.WARNING, None), ("column-removed", Level.WARNING, None)]
    assert told(column_drift(sync(), now, THERE)) == expected


def catalog(*nodes: Node) -> Catalog:
    """Through its stored form, as a task finds it."""
    return Catalog.from_json(Catalog.from_manifest(manifest(*nodes)).to_json())


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
    found = catalog_drift(sync(), BEFORE, catalog(*after), today=date(2026, 1, 1))
    assert [finding.rule for finding in found] == ([rule] if rule else [])
