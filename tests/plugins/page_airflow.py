"""A running Airflow with syncs in every state, for tests of the page in a browser and for the pictures in the docs."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from airflow_reverse_etl.dbt.catalog import Catalog, Model, Source
from tests.standalone import Airflow, free_port

#: Names and passwords: an admin, and a viewer who may change nothing.
USERS = {"ada": "admin", "eve": "viewer"}

DAGS = """
from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_reverse_etl import reverse_etl, reverse_etl_maintenance_dag
from airflow_reverse_etl.destinations.file import FileDestination
from airflow_reverse_etl.operators import ReverseEtlOperator

# As HubSpot and Salesforce have one.
FileDestination.records_url = lambda self: "{records}"

# They run once, as soon as they are read.
ONCE = {{"schedule": "@once", "start_date": datetime(2026, 1, 1, tzinfo=UTC)}}

CATALOG = {{
    "catalog": "catalogs/shop.json",
    "commit": "8c1f2d90ab34",
    "repository": "https://git.example.com/acme/shop.git",
    "project": "shop",
}}


def sync(name, model="customers", **more):
    return {{
        "name": name,
        "model": model,
        "source": "warehouse",
        "primary_key": "id",
        "mapping": {{"id": "id", "email": "email", "score": "score"}},
        "destination": {{"type": "file", "url": "{folder}/out", "format": "jsonl", "object": name}},
        **more,
    }}


TABLE = {{"table": "customers"}}
LENIENT = {{"max_rejected": "100%", "max_given_up": "100%"}}

with DAG("people", **ONCE):
    reverse_etl(
        sync("contacts_to_crm", failure=LENIENT, retry={{"max_attempts": 1}}),
        catalog=CATALOG,
        gate={{"gate": "dbt.json"}},
    )
with DAG("broken", **ONCE):
    ReverseEtlOperator(task_id="broken", sync=sync("invoices_to_erp", {{"table": "missing"}}))
with DAG("never", schedule="@yearly"):
    ReverseEtlOperator(task_id="never", sync=sync("never_ran", TABLE))
with DAG("checked", **(ONCE if {approval} else {{"schedule": None}})):
    reverse_etl(sync("prices_to_shop", TABLE), approve=True)
reverse_etl_maintenance_dag(keys=True)

for part in range({many} // 100):
    with DAG(f"many_{{part}}", schedule="@daily", is_paused_upon_creation=True):
        for number in range(100):
            name = f"sync_{{part}}_{{number:02}}"
            ReverseEtlOperator(task_id=name, sync=sync(name, TABLE))
"""


def _model(name: str, *parents: str, tests: int = 0) -> Model:
    return Model(
        unique_id=f"model.shop.{name}",
        name=name,
        package="shop",
        version=None,
        latest=True,
        relation=name,
        database=None,
        schema="main",
        alias=name,
        materialized="table",
        access="protected",
        description="",
        columns=(),
        primary_key=("id",),
        tags=(),
        meta={},
        path=f"models/{name}.sql",
        depends_on=parents,
        data_tests=tuple(f"test_{number}" for number in range(tests)),
    )


#: What a dbt run of the project said.
EVIDENCE = {
    "results": {
        **{f"model.shop.{name}": "success" for name in ("customers", "stg_people", "stg_orders")},
        **{f"test.{number}": "pass" for number in range(4)},
        "source.shop.raw.people": "warn",
    },
    "models": {
        "model.shop.customers": {"tests": ["test.0", "test.1", "test.2"], "sources": ["source.shop.raw.people"]},
        "model.shop.stg_people": {"tests": ["test.3"], "sources": []},
    },
}


def _catalog() -> Catalog:
    return Catalog(
        project="shop",
        commit="8c1f2d90ab34",
        adapter="duckdb",
        models=(
            _model("customers", "model.shop.stg_people", "model.shop.stg_orders", tests=3),
            _model("stg_orders", "source.shop.raw.orders"),
            _model("stg_people", "source.shop.raw.people", tests=1),
        ),
        sources=(
            Source("source.shop.raw.orders", "raw.orders", "raw.orders"),
            Source("source.shop.raw.people", "raw.people", "raw.people", error_after="12 hour"),
        ),
    )


@contextmanager
def running(
    home: Path, *, prefix: str = "", many: int = 0, records: str = "", approval: bool = True
) -> Iterator[tuple[Airflow, str]]:
    """Start Airflow, and let each sync reach its state; yields it with its address.

    :param records: address of the destination's own list of records.
    :param approval: whether a plan waits for a person. That takes a few seconds.
    """
    warehouse = home / "warehouse.duckdb"
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "CREATE TABLE customers AS SELECT i AS id, 'p' || i || '@x.org' AS email,"
            " CASE WHEN i % 7 = 0 THEN 'nan'::DOUBLE ELSE i END AS score FROM range(1, 40) t(i)"
        )
    (home / "dags").mkdir()
    (home / "dags" / "syncs.py").write_text(DAGS.format(folder=home, many=many, records=records, approval=approval))
    (home / "state" / "catalogs").mkdir(parents=True)
    (home / "state" / "catalogs" / "shop.json").write_bytes(_catalog().to_json())
    (home / "state" / "dbt.json").write_text(json.dumps(EVIDENCE))
    (home / "passwords.json").write_text(json.dumps({name: name for name in USERS}))
    port = free_port()
    base = f"http://localhost:{port}{prefix}"
    settings = {
        "AIRFLOW__API__BASE_URL": base,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__PARALLELISM": "1",  # DuckDB lets one process in at a time
        "AIRFLOW__REVERSE_ETL__STATE_URL": str(home / "state"),
    }
    connections = {"warehouse": {"conn_type": "duckdb", "host": str(warehouse)}}
    with Airflow.running(home, connections=connections, environment=settings, port=port) as airflow:
        count = 5 + many // 100
        airflow.until("the DAGs are read", lambda: len(airflow.query("select 1 from dag")) == count)
        expected: Mapping[str, set[str]] = {"people": {"success"}, "broken": {"failed"}}
        airflow.until("they ran", _all_in(airflow, expected))
        airflow.until("a plan waits for a person", lambda: not approval or _waits(airflow))
        yield airflow, base


@contextmanager
def tutorial(home: Path) -> Iterator[str]:
    """Start Airflow with the DAG of the tutorial, as its page has it; yields the address."""
    page = Path(__file__).parents[2] / "docs" / "tutorial" / "first-sync.md"
    found = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (home / "dags").mkdir()
    (home / "dags" / "activate_contacts.py").write_text(found[1])
    (home / "passwords.json").write_text(json.dumps({"ada": "ada"}))
    port = free_port()
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
    }
    with Airflow.running(home, connections={}, environment=settings, port=port) as airflow:
        airflow.until("the DAG is read", lambda: airflow.query("select 1 from dag"))
        airflow.until("the server answers", lambda: _answers(port))
        yield f"http://localhost:{port}"


def _all_in(airflow: Airflow, expected: Mapping[str, set[str]]) -> Callable[[], bool]:
    return lambda: {dag: set(airflow.states(dag)) for dag in expected} == expected


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=5):
        return True
    return False


def _waits(airflow: Airflow) -> Any:
    sql = "select 1 from task_instance where task_id like '%.approve' and state in ('deferred', 'awaiting_input')"
    return airflow.query(sql)
