"""A warehouse's connection in a thread of its own, opened when first needed, and the translation of its errors."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    ModelNotFoundError,
    ReverseEtlError,
    UnreachableError,
)
from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.driver_errors import classify
from airflow_reverse_etl.sql.read_only import files_closed

T = TypeVar("T")

_CANCEL_ATTEMPTS = 50
_CANCEL_SECONDS = 0.2


class ThreadedConnection:
    """A connection in a thread of its own.

    Some drivers require one thread, and the thread fetches the next rows while the caller processes the last ones. If
    the caller stops waiting, because of a signal or because it needs no more rows, the query is cancelled. The next use
    then makes a new connection, because the state of the old one is unknown.

    :param connect: makes a connection.
    :param dialect: sqlglot's name of the database's SQL.
    :param conn_id: names the connection in errors.
    """

    def __init__(self, connect: Callable[[], Any], dialect: str, conn_id: str) -> None:
        self._connect = connect
        self._dialect = dialect_of(dialect)
        self._conn_id = conn_id
        self._connection: Any = None
        self._cursor: Any = None  # the last cursor that ran a query or was read
        self._coming: Future[Any] | None = None  # the rows being fetched ahead from this cursor
        self._thread = _Worker()

    def call(self, action: Callable[[Any], T]) -> T:
        """Return what ``action`` returns for the connection. After an error the next use makes a new connection."""
        return self._wait(self._thread.submit(lambda: self._run(action)))

    def runs(self, cursor: Any) -> None:
        """Note the cursor of the next query. Some drivers can cancel a query through its cursor only."""
        self._cursor = cursor

    def ahead(self, cursor: Any, first: T | None, following: Callable[[], T | None]) -> Iterator[T]:
        """Iterate over ``first`` and the results of ``following`` until it returns None, fetching one item ahead.

        The cursor is closed at the end, or when the caller stops early.
        """
        self._cursor = cursor
        self._coming = None
        return self._ahead(cursor, first, following)

    def close(self) -> None:
        """Close the connection, and cancel a query that is still being read."""
        if self._coming:
            self._stop(self._cursor, self._coming)
        with contextlib.suppress(RuntimeError):  # closed already
            self._thread.submit(partial(self._drop, self._cursor))
        self._thread.shutdown()

    def _ahead(self, cursor: Any, first: T | None, following: Callable[[], T | None]) -> Iterator[T]:
        item = first
        coming: Future[T | None] | None = None
        try:
            while item is not None:
                self._coming = coming = self._thread.submit(following)
                yield item
                item = self._wait(coming)
        finally:
            with contextlib.suppress(RuntimeError):  # everything is closed already
                if item is not None and coming:  # the caller stopped early
                    self._stop(cursor, coming)
                    self._thread.submit(partial(self._drop, cursor))
                else:
                    self._thread.submit(cursor.close)
            if self._cursor is cursor:
                self._cursor = self._coming = None

    def _run(self, action: Callable[[Any], T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        try:
            return action(self._connection)
        except Exception:
            self._drop()
            raise

    def _drop(self, cursor: Any = None) -> None:
        """Close the cursor and the connection; the next use makes a new connection."""
        connection = self._connection
        self._connection = None
        for resource in (cursor, connection):
            if resource is not None:
                with contextlib.suppress(Exception):  # some drivers cannot close after an error
                    resource.close()

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except Exception as error:  # drivers do not share a base class
            ours = translated(error, self._dialect, self._conn_id)
            if ours is error:
                raise
            raise ours from None
        finally:
            if not future.done():  # a signal, or the end of the process
                self._cancel(self._cursor)

    def _stop(self, cursor: Any, coming: Future[Any]) -> None:
        """Cancel the query until fetching ahead ends. The first attempt may come before the server has the query."""
        for _ in range(_CANCEL_ATTEMPTS):
            if coming.done():
                return
            self._cancel(cursor)
            wait([coming], timeout=_CANCEL_SECONDS)

    def _cancel(self, cursor: Any = None) -> None:
        """Cancel the running query, if the driver can do so from another thread: ADBC, Databricks and psycopg can."""
        for owner in (cursor, self._connection):
            for name in ("adbc_cancel", "cancel_safe", "cancel"):
                if hasattr(owner, name):
                    with contextlib.suppress(Exception):
                        getattr(owner, name)()
                    return


class _Worker:
    """A thread that runs actions in turn, until it is closed or garbage-collected.

    This is not a ThreadPoolExecutor, because the garbage collector closes abandoned readers, and may do so in a thread
    that holds the executor's locks, which are not reentrant. ``SimpleQueue.put`` is safe there.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._todo,), name="warehouse", daemon=True)
        self._closed = False
        self._thread.start()
        weakref.finalize(self, self._todo.put, None)

    def submit(self, action: Callable[[], T]) -> Future[T]:
        """Queue an action and return the future of its result.

        :raises RuntimeError: the worker is closed.
        """
        if self._closed:
            raise RuntimeError("closed")
        future: Future[T] = Future()
        self._todo.put((future, action))
        return future

    def shutdown(self) -> None:
        """Run the queued actions, then end the thread."""
        self._closed = True
        self._todo.put(None)
        self._thread.join()


def _work(todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while task := todo.get():
        future, action = task
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - the caller that waits for the future handles it
            future.set_exception(error)
        del task, future, action  # while the thread idles, it must not keep these objects alive


def translated(error: Exception, dialect: Dialect, conn_id: str | None) -> Exception:
    """Translate a driver's error into one of our exceptions. Any other error is returned unchanged.

    The message keeps the driver's text if it is about names, and drops it if it may quote a value.
    """
    found = None if isinstance(error, ReverseEtlError) else classify(error, dialect)
    if found is None:
        return error
    match found.kind:
        case ErrorKind.FILES:
            return files_closed(connection=conn_id)
        case ErrorKind.LOGIN | ErrorKind.DENIED:
            return CredentialsError(
                found.text, todo="correct the connection, or grant it SELECT on the model", connection=conn_id
            )
        case ErrorKind.MISSING | ErrorKind.WRONG:
            return ModelNotFoundError(
                found.text, todo="build the model, or correct its name or query", connection=conn_id
            )
        case ErrorKind.UNREACHABLE | ErrorKind.CONFLICT:
            return unreachable(found.text, conn_id)
    return query_failed(type(error).__name__, conn_id)


def unreachable(text: str, conn_id: str | None) -> UnreachableError:
    """Build the error for a warehouse that does not answer.

    :param text: the driver's message.
    """
    return UnreachableError(text, todo="check that the warehouse is up and reachable", connection=conn_id)


def query_failed(error: str, conn_id: str | None) -> ConfigurationError:
    """Build the error for a query that fails for a row, without the warehouse's message, which may quote a value."""
    return ConfigurationError(
        f"the model's query fails while it is read ({error})",
        todo="run the query in the warehouse to see why",
        connection=conn_id,
    )
