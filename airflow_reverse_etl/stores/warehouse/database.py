"""A warehouse that runs the state's SQL: sessions from a small pool, transactions, and errors by kind."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.driver_errors import SqlError, sql_errors

#: The server may have closed a session that was idle for longer.
_IDLE_SECONDS = 60.0


class Session:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Any, sql: PlannerDialect) -> None:
        self.sql = sql
        self.used = 0.0
        self._connection = connection
        module = type(connection).__module__
        self._doubles_percent = bool(sql.doubles_percent) and module.startswith(sql.doubles_percent)
        with sql_errors(sql):
            if sql.transactions and not sql.autocommits:
                connection.autocommit = True
            self._cursor = connection.cursor()
        for statement in sql.session:
            self.run(statement)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Constants are part of the statement's text, because drivers differ in their parameters.
        """
        if self._doubles_percent:
            statement = statement.replace("%", "%%")
        with sql_errors(self.sql):
            self._cursor.execute(statement)
            if not self._cursor.description:
                return []
            return [tuple(row) for row in self._cursor.fetchall()]

    @contextlib.contextmanager
    def transaction(self, *, one_moment: bool = False) -> Iterator[None]:
        """Run the block in a transaction if the warehouse supports it; otherwise each statement stands alone.

        :param one_moment: all statements of the block see the data of one moment, if the warehouse supports it.
        """
        if not self.sql.transactions:
            yield
            return
        self.run("BEGIN")
        try:
            if one_moment and self.sql.one_moment:
                self.run(self.sql.one_moment)
            yield
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(SqlError):  # the first error is the one to report
                self.run("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection. Errors are ignored, because every statement has completed before."""
        with contextlib.suppress(Exception):
            self._connection.close()


class Database:
    """A pool of sessions, which keeps idle sessions for the next statement.

    :param connect: makes a DB-API connection that may write.
    """

    def __init__(self, connect: Callable[[], Any], sql: PlannerDialect) -> None:
        self.sql = sql
        self._connect = connect
        self._idle: list[Session] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session for the block alone. After an error the session is closed.

        :raises SqlError: no connection could be made.
        """
        session = self._idle_session() or self._new_session()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        session.used = time.monotonic()
        with self._lock:
            self._idle.append(session)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement in a session of its own and return its rows."""
        with self.session() as session:
            return session.run(statement)

    def close(self) -> None:
        """Close the idle sessions."""
        while self._idle:
            self._idle.pop().close()

    def _idle_session(self) -> Session | None:
        with self._lock:
            while self._idle:
                session = self._idle.pop()
                if time.monotonic() - session.used < _IDLE_SECONDS:
                    return session
                session.close()
        return None

    def _new_session(self) -> Session:
        with sql_errors(self.sql):
            connection = self._connect()
        return Session(connection, self.sql)


#: Reading a relation in SQL of ours.
_READS = re.compile(r"\b(?:FROM|JOIN) ([a-z_]+)\b")


def with_relations(select: str, relations: Mapping[str, str]) -> str:
    """Put the relations that a SELECT reads, directly or through others, before it as CTEs.

    :param relations: name → SELECT. ``extracted`` is the author's own SQL, which reads none of the others.
    """
    found: dict[str, str] = {}

    def add(text: str) -> None:
        for name in _READS.findall(text):
            if name in found or name not in relations:
                continue
            found[name] = ""  # a relation does not read itself
            if name != "extracted":
                add(relations[name])
            # Behind the relations that it reads.
            del found[name]
            found[name] = relations[name]

    add(select)
    if not found:
        return select
    ctes = ", ".join(f"{name} AS ({text})" for name, text in found.items())
    return f"WITH {ctes} {select}"
