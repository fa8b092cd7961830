"""Folding a load into the tables of the state: what :mod:`airflow_reverse_etl.stores.lake.commit` does, as DELETE and
INSERT.

Each statement may be run again with the same result, so that a commit cut short can be completed where several
statements cannot be one transaction.
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


class Fold:
    """One commit.

    :param own: prefix of the sync's tables; ``run``: suffix of the plan's.
    :param stored: what was kept with the plan: ``mode``, ``generation``, ``approach``, ``cursor_type`` and
        ``field_hashes``.
    """

    def __init__(
        self, tables: Tables, plan: Plan, checkpoint: Checkpoint, *, own: str, run: str, stored: Mapping[str, Any]
    ) -> None:
        self._tables, self._plan, self._checkpoint = tables, plan, checkpoint
        self._mode, self._expected = stored["mode"], stored["generation"]
        self._approach, self._cursor_type = Comparison.from_json(stored["comparison"]), stored["cursor_type"]
        self._snapshot, self._rejections, self._state = (
            tables[f"{own}_{name}"] for name in ("snapshot", "rejections", "state")
        )
        self._changes, self._failed, self._fates = (
            tables[f"{own}_{name}_{run}"] for name in ("changes", "failed", "fates")
        )
        kept = bool(stored.get("field_hashes"))
        self._field_hashes = (
            "c.field_hashes" if kept else f"CAST(NULL AS {tables.sql.types['VARCHAR']}) AS field_hashes"
        )
        self._id = tables.text(plan.plan_id)
        self._now = f"CAST({tables.text(_utc(plan.created_at))} AS {tables.sql.types['TIMESTAMPTZ']})"

    def prepare(self, session: Session) -> None:
        """Make the tables ``failed``, of what was not accepted, and ``fates``.

        Both before the transaction: in Snowflake it ends with a CREATE TABLE. What they say is used only if nothing
        changed the snapshot since the plan was made.
        """
        session.run(f"DROP TABLE IF EXISTS {self._failed}")
        types = self._tables.sql.types
        text, number = types["VARCHAR"], types["BIGINT"]
        session.run(f"CREATE TABLE {self._failed} (seq {number}, outcome {text}, code {text}, message {text})")
        for rows in self._failed_rows():
            session.run(f"INSERT INTO {self._failed} (seq, outcome, code, message) VALUES {', '.join(rows)}")
        if self._approach.tracked:
            self._decide_fates(session)

    def run(self, session: Session, report: RunReport, *, history: timedelta, change_log: bool) -> None:
        """Everything that must happen together.

        :raises RunConflictError: another plan changed the snapshot since this one was made.
        """
        if self._approach.tracked:
            self._move_generation(session)
            self._fold_snapshot(session)
        self._fold_rejections(session)
        if change_log:
            self._log_changes(session)
        self._remember(session)
        self._add_run(session, report, history)

    def _move_generation(self, session: Session) -> None:
        session.run(
            f"UPDATE {self._state} SET generation = {self._id} WHERE generation = {self._tables.text(self._expected)}"
        )
        if session.run(f"SELECT DISTINCT generation FROM {self._state}") != [(self._plan.plan_id,)]:
            raise outdated(self._plan)

    def _fold_snapshot(self, session: Session) -> None:
        snapshot = _alias(self._snapshot)
        if self._approach.anew:
            session.run(f"DELETE FROM {self._snapshot} WHERE 1 = 1")
        elif not session.run(f"SELECT 1 FROM {self._fates} LIMIT 1"):
            return
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
        """What becomes of rows in the snapshot: ``accepted`` there, ``in_doubt`` there, ``gone``; others stay.

        See :data:`airflow_reverse_etl.sql.statements.plan.MODES_IN_DOUBT`. After everything was sent again, a row that
        was not accepted is not known to be there any more. Where statements are no transaction, the first decision
        stands.
        """
        resent = self._approach.resent and not self._approach.anew
        known = " OR s.key_hi IS NOT NULL" if resent else ""
        snapshot = f" LEFT JOIN {self._snapshot} AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo" if resent else ""
        lost = f"{in_doubt_sql(self._checkpoint)} OR f.outcome = '{Outcome.UNKNOWN}'"
        in_doubt = f" WHEN {lost}{known} THEN 'in_doubt'" if self._mode in MODES_IN_DOUBT else ""
        missed = " ELSE 'gone'" if self._approach.resent else ""
        if self._tables.sql.begin is not None:
            session.run(f"DROP TABLE IF EXISTS {self._fates}")
        session.run(
            f"CREATE TABLE {'' if self._tables.sql.begin else 'IF NOT EXISTS '}{self._fates} AS SELECT * FROM (SELECT"
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
        """A row is tried again in every run. One that is not in this run's outcomes is still refused only if this run
        left it out because of that (skipped), did not come to it, or could not send it (invalid). A refused
        removal is dropped once a row has the key again, even an invalid one."""
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
        if self._approach.drops_rejections:
            session.run(f"DELETE FROM {table} WHERE plan_id <> {self._id}")
            return
        own = _alias(table)
        same = f"SELECT 1 FROM {self._changes} AS c WHERE c.key_hi = {own}.key_hi AND c.key_lo = {own}.key_lo AND"
        sent = f"c.seq <= {self._plan.total}"
        invalid = f"c.change = 'invalid' AND {own}.fingerprint <> {REMOVED}"
        over = f"NOT EXISTS ({same} (c.change = 'skipped' OR {invalid} OR {sent} AND NOT {self._settled}))"
        if self._approach.low:  # of a part of the model: a row that was not read is still refused
            over = f"EXISTS ({same} {sent} AND {self._settled})"
        session.run(f"DELETE FROM {table} WHERE plan_id <> {self._id} AND {over}")

    def _remember(self, session: Session) -> None:
        """What the next plan has to know, see :mod:`airflow_reverse_etl.sync.comparing`."""
        [(rows,)] = session.run(f"SELECT COUNT(*) FROM {self._snapshot}")
        before = remembered(session, self._tables, self._state, self._plan.sync)[1]
        state = self._approach.state_after(before, rows=int(rows), open_rows=self._open_rows(session))
        session.run(
            f"UPDATE {self._state} SET remembered = {self._tables.text(json.dumps(state.to_json()))} WHERE 1 = 1"
        )

    def _open_rows(self, session: Session) -> str | None:
        """The lowest cursor of a row that was sent, or not, and has to be read again."""
        if not self._approach.kind:
            return None
        text = DIALECTS[self._tables.sql.name].text("MIN(c.w)", self._cursor_type)
        [(lowest,)] = session.run(
            f"SELECT {text} FROM {self._changes} AS c LEFT JOIN {self._failed} AS f ON c.seq = f.seq"
            f" WHERE c.seq <= {self._plan.total} AND (NOT {self._settled} OR f.outcome <> '{Outcome.SKIPPED}')"
        )
        return str(lowest) if lowest is not None else None

    def _log_changes(self, session: Session) -> None:
        text, log = self._tables.text, self._tables["change_log"]
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
        text = self._tables.text
        reasons = [f"{text(reason.code)}, {text(reason.message)}" for reason in self._checkpoint.reasons]
        rows: list[str] = []
        length = 0
        for seq, (outcome, at) in self._checkpoint.failed.items():
            rows.append(f"({seq}, '{outcome}', {reasons[at]})")
            length += len(rows[-1])
            if length > self._tables.sql.piece:
                yield rows
                rows, length = [], 0
        if rows:
            yield rows


def remembered(session: Session, tables: Tables, state: str, sync: str) -> tuple[str, State | None]:
    """The generation of the snapshot, and what the last commit left to remember.

    None if there was no commit, an empty state if what it left is lost.
    """
    [(generation, text)] = session.run(f"SELECT MAX(generation), MAX(remembered) FROM {state}")
    if text:
        return generation, State.from_json(json.loads(text))
    committed = session.run(f"SELECT 1 FROM {tables['runs']} WHERE sync = {tables.text(sync)} LIMIT 1")
    return generation, State() if committed else None


def _alias(table: str) -> str:
    """What a table's columns are qualified with: BigQuery knows it by the last part of its name only."""
    return table.rpartition(".")[2]


def _utc(moment: datetime) -> str:
    """As every warehouse reads it in a session whose time zone is UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
