"""Committing: the order of a commit, once for all stores that run SQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from airflow_reverse_etl.spec.comparison import State
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.statements.commit import CommitStatement
from airflow_reverse_etl.sync.planning import StoredPlan
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.progress import Checkpoint

#: Columns of the snapshot: name → our word for its type.
SNAPSHOT = {
    **dict.fromkeys(("key_hi", "key_lo", "fingerprint"), "BIGINT"),
    **dict.fromkeys(("row_key", "identifiers", "field_hashes"), "VARCHAR"),
    **dict.fromkeys(("row_hi", "row_lo"), "BIGINT"),
}

#: Columns of the rejections.
REJECTIONS = {
    "row_key": "VARCHAR",
    **dict.fromkeys(("key_hi", "key_lo", "fingerprint"), "BIGINT"),
    **dict.fromkeys(("change", "outcome", "code", "message"), "VARCHAR"),
    "attempts": "BIGINT",
    **dict.fromkeys(("first_seen", "last_seen"), "TIMESTAMPTZ"),
}

#: Columns of the run history.
HISTORY = {
    **dict.fromkeys(("run_id", "plan_id", "mode"), "VARCHAR"),
    **dict.fromkeys(("planned_at", "committed_at"), "TIMESTAMPTZ"),
    **dict.fromkeys(("model_rows", "snapshot_rows", "added", "changed", "removed", "invalid"), "BIGINT"),
    **dict.fromkeys(("accepted", "rejected", "retryable", "unknown", "skipped", "requests"), "BIGINT"),
    "seconds": "DOUBLE",
    "report": "VARCHAR",
}

#: Columns of the change log.
CHANGE_LOG = {
    **dict.fromkeys(("sync", "run_id", "plan_id", "change", "row_key"), "VARCHAR"),
    **dict.fromkeys(("key_hi", "key_lo", "fingerprint"), "BIGINT"),
    **dict.fromkeys(("outcome", "code"), "VARCHAR"),
    "committed_at": "TIMESTAMPTZ",
}


class CommitRunner(Protocol):
    """Runs the commit statement. It has the relations that the statement reads, except ``fates``.

    Each method has no further effect if this plan has called it before.
    """

    def replace_snapshot(self, statement: CommitStatement) -> int:
        """Bring the snapshot up to date; return its number of rows.

        :raises RunConflictError: another plan changed the snapshot since this one was made.
        """

    def snapshot_rows(self) -> int:
        """Return the number of rows of a snapshot that this plan does not change."""

    def replace_rejections(self, statement: CommitStatement) -> None:
        """Bring the rejections up to date."""

    def append_log(self, select: str) -> None:
        """Add rows to the change log, if it is enabled."""

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""

    def state(self) -> State | None:
        """Return the state that the last commit saved."""

    def finish(self, state: State, run: dict[str, Any]) -> None:
        """Save the state and a row of the history, without ``committed_at``. With it the commit is complete."""


def commit_statement(stored: StoredPlan, checkpoint: Checkpoint, *, dialect: str, instant: str) -> CommitStatement:
    """Build the commit statement of a plan.

    :param instant: the dialect's type of a time stamp with a zone.
    """
    return CommitStatement(
        PLANNERS[dialect],
        stored.mode,
        stored.comparison,
        settled=checkpoint.settled,
        in_doubt=checkpoint.in_doubt(),
        answer_lost=sorted(checkpoint.answer_lost),
        now=f"CAST('{stored.plan.created_at:%Y-%m-%d %H:%M:%S.%f}' AS {instant})",
    )


def commit_plan(runner: CommitRunner, statement: CommitStatement, stored: StoredPlan, report: RunReport) -> None:
    """Bring the state of a sync up to date."""
    plan = stored.plan
    comparison = stored.comparison
    rows = runner.replace_snapshot(statement) if comparison.tracked else runner.snapshot_rows()
    runner.replace_rejections(statement)
    if plan.total:
        runner.append_log(statement.log(sync=plan.sync, run_id=plan.run_id))
    open_rows = None
    if comparison.kind and plan.total:
        [(lowest,)] = runner.rows(statement.lowest_open_cursor(stored.cursor_type))
        open_rows = None if lowest is None else str(lowest)
    state = comparison.state_after(runner.state(), rows=rows, open_rows=open_rows)
    runner.finish(state, _history_row(stored, report))


def _history_row(stored: StoredPlan, report: RunReport) -> dict[str, Any]:
    plan = stored.plan
    numbers = report.to_json()
    return {
        **{name: getattr(plan, name) for name in ("run_id", "plan_id", "model_rows", "snapshot_rows")},
        **dict(plan.planned),
        **{name: numbers[name] for name in ("accepted", "rejected", "retryable", "unknown", "skipped", "requests")},
        "mode": stored.mode,
        "seconds": report.seconds,
        "report": json.dumps(numbers),
        "planned_at": plan.created_at,
    }


def invalid_keys(
    plan: Plan, relation: str, rows: Callable[[str], list[tuple[Any, ...]]], *, count: int
) -> dict[str, list[str]]:
    """Return keys of invalid rows, see :class:`~airflow_reverse_etl.sync.ports.InvalidKeys`.

    :param relation: the invalid rows, with ``row_key`` and ``cause``.
    :param rows: runs a SELECT and returns its rows.
    """
    found = {}
    for cause in plan.causes.keys() - {"null_key"}:  # a part of a null key may have a value
        listed = rows(
            f"SELECT DISTINCT row_key FROM {relation} WHERE cause = '{cause}' AND row_key IS NOT NULL"  # noqa: S608
            f" ORDER BY row_key LIMIT {count}"
        )
        if listed:
            found[cause] = [key for (key,) in listed]
    return found
