"""The rules of a lease, for stores that can compare and swap a few values."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.stores.compare_and_set import V, VersionedValues

#: How often a lease is tried for against others that try at the same moment.
_SWAPS = 20


def acquire(
    register: VersionedValues[V],
    sync: str,
    holder: str,
    *,
    now: datetime,
    seconds: float,
    fence: int | None = None,
    label: str = "",
) -> int:
    """:meth:`airflow_reverse_etl.sync.ports.StateStore.acquire`."""
    values: dict[str, str] = {}
    for at in range(_SWAPS):
        version, values = register.read()
        number = next_fence(values, sync, holder, now=now, fence=fence)
        if register.swap(version, lease(holder, number, now + timedelta(seconds=seconds), label=label)):
            return number
        time.sleep(random.uniform(0, 0.005 * at))
    raise taken(sync, values)


def release(register: VersionedValues[V], *, fence: int) -> None:
    """:meth:`airflow_reverse_etl.sync.ports.StateStore.release`."""
    for _ in range(_SWAPS):
        version, values = register.read()
        if values.get("fence") != str(fence) or register.swap(version, {**values, "until": ""}):
            return


def lease(holder: str, fence: int, until: datetime, *, label: str = "") -> dict[str, str]:
    """Build the values of a lease.

    ``holder`` and ``label`` are two lines of one value, as the tables have one column for both. Earlier versions stored
    one line, the words for people; no holder of today equals those, so such a lease lasts until it runs out.
    """
    return {"holder": f"{holder}\n{label}", "fence": str(fence), "until": until.isoformat()}


def next_fence(values: Mapping[str, str], sync: str, holder: str, *, now: datetime, fence: int | None) -> int:
    """The fencing number with which ``holder`` may take, or renew, the lease that these values are.

    :raises RunConflictError: it may not.
    """
    current = int(values.get("fence", 0))
    if fence is not None:
        if fence != current:
            raise taken(sync, values)
        return fence
    until = values.get("until")
    if until and datetime.fromisoformat(until) > now:
        if values["holder"].partition("\n")[0] != holder:
            raise taken(sync, values)
        return current
    return current + 1


def taken(sync: str, values: Mapping[str, str]) -> RunConflictError:
    """The error of who does not get the lease, naming who holds it."""
    until = values.get("until")
    holder, _, label = values.get("holder", "unknown").partition("\n")
    return RunConflictError(
        f"another run of this sync is at work: {label or holder}",
        todo="let it finish, then try again; set max_active_runs=1 on the DAG so that its runs follow each other, and "
        "order its tasks that run the same sync. "
        "If that run was killed, its lease runs out by itself" + (f" at {until}" if until else ""),
        sync=sync,
    )
