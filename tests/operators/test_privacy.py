"""The privacy policy in runs: real Git, real dbt, DAGs that run. A denied field stops the run before a row is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl import config
from airflow_reverse_etl.check.privacy.marking import marked
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.operators import DbtModelSyncOperator, ReverseEtlOperator, ReverseEtlPlanOperator
from airflow_reverse_etl.operators.maintenance import ReverseEtlMaintenanceOperator
from airflow_reverse_etl.stores.recipes import Recipe
from airflow_reverse_etl.testing import FakeDestination
from airflow_reverse_etl.wiring import recipes, state_files
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin
from tests.operators.tasks import SYNC, context, operator

pytestmark = pytest.mark.airflow

Policy = Callable[[str], Path]
ALLOWED = "destinations:\n  - {connection: crm, allow: [email]}\n"
DENIED = "destinations:\n  - {connection: crm, allow: [hashed email]}\n"
CUSTOMERS = {**SYNC, "model": "customers", "mapping": {"email": "email", "name": "name"}}


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Policy]:
    """Write the policy, and set it."""

    def write(text: str) -> Path:
        path = tmp_path / "privacy.yaml"
        path.write_text(text)
        monkeypatch.setenv("AIRFLOW__REVERSE_ETL__PRIVACY_POLICY", str(path))
        config.settings.cache_clear()
        return path

    yield write
    config.settings.cache_clear()


@pytest.fixture
def catalog(state_url: Path) -> dict[str, Any]:
    """Return the output of a model sync whose model's e-mail addresses are marked."""
    node = model("customers", "select 1 as id, 'Ada' as name, 'x' as email")
    node["relation_name"] = "customers"
    node["columns"] = {"email": {"name": "email", "meta": {"pii": "email"}, "data_type": ""}}
    found = manifest(node, *keyed("customers"))
    output = {"catalog": "catalogs/c0ffee.json"}
    state_files().write(output["catalog"], marked(read_manifest(found, commit="c0ffee"), found).to_json())
    return output


def test_a_run_sends_what_the_policy_allows_and_else_reads_no_row(
    crm: FakeDestination, customers: Callable[[str], None], catalog: dict[str, Any], policy: Policy, state_url: Path
) -> None:
    path = policy(DENIED)
    for mapping in ({"email": "email"}, {"*": "*"}, {"greeting": {"template": "Dear {{ row.email }}"}}):
        with pytest.raises(AirflowFailException) as caught:
            operator(sync={**CUSTOMERS, "mapping": mapping}, catalog=catalog).execute(context())
        for part in ("marked 'email'", "column email of customers", "fake contacts (connection crm)", str(path)):
            assert part in str(caught.value)
        assert "ada@x.org" not in str(caught.value)
    assert not (state_url / "syncs").exists(), "no plan was made"
    hashed = {**CUSTOMERS, "mapping": {"*": {"exclude": "email"}, "h": {"column": "email", "hash": "sha256"}}}
    assert operator(sync=hashed, catalog=catalog).execute(context())["accepted"] == 3
    policy(ALLOWED)
    given = context()
    sent = operator(sync={**CUSTOMERS, "name": "other"}, catalog=catalog).execute(given)
    assert sent["accepted"] == 3
    assert given["pushed"]["picture"]["marks"] == {"email": ["email"]}
    assert given["pushed"]["picture"]["types"]["email"] == "VARCHAR"


@pytest.mark.parametrize("preview", [False, True])
def test_the_plan_of_a_group_obeys_the_policy(
    crm: FakeDestination, customers: Callable[[str], None], catalog: dict[str, Any], policy: Policy, *, preview: bool
) -> None:
    policy(DENIED)
    task = ReverseEtlPlanOperator(task_id="plan", sync=CUSTOMERS, catalog=catalog, preview=preview)
    with pytest.raises(AirflowFailException, match="marked 'email'"):
        task.execute(context())


def test_every_column_means_those_that_the_warehouse_has(
    crm: FakeDestination, customers: Callable[[str], None], catalog: dict[str, Any], policy: Policy
) -> None:
    policy(DENIED)
    customers("ALTER TABLE customers DROP email")
    assert operator(sync={**CUSTOMERS, "mapping": {"*": "*"}}, catalog=catalog).execute(context())["accepted"] == 3


