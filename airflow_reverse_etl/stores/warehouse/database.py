"""A warehouse as a place to run SQL in: sessions from a small pool, transactions, and errors by their kind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from airflow_reverse_etl.sql.state_sql import StateSql

#: A session that was not used for so long may have been closed by the server.
_IDLE_SECONDS = 60.0

_KINDS = {
    "denied": (
        ("42501", "25006", "28"),
        (
            *("permission denied", "permission_denied", "access denied", "insufficient priv", "not authorized"),
            *("forbidden", "read-only mode"),
        ),
    ),
    "missing": (("42P01", "3F000", "42S02", "02000"), ("does not exist", "not found", "_not_found")),
    "exists": (("42P07", "42P06", "23505"), ("already exists",)),
    "conflict": (
        ("40001", "40P01", "55P03"),
        (
            *("conflict on", "transaction conflict", "serializable isolation", "concurrent update"),
            *("concurrentmodification", "concurrentappend", "delta_concurrent"),
            *("has locked table", "waiters for this lock"),
        ),
    ),
    "unreachable": (("08", "57P", "53"), ("connection", "timed out")),
    "wrong": (("42",), ()),
}
_CLASSES = {
    "Forbidden": "denied",
    "NotFound": "missing",
    "CatalogException": "missing",
    "BinderException": "wrong",
    "ParserException": "wrong",
    "ProgrammingError": "wrong",
    "IOException": "unreachable",
    "OperationalError": "unreachable",
    "InterfaceError": "unreachable",
}

#: States that say less than the words: Redshift's of a serialization failure, Snowflake's of a lock that it waits for.
_VAGUE = ("XX000", "57014")

#: Errors whose text may quote a value.
_QUOTING = {"DataError", "InvalidInputException", "IntegrityError"}


class SqlError(Exception):
    """A statement failed.

    :param kind: ``denied``, ``missing``, ``exists``, ``conflict``, ``unreachable``, ``wrong`` (the statement),
        ``files`` (which DuckDB may not use), or ``data``, when the driver's words may quote a value;
        ``text`` is then only the name of its error.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Session:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Any, sql: StateSql) -> None:
        self.sql = sql
        self.used = 0.0
        self._connection = connection
        # Google's driver makes one % of two; the one that is part of Airflow's hook takes a statement as it is
        self._doubles = type(connection).__module__.startswith("google.cloud.bigquery.dbapi")
        with _sql_errors():
            if sql.name in ("postgres", "redshift"):  # the driver would begin transactions of its own
                connection.autocommit = True
            self._cursor = connection.cursor()
        for statement in sql.session:
            self.run(statement)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any. Constants are in its text: drivers agree on nothing else."""
        if self._doubles:
            statement = statement.replace("%", "%%")
        with _sql_errors():
            self._cursor.execute(statement)
            return [tuple(row) for row in self._cursor.fetchall()] if self._cursor.description else []

    @contextlib.contextmanager
    def transaction(self, *, one_moment: bool = False) -> Iterator[None]:
        """All or nothing, where the warehouse can; elsewhere each statement by itself."""
        if self.sql.begin is None:
            yield
            return
        self.run(self.sql.begin)
        try:
            if one_moment and self.sql.one_moment:
                self.run(self.sql.one_moment)
            yield
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(SqlError):  # the first error is the one to tell
                self.run("ROLLBACK")
            raise

    def close(self) -> None:
        with contextlib.suppress(Exception):  # what was done is done
            self._connection.close()


class Database:
    """Opens sessions, and keeps those that are idle for the next statement.

    :param connect: makes a DB-API connection that may write.
    """

    def __init__(self, connect: Callable[[], Any], sql: StateSql) -> None:
        self.sql = sql
        self._connect = connect
        self._idle: list[Session] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session of one's own inside the block. After an error it is not used again.

        :raises SqlError: no connection could be made.
        """
        session = self._take() or self._new()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        session.used = time.monotonic()
        with self._lock:
            self._idle.append(session)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """One statement by itself."""
        with self.session() as session:
            return session.run(statement)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Session | None:
        with self._lock:
            while self._idle:
                session = self._idle.pop()
                if time.monotonic() - session.used < _IDLE_SECONDS:
                    return session
                session.close()
        return None

    def _new(self) -> Session:
        with _sql_errors():
            connection = self._connect()
        return Session(connection, self.sql)


@contextlib.contextmanager
def _sql_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # drivers share no base class; what is not theirs is raised as it is
        classes = [cls.__name__ for cls in type(error).__mro__]
        if not {"Error", "DatabaseError", "GoogleAPIError"} & set(classes):
            raise
        text = next(iter(_words(error).splitlines()), "") or classes[0]
        kind = _kind(_state(error), text.lower(), classes)
        raise SqlError(kind, classes[0] if kind == "data" else text) from None


def _words(error: Exception) -> str:
    first = error.args[0] if error.args else None
    return str(first["M"]) if isinstance(first, dict) and "M" in first else str(error)  # redshift_connector's


def _state(error: Exception) -> str:
    """SQLSTATE, wherever the driver has it."""
    first = error.args[0] if error.args else None
    if isinstance(first, dict):  # redshift_connector
        return str(first.get("C", ""))
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _kind(state: str, text: str, classes: list[str]) -> str:
    if "PermissionException" in classes:  # DuckDB's, for nothing else
        return "files"
    if state in _VAGUE and any(word in text for word in _KINDS["conflict"][1]):
        return "conflict"
    for kind, (states, words) in _KINDS.items():
        if state.startswith(states) if state else any(word in text for word in words):
            return "data" if _QUOTING & set(classes) and kind != "denied" else kind
    if state.startswith("22") or _QUOTING & set(classes):
        return "data"
    return next((_CLASSES[name] for name in classes if name in _CLASSES), "data")
