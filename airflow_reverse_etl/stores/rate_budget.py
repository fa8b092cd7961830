"""A budget of requests shared by tasks on many workers, of any DAG."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.stores.compare_and_set import FileValues

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

_log = logging.getLogger(__name__)

_ATTEMPTS = 200
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
            start = max(_free_at(name, values, now), now + timedelta(seconds=lead))
            end = start + timedelta(seconds=tokens / rate)
            if stored.swap(version, {"free_at": end.isoformat(), "made_at": now.isoformat()}):
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

    def _stored(self, name: str) -> FileValues:
        return FileValues(self._files, f"budgets/{quote(name, safe='')}", kept=_KEPT)


def _free_at(name: str, values: Mapping[str, str], now: datetime) -> datetime:
    """Return when the stored reservations end, by this worker's clock.

    Earlier versions did not store when a reservation was made. Theirs are over after two seconds, and do not count.
    """
    if "made_at" not in values:
        return now
    free_at = datetime.fromisoformat(values["free_at"])
    ahead = datetime.fromisoformat(values["made_at"]) - now
    if ahead < _AHEAD:
        return free_at
    _log.warning(
        "Connection %r: a worker's clock is %d seconds ahead of this worker's; requests may exceed the rate",
        name,
        ahead.total_seconds(),
    )
    return free_at - ahead
