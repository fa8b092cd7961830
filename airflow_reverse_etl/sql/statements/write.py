"""Statements of destination type ``table``, built per dialect with quoted identifiers."""

# ruff: noqa: S608 - identifiers are quoted by sqlglot, values are parameters
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.quoting import literal
from airflow_reverse_etl.sql.statements.unique import constraints_query

if TYPE_CHECKING:
    from sqlglot import exp

#: PEP 249 ``paramstyle`` → mark of a parameter. All these drivers take a row's values as a sequence.
_MARKS = {"qmark": "?", "format": "%s", "pyformat": "%s", "numeric": ":{}", "named": ":{}"}


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text, plus the columns whose values are its parameters, in order."""

    sql: str
    columns: tuple[str, ...]

    def __repr__(self) -> str:
        return self.sql


@dataclass(frozen=True, slots=True)
class Writer:
    """Builder of the statements on one table.

    :param dialect: sqlglot's name of the database.
    :param paramstyle: the driver's, see PEP 249.
    :param table: name, optionally with schema and catalog, quoted as the database requires.
    :param key: columns by which the database recognises a row.
    """

    dialect: str
    paramstyle: str
    table: str
    key: tuple[str, ...]

    def statement(self, operation: Operation, columns: Sequence[str], *, rows: int = 1) -> Statement:
        """Build the statement of an operation on rows with these columns. An update that sets nothing is a look-up.

        :param rows: number of rows, with distinct keys, in one statement; more than 1 only if ``takes_many``.
        """
        others = tuple(name for name in columns if name not in self.key)
        match operation:
            case Operation.DELETE if rows > 1:
                keys = ", ".join(map(self._name, self.key))
                return self._finish(
                    f"DELETE FROM {self._table} WHERE ({keys}) IN ({_tuples(self.key, rows)})", self.key
                )
            case Operation.DELETE:
                return self._finish(f"DELETE FROM {self._table} WHERE {self._where}", self.key)
            case Operation.UPDATE if others:
                assignments = ", ".join(f"{self._name(name)} = {_MARK}" for name in others)
                return self._finish(f"UPDATE {self._table} SET {assignments} WHERE {self._where}", others + self.key)
            case Operation.UPDATE:
                return self.look_up()
            case Operation.INSERT:
                return self._finish(self._insert(columns, rows), tuple(columns))
        upsert = dialect_of(self.dialect).upsert
        if upsert == "ON CONFLICT":
            sets = ", ".join(f"{self._name(name)} = EXCLUDED.{self._name(name)}" for name in others)
            keys = ", ".join(map(self._name, self.key))
            action = f"UPDATE SET {sets}" if sets else "NOTHING"
            return self._finish(f"{self._insert(columns, rows)} ON CONFLICT ({keys}) DO {action}", tuple(columns))
        if upsert == "ON DUPLICATE KEY":
            # VALUES() here also works in MariaDB; the newer row alias does not.
            sets = ", ".join(f"{self._name(name)} = VALUES({self._name(name)})" for name in others or self.key)
            return self._finish(f"{self._insert(columns)} ON DUPLICATE KEY UPDATE {sets}", tuple(columns))
        return self._finish(self._merge(columns, others), tuple(columns))

    @property
    def takes_many(self) -> bool:
        """True if inserts, upserts and deletes may have many rows in one statement."""
        return dialect_of(self.dialect).many_rows

    def look_up(self) -> Statement:
        """Build the query that finds a row by its key."""
        return self._finish(f"SELECT 1 FROM {self._table} WHERE {self._where}", self.key)

    def columns(self) -> Statement:
        """Build the query whose result has the table's columns, and no row."""
        return self._finish(f"SELECT * FROM {self._table} WHERE 1 = 0", ())

    def keys(self, columns: Sequence[str]) -> Statement:
        """Build the query for the keys of the rows that have these values."""
        names = ", ".join(map(self._name, self.key))
        return self._finish(f"SELECT {names} FROM {self._table} WHERE {self._equal(columns)}", tuple(columns))

    def clear(self, column: str) -> Statement:
        """Build the statement that sets a column of a row to null."""
        sql = f"UPDATE {self._table} SET {self._name(column)} = NULL WHERE {self._where}"
        return self._finish(sql, self.key)

    def staging(self) -> Writer:
        """Return the builder of the statements on the table that gets a new content."""
        table = self._parsed
        table.this.set("this", f"{table.name}__replacement")
        return replace(self, table=table.sql(dialect=self.dialect))

    def make_staging(self) -> tuple[str, str]:
        """Build the statements that drop the table with a new content, and make an empty one.

        On Postgres it has the constraints of this one, so that each row that violates one is found by itself.
        """
        new = self.staging()._table
        if self.dialect == "tsql":
            made = f"SELECT * INTO {new} FROM {self._table} WHERE 1 = 0"
        elif self.dialect == "postgres":
            made = f"CREATE TABLE {new} (LIKE {self._table} INCLUDING ALL)"
        else:
            made = f"CREATE TABLE {new} AS SELECT * FROM {self._table} WHERE 1 = 0"
        return self.drop_staging(), made

    def drop_staging(self) -> str:
        """Build the statement that drops the table with a new content."""
        return f"DROP TABLE IF EXISTS {self.staging()._table}"

    def count_staging(self) -> str:
        """Build the query for the number of rows of the new content."""
        return f"SELECT COUNT(*) FROM {self.staging()._table}"

    def show_staging(self, columns: Sequence[str]) -> tuple[str, str]:
        """Build the statements that replace the table's rows by those of the new content, in one transaction."""
        names = ", ".join(map(self._name, columns))
        return (
            f"DELETE FROM {self._table}",
            f"INSERT INTO {self._table} ({names}) SELECT {names} FROM {self.staging()._table}",
        )

    def references(self) -> str | None:
        """Build the query for the other tables whose foreign keys refer to this one.

        It is empty if none can do harm, and None if the rows of a table of this database cannot be swapped.
        """
        query = dialect_of(self.dialect).references
        if not query:
            return query
        names = {"table": self._table, "name": self._parsed.name, "schema": self._parsed.db}
        return query.format(**{name: literal(text, self.dialect) for name, text in names.items()})

    def unique_constraints(self) -> str | None:
        """Build the query that :func:`~airflow_reverse_etl.sql.statements.unique.constraints` reads, if it is known."""
        return constraints_query(self.dialect, self._table, self._parsed.name)

    @property
    def _table(self) -> str:
        return self._parsed.sql(dialect=self.dialect)

    @property
    def _parsed(self) -> exp.Table:
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        try:
            table = sqlglot.parse_one(self.table, read=self.dialect, into=exp.Table)
        except SqlglotError:
            table = None
        if not isinstance(table, exp.Table) or set(table.args) & {"joins", "alias", "pivots"} & _set_args(table):
            raise ConfigurationError(
                f"{self.table!r} is not a valid table name", todo="write destination.object as schema.table"
            )
        return table

    def _name(self, column: str) -> str:
        from sqlglot import exp

        return exp.to_identifier(column, quoted=True).sql(dialect=self.dialect)

    @property
    def _where(self) -> str:
        return self._equal(self.key)

    def _equal(self, columns: Sequence[str]) -> str:
        return " AND ".join(f"{self._name(name)} = {_MARK}" for name in columns)

    def _insert(self, columns: Sequence[str], rows: int = 1) -> str:
        names = ", ".join(map(self._name, columns))
        return f"INSERT INTO {self._table} ({names}) VALUES {_tuples(columns, rows)}"

    def _merge(self, columns: Sequence[str], others: Sequence[str]) -> str:
        def both(names: Sequence[str], between: str) -> str:
            return between.join(f"t.{self._name(name)} = s.{self._name(name)}" for name in names)

        source = ", ".join(f"{_MARK} AS {self._name(name)}" for name in columns)
        update = f" WHEN MATCHED THEN UPDATE SET {both(others, ', ')}" if others else ""
        names = ", ".join(map(self._name, columns))
        values = ", ".join(f"s.{self._name(name)}" for name in columns)
        facts = dialect_of(self.dialect)
        return (
            f"MERGE INTO {self._table} t USING (SELECT {source}{facts.merge_source}) s"
            f" ON {both(self.key, ' AND ')}{update}"
            f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values}){facts.merge_end}"
        )

    def _finish(self, sql: str, columns: tuple[str, ...]) -> Statement:
        """Put the driver's parameter marks into the SQL, and escape percent signs in names if the driver needs it."""
        mark = _MARKS[self.paramstyle]
        if mark == "%s":
            sql = sql.replace("%", "%%")
        first, *rest = sql.split(_MARK)
        marked = "".join(mark.format(number) + part for number, part in enumerate(rest, 1))
        return Statement(first + marked, columns)


#: Placeholder of a parameter until the statement is finished. No name can contain it.
_MARK = "\x00"


def _tuples(columns: Sequence[str], rows: int) -> str:
    marks = ", ".join([_MARK] * len(columns))
    return ", ".join([f"({marks})"] * rows)


def _set_args(table: exp.Table) -> set[str]:
    return {name for name, value in table.args.items() if value}
