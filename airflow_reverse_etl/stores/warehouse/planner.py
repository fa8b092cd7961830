"""Running the plan statement in the warehouse that has the model: the same parts, glued together as CTEs and tables."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.sql.statements.plan import PlanStatement, counted, surplus
from airflow_reverse_etl.stores.lake.change_set import KINDS
from airflow_reverse_etl.stores.lake.planner import as_text
from airflow_reverse_etl.stores.warehouse.database import Session
from airflow_reverse_etl.stores.warehouse.schema import Tables

#: Columns of the change set beside the values.
_HASHES = "key_hi, key_lo, fingerprint"
_SNAPSHOT = f"{_HASHES}, row_key, identifiers"
_REJECTIONS = f"{_HASHES}, attempts, first_seen, last_seen, outcome, code"


@dataclass(frozen=True, slots=True)
class Built:
    """``counts``: of the plan's rows, as :func:`~airflow_reverse_etl.sync.planning.make_plan` takes them.

    :param comparison: with what the model had.
    :param cursor_type: of the sync's cursor, in the warehouse's words; empty where it has none.
    """

    counts: Sequence[tuple[Any, ...]]
    model_rows: int
    comparison: Comparison
    cursor_type: str


class PlanBuilder:
    """Makes the table of a change set.

    :param own: prefix of the sync's tables.
    :param run: suffix of the tables of this plan: ``changes_<run>``, and helpers that are dropped at the end.
    """

    def __init__(
        self, tables: Tables, statement: PlanStatement, *, own: str, run: str, snapshot_rows: int, now: datetime
    ) -> None:
        self._tables, self._statement, self._now = tables, statement, now
        self._own, self._run, self._snapshot_rows = own, run, snapshot_rows

    def build(self, session: Session) -> Built:
        """All or nothing where CREATE TABLE can be part of a transaction; elsewhere helpers may be left."""
        types = self._types(session)
        if not self._tables.sql.plan_in_transaction:
            return self._build(session, types)
        with session.transaction(one_moment=True):
            return self._build(session, types)

    def _build(self, session: Session, types: Mapping[str, str]) -> Built:
        statement, candidates, kept = self._statement, self._table("candidates"), self._table("model")
        model_rows = self._model_rows(session)
        with_model = self._with_model(types)
        repeated = "candidates"
        if statement.cursor or not self._compare(session, with_model, types, model_rows):
            repeated = kept
            self._compare_kept(session, with_model, types)
        counts = self._classify(session, repeated)
        comparison = self._with_bounds(session, types) if statement.cursor else statement.comparison
        session.run(f"DROP TABLE {candidates}")
        session.run(f"DROP TABLE IF EXISTS {kept}")
        return Built(counts, model_rows, comparison, types[statement.cursor[0]] if statement.cursor else "")

    def _model_rows(self, session: Session) -> int:
        """How many rows the model has: as many as ``mapped``, which is counted at the same moment."""
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
        """Compare in one pass; False if a key that was unique may be there several times now."""
        statement, candidates = self._statement, self._table("candidates")
        session.run(f"CREATE TABLE {candidates} AS {with_model}, {self._snapshot} {statement.compare(types)}")
        if not (statement.tracked and statement.comparison.compared):
            return True
        found = _counts(session.run(f"SELECT found, COUNT(*) FROM {candidates} GROUP BY found"))
        return not surplus(model_rows=model_rows, snapshot_rows=self._snapshot_rows, found=found)

    def _types(self, session: Session) -> dict[str, str]:
        """Types of the columns of ``mapped``, in the warehouse's words."""
        name = f"{self._own}_types_{self._run}"
        session.run(
            f"CREATE TABLE {self._tables[name]} AS WITH extracted AS ({self._statement.extract})"
            f" SELECT * FROM ({self._statement.mapped}) AS mapped WHERE 1 = 0"
        )
        types = self._tables.columns(session, name)
        session.run(f"DROP TABLE {self._tables[name]}")
        if self._tables.sql.name == "duckdb":  # as the local planner has them
            types = {name: "VARCHAR" if as_text(kind) else kind for name, kind in types.items()}
        if self._statement.cursor:
            self._statement.cursor_kind(types)
        return types

    def _with_model(self, types: Mapping[str, str]) -> str:
        mapped = self._statement.mapped
        if self._tables.sql.name == "duckdb":
            columns = (
                f"CAST({name} AS VARCHAR) AS {name}" if kind == "VARCHAR" else name for name, kind in types.items()
            )
            mapped = f"SELECT {', '.join(columns)} FROM ({mapped}) AS typed"
        return (
            f"WITH extracted AS ({self._statement.extract}), mapped AS ({mapped}),"
            f" model AS ({self._statement.model(types)})"
        )

    @property
    def _snapshot(self) -> str:
        return f"delivered AS (SELECT {_SNAPSHOT} FROM {self._tables[f'{self._own}_snapshot']})"

    def _compare_kept(self, session: Session, with_model: str, types: Mapping[str, str]) -> None:
        """Store the model, and compare it with a view to keys that it has several times."""
        statement, kept, candidates = self._statement, self._table("model"), self._table("candidates")
        session.run(f"DROP TABLE IF EXISTS {candidates}")
        session.run(f"CREATE TABLE {kept} AS {with_model} SELECT * FROM model")
        session.run(
            f"CREATE TABLE {candidates} AS WITH model AS (SELECT * FROM {kept}), {self._snapshot},"
            f" repeated AS ({statement.repeated('model')}) {statement.compare_repeated(types)}"
        )

    def _with_bounds(self, session: Session, types: Mapping[str, str]) -> Comparison:
        """The approach, with what the cursor's values were."""
        statement = self._statement
        [(high,)] = session.run(statement.highest_cursor(self._table("model"), types, self._now))
        [(floor,)] = session.run(statement.lowest_cursor(self._table("changes"), types, statement.open_unsent))
        return statement.comparison.seen(statement.cursor_kind(types), high, floor)

    def _classify(self, session: Session, repeated: str) -> list[tuple[Any, ...]]:
        """Make the change set, and count it: rows to be sent have the first numbers, in the order of their kinds.

        :param repeated: relation to find repeated keys in.
        """
        statement, changes, candidates = self._statement, self._table("changes"), self._table("candidates")
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


#: The tables that a plan may leave when it is cut short.
PLAN_TABLES = ("changes", "candidates", "model", "types", "failed", "fates")


def _counts(rows: list[tuple[str, int]]) -> dict[str, int]:
    return {name: int(count) for name, count in rows}
