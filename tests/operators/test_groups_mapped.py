"""The syncs of a dbt project at the commit that the model sync read, mapped at run time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airflow_reverse_etl.compat import AirflowFailException, AirflowRescheduleException, AirflowSkipException
from airflow_reverse_etl.dbt.gate import evidence
from airflow_reverse_etl.operators import base
from airflow_reverse_etl.operators.dbt_task import DbtTask
from airflow_reverse_etl.operators.groups.mapped import MappedSyncOperator, SyncListOperator
from airflow_reverse_etl.wiring import state_files
from tests.dbt.projects import keyed, manifest, model
from tests.git.servers import Origin
from tests.operators.tasks import SYNC, context, execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_reverse_etl.testing.fakes import FakeDestination

pytestmark = pytest.mark.airflow

IN_META = {**SYNC, "name": "from_meta", "after": "contacts"}
MANIFEST = manifest(
    model("customers", relation_name='"warehouse"."main"."customers"', meta={"reverse_etl": IN_META}),
    model("unbuilt", relation_name='"warehouse"."main"."customers"'),
    *keyed("customers"),
)


@pytest.fixture
def project(
    tmp_path: Path, add_connection: Callable[..., None], state_url: Path, monkeypatch: pytest.MonkeyPatch
) -> Origin:
    """A repository with a dbt project, whose folder ``syncs`` has three syncs and their defaults."""
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    monkeypatch.setattr(
        DbtTask, "_manifest", lambda _, folder, *__, **___: json.loads((folder / "manifest.json").read_bytes())
    )
    origin = Origin.create(tmp_path / "git")
    rest = {name: SYNC[name] for name in ("primary_key", "mapping", "model")}
    syncs = {
        "defaults": {"source": "warehouse", "destination": SYNC["destination"], "airflow": {"pool": "crm"}},
        "contacts": {**rest, "name": "contacts", "model": "customers", "after": "zz_accounts"},
        "zz_accounts": {**rest, "name": "zz_accounts"},
        "closed": {**rest, "name": "closed", "model": "unbuilt"},
    }
    files = {f"syncs/{name}.yaml": yaml.safe_dump(values) for name, values in syncs.items()}
    files |= {"dbt_project.yml": "name: shop", "manifest.json": json.dumps(MANIFEST)}
    origin.commit({f"analytics/{name}": text for name, text in files.items()})
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})
    return origin


def dag_of(**arguments: Any) -> Any:
    from airflow.sdk import DAG

    from airflow_reverse_etl import sync_group
    from airflow_reverse_etl.operators import DbtModelSyncOperator

    with DAG("mapped_folder", schedule=None) as dag:
        models = DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", project_path="analytics", deps=False)
        sync_group(**{"folder": "syncs", "project": models.output, **arguments})
    return dag


@pytest.mark.long
def test_the_syncs_at_the_commit_of_the_models_run_in_their_order(
    project: Origin,
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_LOOK_AGAIN", timedelta(seconds=1))
    built = evidence(MANIFEST, {node: "success" for node in MANIFEST["nodes"] if node != "model.shop.unbuilt"})
    state_files().write("gate.json", json.dumps(built).encode())
    dag = dag_of(gate=[{"gate": "gate.json"}], trigger_rule="all_done")
    done = run_dag(dag)
    names = {ti.map_index: ti.rendered_map_index for ti in done.get_task_instances() if ti.task_id == "syncs.sync"}
    assert [names[index] for index in range(4)] == ["closed", "zz_accounts", "contacts", "from_meta"]
    assert task_states(done) == {
        "models": "success",
        "syncs.list": "success",
        "syncs.sync[0]": "skipped",
        "syncs.sync[1]": "success",
        "syncs.sync[2]": "success",
        "syncs.sync[3]": "success",
    }
    assert xcom(done, "syncs.sync", map_index=2)["planned"]["added"] == 3

    # The next commit has a sync that is not valid, and one that comes after it. The DAG stays as it is.
    text = yaml.safe_dump({"name": "wrong", "mapping": {}})
    behind = yaml.safe_dump({"name": "behind", "model": "customers", "mapping": {"a": "id"}, "after": "wrong"})
    project.commit({"analytics/syncs/wrong.yaml": text, "analytics/syncs/behind.yaml": behind})
    again = run_dag(dag)
    states = [str(ti.state) for ti in again.get_task_instances() if ti.task_id == "syncs.sync"]
    assert sorted(states) == ["failed", "failed", "skipped", "success", "success", "success"]


@pytest.mark.long
def test_what_does_not_fit_together_fails_the_list_with_every_problem(project: Origin) -> None:
    from airflow_reverse_etl.operators import DbtModelSyncOperator

    def listed(folder: str = "syncs") -> Any:
        models = DbtModelSyncOperator(task_id="models", git_conn_id="git_dbt", project_path="analytics", deps=False)
        found, _ = execute(models)
        return execute(SyncListOperator(task_id="list", catalog=found, folder=folder))[0]

    assert [one["after"] for one in listed()] == [{}, {}, {"zz_accounts": 1}, {"contacts": 2}]
    commit = project.commit(
        {
            "analytics/syncs/a.yaml": "name: closed\nafter: nobody",
            "analytics/syncs/b.yaml": "name: b\nafter: [b]",
            "analytics/syncs/c.yaml": "name: [",
        }
    )
    error = listed()
    assert isinstance(error, AirflowFailException)
    assert "\n  - syncs/c.yaml:" in str(error), "no path of the worker"
    assert f"commit '{commit}'" in str(error)
    assert "syncs/a.yaml:2: after: 'nobody' is not a sync of the folder" in str(error)
    assert "name: 'closed' is the name of syncs/a.yaml:1, too" in str(error)
    assert "syncs/b.yaml:2: after: a cycle: b after b" in str(error)
    assert "the dbt project has no such folder of syncs (folder 'sync', commit" in str(listed("sync"))


def after(state: str | None) -> Any:
    """What a task does that comes after an instance of its own task in this state."""

    def task_states(**_: Any) -> dict[str, dict[str, str]]:
        return {"r": {"sync_4": state}} if state else {}

    task = MappedSyncOperator(task_id="sync", sync=SYNC, after={"accounts": 4}, deferrable=False)
    around = context()
    around["ti"].get_task_states = task_states
    return task.execute(around)


@pytest.mark.parametrize("state", [None, "queued", "up_for_retry", "running", "deferred"])
def test_a_sync_waits_without_a_slot_for_one_that_it_comes_after(state: str | None, crm: FakeDestination) -> None:
    """With the last slot of its pool, it would wait for ever."""
    with pytest.raises(AirflowRescheduleException) as caught:
        after(state)
    assert caught.value.reschedule_date - datetime.now(UTC) < timedelta(seconds=31)


def test_a_sync_is_skipped_with_the_one_that_it_comes_after_and_fails_with_it(crm: FakeDestination) -> None:
    with pytest.raises(AirflowSkipException, match="comes after accounts, which was skipped"):
        after("skipped")
    with pytest.raises(AirflowFailException, match="comes after accounts, which has failed"):
        after("upstream_failed")
