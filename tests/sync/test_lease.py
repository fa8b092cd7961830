"""A lease lets only one run of a sync work at a time."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.stores.compare_and_set import FileValues
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING
from airflow_reverse_etl.sync.context import LONGEST_WAIT
from airflow_reverse_etl.sync.lease import held
from airflow_reverse_etl.testing import FrozenClock
from tests.sync.world import on_every_store

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_reverse_etl.sync.ports import StateStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class StillClock(FrozenClock):
    """Clock whose sleeps never end, so that no lease is renewed."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def test_the_error_of_a_second_run_names_the_holder_of_the_lease(store: StateStore) -> None:
    store.acquire("s", "dag a, run 1", now=NOW, seconds=60)
    with pytest.raises(RunConflictError, match="dag a, run 1"):
        store.acquire("s", "dag a, run 2", now=NOW + timedelta(seconds=59), seconds=60)
    store.acquire("other", "dag a, run 2", now=NOW, seconds=60)


def test_the_holder_is_an_id_and_the_error_has_its_label(store: StateStore) -> None:
    fence = store.acquire("s", "id-1", now=NOW, seconds=60, label="DAG a, run 1, task load, map index 0")
    again = store.acquire("s", "id-1", now=NOW, seconds=60, label="DAG a, run 1, task load, map index 1")
    assert again == fence, "tasks of one run share it, whatever they are called"
    with pytest.raises(RunConflictError, match="at work: DAG a, run 1, task load, map index 1") as caught:
        store.acquire("s", "id-2", now=NOW, seconds=60, label="DAG a, run 1, task load, map index 1")
    assert "id-1" not in str(caught.value)
    store.acquire("s", "id-1", now=NOW, seconds=60, fence=fence, label="DAG a, run 1, task commit")
    with pytest.raises(RunConflictError, match="at work: DAG a, run 1, task commit"):
        store.acquire("s", "id-2", now=NOW, seconds=60)


def test_a_lease_stored_by_an_earlier_version_lasts_until_it_runs_out(tmp_path: Path) -> None:
    """The holder is an id in one line; the label is for people."""
    old = {"holder": "DAG a, run 1", "fence": "3", "until": (NOW + timedelta(seconds=60)).isoformat()}
    assert FileValues(StateFiles(str(tmp_path)), "syncs/s/lease").swap(0, old)
    store = LakeStore(str(tmp_path))
    with pytest.raises(RunConflictError, match="at work: DAG a, run 1"):
        store.acquire("s", "id-1", now=NOW, seconds=60, label="DAG a, run 1, task t")
    assert store.acquire("s", "id-1", now=NOW + timedelta(seconds=60), seconds=60, label="DAG a, run 1, task t") == 4


@on_every_store
def test_a_released_or_expired_lease_can_be_taken_and_the_fencing_number_grows(store: StateStore) -> None:
    first = store.acquire("s", "a", now=NOW, seconds=60)
    store.release("s", fence=first)
    second = store.acquire("s", "b", now=NOW, seconds=60)
    third = store.acquire("s", "c", now=NOW + timedelta(seconds=60), seconds=60)
    assert first < second < third


def test_the_same_holder_takes_the_lease_again_at_once(store: StateStore) -> None:
    store.acquire("s", "a", now=NOW, seconds=60)
    store.acquire("s", "a", now=NOW, seconds=60)


@on_every_store
def test_a_holder_back_from_the_dead_can_neither_renew_nor_release(store: StateStore) -> None:
    dead = store.acquire("s", "a", now=NOW, seconds=60)
    alive = store.acquire("s", "b", now=NOW + timedelta(seconds=61), seconds=60)
    for later in (62, 500):
        with pytest.raises(RunConflictError):
            store.acquire("s", "a", now=NOW + timedelta(seconds=later), seconds=60, fence=dead)
    store.release("s", fence=dead)
    with pytest.raises(RunConflictError):
        store.acquire("s", "c", now=NOW + timedelta(seconds=62), seconds=60)
    assert store.acquire("s", "b", now=NOW + timedelta(seconds=62), seconds=60, fence=alive) == alive


def test_one_of_many_concurrent_runs_gets_the_lease(tmp_path: Path) -> None:
    winners: list[int] = []
    start = threading.Barrier(8)

    def take(number: int) -> None:
        store = LakeStore(str(tmp_path))
        start.wait()
        try:
            store.acquire("s", f"run {number}", now=NOW, seconds=60)
        except RunConflictError:
            return
        winners.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


