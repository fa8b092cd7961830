"""A budget of requests and open jobs shared by tasks on many workers, of any DAG."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.stores.compare_and_set import FileValues
from airflow_reverse_etl.sync.ports import DailyGrant

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

_log = logging.getLogger(__name__)

_ATTEMPTS = 200
#: Form of the hours by which requests of a day are counted.
_HOUR = "%Y-%m-%dT%H"
#: Difference of two workers' clocks from which on a reservation counts by its length. A smaller difference may be the
#: time that the storage took.
_AHEAD = timedelta(seconds=10)
#: Time for which old reservations are kept. They are many, and only delay requests.
_KEPT = timedelta(minutes=10)


class FileBudget:
    """Budgets under the state URL, one for each name. Implements :class:`~airflow_reverse_etl.sync.ports.RateBudget`.

    A reservation is a span of time for one task alone. Tasks queue for the next span, so the cost of a reservation
    does not grow with their number. Workers' clocks are assumed to agree to within a fraction of a second. The
    reservation of a worker whose clock is far ahead counts by its length, so that nobody waits for that clock.
    """

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def reserve(self, name: str, tokens: int, *, rate: float, now: datetime, lead: float = 0.0) -> float:
        """Reserve tokens: :meth:`airflow_reverse_etl.sync.ports.RateBudget.reserve`.

        :raises UnreachableError: the storage did not answer, or too many tasks reserve at the same moment.
        """
        stored = self._stored(name)
        for _ in range(_ATTEMPTS):
            version, values = stored.read()
            # Reserve the time that these tokens take, from when the budget is free.
            earliest = now + timedelta(seconds=lead)
            start = max(earliest, _time(name, values, "free_at", "made_at", now), _paused_until(name, values, now))
            end = start + timedelta(seconds=tokens / rate)
            if stored.swap(version, {**values, "free_at": end.isoformat(), "made_at": now.isoformat()}):
                return (start - now).total_seconds()
            # Another task was faster. Sleeping is safe: the caller runs this in a thread of its own.
            time.sleep(random.uniform(0.001, 0.05))
        raise UnreachableError(
            "the budget of requests could not be reserved: too many tasks reserve at once",
            todo="lower the number of partitions if the next try fails too; it resumes by itself",
            connection=name,
        )

    def give_back(self, name: str, seconds: float, *, end: datetime) -> None:
        """Shorten a reservation: :meth:`airflow_reverse_etl.sync.ports.RateBudget.give_back`.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._stored(name)
        version, values = stored.read()
        if values.get("free_at") == end.isoformat():
            stored.swap(version, {**values, "free_at": (end - timedelta(seconds=seconds)).isoformat()})

    def pause(self, name: str, seconds: float, *, now: datetime) -> float:
        """Let no task send a request: :meth:`airflow_reverse_etl.sync.ports.RateBudget.pause`.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._stored(name)
        while True:
            version, values = stored.read()
            left = (_paused_until(name, values, now) - now).total_seconds()
            if left >= seconds / 2:
                return left
            end = now + timedelta(seconds=seconds)
            if stored.swap(version, {**values, "paused_until": end.isoformat(), "paused_at": now.isoformat()}):
                return seconds
            # Another task was faster; its change may be a pause.
            time.sleep(random.uniform(0.001, 0.05))

    def draw(self, name: str, requests: int, *, per_day: int, now: datetime, day: timedelta) -> DailyGrant:
        """Take requests out of a day's allowance: :meth:`airflow_reverse_etl.sync.ports.RateBudget.draw`.

        They are counted by the hour, and an hour counts as long as a part of it lies within the day.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._days(name)
        while True:
            version, values = stored.read()
            hours = {hour: int(count) for hour, count in values.items() if _end_of(hour) > now - day}
            granted = max(0, min(requests, per_day - sum(hours.values())))
            # An hour without requests holds no request back.
            more_at = min((_end_of(hour) for hour, count in hours.items() if count), default=now) + day
            if granted == 0:
                return DailyGrant(0, more_at)
            hour = f"{now:{_HOUR}}"
            hours[hour] = hours.get(hour, 0) + granted
            if stored.swap(version, {name: str(count) for name, count in hours.items()}):
                return DailyGrant(granted, more_at)
            time.sleep(random.uniform(0.001, 0.05))

    def return_unused(self, name: str, requests: int) -> None:
        """Return requests to a day's allowance: :meth:`airflow_reverse_etl.sync.ports.RateBudget.return_unused`.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._days(name)
        version, values = stored.read()
        # They were drawn in this hour or an earlier one. If another task is faster, they stay counted.
        for hour in sorted(values, reverse=True):
            returned = min(requests, int(values[hour]))
            values[hour] = str(int(values[hour]) - returned)
            requests -= returned
        stored.swap(version, values)

    def take_slot(self, name: str, holder: str, *, most: int, now: datetime, until: datetime) -> bool:
        """Take or keep a slot of open jobs: :meth:`airflow_reverse_etl.sync.ports.RateBudget.take_slot`.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._slots(name)
        while True:
            version, values = stored.read()
            taken = {job: end for job, end in values.items() if datetime.fromisoformat(end) > now}
            if holder not in taken and len(taken) >= most:
                return False
            if stored.swap(version, {**taken, holder: until.isoformat()}):
                return True
            time.sleep(random.uniform(0.001, 0.05))

    def free_slot(self, name: str, holder: str) -> None:
        """Free a slot: :meth:`airflow_reverse_etl.sync.ports.RateBudget.free_slot`.

        :raises UnreachableError: the storage did not answer.
        """
        stored = self._slots(name)
        while True:
            version, values = stored.read()
            if holder not in values:
                return
            if stored.swap(version, {job: end for job, end in values.items() if job != holder}):
                return
            time.sleep(random.uniform(0.001, 0.05))

    def _stored(self, name: str) -> FileValues:
        return FileValues(self._files, f"budgets/{quote(name, safe='')}", kept=_KEPT)

    def _days(self, name: str) -> FileValues:
        return FileValues(self._files, f"daily_budgets/{quote(name, safe='')}")

    def _slots(self, name: str) -> FileValues:
        return FileValues(self._files, f"job_slots/{quote(name, safe='')}", kept=_KEPT)


def _end_of(hour: str) -> datetime:
    return datetime.strptime(hour, _HOUR).replace(tzinfo=UTC) + timedelta(hours=1)


def _paused_until(name: str, values: Mapping[str, str], now: datetime) -> datetime:
    return _time(name, values, "paused_until", "paused_at", now)


def _time(name: str, values: Mapping[str, str], time: str, made_at: str, now: datetime) -> datetime:
    """Return a stored time by this worker's clock, or the present time if it is not stored.

    Earlier versions did not store when a reservation was made. Theirs are over after two seconds, and do not count.
    """
    if made_at not in values:
        return now
    free_at = datetime.fromisoformat(values[time])
    ahead = datetime.fromisoformat(values[made_at]) - now
    if ahead < _AHEAD:
        return free_at
    _log.warning(
        "Connection %r: a worker's clock is %d seconds ahead of this worker's; requests may exceed the rate",
        name,
        ahead.total_seconds(),
    )
    return free_at - ahead
