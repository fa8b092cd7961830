"""May this plan be sent, and may this report pass? Both decide from counts alone."""

from __future__ import annotations

from airflow_reverse_etl.errors import FailurePolicyError, GuardError
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.receipts import Report, reason_text
from airflow_reverse_etl.sync.spec import Limit, Sync, rows_of


def check_guards(sync: Sync, plan: Plan) -> None:
    """Raise :class:`GuardError` with every guard of the sync that the plan does not meet; see :func:`guards_said`."""
    if found := [text for met, text in guards_said(sync, plan) if not met]:
        raise GuardError(
            "the plan exceeds the sync's guards, nothing was sent: " + "; ".join(found),
            todo="look at the model; if the change is intended, raise the guard for this run",
            sync=sync.name,
        )


def guards_said(sync: Sync, plan: Plan) -> list[tuple[bool, str]]:
    """Of each guard of the sync: whether the plan meets it, and the figures.

    A share (``5%``) of removed rows is of the snapshot, of changes of the model. On a sync's first run, with an empty
    snapshot, there is nothing to take a share of: only absolute limits hold then. With a cursor only a part of the
    model is read, maybe none of it: what the snapshot has counts as the model, too.
    """
    guards, planned = sync.guards, plan.planned
    rows = max(plan.model_rows, plan.snapshot_rows) if sync.cursor else plan.model_rows
    enough = rows >= guards.min_rows
    than = "at least" if enough else "fewer than"
    found = [(enough, f"min_rows: the model has {rows:,} rows, {than} {guards.min_rows:,}")]
    for name, limit, count, total in (
        ("max_removed", guards.max_removed, planned.removed, plan.snapshot_rows),
        ("max_changes", guards.max_changes, planned.total, rows),
    ):
        if limit is None:
            continue
        if isinstance(limit, str) and plan.snapshot_rows == 0:
            found.append((True, f"{name}: {limit} says nothing of a first run"))
            continue
        few = count <= rows_of(limit, total)
        found.append((few, f"{name}: {count:,} rows, {'at most' if few else 'more than'} {_said(limit, total)}"))
    return found


def check_failure_policy(sync: Sync, report: Report) -> None:
    """Raise :class:`FailurePolicyError` when the report is worse than the sync allows. The run is committed."""
    limit, total = sync.failure.max_rejected, report.planned.total + report.planned.invalid
    bad = report.rejected + report.planned.invalid
    found = []
    if bad > rows_of(limit, total):
        found.append(
            f"{report.rejected:,} rows rejected and {report.planned.invalid:,} invalid of {total:,}, "
            f"more than {_said(limit, total)}"
        )
    if report.unknown and sync.failure.on_unknown == "fail":
        found.append(f"the answer to {report.unknown:,} rows was lost; they may or may not have been written")
    if not found:
        return
    reasons = "; ".join(map(reason_text, report.reasons[:3]))
    error = FailurePolicyError(
        "; ".join(found) + (f". Most frequent: {reasons}" if reasons else ""),
        todo="correct the rows or the mapping; accepted rows are delivered and will not be sent again",
        sync=sync.name,
    )
    error.report = report
    raise error


def _said(limit: Limit, total: int) -> str:
    return f"{limit} of {total:,}" if isinstance(limit, str) else f"{limit:,}"