async def test_a_lease_is_renewed_while_it_is_held_and_given_back_at_the_end(store: StateStore) -> None:
    clock = FrozenClock()
    async with held(store, "s", holder="a", clock=clock):
        while clock.monotonic() < 3 * DEFAULT_TIMING.lease:  # noqa: ASYNC110 - time passes by the renewals' own sleeps
            await asyncio.sleep(0.001)
        with pytest.raises(RunConflictError):
            store.acquire("s", "b", now=clock.now(), seconds=60)
    store.acquire("s", "b", now=clock.now(), seconds=60)


async def test_the_lease_of_a_run_that_was_killed_is_waited_for(store: StateStore) -> None:
    clock = FrozenClock()
    store.acquire("s", "killed", now=clock.now(), seconds=DEFAULT_TIMING.lease)
    async with held(store, "s", holder="next", clock=clock):
        assert clock.monotonic() >= DEFAULT_TIMING.lease


async def test_a_run_that_is_alive_is_waited_for_until_it_ends(store: StateStore) -> None:
    class AliveUntil(FrozenClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.monotonic() < 10 * DEFAULT_TIMING.lease:
                store.acquire("s", "alive", now=self.now(), seconds=DEFAULT_TIMING.lease, fence=fence)
            else:
                store.release("s", fence=fence)

    clock = AliveUntil()
    fence = store.acquire("s", "alive", now=clock.now(), seconds=DEFAULT_TIMING.lease, label="DAG a")
    waits: list[RunConflictError] = []
    async with held(store, "s", holder="next", clock=clock, on_wait=waits.append):
        assert 10 * DEFAULT_TIMING.lease <= clock.monotonic() < 11 * DEFAULT_TIMING.lease
    assert [error.what for error in waits] == ["another run of this sync is at work: DAG a"]


@on_every_store
async def test_who_can_defer_is_answered_at_once_until_when_another_run_holds_the_lease(store: StateStore) -> None:
    clock = FrozenClock()
    store.acquire("s", "alive", now=clock.now(), seconds=LONGEST_WAIT + 1, label="DAG a")
    with pytest.raises(RunConflictError, match="DAG a") as caught:
        async with held(store, "s", holder="next", clock=clock, deferrable=True):
            pass
    assert clock.monotonic() == 0
    assert caught.value.until == clock.now() + timedelta(seconds=LONGEST_WAIT + 1)


async def test_a_short_wait_is_waited_out_by_who_can_defer(store: StateStore) -> None:
    clock = FrozenClock()
    store.acquire("s", "killed", now=clock.now(), seconds=LONGEST_WAIT)
    async with held(store, "s", holder="next", clock=clock, deferrable=True):
        assert clock.monotonic() >= LONGEST_WAIT


async def test_a_holder_whose_clock_is_ahead_is_asked_for_again_after_two_minutes(store: StateStore) -> None:
    clock = FrozenClock()
    store.acquire("s", "ahead", now=clock.now() + timedelta(days=1), seconds=DEFAULT_TIMING.lease)
    with pytest.raises(RunConflictError) as caught:
        async with held(store, "s", holder="next", clock=clock, deferrable=True):
            pass
    assert caught.value.until == clock.now() + timedelta(seconds=DEFAULT_TIMING.lease)


@on_every_store
async def test_work_stops_when_the_lease_is_lost(store: StateStore) -> None:
    clock = FrozenClock()
    with pytest.raises(RunConflictError, match="usurper"):  # noqa: PT012 - the block is what is cancelled
        async with held(store, "s", holder="a", clock=clock):
            store.acquire("s", "usurper", now=clock.now() + timedelta(days=1), seconds=60)
            await asyncio.Event().wait()


async def test_a_run_that_lost_the_lease_fails_before_it_commits(store: StateStore) -> None:
    clock = StillClock()
    with pytest.raises(RunConflictError, match="usurper"):  # noqa: PT012 - the block is what fails
        async with held(store, "s", holder="a", clock=clock) as lease:
            store.acquire("s", "usurper", now=clock.now() + timedelta(days=1), seconds=60)
            await lease.renew()


async def test_a_lease_that_may_have_expired_is_checked(store: StateStore) -> None:
    """After a pause of the machine, the lease is renewed unless another run took it; then the work stops."""
    clock = StillClock()
    with pytest.raises(RunConflictError, match="usurper"):  # noqa: PT012 - the block is what fails
        async with held(store, "s", holder="a", clock=clock) as lease:
            clock.advance(DEFAULT_TIMING.lease + 1)
            await lease.check()
            with pytest.raises(RunConflictError):
                store.acquire("s", "usurper", now=clock.now() + timedelta(seconds=1), seconds=60)
            clock.advance(DEFAULT_TIMING.lease + 1)
            store.acquire("s", "usurper", now=clock.now(), seconds=60)
            await lease.check()
