"""Reads a plan's change set in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, Receipt
from airflow_reverse_etl.sync.load.batches import Batcher

if TYPE_CHECKING:
    import pyarrow as pa


class ChangeReader:
    """Reader of rows of a change set, for several workers at once.

    :param settled: rows that are left out.
    """

    def __init__(self, changes: Generator[pa.RecordBatch, None, None], batcher: Batcher, settled: RangeSet) -> None:
        self._changes = changes
        self._batcher = batcher
        self._settled = settled
        self._batches: Iterator[tuple[Batch, dict[int, Receipt]]] = iter(())
        self._lock = asyncio.Lock()
        self._read_task: asyncio.Task[pa.RecordBatch | None] | None = None

    async def next(self) -> tuple[Batch, dict[int, Receipt]] | None:
        """Return the next batch, with the receipts of its rows whose record could not be built; see :class:`Batcher`.

        :returns: None at the end of the change set.
        """
        while True:
            batches = self._batches
            found = next(batches, None)
            if found is not None:
                return found
            if not await self._read(batches):
                return None

    async def _read(self, used_up: Iterator[tuple[Batch, dict[int, Receipt]]]) -> bool:
        """Read more rows, unless another worker has done so since ``used_up`` was used up.

        :returns: False at the end of the change set.
        """
        async with self._lock:
            if self._batches is used_up:
                self._read_task = asyncio.create_task(asyncio.to_thread(next, self._changes, None))
                rows = await asyncio.shield(self._read_task)
                if rows is None:
                    return False
                self._batches = self._batcher.cut(rows, self._settled)
        return True

    async def close(self, timeout: float) -> None:
        """Close the change set, unless a read is still running after ``timeout`` seconds."""
        if self._read_task:
            await asyncio.wait([self._read_task], timeout=timeout)
        if not self._read_task or self._read_task.done():
            await asyncio.to_thread(self._changes.close)
