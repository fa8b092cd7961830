"""The dbt package over the state: installed, parsed and built by a real dbt, over the state that real runs leave."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
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

    def write(self, package: dict[str, str], tests: dict[str, Any] | None = None, **variables: Any) -> None:
        """Write the project.

        :param tests: configuration of the package's tests.
        """
        (self.folder / "models").mkdir(parents=True, exist_ok=True)
        if self.state:
            variables |= {"reverse_etl_state": "delta", "reverse_etl_syncs": list(SYNCS)}
            sources = [self._delta_source(sync) for sync in SYNCS]
            self._yaml("models/sources.yml", {"sources": sources})
        project: dict[str, Any] = {"name": "shop", "version": "1.0", "profile": "shop", "vars": variables}
        project["data_tests"] = {"reverse_etl": tests or {}}
        self._yaml("dbt_project.yml", project)
        self._yaml("packages.yml", {"packages": [package]})
        self._yaml("profiles.yml", {"shop": {"target": "dev", "outputs": {"dev": {"threads": 2, **self.profile}}}})

    def _delta_source(self, sync: str) -> Any:
        """Return the source of a sync's state, as the docs declare it."""
        page = (ROOT / "docs/how-to/query-your-syncs-in-dbt.md").read_text()
        text = page.partition("# models/reverse_etl.yml")[2].partition("```")[0]
        text = text.replace("schema: reverse_etl_contacts_to_crm", f"schema: state_of_{sync.replace('.', '_')}")
        text = text.replace("contacts_to_crm", sync).replace("s3://company-airflow/reverse_etl", str(self.state))
        [source] = yaml.safe_load(text)["sources"]
        return source

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
        found = json.loads(results.read_text())["results"]
        return {node["unique_id"].split(".")[2]: node["status"] for node in found}

    def read(self, select: str) -> list[tuple[Any, ...]]:
        return self.place.run(select)


def _duckdb(path: Path) -> Place:
    """A file of DuckDB that is open only while it is used, so that dbt can open it in between."""
    return Place("duckdb", lambda: duckdb.connect(path), lambda: DuckDBWarehouse(duckdb.connect(path)))


def _postgres_profile(place: Place) -> dict[str, Any]:
    connection = place.connect()
    of = connection.get_dsn_parameters()
    connection.close()
    address = {"host": of["host"], "port": int(of["port"]), "user": of["user"], "dbname": of["dbname"]}
    return {"type": "postgres", "schema": "analytics", "password": "any", **address}


@pytest.fixture(
    params=[pytest.param("duckdb", marks=pytest.mark.slow), "postgres", pytest.param("delta", marks=pytest.mark.slow)]
)
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
    profile |= {"threads": 1, "plugins": [{"module": "delta"}]}
    return Project(tmp_path / "shop", place, profile, tmp_path / "state")


@contextmanager
def store_of(project: Project) -> Iterator[StateStore]:
    """Open the state that the project is about, with a change log."""
    if project.state:
        yield LakeStore(str(project.state), change_log=True)
    else:
        with contextlib.closing(copying_store(project.place, change_log=True)) as store:
            yield store


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


async def test_the_figures_of_two_syncs(project: Project) -> None:
    with store_of(project) as store:
        await run_syncs(store)
    project.write({"local": str(ROOT / "dbt_package")}, reverse_etl_change_log=True)
    project.dbt("deps")

    statuses = project.dbt("build")

    assert project.read(
        "SELECT sync, mode, recent_runs, model_rows, last_planned, last_accepted, last_rejected, last_invalid,"
        " CAST(ROUND(1000 * last_reject_rate) AS INT), recent_accepted, recent_rejected,"
        " CAST(ROUND(1000 * recent_reject_rate) AS INT), rejected_rows"
        " FROM analytics.reverse_etl_syncs ORDER BY sync"
    ) == [
        ("companies.eu", "upsert", 2, 2, 0, 0, 0, 0, None, 2, 0, 0, 0),
        ("contacts", "mirror", 5, 4, 3, 1, 1, 1, 667, 11, 6, 353, 1),
    ]
    times = project.read(
        "SELECT hours_since_last_run < 1, last_delivered_at <= last_run_at FROM analytics.reverse_etl_syncs"
    )
    assert times == [(True, True), (True, True)]
    assert project.read(
        "SELECT sync, row_key, deliveries, contents, returns FROM analytics.reverse_etl_flapping_rows ORDER BY row_key"
    ) == [("contacts", "flaps", 5, 2, 3), ("contacts", "leaves", 4, 2, 2)]
    assert project.read("SELECT sync, row_key, attempts FROM analytics.stg_reverse_etl__rejections") == [
        ("contacts", "bad", 5)
    ]
    warnings = {name for name, status in statuses.items() if status == "warn"}
    assert warnings == {
        "reverse_etl_reject_rate_is_low",
        "reverse_etl_rejections_are_young",
        "reverse_etl_rows_do_not_flap",
    }
    assert set(statuses.values()) == {"success", "pass", "warn"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["duckdb"], indirect=True)
async def test_limits_for_each_sync_and_the_freshness_of_the_source(project: Project) -> None:
    with store_of(project) as store:
        await run_syncs(store)
    limits = {
        "reverse_etl_max_hours": {"default": 48, "companies.eu": -1},
        "reverse_etl_max_reject_rate": {"default": 0, "contacts": 0.9},
        "reverse_etl_max_rejection_days": 30,
        "reverse_etl_max_returns": 3,
    }
    severe = {"reverse_etl_last_run_is_recent": {"+severity": "error"}}
    project.write({"local": str(ROOT / "dbt_package")}, severe, reverse_etl_change_log=True, **limits)
    project.dbt("deps")
    statuses = project.dbt("build", exit_code=1)
    assert statuses.pop("reverse_etl_last_run_is_recent") == "fail"
    assert set(statuses.values()) == {"success", "pass"}
    project.dbt("source", "freshness")
    [source] = json.loads((project.folder / "target/sources.json").read_text())["results"]
    assert (source["unique_id"], source["status"]) == ("source.reverse_etl.reverse_etl.runs", "pass")


@pytest.mark.parametrize("kind", ["duckdb"], indirect=True)
def test_the_package_comes_from_a_git_repository_and_builds_before_the_first_run(project: Project) -> None:
    repository = project.folder.with_name("repository")
    shutil.copytree(ROOT / "dbt_package", repository / "dbt_package")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "-m", "Add"]):
        subprocess.run([*git, *command], check=True)
    with contextlib.closing(copying_store(project.place)) as store:
        store._tables.make()

    project.write({"git": f"file://{repository}", "subdirectory": "dbt_package", "revision": "main"})
    project.dbt("deps")
    statuses = project.dbt("build")

    assert set(statuses.values()) == {"success", "pass"}
    assert "stg_reverse_etl__change_log" not in statuses, "only with the change log"
    assert project.read("SELECT * FROM analytics.stg_reverse_etl__rejections") == []
    assert project.read("SELECT * FROM analytics.reverse_etl_syncs") == []
