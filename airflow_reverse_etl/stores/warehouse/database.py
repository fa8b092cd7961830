"""A warehouse as a place to run SQL in: sessions from a small pool, transactions, and errors by their kind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from airflow_reverse_etl.sql.driver_errors import SqlError, sql_errors
from airflow_reverse_etl.sql.state_sql import StateSql

#: A session that was not used for so long may have been closed by the server.
_IDLE_SECONDS = 60.0


class Session:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Any, sql: StateSql) -> None:
        self.sql = sql
        self.used = 0.0
        self._connection = connection
        # Google's driver makes one % of two; the one that is part of Airflow's hook takes a statement as it is
        self._doubles = type(connection).__module__.startswith("google.cloud.bigquery.dbapi")
        with sql_errors():
            if sql.name in ("postgres", "redshift"):  # the driver would begin transactions of its own
                connection.autocommit = True
            self._cursor = connection.cursor()
        for statement in sql.session:
            self.run(statement)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any. Constants are in its text: drivers agree on nothing else."""
        if self._doubles:
            statement = statement.replace("%", "%%")
        with sql_errors():
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
        with sql_errors():
            connection = self._connect()
        return Session(connection, self.sql)
