"""The commit of a plan in a warehouse: the rows of the commit statement, applied as DELETE and INSERT.

Running a statement again has the same result. An interrupted commit can therefore be completed in a warehouse where
several statements cannot be one transaction.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from airflow_reverse_etl.spec.comparison import State
from airflow_reverse_etl.sql.statements.commit import CommitStatement
from airflow_reverse_etl.stores.state import MEND_STATE, read_stored
from airflow_reverse_etl.stores.warehouse.database import Session, with_relations
from airflow_reverse_etl.stores.warehouse.schema import Tables
from airflow_reverse_etl.sync.committing import REJECTIONS, SNAPSHOT, CommitRunner
from airflow_reverse_etl.sync.comparing import outdated
from airflow_reverse_etl.sync.planning import StoredPlan
from airflow_reverse_etl.sync.progress import Checkpoint

_REJECTION_COLUMNS = ", ".join(REJECTIONS)
_SNAPSHOT_COLUMNS = ", ".join(SNAPSHOT)


class WarehouseCommitRunner(CommitRunner):
    """Commits one plan. Call :meth:`prepare` first, then the other methods in one transaction.

    :param own: prefix of the sync's tables.
    :param run: suffix of the plan's tables.
    :param history: how long runs are kept.
    :param change_log: whether to log the outcome of each row.
    """

    def __init__(
        self,
        tables: Tables,
        session: Session,
        stored: StoredPlan,
        checkpoint: Checkpoint,
        *,
        own: str,
        run: str,
        history: timedelta,
        change_log: bool,
    ) -> None:
        self._tables = tables
        self._session = session
        self._stored = stored
        self._plan = stored.plan
        self._checkpoint = checkpoint
        self._history = history
        self._logs_changes = change_log
        # The sync's tables, and the plan's.
        self._snapshot = tables[f"{own}_snapshot"]
        self._rejections = tables[f"{own}_rejections"]
        self._state = tables[f"{own}_state"]
        self._failed = tables[f"{own}_failed_{run}"]
        self._fates = tables[f"{own}_fates_{run}"]
        self._refused = tables[f"{own}_refused_{run}"]
        self._relations = {
            "changes": self._changes(tables[f"{own}_changes_{run}"]),
            "failed": f"SELECT * FROM {self._failed}",
            "snapshot": f"SELECT * FROM {self._snapshot}",
            "rejections": f"SELECT * FROM {self._rejections}",
            "fates": f"SELECT * FROM {self._fates}",
        }
        self._id = tables.text(self._plan.plan_id)

    def prepare(self, statement: CommitStatement) -> None:
        """Make the tables ``failed``, ``fates`` and ``refused``, the next rejections.

        Not in the transaction, because in Snowflake CREATE TABLE ends a transaction. The tables are used only if
        nothing changed the snapshot since the plan was made. In a warehouse without transactions the first decision
        stands, because the tables that it was made from may have changed since.
        """
        session = self._session
        text = self._tables.sql.types["VARCHAR"]
        number = self._tables.sql.types["BIGINT"]
        session.run(f"DROP TABLE IF EXISTS {self._failed}")
        session.run(f"CREATE TABLE {self._failed} (seq {number}, outcome {text}, code {text}, message {text})")
        for rows in self._failed_rows():
            session.run(f"INSERT INTO {self._failed} (seq, outcome, code, message) VALUES {', '.join(rows)}")
        decisions = {self._refused: statement.next_rejections}
        if self._stored.comparison.tracked:
            decisions[self._fates] = statement.fates
        for table, select in decisions.items():
            if self._tables.sql.transactions:
                session.run(f"DROP TABLE IF EXISTS {table}")
            unless_decided = "" if self._tables.sql.transactions else "IF NOT EXISTS "
            session.run(f"CREATE TABLE {unless_decided}{table} AS {self._with(select)}")

    def replace_snapshot(self, statement: CommitStatement) -> int:
        session = self._session
        expected = self._tables.text(self._stored.generation)
        session.run(f"UPDATE {self._state} SET generation = {self._id} WHERE generation = {expected}")
        if session.run(f"SELECT DISTINCT generation FROM {self._state}") != [(self._plan.plan_id,)]:
            raise outdated(self._plan)
        if self._stored.comparison.drops_snapshot:
            session.run(f"DELETE FROM {self._snapshot} WHERE 1 = 1")
        elif not session.run(f"SELECT 1 FROM {self._fates} LIMIT 1"):
            return self.snapshot_rows()
        # Replace the records that have a fate.
        name = _alias(self._snapshot)
        session.run(
            f"DELETE FROM {self._snapshot} WHERE EXISTS (SELECT 1 FROM {self._fates} AS f"
            f" WHERE f.key_hi = {name}.key_hi AND f.key_lo = {name}.key_lo)"
        )
        delivered = self._with(f"SELECT {_SNAPSHOT_COLUMNS} FROM ({statement.delivered}) AS delivered")
        session.run(f"INSERT INTO {self._snapshot} ({_SNAPSHOT_COLUMNS}) {delivered}")
        if self._tables.sql.analyzed:
            session.run(self._tables.sql.analyzed.format(table=self._snapshot))
        return self.snapshot_rows()

    def snapshot_rows(self) -> int:
        [(rows,)] = self._session.run(f"SELECT COUNT(*) FROM {self._snapshot}")
        return int(rows)

    def replace_rejections(self, statement: CommitStatement) -> None:  # noqa: ARG002 - see prepare
        table = self._rejections
        self._session.run(f"DELETE FROM {table} WHERE 1 = 1")
        self._session.run(
            f"INSERT INTO {table} ({_REJECTION_COLUMNS}, plan_id)"
            f" SELECT {_REJECTION_COLUMNS}, {self._id} FROM {self._refused}"
        )

    def append_log(self, select: str) -> None:
        if not self._logs_changes:
            return
        log = self._tables["change_log"]
        columns = "sync, run_id, change, row_key, key_hi, key_lo, fingerprint, outcome, code"
        rows = self._with(
            f"SELECT {columns}, {self._id}, CURRENT_TIMESTAMP FROM ({select}) AS logged"
            f" WHERE NOT EXISTS (SELECT 1 FROM {log} AS done WHERE done.plan_id = {self._id})"
        )
        self._session.run(f"INSERT INTO {log} ({columns}, plan_id, committed_at) {rows}")

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self._session.run(self._with(select))

    def state(self) -> State | None:
        return saved_state(self._session, self._tables, self._state, self._plan.sync)[1]

    def finish(self, state: State, run: dict[str, Any]) -> None:
        text = self._tables.text
        self._session.run(f"UPDATE {self._state} SET remembered = {text(json.dumps(state.to_json()))} WHERE 1 = 1")
        self._add_run(run)
        self._forget_old()

    def _add_run(self, run: dict[str, Any]) -> None:
        text = self._tables.text
        row = {**run, "sync": self._plan.sync}
        planned_at = self._tables.instant(row.pop("planned_at"))
        values = ", ".join(text(value) for value in row.values())
        self._session.run(
            f"INSERT INTO {self._tables['runs']} ({', '.join(row)}, planned_at, committed_at)"
            f" SELECT {values}, {planned_at}, CURRENT_TIMESTAMP"
        )

    def _forget_old(self) -> None:
        """Delete runs, and rows of the change log, that are too old."""
        oldest = self._tables.instant(self._plan.created_at - self._history)
        sync = self._tables.text(self._plan.sync)
        for name, time in (("runs", "planned_at"), ("change_log", "committed_at")):
            self._session.run(f"DELETE FROM {self._tables[name]} WHERE sync = {sync} AND {time} < {oldest}")

    def _changes(self, table: str) -> str:
        """Build the query for the plan's rows. A column that the plan does not have is null."""
        types = self._tables.sql.types
        optional = {"field_hashes": types["VARCHAR"], "row_hi": types["BIGINT"], "row_lo": types["BIGINT"]}
        names = ["seq", "change", "row_key", "identifiers", "key_hi", "key_lo", "fingerprint"]
        for name, kind in optional.items():
            names.append(name if name in self._stored.columns else f"CAST(NULL AS {kind}) AS {name}")
        if self._stored.cursor_type:
            names.append("w")
        return f"SELECT {', '.join(names)} FROM {table}"

    def _with(self, select: str) -> str:
        return with_relations(select, self._relations)

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
    :raises StateError: a newer version of this package saved it.
    """
    [(generation, text)] = session.run(f"SELECT MAX(generation), MAX(remembered) FROM {state}")
    if text:
        return generation, read_stored(text, State.from_json, "the state", todo=MEND_STATE, sync=sync)
    committed = session.run(f"SELECT 1 FROM {tables['runs']} WHERE sync = {tables.text(sync)} LIMIT 1")
    return generation, State(format=1) if committed else None


def _alias(table: str) -> str:
    """Return the name that qualifies a table's columns. BigQuery accepts only the last part of the table's name."""
    return table.rpartition(".")[2]
