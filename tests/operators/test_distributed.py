"""A sync as a task group: what its tasks hand each other, and what a person sees before anything is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_reverse_etl.testing.fakes import Dials
from tests.operators.test_reverse_etl import SYNC, crm, customers  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_reverse_etl.testing.fakes import FakeDestination

pytestmark = pytest.mark.airflow

SMALL = {**SYNC, "rate": {"batch_size": 1, "requests_per_second": 100}}


def group_dag(**arguments: Any) -> Any:
    from airflow.sdk import DAG

    from airflow_reverse_etl import reverse_etl

    with DAG("group_dag", schedule=None) as dag:
        reverse_etl(arguments.pop("sync", SMALL), **arguments)
    return dag


def states(done: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ti in done.get_task_instances():
        found.setdefault(ti.task_id.removeprefix("reverse_etl."), []).append(str(ti.state))
    return found


def test_a_plan_is_loaded_by_mapped_tasks_and_committed_once(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,  # noqa: F811
    customers: Callable[[str], None],  # noqa: F811
) -> None:
    dag = group_dag(partitions=2)
    first = run_dag(dag)
    assert states(first) == {"plan": ["success"], "load": ["success"] * 2, "commit": ["success"]}
    report = xcom(first, "reverse_etl.commit")
    assert (report["planned"]["added"], report["accepted"], report["requests"]) == (3, 3, 3)
    assert len(crm.rows) == 3

    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 2")
    second = run_dag(dag)
    assert states(second)["load"] == ["success"], "no more tasks than batches"
    assert xcom(second, "reverse_etl.commit")["planned"]["changed"] == 1
    assert len(crm.table.writes) == 4

    third = run_dag(dag)
    assert states(third) == {"plan": ["success"], "load": ["success"], "commit": ["success"]}
    assert len(crm.table.writes) == 4


def test_nothing_but_counts_run_ids_and_keys_goes_through_xcom(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,  # noqa: F811
    customers: Callable[[str], None],  # noqa: F811
) -> None:
    done = run_dag(group_dag(partitions=2))
    shares, plan = xcom(done, "reverse_etl.plan"), xcom(done, "reverse_etl.plan", key="plan")
    assert [sorted(share) for share in shares] == [["partition", "partitions", "run_id"]] * 2
    assert plan["sample"] == {"added": ["1", "2", "3"]}
    assert (plan["requests"], plan["minutes"]) == (3, 0.0)
    everything = json.dumps(
        [shares, plan, xcom(done, "reverse_etl.commit"), xcom(done, "reverse_etl.load", map_index=0)]
    )
    assert "Ada" not in everything
    assert "@x.org" not in everything


def test_rejections_fail_the_commit_with_the_whole_report(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,  # noqa: F811
    customers: Callable[[str], None],  # noqa: F811
) -> None:
    crm.dials = Dials(reject={"2"})
    done = run_dag(group_dag(partitions=3))
    assert states(done) == {"plan": ["success"], "load": ["success"] * 3, "commit": ["failed"]}
    report = xcom(done, "reverse_etl.commit")
    assert (report["accepted"], report["rejected"]) == (2, 1)


def test_what_a_failed_load_delivered_is_kept(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,  # noqa: F811
    customers: Callable[[str], None],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The load of one share fails; the next run folds in what the others delivered, and sends the rest."""
    monkeypatch.setattr("airflow_reverse_etl.sync.lease.LEASE_SECONDS", 2.0)  # of the run that failed
    monkeypatch.setattr("airflow_reverse_etl.sync.lease.WAIT_SECONDS", 0.2)
    crm.dials = Dials(throttle=1, retry_after=100_000)
    sync = {**SMALL, "rate": {"batch_size": 1, "concurrency": 1}}
    done = run_dag(group_dag(partitions=3, sync=sync))
    assert sorted(states(done)["load"]) == ["failed", "success", "success"]
    assert states(done)["commit"] == ["upstream_failed"]
    again = run_dag(group_dag(partitions=3, sync=sync))
    assert xcom(again, "reverse_etl.commit")["accepted"] == 1
    assert len(crm.table.writes) == 3


def test_a_preview_sends_and_keeps_nothing(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,  # noqa: F811
    customers: Callable[[str], None],  # noqa: F811
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlPlanOperator

    with DAG("preview_dag", schedule=None) as dag:
        ReverseEtlPlanOperator(task_id="preview", sync=SMALL, preview=True, sample=2)
    for _ in range(2):
        plan = xcom(run_dag(dag), "preview")
        assert plan["planned"]["added"] == 3
        assert plan["sample"] == {"added": ["1", "2"]}
        assert "3 added" in plan["text"]
    assert not crm.batches


def test_approval_stands_between_plan_and_load() -> None:
    dag = group_dag(approve=True)
    approve = dag.task_dict["reverse_etl.approve"]
    assert approve.upstream_task_ids == {"reverse_etl.plan"}
    assert "reverse_etl.approve" in dag.task_dict["reverse_etl.load"].upstream_task_ids
    assert "key='plan'" in approve.body


def test_the_assets_belong_to_the_first_and_last_task() -> None:
    dag = group_dag(partitions=2)
    assert [asset.name for asset in dag.task_dict["reverse_etl.plan"].inlets] == ["table/warehouse/customers"]
    assert [asset.name for asset in dag.task_dict["reverse_etl.commit"].outlets] == ["fake/crm/contacts"]
    assert dag.task_dict["reverse_etl.plan"].outlets == []
