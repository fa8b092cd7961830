"""Folding a load into the tables of the state: what :mod:`airflow_reverse_etl.stores.fold` does, as DELETE and INSERT.

Each statement may be run again with the same result, so that a commit cut short can be completed where several
statements cannot be one transaction.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow_reverse_etl.errors import RunConflictError
from airflow_reverse_etl.stores.database import PIECE, Session
from airflow_reverse_etl.stores.tables import Tables
from airflow_reverse_etl.sync.plan import DOUBTFUL, DOUBTS
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.receipts import Checkpoint, Outcome, Report


class Fold:
    """One commit.

    :param own: prefix of the sync's tables; ``run``: suffix of the plan's.
    :param stored: what was kept with the plan: ``mode`` and ``generation``.
    """

    def __init__(
        self, tables: Tables, plan: Plan, checkpoint: Checkpoint, *, own: str, run: str, stored: Mapping[str, Any]
    ) -> None:
        self._tables, self._plan, self._checkpoint = tables, plan, checkpoint
        self._mode, self._expected = stored["mode"], stored["generation"]
        self._snapshot, self._rejections, self._state = (
            tables[f"{own}_{name}"] for name in ("snapshot", "rejections", "state")
        )
        self._changes, self._failed = (tables[f"{own}_{name}_{run}"] for name in ("changes", "failed"))
        self._id = tables.text(plan.plan_id)
        self._now = f"CAST({tables.text(_utc(plan.created_at))} AS {tables.sql.types['TIMESTAMPTZ']})"

    def prepare(self, session: Session) -> None:
        """Bring what was not accepted into the warehouse: the table ``failed``."""
        session.run(f"DROP TABLE IF EXISTS {self._failed}")
        types = self._tables.sql.types
        text, number = types["VARCHAR"], types["BIGINT"]
        session.run(f"CREATE TABLE {self._failed} (seq {number}, outcome {text}, code {text}, message {text})")
        for rows in self._failed_rows():
            session.run(f"INSERT INTO {self._failed} (seq, outcome, code, message) VALUES {', '.join(rows)}")

    def run(self, session: Session, report: Report, *, history: timedelta, change_log: bool) -> None:
        """Everything that must happen together.

        :raises RunConflictError: another plan changed the snapshot since this one was made.
        """
        if self._mode != "append":
            self._move_generation(session)
            self._fold_snapshot(session)
        self._fold_rejections(session)
        if change_log:
            self._log_changes(session)
        self._add_run(session, report, history)

    def _move_generation(self, session: Session) -> None:
        session.run(
            f"UPDATE {self._state} SET generation = {self._id} WHERE generation = {self._tables.text(self._expected)}"
        )
        if session.run(f"SELECT DISTINCT generation FROM {self._state}") != [(self._plan.plan_id,)]:
            raise RunConflictError(
                "another run changed the snapshot since this one was planned",
                todo="discard this run and let the next one plan again; let only one run of a sync be active at a time",
                sync=self._plan.sync,
                run=self._plan.run_id,
            )

    def _fold_snapshot(self, session: Session) -> None:
        if not self._touches_snapshot(session):
            return
        session.run(
            f"DELETE FROM {self._snapshot} WHERE EXISTS (SELECT 1 FROM ({self._fates}) AS f"
            f" WHERE f.fate IS NOT NULL AND f.key_hi = {self._snapshot}.key_hi AND f.key_lo = {self._snapshot}.key_lo)"
        )
        session.run(
            f"INSERT INTO {self._snapshot} (key_hi, key_lo, fingerprint, row_key, identifiers)"
            f" SELECT key_hi, key_lo, CASE WHEN fate = 'doubtful' THEN {DOUBTFUL} ELSE fingerprint END,"
            " CASE WHEN identifiers IS NOT NULL THEN row_key END, identifiers"
            f" FROM ({self._fates}) AS f WHERE fate IN ('accepted', 'doubtful')"
        )
        if self._tables.sql.analyzed:
            session.run(self._tables.sql.analyzed.format(table=self._snapshot))

    def _touches_snapshot(self, session: Session) -> bool:
        return bool(session.run(f"SELECT 1 FROM ({self._fates}) AS f WHERE fate IS NOT NULL LIMIT 1"))

    @property
    def _fates(self) -> str:
        """What becomes of each row in the snapshot: ``accepted`` there, ``doubtful`` there, ``gone``; NULL: as it was.

        See :data:`airflow_reverse_etl.sync.plan.DOUBTS`.
        """
        doubts = self._mode in DOUBTS
        unanswered = f"c.seq <= {self._checkpoint.dispatched} AND NOT {self._settled}"
        doubtful = f" WHEN {unanswered} OR f.outcome = '{Outcome.UNKNOWN}' THEN 'doubtful'" if doubts else ""
        return (
            "SELECT c.key_hi, c.key_lo, c.fingerprint, c.row_key, c.identifiers, CASE"
            " WHEN c.change = 'forgotten' THEN 'gone'"
            f" WHEN c.seq > {self._plan.total} THEN NULL"
            f" WHEN f.seq IS NULL AND {self._settled} THEN CASE c.change WHEN 'removed' THEN 'gone' ELSE 'accepted' END"
            f"{doubtful} END AS fate FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq"
        )

    @property
    def _settled(self) -> str:
        settled = self._checkpoint.settled
        ranges = [(1, settled.low), *settled.above()]
        return f"({' OR '.join(f'c.seq BETWEEN {first} AND {last}' for first, last in ranges)})"

    def _fold_rejections(self, session: Session) -> None:
        """A row is tried again in every run. One that is not in this run's outcomes is still refused only if this run
        left it out because of that (skipped), or did not come to it."""
        table = self._rejections
        if self._checkpoint.failed:
            session.run(
                f"INSERT INTO {table} (row_key, key_hi, key_lo, fingerprint, change, outcome, code, message, attempts,"
                " first_seen, last_seen, plan_id)"
                " SELECT c.row_key, c.key_hi, c.key_lo, c.fingerprint, c.change, f.outcome, f.code, f.message,"
                f" COALESCE(r.attempts, 0) + 1, COALESCE(r.first_seen, {self._now}), {self._now}, {self._id}"
                f" FROM {self._changes} AS c JOIN {self._failed} AS f ON c.seq = f.seq"
                f" LEFT JOIN {table} AS r ON r.key_hi = c.key_hi AND r.key_lo = c.key_lo"
                f" AND r.fingerprint = c.fingerprint AND r.plan_id <> {self._id}"
                f" WHERE f.outcome <> '{Outcome.SKIPPED}'"
                f" AND NOT EXISTS (SELECT 1 FROM {table} AS done WHERE done.plan_id = {self._id})"
            )
        session.run(
            f"DELETE FROM {table} WHERE plan_id <> {self._id} AND NOT EXISTS (SELECT 1 FROM {self._changes} AS c"
            f" WHERE c.key_hi = {table}.key_hi AND c.key_lo = {table}.key_lo"
            f" AND (c.change = 'skipped' OR (c.seq <= {self._plan.total} AND NOT {self._settled})))"
        )

    def _log_changes(self, session: Session) -> None:
        text, log = self._tables.text, self._tables["change_log"]
        session.run(
            f"INSERT INTO {log} (sync, run_id, plan_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code,"
            f" committed_at) SELECT {text(self._plan.sync)}, {text(self._plan.run_id)}, {self._id}, c.change,"
            " c.row_key, c.key_hi, c.key_lo, c.fingerprint,"
            f" CASE WHEN f.seq IS NOT NULL THEN f.outcome WHEN {self._settled} THEN '{Outcome.ACCEPTED}'"
            f" WHEN c.seq <= {self._checkpoint.dispatched} THEN '{Outcome.UNKNOWN}' ELSE 'not sent' END,"
            f" f.code, CURRENT_TIMESTAMP FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq"
            f" WHERE c.seq <= {self._plan.total}"
            f" AND NOT EXISTS (SELECT 1 FROM {log} AS done WHERE done.plan_id = {self._id})"
        )

    def _add_run(self, session: Session, report: Report, history: timedelta) -> None:
        text, plan, table = self._tables.text, self._plan, self._tables["runs"]
        instant = self._tables.sql.types["TIMESTAMPTZ"]
        oldest = f"CAST({text(_utc(plan.created_at - history))} AS {instant})"
        for name, time in (("runs", "planned_at"), ("change_log", "committed_at")):
            session.run(f"DELETE FROM {self._tables[name]} WHERE sync = {text(plan.sync)} AND {time} < {oldest}")
        numbers = report.to_json()
        row: dict[str, Any] = {
            **{name: getattr(plan, name) for name in ("sync", "run_id", "plan_id", "model_rows", "snapshot_rows")},
            **dict(plan.planned),
            **{name: numbers[name] for name in ("accepted", "rejected", "retryable", "unknown", "skipped", "requests")},
            "mode": self._mode,
            "seconds": report.seconds,
            "report": json.dumps(numbers),
        }
        session.run(
            f"INSERT INTO {table} ({', '.join(row)}, planned_at, committed_at)"
            f" SELECT {', '.join(text(value) for value in row.values())}, {self._now}, CURRENT_TIMESTAMP"
        )

    def _failed_rows(self) -> Iterator[list[str]]:
        """As SQL, in statements that are not too long."""
        reasons = [", ".join(self._tables.text(part) for part in reason) for reason in self._checkpoint.reasons]
        rows: list[str] = []
        length = 0
        for seq, (outcome, at) in self._checkpoint.failed.items():
            rows.append(f"({seq}, '{outcome}', {reasons[at]})")
            length += len(rows[-1])
            if length > PIECE:
                yield rows
                rows, length = [], 0
        if rows:
            yield rows


def _utc(moment: datetime) -> str:
    """As every warehouse reads it in a session whose time zone is UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
