"""The fakes fail as their dials say, and otherwise keep the promises of the parts that they replace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome
from airflow_reverse_etl.sync.ports import Destination
from airflow_reverse_etl.testing import (
    CountingLimiter,
    CrashError,
    DestinationConformance,
    Dials,
    FakeDestination,
    FrozenClock,
    MemoryWarehouse,
    RecordingObserver,
)


class FakeRemote:
    def __init__(self) -> None:
        self.fake = FakeDestination()

    def create(self, mode: str) -> Destination:
        return self.fake

    async def stored(self) -> Mapping[str, str | None]:
        return {key: row["name"] for key, row in self.fake.rows.items()}

    def bad(self) -> dict[str, Any]:
        self.fake.dials.reject = ["bad"]
        return {"id": "bad", "name": "someone"}

    def throttle(self, times: int, seconds: float) -> None:
        self.fake.dials.throttle, self.fake.dials.retry_after = times, seconds

    def lose_answer(self) -> None:
        self.fake.dials.lose_answer = [1]

    def make_unique(self) -> None:
        self.fake.dials.unique = "name"

    async def stop(self) -> None:
        self.fake.dials.unsent = [1]


class TestConformance(DestinationConformance):
    strict = True
    reports_conflicts = True
    impossible: ClassVar = {"revoke": "it has no credentials"}

    @pytest.fixture
    def remote(self) -> FakeRemote:
        return FakeRemote()


def batch(*keys: str) -> Batch:
    return Batch(Operation.UPSERT, range(1, len(keys) + 1), keys, [{"id": key} for key in keys], "run")


@pytest.mark.parametrize(
    ("dials", "outcome", "written"),
    [
        (Dials(unsent=[1]), Outcome.RETRYABLE, 0),
        (Dials(throttle=1), Outcome.RETRYABLE, 0),
        (Dials(lose_request=[1]), Outcome.UNKNOWN, 0),
        (Dials(lose_answer=[1]), Outcome.UNKNOWN, 2),
        (Dials(refuse=["b"]), Outcome.REJECTED, 0),
        (Dials(), Outcome.ACCEPTED, 2),
    ],
)
async def test_a_dial_decides_outcome_and_what_is_written(dials: Dials, outcome: Outcome, written: int) -> None:
    destination = FakeDestination(dials)
    receipts = await destination.send(batch("a", "b"))
    assert (receipts.of("a").outcome, len(destination.rows)) == (outcome, written)
    assert receipts.refused_whole is bool(dials.refuse)


async def test_a_crash_comes_after_the_write() -> None:
    destination = FakeDestination(Dials(crash=[1]))
    with pytest.raises(CrashError):
        await destination.send(batch("a"))
    await destination.send(batch("a"))
    assert list(destination.table.repeated()) == [(Operation.UPSERT, "a")]


async def test_the_clock_moves_when_somebody_sleeps() -> None:
    clock = FrozenClock()
    before = clock.now()
    await clock.sleep(3600)
    clock.advance(1)
    assert ((clock.now() - before).total_seconds(), clock.monotonic(), clock.slept) == (3601, 3601, [3600])


def test_the_observer_keeps_what_it_is_told() -> None:
    observer = RecordingObserver()
    observer.event("progress", settled=1)
    observer.event("other")
    assert observer.named("progress") == [{"settled": 1}]


def test_a_memory_warehouse_answers_any_select() -> None:
    warehouse = MemoryWarehouse({"t": [{"id": 1, "name": "Ada"}]})
    warehouse.set("t", [{"id": 2, "name": "Grace"}])
    query = "select upper(name) as name from t"
    assert [column.name for column in warehouse.columns(query)] == ["name"]
    assert warehouse.read(query).read_all().to_pylist() == [{"name": "GRACE"}]


async def test_the_limiter_counts() -> None:
    limiter = CountingLimiter()
    await limiter.acquire()
    assert limiter.count == 1
