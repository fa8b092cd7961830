"""Trigger that waits for jobs of a destination, without a worker slot."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError
from airflow_reverse_etl.spec.receipts import JobRef, JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from airflow_reverse_etl.sync.ports import PollsJobs

#: Airflow fails a deferred task whose trigger fires before the scheduler has noted the deferral (apache/airflow#66374).
_SHORTEST_SECONDS = 15.0


class JobTrigger(BaseTrigger):
    """Fires when none of some jobs is at work any more, or at a deadline. It reads no result.

    The trigger never raises. If it cannot ask, because the type cannot be imported here or the credentials are wrong,
    its event has ``error``: the task then asks for itself, on its worker, and reports what is wrong.

    :param destination_type: destination type of the jobs.
    :param connection: Airflow connection id; empty for a type without connection.
    :param refs: the jobs, as :meth:`JobRef.to_json` returns them. They have ids and row numbers only.
    :param interval: seconds between polls; at least 15 pass before the first.
    :param deadline: time at which it fires in any case, in ISO 8601.
    """

    #: Not a part of what :meth:`serialize` returns.
    sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(
        self, destination_type: str, connection: str, refs: Sequence[dict[str, Any]], interval: float, deadline: str
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.destination_type = destination_type
        self.connection = connection
        self.refs = list(refs)
        self.interval = interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, as plain JSON."""
        names = ("destination_type", "connection", "refs", "interval", "deadline")
        place = f"{type(self).__module__}.{type(self).__qualname__}"
        return place, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until no job is at work."""
        deadline = datetime.fromisoformat(self.deadline)
        waiting = list(map(JobRef.from_json, self.refs))
        delay = max(self.interval, _SHORTEST_SECONDS)
        while waiting:
            left = (deadline - datetime.now(UTC)).total_seconds()
            await self.sleep(min(delay, max(left, _SHORTEST_SECONDS)))
            delay = max(self.interval, 1.0)
            if datetime.now(UTC) >= deadline:
                break
            try:
                waiting = await self._at_work(waiting)
            except ConfigurationError as error:
                yield _event({"error": str(error)})
                return
            except Exception as error:  # noqa: BLE001 - Airflow restarts a trigger that raises every few seconds
                text = str(error) if isinstance(error, ReverseEtlError) else type(error).__name__
                self.log.warning("Polling again in %d s: %s", delay, text)
        yield _event({"at_work": [ref.job for ref in waiting]})

    async def _at_work(self, refs: list[JobRef]) -> list[JobRef]:
        """Return the jobs that are still at work."""
        destination = await self._destination()
        await destination.open(_NoLimit())
        try:
            return [ref for ref in refs if await destination.poll(ref) is JobState.RUNNING]
        finally:
            await destination.close()

    async def _destination(self) -> PollsJobs:
        from airflow_reverse_etl.connections import async_connection_info
        from airflow_reverse_etl.destinations.registry import create_for_jobs

        connection = await async_connection_info(self.connection) if self.connection else None
        return create_for_jobs(self.destination_type, connection=connection)


class _NoLimit:
    """Limiter of a few requests a minute."""

    async def acquire(self) -> None:
        return


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
