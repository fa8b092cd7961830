"""Unique constraints of a table, and the rows that must be written together because of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

#: Queries for the columns of a table's unique constraints and indexes, in order: name of the constraint, whether it is
#: deferrable, column (null for an expression), whether the column takes null. ``{table}`` and ``{name}`` are texts.
_QUERIES = {
    "postgres": """
        SELECT i.relname, COALESCE(c.condeferrable, FALSE), a.attname, NOT a.attnotnull
        FROM pg_index AS x
        JOIN pg_class AS i ON i.oid = x.indexrelid
        CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (attnum, place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
        LEFT JOIN pg_constraint AS c ON c.conindid = x.indexrelid AND c.conrelid = x.indrelid
        WHERE x.indrelid = to_regclass({table}) AND x.indisunique AND x.indpred IS NULL AND k.place <= x.indnkeyatts
        ORDER BY i.relname, k.place""",
    "sqlite": """
        SELECT l.name, FALSE, c.name, t."notnull" = 0
        FROM pragma_index_list({name}) AS l, pragma_index_info(l.name) AS c
        LEFT JOIN pragma_table_info({name}) AS t ON t.name = c.name
        WHERE l."unique" AND NOT l.partial
        ORDER BY l.name, c.seqno""",
    "duckdb": """
        SELECT u.constraint_name, FALSE, u.name, c.is_nullable
        FROM (SELECT *, unnest(constraint_column_names) AS name FROM duckdb_constraints()) AS u
        JOIN duckdb_columns() AS c ON c.table_oid = u.table_oid AND c.column_name = u.name
        WHERE u.constraint_type IN ('UNIQUE', 'PRIMARY KEY') AND u.table_name = {name}
        ORDER BY u.table_oid, u.constraint_name""",
}


@dataclass(frozen=True, slots=True)
class UniqueConstraint:
    """Columns of a table whose values together are unique.

    :param nullable: those of the columns that take null.
    """

    columns: tuple[str, ...]
    nullable: tuple[str, ...]
    deferrable: bool


def constraints_query(dialect: str, table: str, name: str) -> str | None:
    """Return the query for a table's unique constraints, or None if it is not known for this database.

    :param table: name of the table in SQL, quoted as needed.
    :param name: name without schema and quotes.
    """
    query = _QUERIES.get(dialect)
    return query and query.format(table=_text(table), name=_text(name))


def constraints(rows: Iterable[Sequence[Any]]) -> list[UniqueConstraint]:
    """Read the result of :func:`constraints_query`; leaves out constraints on expressions."""
    found = []
    for _, group in groupby(rows, key=itemgetter(0)):
        parts = list(group)
        columns = tuple(column for _, _, column, _ in parts)
        nullable = tuple(column for _, _, column, is_nullable in parts if is_nullable)
        if None not in columns:
            found.append(UniqueConstraint(columns, nullable, bool(parts[0][1])))
    return found


def rows_together(
    first: int, in_the_way: Callable[[int], Iterable[tuple[UniqueConstraint, int | None]]]
) -> tuple[list[int], set[UniqueConstraint]] | None:
    """Return the rows that must be written together with a row, itself included, and the constraints that bind them.

    :param in_the_way: returns the rows whose records have a unique value of this row, and the constraint. None is a
        record of no row that could give the value up.
    :returns: None if such a record is in the way of one of them.
    """
    found = [first]
    binding = set()
    for row in found:  # grows meanwhile
        for constraint, other in in_the_way(row):
            if other is None:
                return None
            binding.add(constraint)
            if other not in found:
                found.append(other)
    return found, binding


def _text(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'"
