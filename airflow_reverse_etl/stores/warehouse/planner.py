"""The warehouse planner: runs the plan statement, as CTEs and tables, in the warehouse that has the model."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_reverse_etl.sql.statements.classification import counted
from airflow_reverse_etl.sql.statements.plan import PlanStatement
from airflow_reverse_etl.stores.lake.planner import stored_as_text, value_kinds
from airflow_reverse_etl.stores.warehouse.database import Session, with_relations
from airflow_reverse_etl.stores.warehouse.schema import Tables
from airflow_reverse_etl.sync.planning import PlanRunner
from airflow_reverse_etl.sync.ports import KINDS

_REJECTIONS = "key_hi, key_lo, fingerprint, attempts, first_seen, last_seen, outcome, code"
_SNAPSHOT = "key_hi, key_lo, row_hi, row_lo, fingerprint, row_key, identifiers, field_hashes"

#: Relations that are tables; the others are CTEs of the statements that read them.
_TABLES = ("candidates", "whole_model")


class WarehousePlanRunner(PlanRunner):
    """Runs the plan statement in a warehouse. Relations are CTEs, except for two, which are tables until :meth:`write`.

    Without a transaction, an error may leave helper tables.

    :param own: prefix of the sync's tables.
    :param run: suffix of the tables of this plan: ``changes_<run>``, and helper tables.
    """

    #: Looking for identifiers would read the whole snapshot.
    identified = True

    def __init__(
        self,
        tables: Tables,
        session: Session,
        types: Mapping[str, str],
        kinds: Mapping[str, str],
        *,
        own: str,
        run: str,
    ) -> None:
        self._tables = tables
        self._session = session
        self._types = types
        self.kinds = kinds
        self._own = own
        self._run = run
        self._relations = {
            "delivered": f"SELECT {_SNAPSHOT} FROM {tables[f'{own}_snapshot']}",
            "rejections": f"SELECT {_REJECTIONS} FROM {tables[f'{own}_rejections']}",
        }

    def read_model(
        self, statement: PlanStatement, name: str, select: Callable[[Mapping[str, str]], str]
    ) -> tuple[int, Mapping[str, str]]:
        rows = self._count_model(statement)
        self._relations["extracted"] = statement.extract
        self._relations["mapped"] = self._mapped(statement)
        self._relations["model"] = statement.model(self._types)
        self.make(name, select(self._types))
        return rows, self._types

    def make(self, name: str, select: str) -> None:
        if name in _TABLES:
            table = self._table(name)
            self._session.run(f"DROP TABLE IF EXISTS {table}")
            self._session.run(f"CREATE TABLE {table} AS {self._with(select)}")
            select = f"SELECT * FROM {table}"
        self._relations[name] = select

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self._session.run(self._with(select))

    def write(self, statement: PlanStatement) -> list[tuple[Any, ...]]:
        """Make the change set. Rows to be sent have the first numbers, in the order of their kinds."""
        changes = self._table("changes")
        rank = " ".join(f"WHEN '{kind}' THEN {at}" for at, kind in enumerate(KINDS))
        names = ", ".join((*statement.values, *statement.cursor, *statement.hashed, *statement.digests))
        select = self._with(
            f"SELECT ROW_NUMBER() OVER (ORDER BY CASE change {rank} ELSE 9 END) AS seq, change, cause, code, row_key,"
            f" identifiers, {names}, fingerprint FROM the_plan WHERE change <> 'ignored'"
        )
        self._session.run(f"CREATE TABLE {changes} AS {select}")
        if self._tables.sql.indexed:
            self._session.run(self._tables.sql.indexed.format(table=changes))
        self._relations["the_plan"] = f"SELECT * FROM {changes}"
        return self._session.run(counted(changes))

    def drop_helpers(self) -> None:
        """Drop the tables that only the planning needs."""
        for name in _TABLES:
            self._session.run(f"DROP TABLE IF EXISTS {self._table(name)}")

    def _with(self, select: str) -> str:
        return with_relations(select, self._relations)

    def _count_model(self, statement: PlanStatement) -> int:
        """Count the rows of the model, and check that ``mapped`` has as many at the same moment."""
        extract = statement.extract
        if not statement.calculates:
            [(rows,)] = self._session.run(f"SELECT COUNT(*) FROM ({extract}) AS counted")
            return int(rows)
        [(rows, mapped)] = self._session.run(
            f"SELECT a.rows_read, b.rows_mapped FROM (SELECT COUNT(*) AS rows_read FROM ({extract}) AS counted) AS a"
            " CROSS JOIN (SELECT COUNT(*) AS rows_mapped FROM"
            f" (WITH extracted AS ({extract}) {statement.mapped}) AS counted) AS b"
        )
        statement.check_rows(read=int(rows), mapped=int(mapped))
        return int(rows)

    def _mapped(self, statement: PlanStatement) -> str:
        mapped = statement.mapped
        if self._tables.sql.name != "duckdb":
            return mapped
        # the same types as in the local planner
        columns = ", ".join(
            f"CAST({name} AS VARCHAR) AS {name}" if kind == "VARCHAR" else name for name, kind in self._types.items()
        )
        return f"SELECT {columns} FROM ({mapped}) AS typed"

    def _table(self, name: str) -> str:
        return self._tables[f"{self._own}_{name}_{self._run}"]


def model_types(
    session: Session, tables: Tables, statement: PlanStatement, *, own: str, run: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns of ``mapped`` with the warehouse's types, and what the text of its values stands for.

    The second is empty if the reader of the change set knows it.
    """
    name = f"{own}_types_{run}"
    session.run(
        f"CREATE TABLE {tables[name]} AS WITH extracted AS ({statement.extract})"
        f" SELECT * FROM ({statement.mapped}) AS mapped WHERE 1 = 0"
    )
    types = tables.columns(session, name)
    session.run(f"DROP TABLE {tables[name]}")
    kinds: dict[str, str] = {}
    if tables.sql.name == "duckdb":  # the same types as in the local planner
        kinds = value_kinds(statement, types)
        types = {name: "VARCHAR" if stored_as_text(kind) else kind for name, kind in types.items()}
    if statement.cursor:
        statement.cursor_kind(types)  # raises an error if the cursor's type is not supported
    return types, kinds


#: The tables that an interrupted plan or commit may leave.
PLAN_TABLES = ("changes", "candidates", "whole_model", "model", "types", "failed", "fates", "refused")
