"""Tasks that wait for more than a minute: in the triggerer if they are deferrable, else on their worker."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_reverse_etl.compat import AirflowException, TaskDeferred
from airflow_reverse_etl.operators.base import run_id_of
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING
from airflow_reverse_etl.testing import Dials, FakeDestination
from airflow_reverse_etl.wiring import state_store
from tests.operators.tasks import SYNC, context, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operators.check_hosts import Logged

pytestmark = [pytest.mark.airflow, pytest.mark.usefixtures("airflow_db", "customers")]

HOURS = 6 * 3600.0
ONE_BY_ONE = {**SYNC, "rate": {"batch_size": 1, "concurrency": 1}}
#: Counts that do not depend on the time that a run took.
COUNTS = ("run_id", "planned", "accepted", "rejected", "retryable", "unknown", "skipped", "model_rows")


def task(**arguments: Any) -> Any:
    return operator(**{"sync": ONE_BY_ONE, "deferrable": True, **arguments})


def running(task_id: str = "t", *, started: datetime | None = None) -> Any:
    found = context()
    found["ti"].task_id = task_id
    found["ti"].try_number = 1
    found["ti"].start_date = started or datetime.now(UTC)
    return found


def deferred(work: Callable[[], Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        work()
    return caught.value


def moment(waiting: TaskDeferred) -> datetime:
    """Return when the trigger fires; it knows nothing else."""
    path, arguments = waiting.trigger.serialize()
    assert path == "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
    assert {name for name, value in arguments.items() if value} == {"moment"}
    found = arguments["moment"]
    assert isinstance(found, datetime)
    return found


def resumed(task: Any, waiting: TaskDeferred, where: Any) -> Any:
    """Resume a task as its worker does, with arguments that the database has kept."""
    kept = json.loads(json.dumps(waiting.kwargs))
    return task.resume_execution(waiting.method_name, {**kept, "event": None}, where)


def test_a_task_that_is_asked_to_wait_defers_and_resumes_with_the_report_of_one_run(
    crm: FakeDestination, logged: Logged
) -> None:
    crm.dials = Dials(throttle=1, retry_after=HOURS)
    before = datetime.now(UTC)
    waiting = deferred(lambda: task().execute(running()))
    until = moment(waiting)
    assert before < until - timedelta(seconds=HOURS) < datetime.now(UTC)
    assert waiting.timeout is None
    text = f"contacts: waits without a worker slot until {until:%Y-%m-%d %H:%M:%S} UTC: the destination asks to wait"
    assert text in logged()

    report = resumed(task(), waiting, running())
    assert (report["planned"]["added"], report["accepted"], report["retryable"]) == (3, 3, 0)
    crm.table.rows.clear()
    at_once = task(sync={**ONE_BY_ONE, "name": "another"}).execute(running())
    assert {name: report[name] for name in COUNTS} == {name: at_once[name] for name in COUNTS}


def test_a_task_that_waits_for_a_run_names_it_at_once_and_defers_for_as_long_as_its_lease_lasts(
    crm: FakeDestination, logged: Logged
) -> None:
    now = datetime.now(UTC)
    fence = state_store().acquire("contacts", "other", now=now, seconds=DEFAULT_TIMING.lease, label="DAG a, run 1")
    waiting = deferred(lambda: task().execute(running()))
    assert moment(waiting) == now + timedelta(seconds=DEFAULT_TIMING.lease)
    until = f"{moment(waiting):%Y-%m-%d %H:%M:%S} UTC"
    assert f"waits without a worker slot until {until}: another run of this sync is at work: DAG a, run 1" in logged()
    assert not crm.opened

    moment(deferred(lambda: resumed(task(), waiting, running())))  # the run is still at work
    state_store().release("contacts", fence=fence)
    assert resumed(task(), waiting, running())["accepted"] == 3


def test_a_task_is_never_deferred_for_so_short_that_airflow_loses_it(
    crm: FakeDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_reverse_etl.sync.load.delivery.LONGEST_WAIT", 1.0)
    crm.dials = Dials(throttle=1, retry_after=2.0)
    before = datetime.now(UTC)
    assert moment(deferred(lambda: task().execute(running()))) >= before + timedelta(seconds=15)


def test_a_run_that_comes_first_leaves_the_deferred_task_green_with_its_committed_report(crm: FakeDestination) -> None:
    """The first run has sent one row, and waits. The second sends the others, and the first sends nothing more."""
    send = crm.send

    async def send_one_and_ask_for_hours(batch: Batch) -> Receipts:
        crm.send = send  # type: ignore[method-assign]
        receipts = await send(batch)
        crm.dials = Dials(throttle=1, retry_after=HOURS)
        return receipts

    crm.send = send_one_and_ask_for_hours  # type: ignore[method-assign]
    waiting = deferred(lambda: task().execute(running("first")))
    second = task().execute(running("second"))
    assert (second["planned"]["added"], second["accepted"]) == (2, 2)

    first = resumed(task(), waiting, running("first"))
    assert (first["planned"]["added"], first["accepted"], first["retryable"]) == (3, 1, 2)
    assert first["run_id"] != second["run_id"]
    assert len(crm.table.writes) == 3


async def test_of_two_runs_at_once_the_later_defers_and_finds_nothing_to_send(crm: FakeDestination) -> None:
    crm.dials = Dials(latency=0.1)
    first = asyncio.create_task(asyncio.to_thread(lambda: task().execute(running("first"))))
    while not crm.batches and not first.done():  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0.001)
    waiting = await asyncio.to_thread(deferred, lambda: task().execute(running("second")))
    assert moment(waiting) > datetime.now(UTC) + timedelta(minutes=1)
    assert (await first)["accepted"] == 3
    second = await asyncio.to_thread(resumed, task(), waiting, running("second"))
    assert (second["planned"]["added"], second["accepted"], second["requests"]) == (0, 0, 0)


def test_a_task_that_is_not_deferrable_waits_on_its_worker(
    crm: FakeDestination, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr("airflow_reverse_etl.sync.load.delivery.LONGEST_WAIT", 0.1)
    crm.dials = Dials(throttle=1, retry_after=0.3)
    before = datetime.now(UTC)
    report = task(deferrable=False).execute(running())
    assert (report["accepted"], report["retryable"]) == (3, 0)
    assert datetime.now(UTC) - before > timedelta(seconds=0.3)
    assert "contacts: waits on this worker until" in logged()


@pytest.mark.parametrize("default", ["True", "False"])
def test_airflow_says_whether_tasks_defer_unless_the_task_does(default: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", default)
    assert operator().deferrable == (default == "True")
    assert operator(deferrable=False).deferrable is False


def test_an_execution_timeout_covers_all_waits_of_a_try(crm: FakeDestination) -> None:
    """Airflow gives each resumed process the whole time again."""
    crm.dials = Dials(throttle=2, retry_after=HOURS)
    started = datetime.now(UTC) - timedelta(minutes=30)
    limited = task(execution_timeout=timedelta(hours=1))
    waiting = deferred(lambda: limited.execute(running(started=started)))
    deadline = started + timedelta(hours=1)
    assert moment(waiting) == deadline
    assert waiting.timeout is not None
    assert timedelta(minutes=30) < waiting.timeout <= timedelta(minutes=31)

    again = deferred(lambda: resumed(task(execution_timeout=timedelta(hours=1)), waiting, running()))
    assert moment(again) == deadline, "not an hour from now"


def test_a_task_whose_time_is_over_fails_and_the_next_try_sends_the_rest(crm: FakeDestination) -> None:
    crm.dials = Dials(throttle=1, retry_after=HOURS)
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    limited = task(execution_timeout=timedelta(hours=1))
    waiting = deferred(lambda: limited.execute(running(started=long_ago)))
    with pytest.raises(AirflowException, match="execution_timeout is over, waits included"):
        resumed(limited, waiting, running())
    assert task().execute(running())["accepted"] == 3


def test_a_change_of_the_model_is_reported_after_a_wait_too(
    crm: FakeDestination, customers: Callable[[str], None]
) -> None:
    sync = {**ONE_BY_ONE, "drift": "warn"}
    task(sync=sync).execute(running("before"))
    customers("ALTER TABLE customers ALTER COLUMN email TYPE BLOB")
    crm.dials = Dials(throttle=1, retry_after=HOURS)
    changed = task(sync=sync, full_resync=True)
    waiting = deferred(lambda: changed.execute(running()))
    assert waiting.kwargs is not None
    assert resumed(changed, waiting, running())["drift"] == waiting.kwargs["drift"] != []
    assert "drift" not in changed.execute(running("after")), "another try keeps nothing"


def steps() -> tuple[Callable[[], Any], ...]:
    """Return the tasks of a group with one load: each is made again by its worker."""
    from airflow_reverse_etl import operators

    common: dict[str, Any] = {"sync": {**ONE_BY_ONE, "mode": "mirror"}, "deferrable": True}
    run_id = run_id_of(running("plan")["ti"])
    plan = {**common, "plan": {"run_id": run_id}}
    share = {**common, "share": {"run_id": run_id, "partition": 0, "partitions": 1}}
    return (
        lambda: operators.ReverseEtlPlanOperator(task_id="plan", **common),
        lambda: operators.ReverseEtlRemoveOperator(task_id="remove", **plan),
        lambda: operators.ReverseEtlLoadOperator(task_id="load", **share),
        lambda: operators.ReverseEtlCommitOperator(task_id="commit", **plan),
    )


def test_each_task_of_a_group_defers_while_another_run_is_at_work(crm: FakeDestination) -> None:
    results = []
    for make in steps():
        # Tasks of a group leave their lease to each other; another run gets it once it has expired.
        expired = datetime.now(UTC) + timedelta(hours=len(results))
        fence = state_store().acquire("contacts", "other", now=expired, seconds=DEFAULT_TIMING.lease)
        waiting = deferred(lambda make=make: make().execute(running("plan")))
        assert moment(waiting) <= datetime.now(UTC) + timedelta(seconds=DEFAULT_TIMING.lease)
        state_store().release("contacts", fence=fence)
        results.append(resumed(make(), waiting, running("plan")))
    shares, removed, loaded, report = results
    assert (len(shares), removed, loaded["accepted"], report["accepted"]) == (1, {}, 3, 3)


def test_a_run_that_comes_first_leaves_a_deferred_group_green_with_its_committed_report(crm: FakeDestination) -> None:
    plan, _, load, commit = steps()
    [share] = plan().execute(running("plan"))
    crm.dials = Dials(throttle=1, retry_after=HOURS)
    waiting = deferred(lambda: load().execute(running("load")))
    # The lease of the group expires.
    store = state_store()
    store.release("contacts", fence=store.acquire("contacts", share["run_id"], now=datetime.now(UTC), seconds=1))
    second = task(sync={**ONE_BY_ONE, "mode": "mirror"}).execute(running("second"))
    assert second["accepted"] == 3

    assert resumed(load(), waiting, running("load")) == {}
    report = commit().execute(running("commit"))
    assert (report["run_id"], report["accepted"], report["retryable"]) == (share["run_id"], 0, 3)
    assert len(crm.table.writes) == 3


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second count as a long wait."""
    monkeypatch.setattr("airflow_reverse_etl.sync.load.delivery.LONGEST_WAIT", 0.5)
    monkeypatch.setattr("airflow_reverse_etl.operators.base._SHORTEST_DEFERRAL", timedelta(0))


