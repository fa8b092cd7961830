"""The rules of a lease, for stores that can compare and swap a few values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from airflow_reverse_etl.errors import RunConflictError


def lease(holder: str, fence: int, until: datetime) -> dict[str, str]:
    """A lease as values."""
    return {"holder": holder, "fence": str(fence), "until": until.isoformat()}


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
        if values["holder"] != holder:
            raise taken(sync, values)
        return current
    return current + 1


def taken(sync: str, values: Mapping[str, str]) -> RunConflictError:
    until = values.get("until")
    return RunConflictError(
        f"another run of this sync is at work: {values.get('holder', 'unknown')}",
        todo="let it finish, then try again; set max_active_runs=1 on the DAG so that its runs follow each other. "
        "If that run was killed, its lease runs out by itself" + (f" at {until}" if until else ""),
        sync=sync,
    )
