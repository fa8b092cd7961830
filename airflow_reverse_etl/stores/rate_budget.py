"""A budget of requests shared by tasks on many workers, of any DAG."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_reverse_etl.errors import UnreachableError
from airflow_reverse_etl.stores.compare_and_set import FileValues

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

_ATTEMPTS = 200
#: Time for which old reservations are kept. They are many, and only delay requests.
_KEPT = timedelta(minutes=10)


class FileBudget:
    """Budgets under the state URL, one for each name. Implements :class:`~airflow_reverse_etl.sync.ports.RateBudget`.

    A reservation is a span of time for one task alone. Tasks queue for the next span, so the cost of a reservation
    does not grow with their number. Workers' clocks are assumed to agree to within a fraction of a second.
    """

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def reserve(self, name: str, tokens: int, *, rate: float, now: datetime) -> float:
        """Reserve tokens: :meth:`airflow_reverse_etl.sync.ports.RateBudget.reserve`.

        :raises UnreachableError: the storage did not answer, or too many tasks reserve at the same moment.
        """
        stored = FileValues(self._files, f"budgets/{quote(name, safe='')}", kept=_KEPT)
        for _ in range(_ATTEMPTS):
            version, values = stored.read()
            # Reserve the time that these tokens take, from when the budget is free.
            free_at = datetime.fromisoformat(values["free_at"]) if values else now
            start = max(free_at, now)
            end = start + timedelta(seconds=tokens / rate)
            if stored.swap(version, {"free_at": end.isoformat()}):
                return (start - now).total_seconds()
            # Another task was faster. Sleeping is safe: the caller runs this in a thread of its own.
            time.sleep(random.uniform(0.001, 0.05))
        raise UnreachableError(
            "the budget of requests could not be reserved: too many tasks reserve at once",
            todo="lower the number of partitions if the next try fails too; it resumes by itself",
            connection=name,
        )
