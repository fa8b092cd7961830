"""The meaning of drivers' errors, and which of their words are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.driver_errors import SqlError, classify

TABLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, age INTEGER NOT NULL CHECK (age > 0), name TEXT)"
ADA = "INSERT INTO people VALUES (1, 36, 'Ada')"

#: Statement → its meaning, in every database that can be run here.
STATEMENTS = {
    "SELECT * FROM nobody": ErrorKind.MISSING,
    "SELECT nothing FROM people": ErrorKind.WRONG,
    "SELECT 1 FROM WHERE": ErrorKind.WRONG,
    "INSERT INTO people (id, size) VALUES (2, 1)": ErrorKind.WRONG,
    ADA: ErrorKind.UNIQUE,
    "INSERT INTO people VALUES (2, NULL, 'Bob')": ErrorKind.DATA,
    "INSERT INTO people VALUES (2, -1, 'Bob')": ErrorKind.DATA,
}
#: More of them in databases with types and schemas.
TYPED = {
    "SELECT no_such_function(age) FROM people": ErrorKind.WRONG,
    "SELECT CAST(name AS INTEGER) FROM people": ErrorKind.DATA,
    TABLE: ErrorKind.EXISTS,
}


def error_of(connection: Any, statement: str) -> Exception:
    with pytest.raises(Exception) as caught:
        connection.cursor().execute(statement).fetchall()
    return caught.value


def meaning(error: Exception, dialect: str) -> SqlError:
    found = classify(error, dialect_of(dialect))
    assert found is not None
    return found


@pytest.mark.parametrize(("statement", "kind"), STATEMENTS.items())
def test_errors_of_sqlite(statement: str, kind: ErrorKind) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(TABLE)
        connection.execute(ADA)
        assert meaning(error_of(connection, statement), "sqlite").kind is kind


def test_a_locked_file_of_sqlite_is_a_conflict(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "db")) as holder,
        closing(sqlite3.connect(tmp_path / "db", timeout=0)) as one,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        assert meaning(error_of(one, TABLE), "sqlite").kind is ErrorKind.CONFLICT


@pytest.mark.parametrize(("statement", "kind"), (STATEMENTS | TYPED).items())
def test_errors_of_duckdb(statement: str, kind: ErrorKind) -> None:
    with closing(duckdb.connect()) as connection:
        connection.execute(TABLE)
        connection.execute(ADA)
        assert meaning(error_of(connection, statement), "duckdb").kind is kind


def test_a_row_that_another_transaction_of_duckdb_has_changed_is_a_conflict() -> None:
    with closing(duckdb.connect()) as connection, closing(connection.cursor()) as other:
        connection.execute(TABLE)
        connection.execute(ADA)
        other.execute("BEGIN")
        other.execute("UPDATE people SET name = 'Grace'")
        assert meaning(error_of(connection, "UPDATE people SET name = 'Bob'"), "duckdb").kind is ErrorKind.CONFLICT


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_errors_of_postgres(postgres: str, driver: str) -> None:
    connect: Callable[[str], Any] = pytest.importorskip(driver).connect
    with closing(connect(postgres)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(TABLE.replace("CREATE TABLE", "CREATE TEMP TABLE"))
        cursor.execute(ADA)
        # A session's own table hides one in a schema.
        statements = STATEMENTS | TYPED | {"CREATE TEMP TABLE people (id INTEGER)": ErrorKind.EXISTS}
        del statements[TABLE]
        found = {statement: meaning(error_of(connection, statement), "postgres").kind for statement in statements}
        assert found == statements
        cursor.execute("SET default_transaction_read_only = on")
        assert meaning(error_of(connection, "CREATE SCHEMA closed"), "postgres").kind is ErrorKind.DENIED


class Error(Exception): ...


class DatabaseError(Error): ...


class OperationalError(DatabaseError): ...


class ProgrammingError(DatabaseError): ...


class InternalError(DatabaseError): ...


class IntegrityError(DatabaseError): ...


class DataError(DatabaseError): ...


class InterfaceError(Error): ...


def with_state(error: Exception, sqlstate: str) -> Exception:
    error.sqlstate = sqlstate  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("dialect", "error", "kind"),
    [
        # MySQL's own numbers: its driver raises an operational error for wrong names
        ("mysql", OperationalError(1045, "Access denied for user 'x'@'h' (using password: YES)"), ErrorKind.LOGIN),
        ("mysql", OperationalError(1054, "Unknown column 'x' in 'field list'"), ErrorKind.WRONG),
        ("mysql", ProgrammingError(1146, "Table 'd.t' doesn't exist"), ErrorKind.MISSING),
        ("mysql", OperationalError(1142, "INSERT command denied to user"), ErrorKind.DENIED),
        ("mysql", IntegrityError(1062, "Duplicate entry 'a' for key 't.PRIMARY'"), ErrorKind.UNIQUE),
        ("mysql", IntegrityError(1452, "Cannot add or update a child row"), ErrorKind.DATA),
        ("mysql", OperationalError(1213, "Deadlock found when trying to get lock"), ErrorKind.CONFLICT),
        ("mysql", OperationalError(2003, "Can't connect to MySQL server on 'h'"), ErrorKind.UNREACHABLE),
        # SQL Server, by ODBC and by pymssql
        ("tsql", IntegrityError("23000", "Violation of PRIMARY KEY constraint 'PK' (2627)"), ErrorKind.UNIQUE),
        ("tsql", IntegrityError("23000", "The INSERT statement conflicted with the CHECK constraint"), ErrorKind.DATA),
        ("tsql", ProgrammingError("42S02", "Invalid object name 't'"), ErrorKind.MISSING),
        ("tsql", ProgrammingError(208, b"Invalid object name 't'"), ErrorKind.MISSING),
        ("oracle", IntegrityError("ORA-00001: unique constraint (A.B) violated"), ErrorKind.UNIQUE),
        # Redshift: one class for nearly all, and the SQLSTATE in a dict
        ("redshift", ProgrammingError({"C": "42P01", "M": 'relation "t" does not exist'}), ErrorKind.MISSING),
        (
            "redshift",
            ProgrammingError({"C": "XX000", "M": "1023 DETAIL: Serializable isolation violation on table"}),
            ErrorKind.CONFLICT,
        ),
        # Snowflake has one class for nearly all, too
        ("snowflake", with_state(ProgrammingError("Object 'T' does not exist"), "02000"), ErrorKind.MISSING),
        ("snowflake", with_state(ProgrammingError("Numeric value 'x' is not recognized"), "22018"), ErrorKind.DATA),
        (
            "snowflake",
            with_state(ProgrammingError("Statement 'q' has locked table 'T' in transaction 1"), "57014"),
            ErrorKind.CONFLICT,
        ),
        ("databricks", DatabaseError("[TABLE_OR_VIEW_NOT_FOUND] The table `t`"), ErrorKind.MISSING),
        ("databricks", DatabaseError("[DELTA_CONCURRENT_APPEND] ConcurrentAppendException"), ErrorKind.CONFLICT),
        ("bigquery", DatabaseError("Could not serialize access due to concurrent update"), ErrorKind.CONFLICT),
        # any database
        ("trino", ProgrammingError("line 1:8: Column 'connection' cannot be resolved"), ErrorKind.WRONG),
        ("trino", DatabaseError("the connection was closed"), ErrorKind.UNREACHABLE),
        ("trino", InterfaceError("closed"), ErrorKind.UNREACHABLE),
        ("trino", DatabaseError("something else"), ErrorKind.OTHER),
        ("postgres", with_state(InternalError("a message of a trigger"), "P0001"), ErrorKind.OTHER),
    ],
)
def test_errors_of_databases_that_are_not_here(dialect: str, error: Exception, kind: ErrorKind) -> None:
    assert meaning(error, dialect).kind is kind


@pytest.mark.parametrize(
    ("dialect", "error", "constraint"),
    [
        ("sqlite", ("UNIQUE constraint failed: people.email, people.team",), "people.email, people.team"),
        ("sqlite", ("UNIQUE constraint failed: index 'one_email'",), "one_email"),
        (
            "postgres",
            ('duplicate key value violates unique constraint "key"\nDETAIL:  Key (email)=(constraint "x") exists.',),
            "key",
        ),
        (
            "duckdb",
            ("Constraint Error: Duplicate key \"email: constraint 'x'\" violates unique constraint.",),
            "unique",
        ),
        ("mysql", (1062, "Duplicate entry 'a' for key 'x'' for key 'people.email'"), "people.email"),
        (
            "tsql",
            ("Violation of UNIQUE KEY constraint 'UQ_email'. The duplicate key value is (constraint 'x').",),
            "UQ_email",
        ),
        (
            "tsql",
            ("Cannot insert duplicate key row in object 'people' with unique index 'one'. The value is (x).",),
            "one",
        ),
        ("oracle", ("ORA-00001: unique constraint (SHOP.ONE_EMAIL) violated",), "SHOP.ONE_EMAIL"),
    ],
)
def test_a_violated_unique_constraint_is_named(dialect: str, error: tuple[Any, ...], constraint: str) -> None:
    found = meaning(IntegrityError(*error), dialect)
    assert (found.kind, found.constraint, found.text) == (ErrorKind.UNIQUE, constraint, "IntegrityError")


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        ("postgres", ('null value in column "email" violates not-null constraint',)),
        ("postgres", ('insert or update on table "people" violates foreign key constraint "people_team_fkey"',)),
        ("sqlite", ("CHECK constraint failed: email <> 'duplicate keys'",)),
        ("mysql", (1452, "Cannot add or update a child row: a foreign key constraint fails")),
    ],
)
def test_other_violated_constraints_are_about_the_row(dialect: str, error: tuple[Any, ...]) -> None:
    assert meaning(IntegrityError(*error), dialect).kind is ErrorKind.DATA


@pytest.mark.parametrize("error", [DataError("'secret' not found"), DatabaseError("secret"), IntegrityError("secret")])
def test_words_that_may_quote_a_value_are_dropped(error: Exception) -> None:
    assert meaning(error, "postgres").text == type(error).__name__


def test_only_the_first_line_is_kept() -> None:
    """The next ones may have a part of the statement."""
    assert meaning(ProgrammingError("no such thing\nLINE 1: 'secret'"), "postgres").text == "no such thing"


def test_other_exceptions_are_not_the_drivers() -> None:
    assert classify(OSError("connection refused"), dialect_of("postgres")) is None
