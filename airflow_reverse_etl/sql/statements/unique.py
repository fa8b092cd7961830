"""Unique constraints of a table, and the rows that must be written together because of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.quoting import literal


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
    query = dialect_of(dialect).unique_constraints
    return query.format(table=literal(table, dialect), name=literal(name, dialect)) if query else None


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
