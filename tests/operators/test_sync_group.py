"""A sync as a task group: what its tasks hand each other, and what a person sees before anything is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.operators.base import SyncOperator
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sync.clock import RunTiming
from airflow_reverse_etl.sync.ports import EARLIER_KINDS, Plan
from airflow_reverse_etl.sync.preview import _code, _duration, _requests
from airflow_reverse_etl.testing.fakes import Dials
from airflow_reverse_etl.wiring import state_files
from tests.dbt.projects import keyed, manifest, model
from tests.operators.tasks import SYNC, rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_reverse_etl.testing.fakes import FakeDestination

pytestmark = pytest.mark.airflow

MODEL: dict[str, list[str]] = {"tests": [], "sources": []}
SMALL = {**SYNC, "rate": {"batch_size": 1, "requests_per_second": 100}}
MIRROR = {**SMALL, "mode": "mirror"}


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
    crm: FakeDestination,
    customers: Callable[[str], None],
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
    assert states(third) == {"plan": ["success"], "load": ["skipped"], "commit": ["success"]}
    assert xcom(third, "reverse_etl.commit")["planned"]["changed"] == 0
    assert len(crm.table.writes) == 4


@pytest.mark.long
def test_the_event_of_the_commit_has_the_address_that_only_the_plan_knows(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HubSpot's address has the account, for which the plan asks."""
    url = "https://crm.example.com/contacts"
    monkeypatch.setattr(crm, "records_url", lambda: "" if crm.rows else url, raising=False)
    links = []
    report = SyncOperator._report
    monkeypatch.setattr(
        SyncOperator, "_report", lambda self, *a, **k: links.append(self.records_link) or report(self, *a, **k)
    )
    run_dag(group_dag())
    assert links == [url]


