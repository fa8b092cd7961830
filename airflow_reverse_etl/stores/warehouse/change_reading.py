"""The change set in a warehouse, read in statements that a slow destination does not hold open."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ModelNotFoundError, StateError, UnreachableError
from airflow_reverse_etl.stores.lake.change_set import plan_gone
from airflow_reverse_etl.stores.state import MEND_PLAN
from airflow_reverse_etl.sync.ports import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

#: Bytes of one range, about. They stay in memory until the rows are sent.
_RANGE_BYTES = 32 * 1024 * 1024
#: Rows of the first range, whose width is not known yet.
_FIRST_ROWS = 1_000
#: Seconds before each attempt to read again when a session was cut. A range that was read begins them again.
_PAUSES = (1, 2, 5, 10, 20)


class ChangeReading:
    """A reading of a plan's rows, ascending, which resumes by itself when a session is cut.

    Each statement has a connection of its own, which ends with it: a transaction would prevent dropping the table.

    :param open_warehouse: opens a reader.
    :param query: builds the query for the rows after one number, up to another.
    :param names: names of the query's columns.
    :param range_rows: most rows of one statement, whose rows are all fetched before the first is handed out; 0 if the
        warehouse stores the result of a query, so that one statement can be read as slowly as need be.
    """

    def __init__(
        self,
        open_warehouse: Callable[[], Warehouse],
        query: Callable[[int, int], str],
        names: Sequence[str],
        *,
        range_rows: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open_warehouse = open_warehouse
        self._query = query
        self._names = names
        self._range_rows = range_rows
        self._rows = min(_FIRST_ROWS, range_rows)
        self._sleep = sleep

    def read(self, after: int, last: int) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows numbered from ``after`` + 1 to ``last``.

        :raises UnreachableError: the warehouse did not answer for about a minute.
        :raises RunConflictError: the plan is gone.
        :raises StateError: rows are missing.
        """
        pauses = iter(_PAUSES)
        while after < last:
            before = after
            try:
                with closing(self._statement(after, last)) as batches:
                    for batch in batches:
                        yield batch
                        after = batch.column("seq")[-1].as_py()
                        pauses = iter(_PAUSES)
            except ModelNotFoundError:
                raise plan_gone() from None
            except UnreachableError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise
                _log.warning("Reading the plan again from row %d in %d s: %s", after + 1, pause, error.what)
                self._sleep(pause)
                continue
            if after == before:
                raise StateError(f"rows of the plan are missing, from row {after + 1}", todo=MEND_PLAN)

    def _statement(self, after: int, last: int) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows of one statement: all that are left, or those of the next range."""
        if not self._range_rows:
            yield from self._fetched(self._query(after, last))
            return
        batches: list[pa.RecordBatch] = []
        size = 0
        with closing(self._fetched(self._query(after, min(last, after + self._rows)))) as fetched:
            for batch in fetched:
                batches.append(batch)
                size += batch.nbytes
                if size > 2 * _RANGE_BYTES:  # these rows are wider than those before
                    break
        if batches:
            row_bytes = max(1, size // sum(batch.num_rows for batch in batches))
            self._rows = max(1, min(self._range_rows, _RANGE_BYTES // row_bytes))
        yield from batches

    def _fetched(self, query: str) -> Generator[pa.RecordBatch, None, None]:
        with closing(self._open_warehouse()) as warehouse:
            reader = warehouse.read(query)
            try:
                for batch in reader:
                    if batch.num_rows:
                        yield _typed(batch, self._names)
            finally:
                reader.close()
                del reader  # drops its reference to the cursor


def _typed(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return a batch with the promised names and types. Some warehouses use upper case, and decimals for numbers."""
    import pyarrow as pa

    promised = {"seq": pa.int64(), "change": pa.string(), "key": pa.string(), "identifiers": pa.string()}
    fields = [field.with_name(name) for name, field in zip(names, batch.schema, strict=True)]
    fields = [field.with_type(promised.get(field.name, field.type)) for field in fields]
    columns = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
