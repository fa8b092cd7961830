"""The warehouse planner: runs the plan statement, as CTEs and tables, in the warehouse that has the model."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.sql.statements.plan import PlanStatement, counted, surplus
from airflow_reverse_etl.stores.lake.change_set import KINDS
from airflow_reverse_etl.stores.lake.planner import stored_as_text
from airflow_reverse_etl.stores.warehouse.database import Session
from airflow_reverse_etl.stores.warehouse.schema import Tables

#: Hash columns of the change set.
_HASHES = "key_hi, key_lo, fingerprint"
_SNAPSHOT = f"{_HASHES}, row_key, identifiers"
_REJECTIONS = f"{_HASHES}, attempts, first_seen, last_seen, outcome, code"


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """The result of planning in a warehouse.

    :param counts: of the plan's rows, in the form of :func:`~airflow_reverse_etl.sync.planning.make_plan`.
    :param comparison: completed with the bounds of the model's cursor.
    :param cursor_type: the warehouse's type of the cursor; empty if the sync has no cursor.
    """

    counts: Sequence[tuple[Any, ...]]
    model_rows: int
    comparison: Comparison
    cursor_type: str


class PlanBuilder:
    """The builder of a change set's table.

    :param own: prefix of the sync's tables.
    :param run: suffix of the tables of this plan: ``changes_<run>``, and helper tables, which it drops at the end.
    """

    def __init__(
        self, tables: Tables, statement: PlanStatement, *, own: str, run: str, snapshot_rows: int, now: datetime
    ) -> None:
        self._tables = tables
        self._statement = statement
        self._own = own
        self._run = run
        self._snapshot_rows = snapshot_rows
        self._now = now

    def build(self, session: Session) -> BuiltPlan:
        """Build the change set, in a transaction if CREATE TABLE can be part of one.

        Without a transaction, an error may leave helper tables.
        """
        types = self._types(session)
        if not self._tables.sql.plan_in_transaction:
            return self._build(session, types)
        with session.transaction(one_moment=True):
            return self._build(session, types)

    def _build(self, session: Session, types: Mapping[str, str]) -> BuiltPlan:
        statement = self._statement
        candidates = self._table("candidates")
        kept = self._table("model")
        # Compare the model with the snapshot; store it first if its cursor or repeated keys need it.
        model_rows = self._model_rows(session)
        with_model = self._with_model(types)
        repeated = "candidates"
        if statement.cursor or not self._compare(session, with_model, types, model_rows):
            repeated = kept
            self._compare_kept(session, with_model, types)
        # Make the change set.
        counts = self._classify(session, repeated)
        comparison = statement.comparison
        cursor_type = ""
        if statement.cursor:
            comparison = self._with_bounds(session, types)
            cursor_type = types[statement.cursor[0]]
        # Drop the helper tables.
        session.run(f"DROP TABLE {candidates}")
        session.run(f"DROP TABLE IF EXISTS {kept}")
        return BuiltPlan(counts, model_rows, comparison, cursor_type)

    def _model_rows(self, session: Session) -> int:
        """Count the rows of the model, and check that ``mapped`` has as many at the same moment."""
        extract = self._statement.extract
        if not self._statement.calculates:
            [(rows,)] = session.run(f"SELECT COUNT(*) FROM ({extract}) AS counted")
            return int(rows)
        [(rows, mapped)] = session.run(
            f"SELECT a.rows_read, b.rows_mapped FROM (SELECT COUNT(*) AS rows_read FROM ({extract}) AS counted) AS a"
            " CROSS JOIN (SELECT COUNT(*) AS rows_mapped FROM"
            f" (WITH extracted AS ({extract}) {self._statement.mapped}) AS counted) AS b"
        )
        self._statement.check_rows(read=int(rows), mapped=int(mapped))
        return int(rows)

    def _compare(self, session: Session, with_model: str, types: Mapping[str, str], model_rows: int) -> bool:
        """Compare the model in one pass.

        :returns: False if a key that was unique may have several rows now.
        """
        statement = self._statement
        candidates = self._table("candidates")
        session.run(f"CREATE TABLE {candidates} AS {with_model}, {self._snapshot} {statement.compare(types)}")
        if not (statement.tracked and statement.comparison.compared):
            return True
        found = _counts(session.run(f"SELECT found, COUNT(*) FROM {candidates} GROUP BY found"))
        return not surplus(model_rows=model_rows, snapshot_rows=self._snapshot_rows, found=found)

    def _types(self, session: Session) -> dict[str, str]:
        """Return the columns of ``mapped`` with the warehouse's types."""
        name = f"{self._own}_types_{self._run}"
        session.run(
            f"CREATE TABLE {self._tables[name]} AS WITH extracted AS ({self._statement.extract})"
            f" SELECT * FROM ({self._statement.mapped}) AS mapped WHERE 1 = 0"
        )
        types = self._tables.columns(session, name)
        session.run(f"DROP TABLE {self._tables[name]}")
        if self._tables.sql.name == "duckdb":  # the same types as in the local planner
            types = {name: "VARCHAR" if stored_as_text(kind) else kind for name, kind in types.items()}
        if self._statement.cursor:
            self._statement.cursor_kind(types)  # raises an error if the cursor's type is not supported
        return types

    def _with_model(self, types: Mapping[str, str]) -> str:
        """Build the WITH clause of ``model``."""
        mapped = self._statement.mapped
        if self._tables.sql.name == "duckdb":
            columns = ", ".join(
                f"CAST({name} AS VARCHAR) AS {name}" if kind == "VARCHAR" else name for name, kind in types.items()
            )
            mapped = f"SELECT {columns} FROM ({mapped}) AS typed"
        return (
            f"WITH extracted AS ({self._statement.extract}), mapped AS ({mapped}),"
            f" model AS ({self._statement.model(types)})"
        )

    @property
    def _snapshot(self) -> str:
        return f"delivered AS (SELECT {_SNAPSHOT} FROM {self._tables[f'{self._own}_snapshot']})"

    def _compare_kept(self, session: Session, with_model: str, types: Mapping[str, str]) -> None:
        """Store the model and compare it, finding the keys that have several rows."""
        statement = self._statement
        kept = self._table("model")
        candidates = self._table("candidates")
        session.run(f"DROP TABLE IF EXISTS {candidates}")
        session.run(f"CREATE TABLE {kept} AS {with_model} SELECT * FROM model")
        session.run(
            f"CREATE TABLE {candidates} AS WITH model AS (SELECT * FROM {kept}), {self._snapshot},"
            f" repeated AS ({statement.repeated('model')}) {statement.compare_repeated(types)}"
        )

    def _with_bounds(self, session: Session, types: Mapping[str, str]) -> Comparison:
        """Return the comparison, completed with the bounds of the model's cursor."""
        statement = self._statement
        [(high,)] = session.run(statement.highest_cursor(self._table("model"), types, self._now))
        [(floor,)] = session.run(statement.lowest_cursor(self._table("changes"), types, statement.open_unsent))
        return statement.comparison.seen(statement.cursor_kind(types), high, floor)

    def _classify(self, session: Session, repeated: str) -> list[tuple[Any, ...]]:
        """Make the change set and count its rows. Rows to be sent have the first numbers, in the order of their kinds.

        :param repeated: relation in which repeated keys are found.
        """
        statement = self._statement
        changes = self._table("changes")
        candidates = self._table("candidates")
        rejections = self._tables[f"{self._own}_rejections"]
        rank = " ".join(f"WHEN '{kind}' THEN {at}" for at, kind in enumerate(KINDS))
        names = "".join(f"{name}, " for name in (*statement.values, *statement.cursor, *statement.hashed))
        session.run(
            f"CREATE TABLE {changes} AS WITH candidates AS (SELECT * FROM {candidates}),"
            f" repeated AS ({statement.repeated(repeated)}),"
            f" rejections AS (SELECT {_REJECTIONS} FROM {rejections}),"
            f" quarantined AS ({statement.quarantined(self._now)}), the_plan AS ({statement.classify})"
            f" SELECT ROW_NUMBER() OVER (ORDER BY CASE change {rank} ELSE 9 END) AS seq, change, cause, code,"
            f" row_key, {names}identifiers, {_HASHES} FROM the_plan WHERE change <> 'ignored'"
        )
        if self._tables.sql.indexed:
            session.run(self._tables.sql.indexed.format(table=changes))
        return [(*what, int(rows)) for *what, rows in session.run(counted(changes))]

    def _table(self, name: str) -> str:
        return self._tables[f"{self._own}_{name}_{self._run}"]


#: The tables that an interrupted plan may leave.
PLAN_TABLES = ("changes", "candidates", "model", "types", "failed", "fates")


def _counts(rows: list[tuple[str, int]]) -> dict[str, int]:
    return {name: int(count) for name, count in rows}
