"""Two tries of one share: the later one takes over, whatever the earlier one does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.sync.clock import DEFAULT_TIMING
from airflow_reverse_etl.sync.load.checkpoint_writer import CheckpointWriter
from airflow_reverse_etl.sync.load.share import Share
from tests.sync.world import World, many


def rows_sent(world: World) -> list[Any]:
    return [record for batch in world.destination.batches for record in batch.records]


async def test_a_stalled_try_sends_nothing_once_a_later_one_has_taken_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try is stopped before its third batch, as by SIGSTOP, and goes on when the second has ended."""
    world.values |= {"mode": "insert", "rate": {"batch_size": 10, "concurrency": 1}}
    plan = await world.planned(many(50), "A")
    share = Share.of(plan, 0, 1)
    stopped = asyncio.Event()
    go_on = asyncio.Event()
    check = CheckpointWriter.check

    async def stall(writer: CheckpointWriter) -> None:
        if writer is writers[0] and len(rows_sent(world)) >= 20:
            stopped.set()
            await go_on.wait()
        await check(writer)

    writers: list[CheckpointWriter] = []
    create = CheckpointWriter.__init__

    def remember(writer: CheckpointWriter, *arguments: Any, **options: Any) -> None:
        create(writer, *arguments, **options)
        writers.append(writer)

    monkeypatch.setattr(CheckpointWriter, "__init__", remember)
    monkeypatch.setattr(CheckpointWriter, "check", stall)
    first, second = world.steps("A"), world.steps("A")
    async with first.lease(release=False), second.lease(release=False):
        stalled = asyncio.create_task(first.load(plan, world.destination, share))
        await stopped.wait()
        before = len(rows_sent(world))
        checkpoint = (await second.load(plan, world.destination, share)).checkpoint
        sent = len(rows_sent(world))
        world.clock.advance(DEFAULT_TIMING.confirmation + 1)
        go_on.set()
        with pytest.raises(RunConflictError, match="a later try of this task has taken over"):
            await stalled
    assert len(checkpoint.settled) == 50
    assert (before, len(rows_sent(world))) == (20, sent)
    report = await world.run(run_id="A")
    assert sent - 50 <= report.unknown, "what the first try had announced and not settled was in doubt"
