"""The commit of a load in a warehouse: :mod:`airflow_reverse_etl.stores.lake.commit` as DELETE and INSERT.

Running a statement again has the same result. An interrupted commit can therefore be completed in a warehouse where
several statements cannot be one transaction.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow_reverse_etl.spec.comparison import Comparison, State
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements.plan import IN_DOUBT, MODES_IN_DOUBT, REMOVED
from airflow_reverse_etl.sql.text_forms import DIALECTS
from airflow_reverse_etl.stores.lake.commit import in_doubt_sql, logged_outcome
from airflow_reverse_etl.stores.warehouse.database import Session
from airflow_reverse_etl.stores.warehouse.schema import Tables
from airflow_reverse_etl.sync.comparing import outdated
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.progress import Checkpoint


class PlanCommit:
    """One commit.

    :param own: prefix of the sync's tables.
    :param run: suffix of the plan's tables.
    :param stored: what is stored with the plan: ``mode``, ``generation``, ``comparison``, ``cursor_type`` and
        ``field_hashes``.
    """

    def __init__(
        self, tables: Tables, plan: Plan, checkpoint: Checkpoint, *, own: str, run: str, stored: Mapping[str, Any]
    ) -> None:
        self._tables = tables
        self._plan = plan
        self._checkpoint = checkpoint
        self._mode = stored["mode"]
        self._expected_generation = stored["generation"]
        self._comparison = Comparison.from_json(stored["approach"])
        self._cursor_type = stored["cursor_type"]
        # The sync's tables.
        self._snapshot = tables[f"{own}_snapshot"]
        self._rejections = tables[f"{own}_rejections"]
        self._state = tables[f"{own}_state"]
        # The plan's tables.
        self._changes = tables[f"{own}_changes_{run}"]
        self._failed = tables[f"{own}_failed_{run}"]
        self._fates = tables[f"{own}_fates_{run}"]
        # Pieces of SQL.
        if stored.get("field_hashes"):
            self._field_hashes = "c.field_hashes"
        else:
            self._field_hashes = f"CAST(NULL AS {tables.sql.types['VARCHAR']}) AS field_hashes"
        self._id = tables.text(plan.plan_id)
        self._now = f"CAST({tables.text(_utc(plan.created_at))} AS {tables.sql.types['TIMESTAMPTZ']})"

    def prepare(self, session: Session) -> None:
        """Make the tables ``failed``, the rows that were not accepted, and ``fates``.

        Call it before the transaction, because in Snowflake CREATE TABLE ends a transaction. The tables are used only
        if nothing changed the snapshot since the plan was made.
        """
        session.run(f"DROP TABLE IF EXISTS {self._failed}")
        text = self._tables.sql.types["VARCHAR"]
        number = self._tables.sql.types["BIGINT"]
        session.run(f"CREATE TABLE {self._failed} (seq {number}, outcome {text}, code {text}, message {text})")
        for rows in self._failed_rows():
            session.run(f"INSERT INTO {self._failed} (seq, outcome, code, message) VALUES {', '.join(rows)}")
        if self._comparison.tracked:
            self._decide_fates(session)

    def run(self, session: Session, report: RunReport, *, history: timedelta, change_log: bool) -> None:
        """Run everything that must happen together.

        :raises RunConflictError: another plan changed the snapshot since this one was made.
        """
        if self._comparison.tracked:
            self._move_generation(session)
            self._fold_snapshot(session)
        self._fold_rejections(session)
        if change_log:
            self._log_changes(session)
        self._save_state(session)
        self._add_run(session, report, history)

    def _move_generation(self, session: Session) -> None:
        expected = self._tables.text(self._expected_generation)
        session.run(f"UPDATE {self._state} SET generation = {self._id} WHERE generation = {expected}")
        if session.run(f"SELECT DISTINCT generation FROM {self._state}") != [(self._plan.plan_id,)]:
            raise outdated(self._plan)

    def _fold_snapshot(self, session: Session) -> None:
        snapshot = _alias(self._snapshot)
        if self._comparison.anew:
            session.run(f"DELETE FROM {self._snapshot} WHERE 1 = 1")
        elif not session.run(f"SELECT 1 FROM {self._fates} LIMIT 1"):
            return
        # Replace the rows that have a fate.
        session.run(
            f"DELETE FROM {self._snapshot} WHERE EXISTS (SELECT 1 FROM {self._fates} AS f"
            f" WHERE f.key_hi = {snapshot}.key_hi AND f.key_lo = {snapshot}.key_lo)"
        )
        session.run(
            f"INSERT INTO {self._snapshot} (key_hi, key_lo, fingerprint, row_key, identifiers, field_hashes)"
            f" SELECT key_hi, key_lo, CASE WHEN fate = 'in_doubt' THEN {IN_DOUBT} ELSE fingerprint END,"
            " CASE WHEN identifiers IS NOT NULL THEN row_key END, identifiers,"
            " CASE WHEN fate = 'accepted' THEN field_hashes END"
            f" FROM {self._fates} AS f WHERE fate IN ('accepted', 'in_doubt')"
        )
        if self._tables.sql.analyzed:
            session.run(self._tables.sql.analyzed.format(table=self._snapshot))

    def _decide_fates(self, session: Session) -> None:
        """Make the table of each row's fate in the snapshot: ``accepted``, ``in_doubt`` or ``gone``. Other rows stay.

        See :data:`airflow_reverse_etl.sql.statements.plan.MODES_IN_DOUBT`. If all rows were to be sent again, a row
        that was not accepted is gone, because the destination may not have it any more. In a warehouse without
        transactions the first decision stands.
        """
        resent = self._comparison.resent and not self._comparison.anew
        known = " OR s.key_hi IS NOT NULL" if resent else ""
        snapshot = f" LEFT JOIN {self._snapshot} AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo" if resent else ""
        lost = f"{in_doubt_sql(self._checkpoint)} OR f.outcome = '{Outcome.UNKNOWN}'"
        in_doubt = f" WHEN {lost}{known} THEN 'in_doubt'" if self._mode in MODES_IN_DOUBT else ""
        missed = " ELSE 'gone'" if self._comparison.resent else ""
        if self._tables.sql.begin is not None:
            session.run(f"DROP TABLE IF EXISTS {self._fates}")
        unless_decided = "" if self._tables.sql.begin else "IF NOT EXISTS "
        session.run(
            f"CREATE TABLE {unless_decided}{self._fates} AS SELECT * FROM (SELECT"
            f" c.key_hi, c.key_lo, c.fingerprint, c.row_key, c.identifiers, {self._field_hashes}, CASE"
            " WHEN c.change = 'forgotten' THEN 'gone' WHEN c.change = 'recorded' THEN 'accepted'"
            f" WHEN c.seq > {self._plan.total} THEN NULL"
            f" WHEN f.seq IS NULL AND {self._settled} THEN CASE c.change WHEN 'removed' THEN 'gone' ELSE 'accepted' END"
            f"{in_doubt}{missed} END AS fate"
            f" FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq{snapshot}"
            ") AS decided WHERE fate IS NOT NULL"
        )

    @property
    def _settled(self) -> str:
        settled = self._checkpoint.settled
        ranges = [(1, settled.low), *settled.above()]
        return f"({' OR '.join(f'c.seq BETWEEN {first} AND {last}' for first, last in ranges)})"

    def _fold_rejections(self, session: Session) -> None:
        """Add this run's rejections, and delete those that are over.

        Every run tries a refused row again. A row without an outcome in this run is still refused only if this run
        skipped it for its rejection, did not come to it, or could not send it (invalid). A refused removal is dropped
        once a row has the key again, even an invalid row.
        """
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
        if self._comparison.drops_rejections:
            session.run(f"DELETE FROM {table} WHERE plan_id <> {self._id}")
            return
        # Delete the earlier rejections that are over.
        own = _alias(table)
        same = f"SELECT 1 FROM {self._changes} AS c WHERE c.key_hi = {own}.key_hi AND c.key_lo = {own}.key_lo AND"
        sent = f"c.seq <= {self._plan.total}"
        invalid = f"c.change = 'invalid' AND {own}.fingerprint <> {REMOVED}"
        over = f"NOT EXISTS ({same} (c.change = 'skipped' OR {invalid} OR {sent} AND NOT {self._settled}))"
        if self._comparison.low:  # only part of the model was read: a row that was not read is still refused
            over = f"EXISTS ({same} {sent} AND {self._settled})"
        session.run(f"DELETE FROM {table} WHERE plan_id <> {self._id} AND {over}")

    def _save_state(self, session: Session) -> None:
        """Save what the next plan needs, see :mod:`airflow_reverse_etl.sync.comparing`."""
        [(rows,)] = session.run(f"SELECT COUNT(*) FROM {self._snapshot}")
        before = saved_state(session, self._tables, self._state, self._plan.sync)[1]
        state = self._comparison.state_after(before, rows=int(rows), open_rows=self._lowest_open_cursor(session))
        text = self._tables.text(json.dumps(state.to_json()))
        session.run(f"UPDATE {self._state} SET remembered = {text} WHERE 1 = 1")

    def _lowest_open_cursor(self, session: Session) -> str | None:
        """Return the lowest cursor of the rows that a later run must read again; None without such rows."""
        if not self._comparison.kind:
            return None
        text = DIALECTS[self._tables.sql.name].text("MIN(c.w)", self._cursor_type)
        [(lowest,)] = session.run(
            f"SELECT {text} FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq"
            f" WHERE c.seq <= {self._plan.total} AND (NOT {self._settled} OR f.outcome <> '{Outcome.SKIPPED}')"
        )
        return str(lowest) if lowest is not None else None

    def _log_changes(self, session: Session) -> None:
        text = self._tables.text
        log = self._tables["change_log"]
        session.run(
            f"INSERT INTO {log} (sync, run_id, plan_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code,"
            f" committed_at) SELECT {text(self._plan.sync)}, {text(self._plan.run_id)}, {self._id}, c.change,"
            " c.row_key, c.key_hi, c.key_lo, c.fingerprint,"
            f" {logged_outcome(self._checkpoint, settled=self._settled)},"
            f" f.code, CURRENT_TIMESTAMP FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq"
            f" WHERE c.seq <= {self._plan.total}"
            f" AND NOT EXISTS (SELECT 1 FROM {log} AS done WHERE done.plan_id = {self._id})"
        )

    def _add_run(self, session: Session, report: RunReport, history: timedelta) -> None:
        text = self._tables.text
        plan = self._plan
        # Delete what is too old.
        oldest = f"CAST({text(_utc(plan.created_at - history))} AS {self._tables.sql.types['TIMESTAMPTZ']})"
        for name, time in (("runs", "planned_at"), ("change_log", "committed_at")):
            session.run(f"DELETE FROM {self._tables[name]} WHERE sync = {text(plan.sync)} AND {time} < {oldest}")
        # Add this run.
        numbers = report.to_json()
        row: dict[str, Any] = {
            **{name: getattr(plan, name) for name in ("sync", "run_id", "plan_id", "model_rows", "snapshot_rows")},
            **dict(plan.planned),
            **{name: numbers[name] for name in ("accepted", "rejected", "retryable", "unknown", "skipped", "requests")},
            "mode": self._mode,
            "seconds": report.seconds,
            "report": json.dumps(numbers),
        }
        values = ", ".join(text(value) for value in row.values())
        session.run(
            f"INSERT INTO {self._tables['runs']} ({', '.join(row)}, planned_at, committed_at)"
            f" SELECT {values}, {self._now}, CURRENT_TIMESTAMP"
        )

    def _failed_rows(self) -> Iterator[list[str]]:
        """Yield the rows that were not accepted as SQL, in lists that fit into one statement."""
        text = self._tables.text
        reasons = [f"{text(reason.code)}, {text(reason.message)}" for reason in self._checkpoint.reasons]
        rows: list[str] = []
        length = 0
        for seq, (outcome, at) in self._checkpoint.failed.items():
            rows.append(f"({seq}, '{outcome}', {reasons[at]})")
            length += len(rows[-1])
            if length > self._tables.sql.piece:
                yield rows
                rows = []
                length = 0
        if rows:
            yield rows


def saved_state(session: Session, tables: Tables, state: str, sync: str) -> tuple[str, State | None]:
    """Return the generation of the snapshot, and the state that the last commit saved.

    :returns: None as the state before the first commit; an empty state if it was lost.
    """
    [(generation, text)] = session.run(f"SELECT MAX(generation), MAX(remembered) FROM {state}")
    if text:
        return generation, State.from_json(json.loads(text))
    committed = session.run(f"SELECT 1 FROM {tables['runs']} WHERE sync = {tables.text(sync)} LIMIT 1")
    return generation, State() if committed else None


def _alias(table: str) -> str:
    """Return the name that qualifies a table's columns. BigQuery accepts only the last part of the table's name."""
    return table.rpartition(".")[2]


def _utc(moment: datetime) -> str:
    """Format a moment as text that every warehouse can read in a session whose time zone is UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
