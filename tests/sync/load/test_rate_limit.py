"""The rate of requests, of one load and of several that share a budget. Time is simulated: nothing waits."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.rate_budget import FileBudget
from airflow_reverse_etl.sync.load.rate_limit import USED, Pace
from airflow_reverse_etl.sync.ports import DailyLimitError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Simulation:
    """A clock for several tasks at once: it moves to the next end of a sleep when all of them sleep."""

    def __init__(self) -> None:
        self.time = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, next(self._number), woken))
        await woken

    async def run(self, works: Iterable[Awaitable[None]], *, until: float = math.inf) -> None:
        tasks = [asyncio.ensure_future(work) for work in works]
        while not all(task.done() for task in tasks):
            for _ in range(20):  # let every task reach its next sleep
                await asyncio.sleep(0)
            if not self._sleepers or self._sleepers[0][0] > until:
                break
            self.time, _, woken = heapq.heappop(self._sleepers)
            if not woken.cancelled():
                woken.set_result(None)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in results if isinstance(error, Exception)] == []


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


@pytest.fixture
def slow_store(monkeypatch: pytest.MonkeyPatch, simulation: Simulation) -> Callable[[float], None]:
    """Let each call of the store take up to so many seconds before it has an effect, and as much after."""

    def set_seconds(seconds: float) -> None:
        chance = random.Random(1)

        async def to_thread(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            await simulation.sleep(chance.uniform(0, seconds))
            result = function(*args, **options)
            await simulation.sleep(chance.uniform(0, seconds))
            return result

        monkeypatch.setattr(asyncio, "to_thread", to_thread)

    set_seconds(0)
    return set_seconds


@pytest.fixture
def budget(tmp_path: Path) -> FileBudget:
    return FileBudget(StateFiles(str(tmp_path)))


def most_in_a_second(times: list[float]) -> int:
    """Return the highest number of requests in any window of a second."""
    ordered = sorted(times)
    return max(sum(start <= time < start + 1 - 1e-6 for time in ordered) for start in ordered)


async def send(pace: Pace, clock: Simulation, times: list[float], *, seconds: float = 0.1) -> None:
    """Send requests for ever, each of which takes so many seconds."""
    while True:
        await pace.acquire()
        times.append(clock.monotonic())
        await clock.sleep(seconds)


async def test_the_requests_of_one_load_are_spaced_evenly(simulation: Simulation) -> None:
    times: list[float] = []
    pace = Pace(4, simulation)
    await simulation.run([send(pace, simulation, times, seconds=0) for _ in range(3)], until=1.1)
    assert times == [0.0, 0.25, 0.5, 0.75, 1.0]
    simulation.time = 99.0
    await simulation.run([send(pace, simulation, times, seconds=0)], until=99.3)
    assert times[5:] == [99.0, 99.25], "unused time does not add up to a burst"


async def test_a_rate_that_the_destination_states_replaces_its_default_and_not_that_of_a_sync(
    simulation: Simulation,
) -> None:
    times: list[float] = []
    paces = [Pace(1, simulation, learns=True), Pace(1, simulation)]
    for pace in paces:
        pace.note_allowed(4 / USED)
    await simulation.run([send(paces[0], simulation, times, seconds=0)], until=1.1)
    assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    await simulation.run([send(paces[1], simulation, times, seconds=0)], until=3.2)
    assert len(times) == 5 + 3


async def test_requests_are_spaced_evenly_after_a_pause_too(simulation: Simulation) -> None:
    times: list[float] = []
    pace = Pace(4, simulation)

    async def pause() -> None:
        await simulation.sleep(0.4)
        pace.pause(10)

    await simulation.run([pause(), *(send(pace, simulation, times) for _ in range(8))], until=11.3)
    assert times == pytest.approx([0.0, 0.25, 10.4, 10.65, 10.9, 11.15])


async def test_a_pause_holds_without_a_rate(simulation: Simulation) -> None:
    times: list[float] = []
    pace = Pace(None, simulation)
    pace.pause(5)
    await simulation.run([send(pace, simulation, times, seconds=1)], until=6.5)
    assert times == [5.0, 6.0]


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2, 1.0])
async def test_loads_together_never_exceed_the_rate_however_slow_the_store(
    simulation: Simulation, slow_store: Callable[[float], None], budget: FileBudget, seconds: float
) -> None:
    slow_store(seconds)
    times: list[float] = []
    paces = [Pace(20, simulation, budget, "crm") for _ in range(8)]
    works = [send(pace, simulation, times) for pace in paces for _ in range(4)]
    await simulation.run(works, until=60)
    assert most_in_a_second(times) <= 21
    assert len(times) > 60 * 20 * 0.85, "and nearly use it"


async def test_slow_loads_leave_the_rate_to_others(
    simulation: Simulation, slow_store: Callable[[float], None], budget: FileBudget
) -> None:
    """A load that waits two seconds for each answer reserves one request at a time."""
    slow_store(0.02)
    fast: list[float] = []
    slow: list[float] = []
    paces = [Pace(20, simulation, budget, "crm") for _ in range(5)]
    works = [send(pace, simulation, slow, seconds=2) for pace in paces[1:]]
    works += [send(paces[0], simulation, fast) for _ in range(8)]
    await simulation.run(works, until=60)
    assert most_in_a_second(fast + slow) <= 21
    assert len(fast + slow) > 60 * 20 * 0.75
    assert len(slow) > 4 * 60 / (2 + 2.2) * 0.9, "each waits for a span of the fast one, and for its answer"


async def test_a_load_gives_back_what_it_leaves(
    simulation: Simulation, slow_store: Callable[[float], None], budget: FileBudget
) -> None:
    times: list[float] = []
    pace = Pace(20, simulation, budget, "crm")
    # Until 3.3 the load reserves 1, 2, 4, 8, 16 and 32 requests, then 40: until 5.15.
    await simulation.run([send(pace, simulation, times, seconds=0)], until=3.3)
    await simulation.run([pace.close()])
    assert budget.reserve("crm", 1, rate=20, now=simulation.now()) == pytest.approx(0.05, abs=0.06)


async def test_nothing_is_given_back_that_another_load_has_queued_behind(
    simulation: Simulation, slow_store: Callable[[float], None], budget: FileBudget
) -> None:
    pace = Pace(20, simulation, budget, "crm")
    await simulation.run([send(pace, simulation, [], seconds=0)], until=3.3)
    now = simulation.now()
    wait = budget.reserve("crm", 20, rate=20, now=now)
    await simulation.run([pace.close()])
    assert budget.reserve("crm", 1, rate=20, now=now) == pytest.approx(wait + 1)


async def test_a_store_that_fails_when_a_load_ends_fails_nothing(simulation: Simulation) -> None:
    asked = []

    class Failing:
        def reserve(self, name: str, tokens: int, **_: Any) -> float:
            return 0.0

        def give_back(self, name: str, seconds: float, **_: Any) -> None:
            asked.append(name)
            raise UnreachableError("the state storage failed")

    pace = Pace(20, simulation, Failing(), "crm")
    await pace.acquire()
    simulation.time += 10
    await pace.acquire()  # the second span has two requests
    await pace.close()
    assert asked == ["crm"]


def test_a_reservation_by_a_clock_that_is_ahead_counts_by_its_length(
    budget: FileBudget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("airflow_reverse_etl.stores.rate_budget")
    monkeypatch.setattr(log, "disabled", False)  # as Airflow leaves it, if a test before has loaded its configuration
    monkeypatch.setattr(log, "propagate", True)
    assert budget.reserve("crm", 40, rate=20, now=NOW + timedelta(hours=1)) == 0.0
    with caplog.at_level(logging.WARNING):
        assert budget.reserve("crm", 40, rate=20, now=NOW) == 2.0
    assert "'crm': a worker's clock is 3600 seconds ahead" in caplog.text
    caplog.clear()
    assert budget.reserve("crm", 40, rate=20, now=NOW + timedelta(seconds=1)) == 3.0
    assert not caplog.records, "the reservation of this worker's own clock is the present one"


def test_clocks_that_differ_a_little_are_not_worth_a_warning(
    budget: FileBudget, caplog: pytest.LogCaptureFixture
) -> None:
    budget.reserve("crm", 40, rate=20, now=NOW + timedelta(seconds=0.5))
    assert budget.reserve("crm", 40, rate=20, now=NOW) == 2.5
    assert not caplog.records


def test_a_span_begins_after_the_time_that_reserving_takes(budget: FileBudget) -> None:
    assert budget.reserve("crm", 20, rate=20, now=NOW, lead=0.3) == pytest.approx(0.3)
    assert budget.reserve("crm", 20, rate=20, now=NOW, lead=0.3) == pytest.approx(1.3)


async def take_all(pace: Pace) -> int:
    """Send requests until none may be sent today; return their number."""
    for sent in count():
        try:
            await pace.acquire()
        except DailyLimitError:
            return sent
    raise AssertionError


@pytest.mark.parametrize("tasks", [1, 7])
async def test_all_tasks_draw_from_one_allowance_a_day(simulation: Simulation, budget: FileBudget, tasks: int) -> None:
    paces = [Pace(None, simulation, budget, "crm", per_day=500) for _ in range(tasks)]
    assert sum([await take_all(pace) for pace in paces]) == 500
    another = Pace(None, simulation, budget, "other", per_day=5)
    assert await take_all(another) == 5


async def test_requests_that_were_not_sent_are_returned(simulation: Simulation, budget: FileBudget) -> None:
    first = Pace(None, simulation, budget, "crm", per_day=500)
    for _ in range(100):
        await first.acquire()
    await first.close()
    assert await take_all(Pace(None, simulation, budget, "crm", per_day=500)) == 400


async def test_a_day_is_any_24_hours(simulation: Simulation, budget: FileBudget) -> None:
    """Requests are counted by the hour, so that an hour more than needed may pass until they may be sent again."""
    simulation.time = 1800.0
    assert await take_all(Pace(None, simulation, budget, "crm", per_day=40)) == 40
    spent = Pace(None, simulation, budget, "crm", per_day=40)
    assert await take_all(spent) == 0
    assert spent.spent_until == NOW + timedelta(hours=25)
    simulation.time = timedelta(hours=24, minutes=29).total_seconds()
    assert await take_all(Pace(None, simulation, budget, "crm", per_day=40)) == 0
    simulation.time = timedelta(hours=25, seconds=1).total_seconds()
    assert await take_all(Pace(None, simulation, budget, "crm", per_day=40)) == 40


async def test_without_a_connection_the_limit_is_that_of_the_load(simulation: Simulation) -> None:
    assert await take_all(Pace(None, simulation, per_day=3)) == 3


async def test_a_remote_may_state_that_nothing_is_left_today(simulation: Simulation) -> None:
    pace = Pace(None, simulation)
    pace.note_left_today(1)
    await pace.acquire()
    pace.note_left_today(0)
    assert await take_all(pace) == 0


@pytest.mark.usefixtures("slow_store")
async def test_a_pause_holds_back_every_task(simulation: Simulation, budget: FileBudget) -> None:
    times: list[float] = []

    async def be_refused() -> None:
        await Pace(10, simulation, budget, "crm").pause_all(20)

    async def send_later() -> None:
        await simulation.sleep(1)
        await send(Pace(10, simulation, budget, "crm"), simulation, times)

    await simulation.run([be_refused(), send_later()], until=25)
    assert times[0] >= 20


async def test_a_task_joins_the_pause_of_another(simulation: Simulation, budget: FileBudget) -> None:
    first = Pace(None, simulation, budget, "crm")
    second = Pace(None, simulation, budget, "crm")
    await first.pause_all(12)
    simulation.time = 3.0
    await second.pause_all(16)
    assert second.paused == 16, "until the own wait is over, at least"
    await first.pause_all(5)
    assert first.paused == 9, "a pause is not shortened"