@pytest.mark.long
def test_a_content_is_replaced_by_one_task_whatever_the_number_of_partitions(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    lenient = {"min_rows": 0, "max_removed": "100%"}
    dag = group_dag(sync={**SMALL, "mode": "replace", "guards": lenient}, partitions=3)
    first = run_dag(dag)
    assert states(first) == {"plan": ["success"], "load": ["success"], "commit": ["success"]}
    assert len(crm.rows) == 3
    assert states(run_dag(dag))["load"] == ["skipped"], "nothing differs"

    customers("DELETE FROM customers WHERE id = 2")
    report = xcom(run_dag(dag), "reverse_etl.commit")
    assert (report["accepted"], len(crm.rows)) == (2, 2)

    customers("DELETE FROM customers")
    assert states(run_dag(dag))["load"] == ["success"]
    assert len(crm.rows) == 0


@pytest.mark.long
def test_a_mirror_has_a_task_that_removes_before_the_loads(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    dag = group_dag(sync=MIRROR, partitions=2)
    first = run_dag(dag)
    assert states(first) == {
        "plan": ["success"],
        "remove": ["success"],
        "load": ["success"] * 2,
        "commit": ["success"],
    }
    crm.table.writes.clear()

    customers("DELETE FROM customers WHERE id = 1")
    customers("INSERT INTO customers VALUES (4, 'Di', 'ada@x.org'), (5, 'Ed', 'ed@x.org')")
    second = run_dag(dag)
    assert crm.table.writes[0] == (Operation.DELETE, "1")
    assert sorted(crm.table.writes[1:]) == [(Operation.UPSERT, "4"), (Operation.UPSERT, "5")]
    assert xcom(second, "reverse_etl.plan", key="plan")["sample"] == {"added": ["4", "5"], "removed": ["1"]}
    assert xcom(second, "reverse_etl.remove")["accepted"] == 1
    assert states(second)["load"] == ["success"] * 2

    customers("DELETE FROM customers WHERE id = 2")
    nothing_to_load = {"plan": ["success"], "remove": ["success"], "load": ["skipped"], "commit": ["success"]}
    for removed in (1, 0):
        done = run_dag(dag)
        assert states(done) == nothing_to_load
        assert xcom(done, "reverse_etl.commit")["accepted"] == removed
    assert sorted(crm.rows) == ["3", "4", "5"]


@pytest.mark.long
def test_the_conf_of_a_run_limits_the_group_to_records(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    """One load sends them, and no task what is removed; the next run does the rest."""
    dag = group_dag(sync=MIRROR, partitions=2)
    crm.dials = Dials(reject={"2", "3"})
    run_dag(dag)
    crm.dials = Dials()
    customers("DELETE FROM customers WHERE id = 1")

    one = {"reverse_etl": {"contacts": {"records": [rejected("contacts")["2"]]}}}
    done = run_dag(dag, run_conf=one)
    assert states(done) == {"plan": ["success"], "remove": ["success"], "load": ["success"], "commit": ["success"]}
    assert sorted(crm.rows) == ["1", "2"]
    assert "Only 1 of these rows is sent" in xcom(done, "reverse_etl.plan", key="plan")["text"]
    report = xcom(done, "reverse_etl.commit")
    assert (report["accepted"], report["retryable"]) == (1, 2)

    assert xcom(run_dag(dag), "reverse_etl.commit")["accepted"] == 2
    assert sorted(crm.rows) == ["2", "3"]

    failed = run_dag(dag, run_conf=one)
    assert states(failed)["load"] == ["failed"]
    assert "does not send 1 of the 1 records" in xcom(failed, "reverse_etl.load", key="error", map_index=0)


@pytest.mark.long
def test_every_column_of_a_model_goes_through_the_group(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    """The tasks after the plan take the columns from it, and a new column sends no row by itself."""
    dag = group_dag(sync={**MIRROR, "mapping": {"*": {"exclude": "name"}}}, partitions=2)
    run_dag(dag)
    assert crm.rows["1"] == {"id": 1, "email": "ada@x.org"}

    customers("ALTER TABLE customers ADD COLUMN plan VARCHAR DEFAULT 'free'")
    customers("UPDATE customers SET email = 'new@x.org' WHERE id = 2")
    customers("DELETE FROM customers WHERE id = 3")
    done = run_dag(dag)
    assert {state for found in states(done).values() for state in found} == {"success"}
    assert xcom(done, "reverse_etl.commit")["planned"] == {"added": 0, "changed": 1, "removed": 1, "invalid": 0}
    assert crm.rows == {
        "1": {"id": 1, "email": "ada@x.org"},
        "2": {"id": 2, "email": "new@x.org", "plan": "free"},
    }


#: Intervals with which the lease of a run that failed expires after two seconds.
QUICK = RunTiming(lease=2.0, waiting=0.2)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lease of a run that failed expire after two seconds."""
    monkeypatch.setattr(SyncOperator, "timing", QUICK)


@pytest.mark.long
@pytest.mark.usefixtures("short_lease")
def test_a_delete_that_gets_no_answer_holds_back_nobody_and_wrong_settings_do(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airflow_reverse_etl.sync.load.backoff.Backoff.wait", lambda *_: 0.0)
    dag = group_dag(sync=MIRROR)
    run_dag(dag)
    customers("DELETE FROM customers WHERE id = 1")
    customers("INSERT INTO customers VALUES (4, 'Di', 'd@x.org')")
    crm.batches.clear()
    crm.dials = Dials(unread={1})
    assert states(run_dag(dag)) == {
        "plan": ["success"],
        "remove": ["failed"],
        "load": ["upstream_failed"],
        "commit": ["upstream_failed"],
    }
    assert "4" not in crm.rows

    crm.batches.clear()
    crm.table.rows["1"] = {}
    crm.dials = Dials(unsent=range(1, 6))
    done = run_dag(dag)
    assert {state for found in states(done).values() for state in found} == {"success"}
    report = xcom(done, "reverse_etl.commit")
    assert (report["accepted"], report["retryable"]) == (1, 1)
    assert sorted(crm.rows) == ["1", "2", "3", "4"]
    assert xcom(run_dag(dag), "reverse_etl.commit")["planned"]["removed"] == 1
    assert sorted(crm.rows) == ["2", "3", "4"]


@pytest.mark.long
def test_nothing_is_removed_by_a_plan_older_than_a_day(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dag = group_dag(sync=MIRROR)
    run_dag(dag)
    customers("DELETE FROM customers WHERE id = 1")
    monkeypatch.setattr(SyncOperator, "timing", RunTiming(removal_age=timedelta()))
    done = run_dag(dag)
    assert states(done)["remove"] == ["failed"]
    assert states(done)["commit"] == ["upstream_failed"]
    assert len(crm.rows) == 3


def test_removed_rows_have_a_task_unless_the_mode_has_none(tmp_path: Path) -> None:
    """The mode of a templated path is known only when the tasks run."""
    for name, sync in (("mirror", MIRROR), ("upsert", SMALL)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(sync))
    for sync, removes in (
        (MIRROR, True),
        (SMALL, False),
        (tmp_path / "mirror.yaml", True),
        (str(tmp_path / "upsert.yaml"), False),
        ("syncs/{{ params.name }}.yaml", True),
    ):
        assert ("reverse_etl.remove" in group_dag(sync=sync).task_dict) is removes


def test_nothing_but_counts_run_ids_and_keys_goes_through_xcom(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
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


@pytest.mark.long
def test_rejections_fail_the_commit_with_the_whole_report(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    crm.dials = Dials(reject={"2"})
    done = run_dag(group_dag(partitions=3))
    assert states(done) == {"plan": ["success"], "load": ["success"] * 3, "commit": ["failed"]}
    report = xcom(done, "reverse_etl.commit")
    assert (report["accepted"], report["rejected"]) == (2, 1)


@pytest.mark.long
@pytest.mark.usefixtures("short_lease")
def test_what_a_failed_load_delivered_is_kept(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The load of one share fails; the next run folds in what the others delivered, and sends the rest."""
    monkeypatch.setattr("airflow_reverse_etl.sync.load.backoff.Backoff.wait", lambda *_: 0.0)
    crm.dials = Dials(unsent=range(1, 6))
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
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlPlanOperator

    with DAG("preview_dag", schedule=None) as dag:
        sync = {**SMALL, "guards": {"max_changes": 2}}
        ReverseEtlPlanOperator(task_id="preview", sync=sync, preview=True, sample=2)
    for _ in range(2):
        plan = xcom(run_dag(dag), "preview")
        assert plan["planned"]["added"] == 3
        assert plan["sample"] == {"added": ["1", "2"]}
        assert "3 added" in plan["text"]
        assert "not all met, so a run would send nothing" in plan["text"]
        assert "- **max_changes: 3 rows, more than 2**" in plan["text"]
    assert not crm.batches


@pytest.mark.long
@pytest.mark.parametrize("by_conf", [True, False])
def test_a_lifted_guard_is_shown_as_lifted_to_who_approves(
    by_conf: bool,
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    answer: Callable[[str], list[Any]],
) -> None:
    asked = answer("Approve")
    option = {} if by_conf else {"lift_guards": ["max_changes"]}
    dag = group_dag(sync={**SMALL, "guards": {"max_changes": 2}}, approve=True, **option)
    conf = {"reverse_etl": {"contacts": {"lift_guards": ["max_changes"]}}} if by_conf else {}
    done = run_dag(dag, run_conf=conf)
    assert xcom(done, "reverse_etl.commit")["accepted"] == 3
    assert "**Guards**, met or lifted for this run:" in asked[0].body
    assert "- min_rows: the model has 3 rows, at least 1\n" in asked[0].body
    assert "- **max_changes: 3 rows, more than 2, lifted for this run**" in asked[0].body
    guards = xcom(done, "reverse_etl.plan", key="plan")["guards"]
    assert guards[1] == "max_changes: 3 rows, more than 2, lifted for this run"


@pytest.mark.long
def test_a_preview_names_invalid_rows_by_cause_and_tells_of_given_up_ones(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlPlanOperator

    limits = {"max_rejected": "100%", "max_given_up": "100%"}
    destination = {**SMALL["destination"], "match_on": "email"}
    sync = {**SMALL, "destination": destination, "retry": {"max_attempts": 1}, "failure": limits}
    crm.dials = Dials(reject={"3"})
    run_dag(group_dag(sync=sync))
    customers("UPDATE customers SET email = ' ' WHERE id <= 2")
    customers("INSERT INTO customers VALUES (5, 'secret', 'e@x.org'), (5, 'secret', 'e@x.org'), (NULL, 'x', 'x@x.org')")
    for sample in (1, 0):
        with DAG("preview_dag", schedule=None) as dag:
            ReverseEtlPlanOperator(task_id="preview", sync=sync, preview=True, sample=sample)
        plan = xcom(run_dag(dag), "preview")
        assert plan["invalid"] == {
            "null_key": {"rows": 1, "keys": []},
            "duplicate_key": {"rows": 2, "keys": ["5"][:sample]},
            "no_identifier": {"rows": 2, "keys": ["1"][:sample]},
        }
        assert (plan["skipped"], plan["given_up"]) == (1, 1)
        keys = ": keys `1`, …" if sample else ""
        assert f"- 2 invalid, never sent: a field in match_on is null or blank{keys}" in plan["text"]
        assert "- 1 given up, not sent: rejected too often or for too long, last with rejected (1)" in plan["text"]
        assert "secret" not in json.dumps(plan)


@pytest.mark.long
def test_a_preview_names_the_fields_that_changed_and_no_value(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl.operators import ReverseEtlPlanOperator

    texts = []
    for track in ("rows", {"fields": True}):
        sync = {**SMALL, "name": f"{SMALL['name']}_{len(texts)}", "track": track}
        run_dag(group_dag(sync=sync))
        customers(f"UPDATE customers SET name = 'secret{len(texts)}' WHERE id = 2")
        with DAG("preview_dag", schedule=None) as dag:
            ReverseEtlPlanOperator(task_id="preview", sync=sync, preview=True)
        plan = xcom(run_dag(dag), "preview")
        assert plan["sample"] == {"changed": ["2"]}
        assert plan["changed_fields"] == ({} if track == "rows" else {"2": ["greeting"]})
        assert "secret" not in json.dumps(plan)
        texts.append(plan["text"])
    assert "`track: {fields: true}`" in texts[0]
    assert "keys `2` (`greeting`)" in texts[1]
    assert "track" not in texts[1]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """``answer(option)``: what a person says from now on, at once; returns the tasks that asked."""
    from airflow.providers.standard.operators.hitl import HITLOperator

    def say(option: str) -> list[Any]:
        asked: list[Any] = []

        def execute(self: Any, context: Any) -> Any:
            asked.append(self)
            event = {"chosen_options": [option], "params_input": {}, "responded_by_user": None}
            return self.execute_complete(context, {**event, "responded_at": datetime.now(UTC)})

        monkeypatch.setattr(HITLOperator, "execute", execute)
        return asked

    return say


@pytest.mark.long
@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_what_is_rejected_is_not_sent_and_what_is_approved_is(
    mode: str,
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    answer: Callable[[str], list[Any]],
    state_url: Path,
) -> None:
    """Also where nothing is tracked, and a later run sends what an earlier one has left."""
    dag = group_dag(approve=True, sync={**SMALL, "mode": mode})
    answer("Reject")
    rejected = run_dag(dag)
    assert states(rejected) == {
        "plan": ["success"],
        "approve": ["success"],
        "load": ["skipped"],
        "commit": ["skipped"],
    }
    assert rejected.state == "success"
    assert not crm.batches
    assert not list(state_url.rglob("runs/*")), "no rows are kept"
    asked = answer("Approve")
    assert {state for found in states(run_dag(dag)).values() for state in found} == {"success"}
    assert len(crm.table.writes) == len(crm.rows) == 3
    assert asked[0].subject == "Send 3 changes of contacts to crm?"
    assert "**3 added**: keys `1`, `2`, `3`" in asked[0].body
    assert "min_rows: the model has 3 rows, at least 1" in asked[0].body


@pytest.mark.long
def test_what_is_rejected_is_not_removed_and_an_approval_of_removals_waits_a_day(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    answer: Callable[[str], list[Any]],
) -> None:
    dag = group_dag(approve=True, sync=MIRROR)
    asked = answer("Approve")
    run_dag(dag)
    customers("DELETE FROM customers WHERE id = 1")
    asked_again = answer("Reject")
    assert states(run_dag(dag)) == {
        "plan": ["success"],
        "approve": ["success"],
        "remove": ["skipped"],
        "load": ["skipped"],
        "commit": ["skipped"],
    }
    assert len(crm.rows) == 3
    asked_last = answer("Approve")
    run_dag(group_dag(approve={"response_timeout": timedelta(hours=4)}, sync=MIRROR))
    assert len(crm.rows) == 2
    waits = [task.response_timeout for task in (*asked, *asked_again, *asked_last)]
    assert waits == [None, timedelta(days=1), timedelta(hours=4)]


def test_there_is_nobody_to_ask_when_there_is_nothing_to_send(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    answer: Callable[[str], list[Any]],
) -> None:
    asked = answer("Reject")
    done = run_dag(group_dag(approve=True, reset=True, sync=MIRROR))
    assert states(done) == {
        "plan": ["success"],
        "approve": ["skipped"],
        "remove": ["success"],
        "load": ["skipped"],
        "commit": ["success"],
    }
    assert not asked


def test_approval_is_of_the_plan_and_its_settings_are_airflows() -> None:
    waits = timedelta(hours=4)
    settings = {"response_timeout": waits, "defaults": "Reject"}
    dag = group_dag(approve=settings, sync=MIRROR, execution_timeout=timedelta(hours=1))
    approve = dag.task_dict["reverse_etl.approve"]
    assert approve.upstream_task_ids == {"reverse_etl.plan"}
    assert approve.downstream_task_ids == {"reverse_etl.remove", "reverse_etl.load", "reverse_etl.commit"}
    assert (approve.response_timeout, approve.execution_timeout) == (waits, None)
    assert dag.task_dict["reverse_etl.plan"].approval


def test_a_closed_gate_skips_the_group(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    """By the model's own results; the trigger rule that lets them be looked at is the plan's alone."""
    catalog = read_manifest(manifest(model("customers"), *keyed("customers")), commit="c0ffee")
    output = {"catalog": "catalogs/c0ffee.json"}
    state_files().write(output["catalog"], catalog.to_json())
    found = {"results": {"model.shop.customers": "error"}, "models": {"model.shop.customers": MODEL}}
    state_files().write("dbt_runs/1.json", json.dumps(found).encode())
    arguments = {"catalog": output, "gate": [{"gate": "dbt_runs/1.json"}], "trigger_rule": "all_done"}
    dag = group_dag(sync={**MIRROR, "model": "customers"}, **arguments)
    tasks = ("plan", "remove", "load", "commit")
    assert states(run_dag(dag)) == {task: ["skipped"] for task in tasks}
    assert [dag.task_dict[f"reverse_etl.{name}"].trigger_rule for name in tasks] == [
        "all_done",
        "none_failed_min_one_success",
        "all_success",
        "none_failed_min_one_success",
    ]


@pytest.mark.long
def test_a_model_that_changed_is_told_to_the_person_or_stops_the_plan(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
) -> None:
    run_dag(group_dag())
    customers("ALTER TABLE customers ALTER email TYPE BLOB USING email::BLOB")
    stopped = run_dag(group_dag(sync={**SMALL, "drift": "fail"}))
    assert states(stopped) == {"plan": ["failed"], "load": ["upstream_failed"], "commit": ["upstream_failed"]}
    told = xcom(run_dag(group_dag(sync={**SMALL, "drift": "warn"})), "reverse_etl.plan", key="plan")
    assert "email changed from VARCHAR to BLOB" in told["text"]
    assert [finding["rule"] for finding in told["drift"]] == ["column-type"]


def test_requests_are_of_one_kind_of_change_and_one_share() -> None:
    plan = Plan("p", "r", "s", Planned(added=250, changed=10, removed=40), 300, 300, 300, 0, datetime.now(UTC))
    sizes = {"added": 100, "changed": 100, "removed": 100}
    assert [_requests(plan, sizes, shares) for shares in (0, 1, 2, 4)] == [5, 5, 6, 6]
    earlier = replace(plan, kinds=EARLIER_KINDS)
    assert [_requests(earlier, sizes, shares) for shares in (0, 1, 2, 4)] == [5, 5, 5, 6]
    assert _requests(replace(plan, planned=Planned(), total=0), sizes, 0) == 0
    # Each kind of change has batches of its own size.
    assert _requests(plan, {"added": 100, "changed": 1, "removed": 40}, 1) == 14
    assert [_duration(seconds) for seconds in (0.2, 90, 600, 9000)] == ["1 s", "90 s", "10 minutes", "2.5 hours"]


def test_a_key_is_shown_as_it_is() -> None:
    """It is a row's value: no Markdown, no line of its own, not longer than a person reads."""
    assert _code("a*b*") == "`a*b*`"
    assert _code("a`b\n<c>") == "`` a`b\\n<c> ``"
    assert len(_code("x" * 1000)) < 110


def test_the_assets_belong_to_the_first_and_last_task() -> None:
    dag = group_dag(partitions=2)
    assert [asset.name for asset in dag.task_dict["reverse_etl.plan"].inlets] == ["table/warehouse/customers"]
    assert [asset.name for asset in dag.task_dict["reverse_etl.commit"].outlets] == [
        "fake/crm/contacts",
        "sync/contacts",
    ]
    assert dag.task_dict["reverse_etl.plan"].outlets == []
