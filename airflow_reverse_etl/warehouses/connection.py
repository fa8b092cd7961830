"""A warehouse's connection: opened when first needed, used in one thread of its own, its errors in our words."""

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
from airflow_reverse_etl.sql.read_only import files_closed
from airflow_reverse_etl.warehouses.arrow import no_date

T = TypeVar("T")

_CANCELS, _CANCEL_SECONDS = 50, 0.2


class Connected:
    """A connection in a thread of its own.

    Some drivers insist on one thread, and the next rows are fetched while the last ones are worked on. Whoever stops
    waiting for the thread, because of a signal or because no more rows are wanted, has the query cancelled. The
    connection is then made anew when it is needed, as nobody knows what is still on its way in the old one.

    :param connect: makes a connection.
    :param conn_id: names the connection in errors.
    """

    def __init__(self, connect: Callable[[], Any], conn_id: str) -> None:
        self._connect, self._conn_id = connect, conn_id
        self._connection: Any = None
        self._cursor: Any = None  # the last one that runs a query, or is read
        self._coming: Future[Any] | None = None  # what is fetched ahead of it
        self._thread = _Worker()

    def call(self, action: Callable[[Any], T]) -> T:
        """What ``action`` makes of the connection. After an error, the connection is made anew, too."""
        return self._wait(self._thread.submit(lambda: self._run(action)))

    def runs(self, cursor: Any) -> None:
        """Note what a query is about to run in, for whoever cancels it: some drivers cannot by the connection."""
        self._cursor = cursor

    def ahead(self, cursor: Any, first: T | None, following: Callable[[], T | None]) -> Iterator[T]:
        """``first``, and what ``following`` returns until that is None. Closes the cursor at the end, or when left."""
        self._cursor, self._coming = cursor, None
        return self._ahead(cursor, first, following)

    def close(self) -> None:
        """Close the connection; what is still being read from it is cancelled."""
        if self._coming:
            self._stop(self._cursor, self._coming)
        with contextlib.suppress(RuntimeError):  # closed already
            self._thread.submit(partial(self._drop, self._cursor))
        self._thread.shutdown()

    def _ahead(self, cursor: Any, first: T | None, following: Callable[[], T | None]) -> Iterator[T]:
        item, coming = first, None
        try:
            while item is not None:
                self._coming = coming = self._thread.submit(following)
                yield item
                item = self._wait(coming)
        finally:
            with contextlib.suppress(RuntimeError):  # all is closed already
                if item is not None and coming:
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
        connection, self._connection = self._connection, None
        for left in (cursor, connection):
            if left is not None:
                with contextlib.suppress(Exception):  # some refuse to after an error
                    left.close()

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except Exception as error:  # drivers share no base class; what is not theirs is raised as it is
            found = explained(error, self._conn_id)
            if found is error:
                raise
            raise found from None
        finally:
            if not future.done():  # a signal, or the end of the process
                self._cancel(self._cursor)

    def _stop(self, cursor: Any, coming: Future[Any]) -> None:
        """Cancel what is fetched ahead."""
        for _ in range(_CANCELS):  # the first may come before the server has the query
            if coming.done():
                return
            self._cancel(cursor)
            wait([coming], timeout=_CANCEL_SECONDS)

    def _cancel(self, cursor: Any = None) -> None:
        """Have the server stop, if the driver can from another thread: ADBC's, Databricks', psycopg."""
        for owner in (cursor, self._connection):
            for name in ("adbc_cancel", "cancel_safe", "cancel"):
                if hasattr(owner, name):
                    with contextlib.suppress(Exception):
                        getattr(owner, name)()
                    return


class _Worker:
    """A thread that does one thing after another, until it is closed or forgotten.

    Not a ThreadPoolExecutor: its locks are not reentrant, and a reader that is left behind is closed by the garbage
    collector, which may run in a thread that holds them. ``SimpleQueue.put`` may be called from there.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._todo,), name="warehouse", daemon=True)
        self._closed = False
        self._thread.start()
        weakref.finalize(self, self._todo.put, None)

    def submit(self, action: Callable[[], T]) -> Future[T]:
        """:raises RuntimeError: it is closed."""
        if self._closed:
            raise RuntimeError("closed")
        future: Future[T] = Future()
        self._todo.put((future, action))
        return future

    def shutdown(self) -> None:
        """Wait until all is done."""
        self._closed = True
        self._todo.put(None)
        self._thread.join()


def _work(todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while task := todo.get():
        future, action = task
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        del task, future, action  # the thread idles on: it must not keep what it was given alive


def explained(error: Exception, conn_id: str) -> Exception:
    """A driver's error in our words, by SQLSTATE or by PEP 249's class; any other error as it is.

    The driver's words are kept where they speak of names, and left out where they may quote a value.
    """
    classes = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, ReverseEtlError) or not classes & {"Error", "DatabaseError", "InterfaceError"}:
        return error
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if "Permission Error: " in text:  # DuckDB's, for nothing else
        return files_closed(connection=conn_id)
    if state.startswith("28") or state == "42501" or any(word in text.lower() for word in _REFUSED):
        return CredentialsError(
            text, todo="correct the connection, or grant it SELECT on the model", connection=conn_id
        )
    if "ProgrammingError" in classes or state.startswith("42") or "no such" in text:
        return ModelNotFoundError(text, todo="build the model, or correct its name or query", connection=conn_id)
    if classes & {"OperationalError", "InterfaceError"} or state.startswith(_GONE):
        return unreachable(text, conn_id)
    if "DataError" in classes and not state:  # of psycopg, not of its server
        return no_date(connection=conn_id)
    return failed(type(error).__name__, conn_id)


def unreachable(text: str, conn_id: str) -> UnreachableError:
    """The warehouse is gone, in its driver's words."""
    return UnreachableError(text, todo="check that the warehouse is up and reachable", connection=conn_id)


def failed(error: str, conn_id: str) -> ConfigurationError:
    """The model's query fails for some row. The warehouse's words are left out: they may quote a value."""
    return ConfigurationError(
        f"the model's query fails while it is read ({error})",
        todo="run the query in the warehouse to see why",
        connection=conn_id,
    )


_REFUSED = ("authentication failed", "access denied", "permission denied", "not authorized")
#: Classes of SQLSTATE: connection lost, resources spent, an administrator stepped in.
_GONE = ("08", "53", "57P")
