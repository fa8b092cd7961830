"""The syncs of a folder as tasks: which tasks a folder makes, in which order they run, and what stops them."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import AirflowException
from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.operators.groups.folder import _slug
from airflow_reverse_etl.testing import CrashError, Dials
from tests.operators.tasks import SYNC, context

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_reverse_etl.testing.fakes import FakeDestination

pytestmark = pytest.mark.airflow


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder(name={…}, …)``: writes a sync for each name, made of the usual one."""

    def write(**syncs: Any) -> Path:
        place = tmp_path / "dags" / "syncs"
        place.mkdir(parents=True, exist_ok=True)
        for name, values in syncs.items():
            given = values if name == "defaults" else {**SYNC, "name": name, **values}
            (place / f"{name}.yaml").write_text(yaml.safe_dump(given))
        return place

    return write


def group(dag_file: Path, **arguments: Any) -> Any:
    """A DAG whose file is in the folder above the syncs."""
    from airflow.sdk import DAG

    from airflow_reverse_etl import sync_group

    with DAG("folder_dag", schedule=None) as dag:
        dag.fileloc = str(dag_file)
        sync_group("syncs", **arguments)
    return dag


def dags(dag_file: Path, **arguments: Any) -> list[Any]:
    code = "from airflow_reverse_etl import reverse_etl_dag\nfound = reverse_etl_dag('syncs', **arguments)"
    namespace: dict[str, Any] = {"arguments": arguments}
    exec(compile(code, str(dag_file), "exec"), namespace)
    return list(namespace["found"])


def test_each_file_is_a_task_with_the_defaults_of_its_folder(folder: Callable[..., Path]) -> None:
    place = folder(
        defaults={"airflow": {"pool": "crm", "retries": 4}, "guards": {"max_changes": 7}},
        accounts={},
        contacts={"after": "accounts", "airflow": {"retries": 1}},
        orders={"after": ["contacts", "accounts"], "airflow": {"partitions": 3}, "mode": "mirror"},
    )
    (place / "more").mkdir()
    (place / "contacts.yaml").rename(place / "more" / "contacts.yaml")
    dag = group(place.parent / "dag.py", retries=2)
    tasks = dag.task_dict
    assert set(tasks) == {
        "syncs.accounts",
        "syncs.contacts",
        "syncs.orders.plan",
        "syncs.orders.remove",
        "syncs.orders.load",
        "syncs.orders.commit",
    }
    contacts = tasks["syncs.contacts"]
    assert (contacts.pool, contacts.retries, tasks["syncs.accounts"].retries) == ("crm", 1, 4)
    assert contacts.sync == "syncs/more/contacts.yaml", "relative, as a bundle's version has its own folder"
    assert contacts.known_sync().guards.max_changes == 7
    assert contacts.upstream_task_ids == {"syncs.accounts"}
    assert tasks["syncs.orders.plan"].upstream_task_ids == {"syncs.accounts", "syncs.contacts"}
    assert [asset.name for asset in contacts.outlets] == ["fake/crm/contacts", "sync/contacts"]


def test_all_problems_of_a_folder_are_one_error_with_files_and_lines(folder: Callable[..., Path]) -> None:
    place = folder(
        defaults={"rate": {"concurency": 3}},
        a={"after": "b"},
        b={"after": "a", "rate": {"concurrency": 2}},
    )
    (place / "defaults.yaml").write_text("# the folder's\nguards:\n  max_remove: 5%\n")
    with pytest.raises(SpecError) as caught:
        group(place.parent / "dag.py")
    assert [problem.removeprefix(f"{place}/") for problem in caught.value.problems] == [
        "defaults.yaml:3: guards.max_remove: unknown key; did you mean 'max_removed'?",
        "defaults.yaml:3: guards.max_remove: unknown key; did you mean 'max_removed'?",
    ]
    (place / "defaults.yaml").unlink()
    folder(
        c={"after": "d"}, d={"name": "c"}, accounts={"after": ["acounts", "e"]}, e={"airflow": {"schedule": "@daily"}}
    )
    with pytest.raises(SpecError) as caught:
        group(place.parent / "dag.py")
    texts = "\n".join(caught.value.problems)
    assert "after: 'd' is not a sync of the folder" in texts
    assert "after: 'acounts' is not a sync of the folder; did you mean 'accounts'?" in texts
    assert "after: 'e' has another airflow.schedule, and so another DAG" in texts
    assert "name: 'c' is the name of" in texts
    assert "after: a cycle: a after b after a" in texts
    assert all(f"{place}/" in problem and problem.split(":")[1].isdecimal() for problem in caught.value.problems)


def test_a_dag_for_each_schedule(folder: Callable[..., Path]) -> None:
    place = folder(
        defaults={"airflow": {"schedule": "@hourly"}},
        accounts={},
        contacts={"after": "accounts"},
        orders={"airflow": {"schedule": "30 6 * * *"}, "model": "orders"},
        scores={"airflow": {"schedule": None}},
    )
    found = {dag.dag_id: dag for dag in dags(place.parent / "dag.py", dag_id="crm", models={"git_conn_id": "git_dbt"})}
    assert {name: set(dag.task_dict) for name, dag in found.items()} == {
        "crm": {"scores"},
        "crm_hourly": {"accounts", "contacts"},
        "crm_30_6_x_x_x": {"models", "orders"},
    }
    assert found["crm_30_6_x_x_x"].task_dict["orders"].upstream_task_ids == {"models"}
    assert {dag.fileloc for dag in found.values()} == {str(place.parent / "dag.py")}
    assert found["crm_hourly"].max_active_runs == 1
    assert _slug("*/5 * * * *") != _slug("5 * * * *")
    with pytest.raises(SpecError, match="schedule of their own"):
        group(place.parent / "dag.py")


