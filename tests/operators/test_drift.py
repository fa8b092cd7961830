"""Drift before a run: what it remembers, what it says, what it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.check.drift_memory import CatalogMemory, look_for_drift
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.errors import GuardError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.stores.files import StateFiles
from tests.dbt.projects import keyed, manifest, model, sync
from tests.operators.tasks import SYNC, context, operator

pytestmark = pytest.mark.airflow

THERE = [Column("id", "INTEGER"), Column("email", "VARCHAR")]


class Table:
    """A warehouse with one table."""

    dialect = "duckdb"

    def __init__(self, columns: list[Column]) -> None:
        self._columns = columns

    def columns(self, query: str) -> list[Column]:
        return self._columns


def look(folder: Path, columns: list[Column], *, catalog: Catalog | None = None, **spec: Any) -> list[str]:
    files = StateFiles(str(folder))
    output = None
    if catalog:
        output = {"catalog": f"catalogs/{catalog.commit}.json"}
        files.write(output["catalog"], catalog.to_json())
    table: Any = Table(columns)
    found, _ = look_for_drift(sync(**spec).sync, query="select 1", warehouse=table, files=files, output=output)
    return [finding.rule for finding in found]


def test_each_change_is_told_once(tmp_path: Path) -> None:
    more = [*THERE, Column("plan")]
    assert [look(tmp_path, columns) for columns in (THERE, THERE, more, more)] == [[], [], ["column-added"], []]


def test_fail_stops_until_it_is_restored_or_the_sync_is_changed(tmp_path: Path) -> None:
    retyped = [THERE[0], Column("email", "INTEGER")]
    look(tmp_path, THERE, drift="fail")
    for _ in range(2):
        with pytest.raises(GuardError, match="email changed from VARCHAR to INTEGER"):
            look(tmp_path, retyped, drift="fail")
    assert look(tmp_path, THERE, drift="fail") == []
    assert look(tmp_path, retyped, drift="fail", mapping={"email": {"sql": "cast(email as varchar)"}}) == []


def test_policies_let_warnings_pass(tmp_path: Path) -> None:
    look(tmp_path, THERE)
    assert look(tmp_path, [*THERE, Column("plan")], drift="fail") == ["column-added"]
    assert look(tmp_path, [], drift="ignore") == []


def test_catalogs_of_two_commits(tmp_path: Path) -> None:
    first, second = (
        read_manifest(manifest(model("customers", schema=schema), *keyed("customers")), commit=commit)
        for schema, commit in (("main", "a"), ("marts", "b"))
    )
    assert look(tmp_path, THERE, catalog=first) == []
    assert look(tmp_path, THERE, catalog=second) == ["relation-moved"]


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    look(tmp_path, THERE)
    for junk in (b"{", b"[]", b'{"sync": 1}'):
        StateFiles(str(tmp_path)).write("drift/customers_to_crm.json", junk)
        assert look(tmp_path, [*THERE, Column("plan")]) == []


def test_a_sync_that_moves_from_its_models_meta_into_a_file_is_not_gone(tmp_path: Path) -> None:
    files, source = StateFiles(str(tmp_path)), sync()
    spec = source.sync.model_dump(mode="json", exclude_unset=True)
    before, after = (
        read_manifest(manifest(model("customers", meta=meta)), commit=commit)
        for commit, meta in (("a", {"reverse_etl": spec}), ("b", {}))
    )
    files.write("a.json", before.to_json())
    CatalogMemory(files, "dag/task", "key").keep(before, "a.json", given=[], in_meta=[source])
    memory = CatalogMemory(files, "dag/task", "key")
    assert {found.rule for found in memory.compare(after, "b.json", []).findings} == {"sync-removed"}
    told = memory.compare(after, "b.json", [source]).findings
    assert [found.message for found in told if "no model's meta" in found.message] == []


def test_a_task_returns_drift_and_is_red_where_the_sync_says_so(crm: Any, customers: Any) -> None:
    assert "drift" not in operator().execute(context())
    customers("ALTER TABLE customers ADD COLUMN plan VARCHAR")
    assert [found["rule"] for found in operator().execute(context())["drift"]] == ["column-added"]
    customers("ALTER TABLE customers ALTER email TYPE INTEGER USING 1")
    with pytest.raises(AirflowFailException, match="changed from VARCHAR to INTEGER"):
        operator(sync={**SYNC, "drift": "fail"}).execute(context())
