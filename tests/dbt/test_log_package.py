"""The dbt package over the state: installed, parsed and built by a real dbt, over the state that real runs leave."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
import yaml

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import Dials, FakeDestination, FrozenClock
from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse
from tests.stores.warehouses import Place, copying_store, postgres_place
from tests.sync.world import World, rows

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SYNCS = ("contacts", "companies.eu")
LOGGED: dict[str, Any] = {"reverse_etl_change_log": True}


@dataclass
class Project:
    """A dbt project that has the package installed.

    :param place: where dbt builds.
    :param profile: how dbt connects to it.
    :param state: folder of Delta Lake tables; None if the state is in ``place``.
    """

    folder: Path
    place: Place
    profile: dict[str, Any]
    state: Path | None = None

    def write(self, package: dict[str, str], **variables: Any) -> None:
        (self.folder / "models").mkdir(parents=True, exist_ok=True)
        if self.state:
            variables |= {"reverse_etl_state": "delta", "reverse_etl_syncs": list(SYNCS)}
            sources = [self._delta_source(sync) for sync in SYNCS]
            self._yaml("models/sources.yml", {"sources": sources})
        project = {"name": "shop", "version": "1.0", "profile": "shop", "vars": variables}
        self._yaml("dbt_project.yml", project)
        self._yaml("packages.yml", {"packages": [package]})
        self._yaml("profiles.yml", {"shop": {"target": "dev", "outputs": {"dev": {"threads": 2, **self.profile}}}})

    def _delta_source(self, sync: str) -> dict[str, Any]:
        """Declare the state of a sync, as the docs show it."""
        tables = [
            {"name": name, "config": {"delta_table_path": f"{self.state}/syncs/{sync}/{name}"}}
            for name in ("history", "rejections", "change_log")
        ]
        schema = f"state_of_{sync.replace('.', '_')}"
        return {"name": f"reverse_etl_{sync}", "schema": schema, "config": {"plugin": "delta"}, "tables": tables}

    def _yaml(self, path: str, content: Any) -> None:
        (self.folder / path).write_text(yaml.safe_dump(content))

    def dbt(self, *arguments: str, exit_code: int = 0) -> dict[str, str]:
        """Run dbt; return the status of each node by its name. Nothing that dbt deprecates may be in the package."""
        command = [str(Path(sys.executable).with_name("dbt")), *arguments, "--profiles-dir", "."]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == exit_code, done.stdout + done.stderr
        assert "deprecat" not in done.stdout.lower(), done.stdout
        results = self.folder / "target/run_results.json"
        if not results.exists():
            return {}
        return {found["unique_id"].split(".")[2]: found["status"] for found in json.loads(results.read_text())["results"]}

    def read(self, select: str) -> list[tuple[Any, ...]]:
        return self.place.run(select)


def _duckdb(path: Path) -> Place:
    """A file of DuckDB that is open only while it is used, so that dbt can open it in between."""
    return Place("duckdb", lambda: duckdb.connect(path), lambda: DuckDBWarehouse(duckdb.connect(path)))


def _postgres_profile(place: Place) -> dict[str, Any]:
    connection: psycopg2.extensions.connection = place.connect()
    of = connection.get_dsn_parameters()
    connection.close()
    address = {"host": of["host"], "port": int(of["port"]), "user": of["user"], "password": "any", "dbname": of["dbname"]}
    return {"type": "postgres", "schema": "analytics", **address}


@pytest.fixture(params=["duckdb", "postgres", "delta"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    if kind == "postgres":
        pytest.importorskip("dbt.adapters.postgres", reason="needs dbt-postgres")
        place = postgres_place(request.getfixturevalue("postgres"))
        return Project(tmp_path / "shop", place, _postgres_profile(place))
    place = _duckdb(tmp_path / "shop.duckdb")
    profile: dict[str, Any] = {"type": "duckdb", "path": str(tmp_path / "shop.duckdb"), "schema": "analytics"}
    if kind == "duckdb":
        return Project(tmp_path / "shop", place, profile)
    return Project(tmp_path / "shop", place, {**profile, "plugins": [{"module": "delta"}]}, tmp_path / "state")


def store_of(project: Project) -> StateStore:
    if project.state:
        return LakeStore(str(project.state), change_log=True)
    return copying_store(project.place, change_log=True)


async def run_syncs(store: StateStore) -> None:
    """Run two syncs, as 20 days ago: one has rows that are rejected, flap, and are removed; the other one is well."""
    destination = FakeDestination(Dials(reject={"bad"}))
    clock = FrozenClock(datetime.now(UTC) - timedelta(days=20))
    sick = World(destination, store, clock)
    sick.values = {
        "name": "contacts",
        "mode": "mirror",
        "guards": {"min_rows": 0, "max_removed": "100%"},
        "retry": {"max_attempts": 1000},
    }
    for model in (
        rows(flaps=1, leaves=1, stays=1, bad=1),
        rows(flaps=2, stays=1, bad=1),
        rows(flaps=1, leaves=1, stays=1, bad=1),
        rows(flaps=2, stays=2, bad=1),
        [*rows(flaps=1, stays=2, bad=1), {"id": None, "n": 1}],
    ):
        await sick.run(model)
    well = World(FakeDestination(), store, clock)
    well.values = {"name": "companies.eu"}
    await well.run(rows(a=1, b=1))
    await well.run(rows(a=1, b=1))


async def test_figures(project: Project) -> None:
    store = store_of(project)
    await run_syncs(store)
    store.close()
    project.write({"local": str(ROOT / "dbt_package")}, **LOGGED)
    project.dbt("deps")

    statuses = project.dbt("build")

    assert project.read(
        "SELECT sync, mode, recent_runs, model_rows, last_planned, last_accepted, last_rejected, last_invalid,"
        " CAST(last_reject_rate AS DECIMAL(9, 4)), recent_accepted, recent_rejected,"
        " CAST(recent_reject_rate AS DECIMAL(9, 4)), rejected_rows, hours_since_last_run < 1, last_delivered_at < now()"
        " FROM analytics.reverse_etl_syncs ORDER BY sync"
    ) == []
    assert project.read("SELECT * FROM analytics.reverse_etl_flapping_rows ORDER BY row_key") == []
    assert statuses == {}
