"""Ids of records, on their way from a load to a table next to the model."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.driver_errors import SqlError, paramstyle, sql_errors
from airflow_reverse_etl.sql.statements.write import Writer

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

#: Most rows in a statement.
_ROWS = 250
_COLUMNS = ("key", "record_id", "written_at")


class KeptRecordIds:
    """Implements :class:`~airflow_reverse_etl.sync.ports.RecordIds` with a file for each save of a load.

    A file is deleted once its ids are in the table, so no id is lost if a run ends in between.

    :param connect: makes a DB-API connection that may write.
    :param dialect: sqlglot's name of the database.
    :param table: name of the table. It is created if it does not exist; its schema is not.
    """

    def __init__(self, files: StateFiles, sync: str, connect: Callable[[], Any], *, dialect: str, table: str) -> None:
        self._files = files
        self._folder = f"record_ids/{quote(sync, safe='')}"
        self._connect = connect
        self._dialect = dialect_of(dialect)
        self._table = table

    def keep(self, ids: Mapping[str, str | None]) -> None:
        """Keep ids durably: :meth:`airflow_reverse_etl.sync.ports.RecordIds.keep`."""
        now = datetime.now(UTC).replace(tzinfo=None)
        # In the order of their names, later files replace earlier ones.
        name = f"{now:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}.json"
        content = json.dumps({"written_at": now.isoformat(), "ids": ids})
        self._files.write(f"{self._folder}/{name}", content.encode())

    def merge(self) -> None:
        """Merge all kept ids into the table: :meth:`airflow_reverse_etl.sync.ports.RecordIds.merge`.

        :raises ConfigurationError: the database refused the table or a statement.
        :raises UnreachableError: the database or the storage did not answer.
        """
        names = self._files.list(self._folder)
        if not names:
            return
        try:
            with sql_errors(self._dialect):
                self._merge(names)
        except SqlError as error:
            raise ConfigurationError(
                f"the database did not write {self._table}: {error.text}",
                todo="let the user of the source's connection create and write the table of write_ids",
                table=self._table,
            ) from None
        except OSError as error:
            raise UnreachableError(
                f"the database did not answer: {type(error).__name__}", todo="wait for the next run", table=self._table
            ) from None

    def _merge(self, names: Sequence[str]) -> None:
        connection = self._connect()
        with contextlib.closing(connection):
            cursor = connection.cursor()
            with self._transaction(connection, cursor):
                cursor.execute(self._creation)
            for name in names:
                path = f"{self._folder}/{name}"
                if content := self._files.read(path):
                    with self._transaction(connection, cursor):
                        self._write(cursor, paramstyle(connection), json.loads(content))
                self._files.delete(path)

    @property
    def _creation(self) -> str:
        import sqlglot

        key, record_id, written_at = map(self._name, _COLUMNS)
        # Quoted, as "key" is a word of some databases.
        sql = f'CREATE TABLE IF NOT EXISTS {self._table} ("{key}" TEXT, "{record_id}" TEXT, "{written_at}" TIMESTAMP)'
        [statement] = sqlglot.transpile(sql, read="postgres", write=self._dialect.name)
        return statement

    def _name(self, column: str) -> str:
        """Return a column's name so that a model needs no quotes for it."""
        return column.upper() if self._dialect.name_case == "upper" else column

    def _write(self, cursor: Any, marks: str, kept: Mapping[str, Any]) -> None:
        """Replace the rows of the table that have the keys of kept ids."""
        columns = [*map(self._name, _COLUMNS)]
        writer = Writer(self._dialect.name, marks, self._table, (columns[0],))
        written_at = datetime.fromisoformat(kept["written_at"])
        for part in _parts(list(kept["ids"].items())):
            cursor.execute(writer.statement(Operation.DELETE, columns, rows=len(part)).sql, [key for key, _ in part])
            rows = [(key, id_, written_at) for key, id_ in part if id_ is not None]
            if rows:
                insert = writer.statement(Operation.INSERT, columns, rows=len(rows)).sql
                cursor.execute(insert, [value for row in rows for value in row])

    @contextlib.contextmanager
    def _transaction(self, connection: Any, cursor: Any) -> Iterator[None]:
        """Run the block in a transaction, if the database has them."""
        if self._dialect.autocommits:
            cursor.execute("BEGIN")
        yield
        if self._dialect.autocommits:
            cursor.execute("COMMIT")
        else:
            connection.commit()


def _parts(rows: Sequence[tuple[str, str | None]]) -> Iterator[Sequence[tuple[str, str | None]]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]
