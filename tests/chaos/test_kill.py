"""Real processes, killed anywhere: what is promised holds when their retries, or the next runs, have finished.

``REVERSE_ETL_KILLS`` is how many are killed in all (default 24), ``REVERSE_ETL_STALLS`` how many are stopped for a
while (default 12); ``REVERSE_ETL_SEED`` repeats a run of this test.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.life import PATIENCE, REFUSED, Life, life, new_database

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("REVERSE_ETL_KILLS", "24"))
STALLS = int(os.environ.get("REVERSE_ETL_STALLS", "12"))
SEED = int(os.environ.get("REVERSE_ETL_SEED", "0"))
LAKE = [
    ("upsert", "resend"),
    ("mirror", "resend"),
    ("insert", "resend"),
    ("insert", "accept"),
    ("append", "resend"),
    ("append", "accept"),
]
TABLES = [("mirror", "resend"), ("insert", "accept"), ("append", "resend")]


async def survive(it: Life, wanted: Counter[str]) -> None:
    """Kill processes until each step was hit as often as wanted, then let the last run finish."""
    longest: dict[str, float] = {}
    it.next_run()
    planned = False
    for _ in range(20 * wanted.total()):
        left = list((wanted - it.killed).elements())
        if not left:
            break
        step = it.random.choice([step for step in left if step != "plan" or not planned] or ["start"])
        hit = await it.kill(step, longest)
        planned = planned or not (hit and step in ("start", "plan"))
        if not hit or it.random.random() < 0.25:
            it.next_run()
            planned = False
    await it.finish()


async def killed_anywhere(it: Life) -> None:
    share = max(KILLS // (len(LAKE) + len(TABLES)), 5)
    wanted = Counter(plan=share // 5, commit=share // 4)
    wanted["load"] = share - wanted.total()
    await survive(it, wanted)
    it.check()
    assert all(it.killed[step] >= times for step, times in wanted.items())


@pytest.mark.parametrize(("mode", "on_unknown"), LAKE)
async def test_killed_anywhere_with_state_in_files(tmp_path: Path, mode: str, on_unknown: str) -> None:
    async with life(tmp_path, mode, on_unknown, seed=SEED) as it:
        await killed_anywhere(it)


@pytest.mark.parametrize(("mode", "on_unknown"), TABLES)
@pytest.mark.slow
async def test_killed_anywhere_with_state_in_postgres(
    tmp_path: Path, postgres: str, mode: str, on_unknown: str
) -> None:
    async with life(tmp_path, mode, on_unknown, seed=SEED, postgres=new_database(postgres)) as it:
        await killed_anywhere(it)


async def stalled_anywhere(it: Life, stalls: int) -> None:
    longest: dict[str, float] = {}
    hit = 0
    for _ in range(10 * stalls):
        it.next_run()
        hit += await it.stall(longest)
        if hit == stalls:
            break
    await it.finish()
    it.check()
    assert hit == stalls


@pytest.mark.parametrize(("mode", "on_unknown"), LAKE)
async def test_stalled_while_its_retry_ends_with_state_in_files(tmp_path: Path, mode: str, on_unknown: str) -> None:
    """A paused machine, or a task that Airflow took for dead: its retry has taken over when it goes on."""
    async with life(tmp_path, mode, on_unknown, seed=SEED) as it:
        await stalled_anywhere(it, max(STALLS // (len(LAKE) + len(TABLES)), 2))


@pytest.mark.parametrize(("mode", "on_unknown"), TABLES)
@pytest.mark.slow
async def test_stalled_while_its_retry_ends_with_state_in_postgres(
    tmp_path: Path, postgres: str, mode: str, on_unknown: str
) -> None:
    async with life(tmp_path, mode, on_unknown, seed=SEED, postgres=new_database(postgres)) as it:
        await stalled_anywhere(it, max(STALLS // (len(LAKE) + len(TABLES)), 2))


async def test_two_runs_at_once_follow_each_other(tmp_path: Path) -> None:
    """The second waits for the first, as long as a lease lasts, and then goes on by itself."""
    async with life(tmp_path, "mirror", seed=SEED) as it:
        it.next_run()
        async with it.process(lease=PATIENCE) as first:
            assert await first.reached("load")
            it.next_run()
            async with it.process(lease=PATIENCE) as second:
                pass
        assert first.report.accepted
        assert second.report.accepted
        assert second.times["plan"] > first.times["committed"]
        it.check()


async def test_a_run_that_comes_back_from_the_dead_changes_nothing(tmp_path: Path) -> None:
    """Stopped, as by a paused machine, until its lease ran out and the next run has taken over and finished."""
    async with life(tmp_path, "mirror", seed=SEED) as it:
        it.next_run()
        it.api.dials.latency = 0.5  # stopped while it waits for answers: what it is writing could not be called back
        async with it.process() as zombie:
            assert await zombie.reached("load")
            # The first batch goes alone. After its answer all workers wait for theirs, and none is about to send.
            in_flight = 1 + it.sync()["rate"]["concurrency"]
            while len(it.api.requests) < in_flight:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
            zombie.signal(signal.SIGSTOP)
            await asyncio.sleep(0.6)
            it.api.dials.latency = 0.0
            it.next_run()
            report = await it.finish()
            sent = len(it.api.requests)
            zombie.signal(signal.SIGCONT)
        assert zombie.result[0] == "RunConflictError"
        assert "committed" not in zombie.times
        assert len(it.api.requests) == sent, "it sends nothing any more"
        assert report.accepted
        it.check()
        assert (await it.finish()).planned.total == len(REFUSED & set(it.source)), "the state is right, too"