def test_a_table_and_a_query_are_denied_unless_the_policy_allows_the_unknown(
    crm: FakeDestination, customers: Callable[[str], None], policy: Policy
) -> None:
    for text in (DENIED, "unknown: deny\n", ""):
        policy(text or "destinations: []\n")
        for name in ({"table": "customers"}, {"sql": "select * from customers"}):
            with pytest.raises(AirflowFailException, match="not known: its model is not dbt's"):
                operator(sync={**SYNC, "model": name}).execute(context())
    policy("unknown: allow\n")
    assert operator().execute(context())["accepted"] == 3


def test_a_policy_that_cannot_be_read_stops_every_run(
    crm: FakeDestination, customers: Callable[[str], None], policy: Policy
) -> None:
    policy("unknown: perhaps\n")
    with pytest.raises(AirflowFailException, match=r"privacy\.yaml:1: unknown"):
        operator().execute(context())
    policy("").unlink()
    with pytest.raises(AirflowFailException, match="cannot read the privacy policy"):
        operator().execute(context())
    assert crm.batches == []


def test_a_maintenance_run_obeys_the_policy_too(
    crm: FakeDestination, customers: Callable[[str], None], catalog: dict[str, Any], policy: Policy
) -> None:
    operator(sync=CUSTOMERS, catalog=catalog).execute(context())
    crm.batches.clear()
    given = {"sync": "contacts", "action": "full_resync", "guards": [], "records": [], "every_record": False}
    policy(DENIED)
    task = ReverseEtlMaintenanceOperator(task_id="maintain")
    with pytest.raises(AirflowFailException, match="marked 'email'"):
        task.execute({**context(), "params": given})
    assert crm.batches == []


def test_a_recipe_of_an_earlier_version_has_no_marks(state_url: Path) -> None:
    recipes().save("contacts", Recipe(SYNC, "select 1", ("id",), approved=False, dag_id="d"))
    path = state_url / "recipes" / "contacts.json"
    stored = json.loads(path.read_text())
    del stored["marks"]
    path.write_text(json.dumps(stored))
    assert recipes().read("contacts").marks is None


SCHEMA = """\
version: 2
sources:
  - name: raw
    schema: main
    tables:
      - name: users
        columns:
          - name: id
          - name: email
            config:
              meta:
                pii: email
models:
  - name: people
    columns:
      - name: id
        data_tests: [unique, not_null]
"""


@pytest.mark.long
def test_a_mark_of_a_source_stops_the_task_behind_the_model_sync(
    tmp_path: Path,
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    add_connection: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    policy: Policy,
) -> None:
    from airflow.sdk import DAG

    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    origin = Origin.create(tmp_path / "git")
    files = {
        "dbt_project.yml": "name: shop\nversion: '1.0'\nprofile: shop\n",
        "models/schema.yml": SCHEMA,
        "models/stg.sql": "select id, lower(email) as mail from {{ source('raw', 'users') }}",
        "models/people.sql": "with s as (select * from {{ ref('stg') }}) select id, mail as contact from s",
    }
    origin.commit({f"analytics/{name}": text for name, text in files.items()})
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})
    add_connection("warehouse", conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as database:
        database.execute("create table people as select 1 as id, 'ada@x.org' as contact")

    def dag() -> Any:
        with DAG("private", schedule=None) as found:
            models = DbtModelSyncOperator(
                task_id="models", git_conn_id="git_dbt", project_path="analytics", profile_conn_id="warehouse"
            )
            people = {**SYNC, "model": "people", "primary_key": None, "mapping": {"contact": "contact"}}
            models >> ReverseEtlOperator(task_id="people", sync=people, catalog=models.output)
        return found

    policy(DENIED)
    done = run_dag(dag())
    assert task_states(done) == {"models": "success", "people": "failed"}
    error = xcom(done, "people", key="error")
    assert "column contact is marked 'email' (column email of raw.users, analytics/models/schema.yml:12)" in error
    assert crm.batches == []
    policy(ALLOWED)
    done = run_dag(dag())
    assert task_states(done) == {"models": "success", "people": "success"}
    assert xcom(done, "people")["accepted"] == 1
