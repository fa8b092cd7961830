"""Who shares the lease of a sync: the tasks of one group and the tries of one task, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.clock import RunTiming
from airflow_reverse_etl.testing import Dials, FakeApi
from airflow_reverse_etl.testing.fakes import FakeDestination
from tests.operators.tasks import SYNC, context

pytestmark = pytest.mark.airflow

ROWS = 600


def running(task_id: str) -> Any:
    """The context of a task of the one DAG run ``r``."""
    found = context()
    found["ti"].task_id = task_id
    return found


async def test_two_tasks_of_one_dag_run_send_no_row_twice(
    add_connection: Callable[..., None],
    customers: Callable[[str], None],
    state_url: Path,
) -> None:
    """Both are alive: the second starts while the first sends, waits for it, and finds nothing to do."""
    from airflow_reverse_etl.operators import ReverseEtlOperator

    customers(f"INSERT INTO customers SELECT i, 'n' || i, i || '@x.org' FROM range(4, {ROWS + 1}) AS t (i)")
    async with FakeApi(Dials(latency=0.02)) as api:
        add_connection("fake_api", conn_type="http", host=api.url, password=api.token)
        sync = {
            **SYNC,
            "mode": "insert",
            "destination": FakeApi.options(),
            "mapping": {"id": "id", "email": "email"},
            "rate": {"batch_size": 10, "concurrency": 2},
        }

        def work(task_id: str) -> dict[str, Any]:
            task = ReverseEtlOperator(task_id=task_id, sync=sync)
            task.timing = RunTiming(waiting=0.05)
            return task.execute(running(task_id))

        first = asyncio.create_task(asyncio.to_thread(work, "one"))
        while not api.requests and not first.done():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
        second = await asyncio.to_thread(work, "two")
        assert first.done(), "the second waited for it"
        report = await first

    assert (report["planned"]["added"], report["accepted"], report["unknown"]) == (ROWS, ROWS, 0)
    assert (second["planned"]["added"], second["accepted"], second["requests"]) == (0, 0, 0)
    assert second["run_id"] != report["run_id"]
    assert not api.table.repeated()
    assert len(api.requests) == ROWS / 10


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Holder and label of every lease that is taken, in order."""
    found: list[tuple[str, str]] = []
    acquire = LakeStore.acquire

    def recorded(self: LakeStore, sync: str, holder: str, **more: Any) -> int:
        found.append((holder, more["label"]))
        return acquire(self, sync, holder, **more)

    monkeypatch.setattr(LakeStore, "acquire", recorded)
    return found


@pytest.mark.slow
def test_tasks_of_a_group_share_the_lease_and_other_tasks_of_the_dag_run_do_not(
    run_dag: Callable[..., Any],
    crm: FakeDestination,
    customers: Callable[[str], None],
    taken: list[tuple[str, str]],
) -> None:
    from airflow.sdk import DAG

    from airflow_reverse_etl import reverse_etl
    from airflow_reverse_etl.operators import ReverseEtlOperator

    sync = {**SYNC, "rate": {"batch_size": 1}}
    with DAG("lease_dag", schedule=None) as dag:
        group = reverse_etl(sync, partitions=2)
        one = ReverseEtlOperator(task_id="one", sync=sync)
        each = ReverseEtlOperator.partial(task_id="each").expand(sync=[sync, sync])
        group >> one >> each
    done = run_dag(dag)

    holders: dict[str, set[str]] = {}
    for holder, label in taken:
        where = f"DAG lease_dag, run {done.run_id}, task "
        assert label.startswith(where)
        holders.setdefault(label.removeprefix(where), set()).add(holder)
    members = ["plan", "load, map index 0", "load, map index 1", "commit"]
    others = ["one", "each, map index 0", "each, map index 1"]
    assert set(holders) == {*(f"reverse_etl.{name}" for name in members), *others}
    assert len(set.union(*(holders[f"reverse_etl.{name}"] for name in members))) == 1
    assert len(set.union(*holders.values())) == 1 + len(others)


def test_a_retry_takes_the_lease_of_the_try_before_at_once(
    monkeypatch: pytest.MonkeyPatch,
    crm: FakeDestination,
    customers: Callable[[str], None],
    taken: list[tuple[str, str]],
) -> None:
    """Also where that try was killed, and gave nothing back."""
    from airflow_reverse_etl.operators import ReverseEtlOperator

    with monkeypatch.context() as patch:
        patch.setattr(LakeStore, "release", lambda *_, **__: None)
        ReverseEtlOperator(task_id="one", sync=SYNC).execute(running("one"))
    ReverseEtlOperator(task_id="one", sync=SYNC).execute(running("one"))
    assert len(set(taken)) == 1
