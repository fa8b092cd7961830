"""Rows of a table that must be written together, because each takes a unique value of another one's record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from airflow_reverse_etl.spec.receipts import Batch
from airflow_reverse_etl.sql.statements.unique import UniqueConstraint, constraints, rows_together
from airflow_reverse_etl.sql.statements.write import Writer


class UniqueGroups:
    """Finder of the rows of a batch that must be written together. Rows are positions in the batch.

    :param cursor: DB-API cursor that reads the table.
    :param as_parameter: converts a value of a record for the driver.
    """

    def __init__(self, cursor: Any, writer: Writer, batch: Batch, as_parameter: Callable[[Any], Any]) -> None:
        self._cursor = cursor
        self._writer = writer
        self._records = batch.records
        self._as_parameter = as_parameter
        found = []
        if query := writer.unique_constraints():
            cursor.execute(query)
            found = constraints(cursor.fetchall())
        self._constraints = [constraint for constraint in found if set(constraint.columns) != set(writer.key)]
        # Key of a record, as the database returns it → row that may change the record.
        self._rows: dict[tuple[Any, ...], int] = {}
        for row in range(len(batch)):
            self._rows |= dict.fromkeys(self._keys(writer.key, row), row)

    def group(self, row: int) -> tuple[list[int], list[tuple[str, list[Any]]]]:
        """Return the rows to write together with a row, itself included, and the statements to execute before.

        A row is alone if a record is in its way, or in that of another row of its group, that no row changes.
        """
        found = rows_together(row, self._in_the_way)
        if found is None:
            return [row], []
        rows, binding = found
        before: list[tuple[str, list[Any]]] = []
        for constraint in binding:
            free = [name for name in constraint.nullable if name not in self._writer.key]
            if constraint.deferrable:
                before.append(("SET CONSTRAINTS ALL DEFERRED", []))
            elif free:
                statement = self._writer.clear(free[0])
                before += [(statement.sql, self._parameters(statement.columns, member)) for member in rows]
        return rows, before

    def written(self, rows: Sequence[int]) -> None:
        """Record that rows are written: their records change no more."""
        self._rows = {key: row for key, row in self._rows.items() if row not in rows}

    def _in_the_way(self, row: int) -> Iterator[tuple[UniqueConstraint, int | None]]:
        for constraint in self._constraints:
            # A column that is not written stays as it is.
            if self._records[row].keys() >= set(constraint.columns):
                for key in self._keys(constraint.columns, row):
                    other = self._rows.get(key)
                    if other != row:
                        yield constraint, other

    def _keys(self, columns: tuple[str, ...], row: int) -> list[tuple[Any, ...]]:
        """Return the keys of the records that have this row's values in these columns."""
        statement = self._writer.keys(columns)
        self._cursor.execute(statement.sql, self._parameters(statement.columns, row))
        return [tuple(key) for key in self._cursor.fetchall()]

    def _parameters(self, columns: Sequence[str], row: int) -> list[Any]:
        return [self._as_parameter(self._records[row].get(name)) for name in columns]
