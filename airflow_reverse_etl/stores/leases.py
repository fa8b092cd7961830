"""The rules of a lease, for stores that change a few values by compare-and-set."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from airflow_reverse_etl.errors import RunConflictError, StateError, UnreachableError
from airflow_reverse_etl.stores.compare_and_set import V, VersionedValues

#: Attempts to change a lease that other workers change at the same moment.
_ATTEMPTS = 20


def acquire(
    stored: VersionedValues[V],
    sync: str,
    holder: str,
    *,
    now: datetime,
    seconds: float,
    fence: int | None = None,
    label: str = "",
) -> int:
    """Take or renew a lease: :meth:`airflow_reverse_etl.sync.ports.StateStore.acquire`."""
    until = now + timedelta(seconds=seconds)
    values: dict[str, str] = {}
    for attempt in range(_ATTEMPTS):
        version, values = stored.read()
        number = next_fence(values, sync, holder, now=now, fence=fence)
        if stored.swap(version, lease(holder, number, until, label=label)):
            return number
        time.sleep(random.uniform(0, 0.005 * attempt))
    raise lease_taken(sync, values)


def next_number(stored: VersionedValues[V]) -> int:
    """Count a number up, and return it. No two callers get the same number."""
    for attempt in range(_ATTEMPTS):
        version, values = stored.read()
        number = last_number(values) + 1
        if stored.swap(version, {"holder": "", "fence": str(number), "until": ""}):
            return number
        time.sleep(random.uniform(0, 0.005 * attempt))
    raise UnreachableError(
        "the number of a try could not be taken: too many tasks change it at once",
        todo="let the next try of the task begin; it resumes by itself",
    )


def last_number(values: Mapping[str, str]) -> int:
    """Return the number that was taken last; 0 if none was."""
    try:
        return int(values.get("fence", 0))
    except ValueError:
        raise _damaged() from None


def _end(values: Mapping[str, str]) -> datetime | None:
    """Return the end of a lease; None if it was released, or never taken."""
    until = values.get("until")
    try:
        return datetime.fromisoformat(until).astimezone(UTC) if until else None
    except (ValueError, OverflowError):
        raise _damaged() from None


def _damaged() -> StateError:
    return StateError(
        "a lease, or the number of a try, is damaged",
        todo="let no run of the sync be at work, then delete it from the state; it is made again",
    )


def release(stored: VersionedValues[V], *, fence: int) -> None:
    """Give a lease back: :meth:`airflow_reverse_etl.sync.ports.StateStore.release`."""
    for _ in range(_ATTEMPTS):
        version, values = stored.read()
        if values.get("fence") != str(fence) or stored.swap(version, {**values, "until": ""}):
            return


@contextlib.contextmanager
def held(stored: VersionedValues[V], sync: str, *, force: bool = False) -> Iterator[None]:
    """Hold a lease for the block, so that no run of the sync begins meanwhile. It expires after an hour.

    :param force: take the lease from a run that holds it, which then stops.
    :raises RunConflictError: a run holds the lease.
    """
    if force:
        _, values = stored.read()
        release(stored, fence=last_number(values))
    holder = f"reverse-etl state {secrets.token_hex(8)}"
    fence = acquire(stored, sync, holder, now=datetime.now(UTC), seconds=3600, label="the command reverse-etl state")
    try:
        yield
    finally:
        release(stored, fence=fence)


def lease(holder: str, fence: int, until: datetime, *, label: str = "") -> dict[str, str]:
    """Build the values of a lease.

    ``holder`` and ``label`` are two lines of one value, because the tables have one column for both. Earlier versions
    stored the label only. No holder of today equals such a label, so those leases last until they expire.
    """
    return {"holder": f"{holder}\n{label}", "fence": str(fence), "until": until.isoformat()}


def next_fence(values: Mapping[str, str], sync: str, holder: str, *, now: datetime, fence: int | None) -> int:
    """Return the fencing number with which ``holder`` may take or renew a lease.

    :param values: of the lease, as they are stored.
    :param fence: number of the lease to renew; None to take the lease.
    :raises RunConflictError: another holder has the lease, or ``fence`` is outdated.
    """
    current = last_number(values)
    until = _end(values)
    if fence is not None:
        # A lease that was released cannot be renewed, even if nobody has taken it since.
        if fence != current or not until:
            raise lease_taken(sync, values)
        return fence
    if until and until > now:
        if values.get("holder", "").partition("\n")[0] != holder:
            raise lease_taken(sync, values, until=until)
        return current
    return current + 1


def lease_taken(sync: str, values: Mapping[str, str], *, until: datetime | None = None) -> RunConflictError:
    """Build the error for a caller that could not take or renew the lease. It names the current holder.

    :param until: see :class:`~airflow_reverse_etl.errors.RunConflictError`.
    """
    expiry = f", valid until {values['until']}" if values.get("until") else ""
    holder, _, label = values.get("holder", "unknown").partition("\n")
    return RunConflictError(
        f"another run of this sync is at work: {label or holder}{expiry}",
        todo="let that run finish, then try again; set max_active_runs=1 on the DAG so that its runs follow each other,"
        " and order its tasks that run the same sync. "
        "If that run was killed, its lease expires by itself",
        until=until,
        sync=sync,
    )
