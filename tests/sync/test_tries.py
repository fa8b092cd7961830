"""Two tries of one share: the later one takes over, whatever the earlier one does."""

from __future__ import annotations

import asyncio

import pytest

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.sync.load.loader import CONFIRM_SECONDS, Share
from tests.sync.world import World


async def test_a_stalled_try_sends_nothing_once_a_later_one_has_taken_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try is stopped before its second batch, as by SIGSTOP, and goes on when the second has ended."""
    world.values |= {"mode": "insert", "rate": {"batch_size": 10, "concurrency": 1}}
    plan = await world.planned([{"id": f"k{at:02}", "n": 1} for at in range(50)], "A")
    stopped = asyncio.Event()
    continued = asyncio.Event()
    send = world.destination.send
    sent_by_first: list[int] = []

    async def stall(batch: Batch) -> Receipts:
        if len(sent_by_first) == 20 and not stopped.is_set():
            stopped.set()
            await continued.wait()
            raise AssertionError("the first try went on")
        receipts = await send(batch)
        if not stopped.is_set():
            sent_by_first.extend(batch.seqs)
        return receipts

    monkeypatch.setattr(world.destination, "send", stall)
    first = world.steps("A")
    second = world.steps("A")
    async with first.lease(release=False), second.lease(release=False):
        share = Share.of(plan, 0, 1)
        stalled = asyncio.create_task(first.load(plan, world.destination, share))
        await stopped.wait()
        checkpoint = await second.load(plan, world.destination, share)
        world.clock.advance(CONFIRM_SECONDS + 1)
        stalled.cancel()
        with pytest.raises((asyncio.CancelledError, RunConflictError)):
            await stalled
    assert len(checkpoint.settled) == 50
