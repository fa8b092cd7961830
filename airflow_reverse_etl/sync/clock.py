"""The machine's clock, and the intervals of a run."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class RunTiming:
    """Intervals and limits of a run, in seconds.

    :param lease: time until a lease expires without a renewal, so how long the next run waits after its holder was
        killed.
    :param renewal: interval between renewals of the lease.
    :param waiting: interval between attempts to take a lease that another run holds.
    :param checkpoint: interval between checkpoints. After a crash, the next try sends the rows since the last one
        again, where that is safe.
    :param confirmation: time after which a load makes sure that no later try has begun before it sends anything more.
    :param grace: longest wait for the answers to requests in flight when the task is stopped. Each answer is saved at
        once, as the process may be killed sooner: Airflow kills a task 5 seconds after SIGTERM.
    :param removal_age: age from which a plan with removed rows is not sent: its records may be in the model again.
    :param collection: time that a run leaves another run's finished jobs to that run, before it collects them itself.
    """

    lease: float = 120.0
    renewal: float = 30.0
    waiting: float = 5.0
    checkpoint: float = 2.0
    confirmation: float = 10.0
    grace: float = 10.0
    removal_age: timedelta = timedelta(days=1)
    collection: float = 120.0


DEFAULT_TIMING = RunTiming()


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