@pytest.mark.long
@pytest.mark.usefixtures("short_waits")
def test_each_task_of_a_group_defers_and_resumes_in_airflow(
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    logged: Logged,
) -> None:
    """The destination asks to wait before each row: the loads in the first run, the removal in the second."""
    from airflow.sdk import DAG

    from airflow_reverse_etl import reverse_etl

    asked = set()
    send = crm.send

    async def ask_once(batch: Batch) -> Receipts:
        row = (batch.operation, *batch.keys)
        if row in asked:
            return await send(batch)
        asked.add(row)
        return Receipts(Receipt(Outcome.RETRYABLE, "429", "too many requests"), retry_after=0.6)

    crm.send = ask_once  # type: ignore[method-assign]
    sync = {**ONE_BY_ONE, "mode": "mirror", "guards": {"max_removed": "100%"}}
    with DAG("deferral_dag", schedule=None) as dag:
        reverse_etl(sync, partitions=2, deferrable=True, execution_timeout=timedelta(hours=1))
    done = run_dag(dag)
    assert done.state == "success"
    assert xcom(done, "reverse_etl.commit")["accepted"] == 3
    assert logged().count("waits without a worker slot until") == 3

    customers("DELETE FROM customers WHERE id = 1")
    done = run_dag(dag)
    assert done.state == "success"
    assert xcom(done, "reverse_etl.remove")["accepted"] == 1
    assert logged().count("waits without a worker slot until") == 1
