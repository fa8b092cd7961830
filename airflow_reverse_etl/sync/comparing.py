"""What a store remembers of a sync beside its rows, and what follows for the next plan. Pure: no rows, no storage.

After each commit a store keeps a :class:`State`. Before each plan,
:func:`~airflow_reverse_etl.sync.comparing.comparison_for` says from it, the sync and the run's options how the model
is compared, and the plan keeps that :class:`Comparison`. At the commit,
:meth:`Comparison.state_after` gives the next state, to be stored after the snapshot is folded. A state that is lost
costs a comparison of everything, and is wrong about nothing.
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


def given_up(plan: Plan) -> str:
    """Explain why rows of a plan are given up, and the way out."""
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
        found.append(f"given up, not sent: {plan.given_up:,} rows: {given_up(plan)}")
    return found


def reasons(plan: Plan) -> dict[Reason, int]:
    """Return why rows of a plan are not delivered and not sent, with their number."""
    found = {Reason(cause, CAUSES[cause]): count for cause, count in plan.causes.items()}
    if plan.given_up:
        found[Reason("given_up", given_up(plan))] = plan.given_up
    return found


def comparison_for(request: PlanRequest, before: State | None, *, snapshot_rows: int) -> Comparison:
    """How to plan a run.

    :param before: None when no run of the sync was ever committed.
    :param snapshot_rows: that can be read now.
    :raises ConfigurationError: for run options that contradict each other or the sync.
    """
    sync = request.sync
    _check(request)
    if not sync.tracked:
        return Comparison(compared=False, tracked=False, forgiven=True)
    known, plain = before or State(), _plain(request)
    keep = sync.on_mapping_change == "keep"
    rekeyed = known.key not in ("", plain.key)
    lost = bool(known.rows) and not snapshot_rows
    compared = not (rekeyed or lost)
    since = known.destination_since
    if known.destination not in ("", plain.destination):
        since = f"{request.now.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
    start = replace(plain, compared=compared, anew=not compared, forgiven=rekeyed, destination_since=since)
    if request.reset:
        return replace(start, forgiven=True, recorded="all", notes=("reset",))
    if request.full_resync:
        return replace(start, compared=False, forgiven=True, resent=True, notes=("full_resync",))
    if before is None and not snapshot_rows and sync.initial == "baseline":
        return replace(start, recorded="all", notes=("baseline",))
    if lost:
        return replace(start, notes=("snapshot_lost",))
    if rekeyed:
        return replace(start, recorded="all" if keep else "", notes=("key_keep" if keep else "key_resync",))
    if known.stale and snapshot_rows:
        return replace(start, compared=False, resent=True, notes=("snapshot_stale",))
    if known.mapping not in ("", plain.mapping) and snapshot_rows:
        return replace(start, recorded="known" if keep else "", notes=("mapping_keep" if keep else "mapping_resync",))
    return replace(start, low=known.low if known.scope == plain.scope else "")


def _plain(request: PlanRequest) -> Comparison:
    sync, columns = request.sync, [name.lower() for name in request.primary_key]
    scope = _digest([sync.digest, columns, sync.cursor.lower()]) if sync.cursor else ""
    return Comparison(
        mapping=_digest(sync.model_dump(include={"mapping"})),
        key=_digest(columns),
        scope=scope,
        destination=_digest(sync.model_dump(include={"destination"})),
    )


def _check(request: PlanRequest) -> None:
    problem = ""
    if request.reset and request.full_resync:
        problem = "reset sends nothing and full_resync sends everything: a run cannot do both"
    elif request.reset and not request.sync.tracked:
        problem = "reset records rows as delivered, and this sync keeps no record (mode append, or track: none)"
    if problem:
        raise ConfigurationError(problem, todo="start the run without the option", sync=request.sync.name)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def outdated(plan: Plan) -> RunConflictError:
    """The error for a plan that was made for another snapshot than there is."""
    return RunConflictError(
        "another run changed the snapshot since this one was planned",
        outdated=True,
        todo="nothing by hand: the next try plans again; let only one run of a sync be active at a time",
        sync=plan.sync,
        run=plan.run_id,
    )