@pytest.mark.long
def test_a_sync_that_comes_after_a_failed_one_sends_nothing(
    folder: Callable[..., Path],
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    """Also with the trigger rule that a gate asks for."""
    place = folder(accounts={}, contacts={"after": "accounts"}, other={"source": "nowhere"}, last={"after": "other"})
    done = run_dag(group(place.parent / "dag.py", trigger_rule="all_done"))
    assert task_states(done) == {
        "syncs.accounts": "success",
        "syncs.contacts": "success",
        "syncs.other": "failed",
        "syncs.last": "failed",
    }


@pytest.mark.long
def test_the_next_try_runs_the_version_of_the_bundle_that_its_worker_has(
    folder: Callable[..., Path],
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """Each version has its own folder. The first one is gone by the time of the next run."""
    place = folder(accounts={"guards": {"min_rows": 100}})
    first = group(place.parent / "dag.py")
    assert str(run_dag(first).state) == "failed"
    folder(accounts={"guards": {"min_rows": 1}})
    shutil.move(place.parent, tmp_path / "second")
    again = group(tmp_path / "second" / "dag.py")
    assert again.task_dict["syncs.accounts"].sync == first.task_dict["syncs.accounts"].sync
    assert xcom(run_dag(again), "syncs.accounts")["accepted"] == 3


def test_a_try_with_another_version_of_the_bundle_neither_mixes_mappings_nor_loses_rows(
    folder: Callable[..., Path],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """The first try dies after a row. The next one, of the same run, finds another mapping in the sync's file."""
    slow = {"rate": {"batch_size": 1, "concurrency": 1}}
    place = folder(accounts={**slow, "mapping": {"email": "email"}}, parts={**slow, "airflow": {"partitions": 2}})
    first = group(place.parent / "dag.py").task_dict
    crm.dials = Dials(crash=[1])
    with pytest.raises(CrashError):
        first["syncs.accounts"].execute(context())
    crm.dials = Dials()
    planned = context()
    planned["ti"].try_number = 1
    shares = first["syncs.parts.plan"].execute(planned)

    more = {"mapping": {"email": "email", "name": "name"}}
    folder(accounts={**slow, **more}, parts={**slow, **more, "airflow": {"partitions": 2}})
    shutil.move(place.parent, tmp_path / "second")
    second = group(tmp_path / "second" / "dag.py").task_dict
    report = second["syncs.accounts"].execute(context())
    assert (report["accepted"], report["planned"]["changed"]) == (3, 1), (
        "the row of the first try has the new field, too"
    )
    assert [record.keys() for record in crm.rows.values()] == [{"email", "name"}] * 3

    # A plan is not sent by the rules of another version. Clearing the plan makes a new one.
    load = second["syncs.parts.load"].unmap({"share": shares[0]})
    with pytest.raises(AirflowException, match="the plan of this run is outdated: the sync was changed"):
        load.execute(context())


@pytest.mark.long
def test_five_hundred_files_are_parsed_within_two_seconds(folder: Callable[..., Path]) -> None:
    names = [f"s{number:03}" for number in range(500)]
    after = {name: {"after": before} for before, name in pairwise(names)}
    place = folder(defaults={"airflow": {"pool": "crm"}}, s000={}, **after)
    started = time.process_time()
    dag = group(place.parent / "dag.py")
    seconds = time.process_time() - started
    assert len(dag.task_dict) == 500
    assert seconds < 2


def count_events(run_id: str) -> int:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return int(session.query(AssetEvent).filter(AssetEvent.source_run_id == run_id).count())


@pytest.mark.long
@pytest.mark.parametrize("more", [{}, {"airflow": {"partitions": 2, "approve": True}, "mode": "mirror"}])
def test_a_dry_run_of_an_environment_plans_and_sends_nothing(
    more: dict[str, Any],
    folder: Callable[..., Path],
    run_dag: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", "dev")
    config.settings.cache_clear()
    place = folder(defaults={"environments": {"dev": {"dry_run": True}, "prod": {}}}, accounts=more)
    done = run_dag(group(place.parent / "dag.py"))
    states = task_states(done)
    assert str(done.state) == "success"
    if more:
        steps = ("approve", "load", "remove", "commit")
        assert {states[f"syncs.accounts.{step}"] for step in steps if step != "load"} == {"skipped"}
        assert xcom(done, "syncs.accounts.plan", key="plan")["planned"]["added"] == 3
    else:
        report = xcom(done, "syncs.accounts")
        assert (report["planned"]["added"], report["accepted"], report["retryable"]) == (3, 0, 0)
    assert crm.table.writes == []
    assert count_events(done.run_id) == 0, "DAGs that are scheduled on the destination's object do not run"

    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__ENVIRONMENT", "stagin")
    config.settings.cache_clear()
    with pytest.raises(SpecError, match="lacks 'stagin'"):
        group(place.parent / "dag.py")
