"""A budget of requests that tasks on many workers, of any DAG, draw from."""

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

_TRIES = 200


class FileBudget:
    """Budgets under the state URL, one for each name. Implements :class:`~airflow_reverse_etl.sync.ports.RateBudget`.

    A reservation is a stretch of time that nobody else gets, so its cost does not grow with the number of tasks: they
    queue for it. Workers' clocks are taken to agree to within a fraction of a second.
    """

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def reserve(self, name: str, tokens: int, *, rate: float, now: datetime) -> float:
        """See the protocol.

        :raises UnreachableError: the storage did not answer, or too many others reserve at the same moment.
        """
        register = FileValues(self._files, f"budgets/{quote(name, safe='')}")
        for _ in range(_TRIES):
            version, values = register.read()
            free_at = datetime.fromisoformat(values["free_at"]) if values else now
            start = max(free_at, now)
            if register.swap(version, {"free_at": (start + timedelta(seconds=tokens / rate)).isoformat()}):
                return (start - now).total_seconds()
            time.sleep(random.uniform(0.001, 0.05))  # in a thread of its own; others were faster
        raise UnreachableError(
            "could not draw from the budget of requests: too many tasks draw from it at once",
            todo="nothing by hand: the next try goes on; lower the number of partitions if this comes back",
            connection=name,
        )
