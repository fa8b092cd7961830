"""Facts about any database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class ErrorKind(StrEnum):
    """Meaning of a driver's error."""

    LOGIN = "login"  # the credentials were refused
    DENIED = "denied"  # a privilege is missing
    FILES = "files"  # DuckDB may not access files
    MISSING = "missing"  # a relation does not exist
    EXISTS = "exists"  # a relation or schema exists already
    WRONG = "wrong"  # not a valid statement: its syntax, or a column in it
    UNIQUE = "unique"  # another row has a value that must be unique
    DATA = "data"  # a value does not fit its type or another constraint
    CONFLICT = "conflict"  # another transaction was in the way
    UNREACHABLE = "unreachable"  # no answer, or not enough resources for one
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Facts about a database. The defaults suit a database of which nothing else is known.

    :param name: sqlglot's name of the dialect.
    :param aliases: its other names, as Airflow's connection types, dbt's adapters and ADBC's drivers have them.
    :param hooks: connection type whose own hook runs no SQL → the hook that does: module under ``airflow.providers``,
        class, and name of the argument for the connection's id.
    :param name_case: the way in which names of relations are compared. Case is ``ignored`` or ``exact``; or names
        without quotes are in ``lower`` or ``upper`` case, and quoted ones are exact.
    :param ignores_case: its default collation compares texts without regard to case.
    :param scalar_functions: functions that return one value for each row here, and any number of rows elsewhere.
    :param more_than_select: pattern of its own syntax for more than one SELECT, which sqlglot misreads, over the text
        that :mod:`airflow_reverse_etl.sql.read_only` makes of the query.
    :param transactions: it has transactions of several statements. Elsewhere, what a failed batch has written remains.
    :param autocommits: its driver commits each statement, unless the statement ``BEGIN`` has begun a transaction.
        Drivers of other databases begin transactions by themselves.
    :param explains: ``EXPLAIN`` checks a statement against tables, columns and constraints without running it.
    :param upsert: statement that inserts or updates a row. Those with ``ON`` require a unique constraint on the key.
    :param many_rows: inserts, upserts and deletes may have many rows in one statement. With its driver that is much
        faster than ``executemany``.
    :param merge_source: end of the SELECT of constants that ``MERGE`` reads.
    :param merge_end: end of a ``MERGE``.
    :param stores_as_text: dates, times, decimals and UUIDs are given to the driver as text.
    :param unique_constraints: query for the columns of a table's unique constraints and indexes, in order: name of the
        constraint, whether it is deferrable, column (null for an expression), whether the column takes null. Empty if
        not known. ``{table}`` is the table's name in SQL, as a text, ``{name}`` its name without schema and quotes.
    :param references: query for the other tables whose foreign keys refer to a table, by the same names and by
        ``{schema}``, which is empty without one. Empty if no foreign key lets a delete reach another table's rows. None
        if it is not known whether all rows of a table can be swapped in one transaction, without harm to others.
    :param unique_violations: patterns of the message of a violated unique constraint. The group is the constraint's
        name, or empty; it never matches a value.
    :param error_words: words of an error's message, in lower case → their meaning. They come first.
    :param error_codes: the driver's own code of an error, as text → its meaning. SQLSTATEs are known without it.
    :param error_classes: name of a driver's class of errors → its meaning, unless words, code or SQLSTATE say it.
    """

    name: str
    aliases: tuple[str, ...] = ()
    hooks: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    name_case: Literal["ignored", "exact", "lower", "upper"] = "ignored"
    ignores_case: bool = False
    scalar_functions: frozenset[str] = frozenset()
    more_than_select: str = ""
    transactions: bool = True
    autocommits: bool = False
    explains: bool = False
    upsert: Literal["MERGE", "ON CONFLICT", "ON DUPLICATE KEY"] = "MERGE"
    many_rows: bool = False
    merge_source: str = ""
    merge_end: str = ""
    stores_as_text: bool = False
    unique_constraints: str = ""
    references: str | None = None
    unique_violations: tuple[str, ...] = ()
    error_words: Mapping[str, ErrorKind] = field(default_factory=dict)
    error_codes: Mapping[str, ErrorKind] = field(default_factory=dict)
    error_classes: Mapping[str, ErrorKind] = field(default_factory=dict)

    def compared_name(self, name: str, *, is_quoted: bool) -> str:
        """Return the name of a relation in the form in which the database compares it."""
        if self.name_case == "exact":
            return name
        if is_quoted and self.name_case in ("lower", "upper"):
            return name
        return name.upper() if self.name_case == "upper" else name.lower()
