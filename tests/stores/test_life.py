"""The life of a sync in Snowflake, played by fakesnow, and in Databricks, played by Spark: `make test-databricks`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_reverse_etl.errors import CredentialsError, RunConflictError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.receipts import Outcome, Receipt
from airflow_reverse_etl.spec.report import Planned, RunReport
from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint
from tests.stores.warehouses import PLACES, Place, snowflake_place

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = {
    "name": "s",
    "model": "m",
    "source": "w",
    "mode": "mirror",
    "primary_key": "id",
    "mapping": {"id": "id", "email": "email", "since": "since"},
    "destination": {"type": "file", "match_on": "id"},
}
SYNC = Sync.load(SPEC)


class Life:
    def __init__(self, place: Place) -> None:
        self.place, self.days = place, 0
        self.store = place.store(change_log=True)
        place.run(f"CREATE TABLE m (id BIGINT, email {PLANNERS[place.dialect].string}, since TIMESTAMP_NTZ)")

    def model(self, *rows: str) -> None:
        values = ", ".join(re.sub(r"'(\d{4}-[^']*)'", r"CAST('\1' AS TIMESTAMP_NTZ)", row) for row in rows)
        self.place.run("DELETE FROM m", f"INSERT INTO m VALUES {values}")

    def plan(self, sync: Sync = SYNC) -> Plan:
        self.days += 1
        warehouse = self.place.open_warehouse()
        now = NOW + timedelta(days=self.days)
        plan = self.store.plan(PlanRequest(sync, "SELECT * FROM m", ("id",), f"run{self.days}", now), warehouse)
        warehouse.close()
        return plan

    def rows(self, plan: Plan, store: WarehouseStore | None = None) -> list[tuple[str, str]]:
        batches = (store or self.store).changes(plan)
        return [(row["change"], row["key"]) for batch in batches for row in batch.to_pylist()]

    def finish(self, plan: Plan, reject: int = 0) -> None:
        checkpoint = Checkpoint(announced=plan.total)
        if plan.total:
            checkpoint.settled.add(1, plan.total)
        if reject:
            checkpoint.fail(reject, Receipt(Outcome.REJECTED, "bad", "it's \\ 100% 'wrong' \U0001f600"))
        self.store.save_checkpoint(plan, checkpoint)
        found = self.store.load_checkpoint(plan)
        assert found.to_json() == checkpoint.to_json()
        self.store.commit(plan, found, RunReport(plan.run_id, plan.planned, plan.total, 0, 0, 0, 0, 1, 0.5), SYNC)


@pytest.fixture(params=["snowflake", "databricks"])
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request)


@pytest.mark.long
def test_the_life_of_a_sync(place: Place) -> None:
    life = Life(place)
    life.model("(1, 'a', '2026-01-01')", "(2, NULL, '9999-12-31 23:59:59.5')", "(3, 'c', NULL)", "(NULL, 'd', NULL)")
    plan = life.plan()
    assert plan.planned == Planned(added=3, invalid=1)
    assert sorted(life.rows(plan)) == [("added", "1"), ("added", "2"), ("added", "3")]
    life.finish(plan)

    life.model("(1, 'a', '2026-01-01')", "(2, '', '9999-12-31 23:59:59.5')", "(4, 'e', NULL)", "(4, 'f', NULL)")
    plan = life.plan()
    assert plan.planned == Planned(changed=1, removed=1, invalid=2), "NULL is not an empty text"
    other = life.place.store()
    assert other.unfinished("s") == [plan], "another worker finds it"
    assert life.rows(plan, other) == [("removed", "3"), ("changed", "2")]
    life.finish(plan, reject=2)
    assert [row[:2] for row in rejections(life)] == [("2", "it's \\ 100% 'wrong' \U0001f600")]

    plan = life.plan()
    assert life.rows(plan) == [("changed", "2")], "a refused row comes again"
    stale = life.plan()
    life.finish(plan)
    assert rejections(life) == []
    with pytest.raises(RunConflictError):
        life.finish(stale)
    assert life.plan().planned == Planned(invalid=2)
    runs = "SELECT run_id, added, changed, removed FROM reverse_etl.runs ORDER BY run_id"
    assert life.place.run(runs) == [("run1", 3, 0, 0), ("run2", 0, 1, 1), ("run3", 0, 1, 0)]


def rejections(life: Life) -> list[tuple[str, str]]:
    return life.place.run(f"SELECT row_key, message FROM reverse_etl.{prefix('s')}_rejections")


@pytest.mark.long
def test_a_cursor_reads_on(place: Place) -> None:
    life = Life(place)
    sync = Sync.load({**SPEC, "mode": "upsert", "track": {"cursor": "since"}})
    life.model("(1, 'a', '2026-01-01 10:00:00')", "(2, 'b', '2026-01-01 10:00:00.5')")
    life.finish(life.plan(sync))
    life.model("(1, 'not read', '2026-01-01 10:00:00')", "(3, 'c', '2026-01-01 10:00:01')", "(4, 'd', NULL)")
    plan = life.plan(sync)
    assert (plan.planned.added, plan.planned.removed) == (2, 0)


def test_one_holder_at_a_time(place: Place) -> None:
    one, other = place.store(), place.store()
    fence = one.acquire("s", "one", now=NOW, seconds=60)
    with pytest.raises(RunConflictError, match="one"):
        other.acquire("s", "other", now=NOW, seconds=60)
    later = other.acquire("s", "other", now=NOW + timedelta(minutes=2), seconds=60)
    assert later > fence
    with pytest.raises(RunConflictError):
        one.acquire("s", "one", now=NOW + timedelta(minutes=2), seconds=60, fence=fence)
    other.release("s", fence=later)


def test_a_missing_right_is_told_with_the_grant() -> None:
    """fakesnow does not check privileges, so only the translation of Snowflake's message is tested."""
    store = snowflake_place().store(schema="other.reverse_etl")
    error = store._tables.denied(SqlError(ErrorKind.DENIED, "Insufficient privileges"), has_schema=True)
    assert isinstance(error, CredentialsError)
    assert "GRANT USAGE, CREATE TABLE ON SCHEMA other.reverse_etl TO ROLE" in str(error)
    error = store._tables.denied(SqlError(ErrorKind.DENIED, "Insufficient privileges"), has_schema=False)
    assert 'GRANT CREATE SCHEMA ON DATABASE "other" TO ROLE' in str(error)


def test_spark_reads_every_statement(request: pytest.FixtureRequest) -> None:
    """Run the golden statements, UPDATE and DELETE included."""
    PLACES["databricks"](request)
    from tests.stores.spark import spark

    parser = spark()._jsparkSession.sessionState().sqlParser()
    statements = (
        (Path(__file__).parent / "golden" / "databricks.sql").read_text().replace("<run>", "abc").split(";\n\n")
    )
    for statement in filter(None, statements):
        parser.parsePlan(statement)
