"""Comparison of a model with the snapshot, and descriptions of the rows that a plan does not send.

Pure: no rows, no storage. After each commit, a store saves a :class:`State`. Before each plan, :func:`comparison_for`
derives the :class:`Comparison` from that state, the sync and the run's options. The plan stores the comparison. At the
commit, :meth:`Comparison.state_after` returns the next state, which the store saves after the snapshot. If the state is
lost, the next plan compares all rows, and is still correct.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC
from typing import Any

from airflow_reverse_etl.errors import ConfigurationError, RunConflictError
from airflow_reverse_etl.spec.comparison import Comparison, State
from airflow_reverse_etl.spec.receipts import Reason
from airflow_reverse_etl.spec.report import CAUSES, listed
from airflow_reverse_etl.sync.ports import Plan, PlanRequest


def given_up_text(plan: Plan) -> str:
    """Explain why rows of a plan are given up, and how to send them again."""
    return (
        f"rejected too often or for too long, last with {listed(plan.given_up_codes)}; "
        "to send a row again, change it; to send all rows again, run with full_resync"
    )


def warnings(plan: Plan) -> list[str]:
    """Describe the rows of a plan that are not delivered and not sent."""
    found = []
    if plan.causes:
        found.append(f"invalid, not sent: {listed(plan.causes)}")
    if plan.given_up:
        found.append(f"given up, not sent: {plan.given_up:,} rows: {given_up_text(plan)}")
    return found


def reasons(plan: Plan) -> dict[Reason, int]:
    """Return the reasons why rows of a plan are not delivered and not sent, with their number of rows."""
    found = {Reason(cause, CAUSES[cause]): count for cause, count in plan.causes.items()}
    if plan.given_up:
        found[Reason("given_up", given_up_text(plan))] = plan.given_up
    return found


def comparison_for(request: PlanRequest, before: State | None, *, snapshot_rows: int) -> Comparison:
    """Decide how the plan of a request compares the model with the snapshot.

    :param before: state saved by the last commit; None if no run of the sync was ever committed.
    :param snapshot_rows: rows of the snapshot that the store can read now.
    :raises ConfigurationError: the run's options contradict each other or the sync.
    """
    sync = request.sync
    _check_options(request)
    if not sync.tracked:
        return Comparison(compared=False, tracked=False, forgiven=True)
    known = before or State()
    plain = _unrestricted(request)
    keep = sync.on_mapping_change == "keep"

    # A snapshot of another primary key, or a lost one, cannot be compared with the model.
    rekeyed = known.key not in ("", plain.key)
    lost = bool(known.rows) and not snapshot_rows
    compared = not (rekeyed or lost)
    since = known.destination_since
    if known.destination not in ("", plain.destination):
        since = f"{request.now.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
    start = replace(plain, compared=compared, anew=not compared, forgiven=rekeyed, destination_since=since)

    # The run's options come first, then the first run of a sync, then the state of the snapshot.
    if request.reset:
        return replace(start, forgiven=True, recorded="all", notes=("reset",))
    if request.full_resync:
        return replace(start, compared=False, forgiven=True, resent=True, notes=("full_resync",))
    if before is None and not snapshot_rows and sync.initial == "baseline":
        return replace(start, recorded="all", notes=("baseline",))
    if lost:
        return replace(start, notes=("snapshot_lost",))
    if rekeyed:
        if keep:
            return replace(start, recorded="all", notes=("key_keep",))
        return replace(start, notes=("key_resync",))
    if known.stale and snapshot_rows:
        return replace(start, compared=False, resent=True, notes=("snapshot_stale",))
    if known.mapping not in ("", plain.mapping) and snapshot_rows:
        if keep:
            return replace(start, recorded="known", notes=("mapping_keep",))
        return replace(start, notes=("mapping_resync",))

    # The cursor's lower bound holds only for the sync that it was saved for.
    low = known.low if known.scope == plain.scope else ""
    return replace(start, low=low)


def _unrestricted(request: PlanRequest) -> Comparison:
    """Return the comparison of all rows with the whole snapshot."""
    sync = request.sync
    columns = [name.lower() for name in request.primary_key]
    scope = _digest([sync.digest, columns, sync.cursor.lower()]) if sync.cursor else ""
    return Comparison(
        mapping=_digest(sync.model_dump(include={"mapping"})),
        key=_digest(columns),
        scope=scope,
        destination=_digest(sync.model_dump(include={"destination"})),
    )


def _check_options(request: PlanRequest) -> None:
    problem = ""
    if request.reset and request.full_resync:
        problem = "reset sends nothing and full_resync sends everything, so a run cannot do both"
    elif request.reset and not request.sync.tracked:
        problem = "reset records rows as delivered, but this sync keeps no record (mode append, or track: none)"
    if problem:
        raise ConfigurationError(problem, todo="start the run without the option", sync=request.sync.name)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def outdated(plan: Plan) -> RunConflictError:
    """Build the error for a plan that was made from an earlier snapshot."""
    return RunConflictError(
        "another run changed the snapshot after this run was planned",
        outdated=True,
        todo="let the next try plan again, and allow only one active run of the sync at a time",
        sync=plan.sync,
        run=plan.run_id,
    )
