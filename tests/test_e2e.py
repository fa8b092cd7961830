"""In a whole Airflow: a commit starts a DAG, and what Cosmos has built is sent. One Airflow for both; two minutes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.assets import model_asset
from airflow_reverse_etl.dbt.profiles import from_connection
from airflow_reverse_etl.dbt.runner import DbtProject
from airflow_reverse_etl.sync.ports import ConnectionInfo
from dags_examples.demo.shop import CUSTOMERS, Crm, Warehouse
from tests.git.servers import HttpServer, Origin, http_server
from tests.standalone import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.e2e, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[1] / "dags_examples"
COMMIT = "{{ (triggering_asset_events.values() | first | last).extra['payload']['commit'] }}"
ON_COMMIT = f"""
from airflow.sdk import DAG
from airflow_reverse_etl.operators import DbtModelSyncOperator
from airflow_reverse_etl.triggers import git_commit

with DAG("on_commit", schedule=[git_commit("git_dbt", path="analytics", poll_interval=1)]):
    DbtModelSyncOperator(
        task_id="models", git_conn_id="git_dbt", project_path="analytics", profile_conn_id="warehouse",
        ref="{COMMIT}",
    )
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with Cosmos, the project that they run, and a DAG that waits for commits."""
    home = tmp_path_factory.mktemp("airflow")
    for name in ("cosmos", "dbt_project", "syncs"):
        shutil.copytree(EXAMPLES / name, home / "dags" / name)
    (home / "dags" / "on_commit.py").write_text(ON_COMMIT)
    return home


@pytest.fixture(scope="module")
def origin(home: Path) -> Origin:
    origin = Origin.create(home / "git")
    project = home / "dags" / "dbt_project"
    origin.commit({f"analytics/{p.relative_to(project)}": p.read_text() for p in project.rglob("*") if p.is_file()})
    return origin


@pytest.fixture(scope="module")
def http(origin: Origin) -> Iterator[HttpServer]:
    with http_server(origin.bare.parent, token="s3cr3t/tok:en") as server:
        yield server


@pytest.fixture(scope="module")
def crm(home: Path) -> Iterator[Crm]:
    with Crm.running(home / "crm.sqlite", home / "crm.log") as running:
        yield running


@pytest.fixture(scope="module")
def airflow(home: Path, http: HttpServer, crm: Crm) -> Iterator[Airflow]:
    shop = Warehouse(home / "shop.duckdb")
    profile = from_connection(
        ConnectionInfo(conn_id="warehouse", conn_type="duckdb", host=str(shop.path)), schema="analytics"
    )
    DbtProject(home / "dags" / "dbt_project", profile=profile).run(["parse"], target_path=home)
    connections: dict[str, dict[str, Any]] = {
        "warehouse": {"conn_type": "duckdb", "host": str(shop.path), "schema": "analytics"},
        "crm": {"conn_type": "reverse_etl_http", "host": crm.url, "password": crm.token},
        "git_dbt": {
            "conn_type": "git",
            "host": http.url(),
            "login": http.user,
            "password": http.token,
            "extra": {"allow_protocols": ["http"]},
        },
    }
    settings = {"DBT_MANIFEST": str(home / "manifest.json"), "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False"}
    with Airflow.running(home, connections=connections, environment=settings) as running:
        yield running


def polls(http: HttpServer) -> int:
    return sum("service=git-upload-pack" in path for path, _ in http.requests)


def test_what_cosmos_built_is_sent_by_the_dag_that_waits_for_it(airflow: Airflow, crm: Crm) -> None:
    """The event of ``model_asset`` comes from the model's test, and starts the sync's DAG by itself."""
    airflow.until("Cosmos's DAG is there", lambda: airflow.query("select 1 from dag where dag_id = 'dbt_with_cosmos'"))
    airflow.command("dags", "trigger", "dbt_with_cosmos")
    customers = model_asset("customers", "warehouse")
    airflow.until("the model's event", lambda: airflow.events(customers.name))
    airflow.until("the sync", lambda: airflow.states("contacts_after_cosmos") == ["success", "success"])
    assert len(crm.contacts()) == CUSTOMERS
    sql = "select source_task_id from asset_event e join asset a on a.id = e.asset_id where a.uri = ?"
    assert airflow.query(sql, customers.uri) == [("dbt.customers.test",)]
    its_own = f"duckdb:{airflow.home}/shop.duckdb/shop/analytics/customers"
    assert airflow.query(sql, its_own) == [("dbt.customers.run",)]
    runs = airflow.query("select run_type from dag_run where dag_id = 'contacts_after_cosmos'")
    assert runs == [("asset_triggered",)]


def test_a_commit_under_the_path_starts_a_run_with_it_once(airflow: Airflow, http: HttpServer, origin: Origin) -> None:
    """A commit elsewhere starts nothing; the DAG run works on the commit that the event names."""
    asset = "git/git_dbt/main/analytics"
    airflow.until("the watcher looks", lambda: polls(http) >= 2)
    before = origin.commit({"README.md": "elsewhere"})
    seen = polls(http)
    airflow.until("it has looked again", lambda: polls(http) >= seen + 3)
    commit = origin.commit({"analytics/models/marts/vips.sql": "select * from {{ ref('customers') }}"})
    airflow.until("the run", lambda: airflow.states("on_commit") == ["success"])
    seen = polls(http)
    airflow.until("it goes on looking", lambda: polls(http) >= seen + 3)
    (event,) = [extra["payload"] for extra in airflow.events(asset)]
    assert (event["commit"], event["previous"], event["path"]) == (commit, before, "analytics")
    (output,) = airflow.xcoms("on_commit", "models")
    assert (output["commit"], output["models"]) == (commit, 4)
    assert http.token not in (airflow.home / "standalone.log").read_text()
