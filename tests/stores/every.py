"""The stores that tests run with, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import MemoryStateStore
from tests.stores.warehouses import PLACES, copying_store

#: One of each kind. The one in memory says it. That the others agree with it is said by their conformance and by random
#: histories, and at length by these scenarios, before a release.
STORES = [
    "memory",
    pytest.param("lake", marks=pytest.mark.slow),
    pytest.param("tables in postgres", marks=pytest.mark.slow),
    pytest.param("tables in duckdb", marks=pytest.mark.slow),
]

#: The same for the scenarios that cross a crash or a commit: .ci/run runs them on Postgres, too.
EVERY_STORE = [
    "memory",
    pytest.param("lake", marks=pytest.mark.long),
    pytest.param("tables in postgres", marks=pytest.mark.long),
    pytest.param("tables in duckdb", marks=pytest.mark.slow),
]


@contextmanager
def opened(name: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """Open the store of a name, with its files in a folder; close it after the block."""
    if name == "memory":
        yield MemoryStateStore()
    elif name == "lake":
        yield LakeStore(str(folder), memory_limit="500MB", threads=2)
    else:
        tables = copying_store(PLACES[name.removeprefix("tables in ")](request))
        yield tables
        tables.close()


def lose_snapshot(store: StateStore, sync: str) -> None:
    """Delete the snapshot of a sync without the store's knowledge."""
    if isinstance(store, MemoryStateStore):
        store._state(sync).snapshot.clear()
    elif isinstance(store, LakeStore):
        store._files.delete(f"syncs/{sync}/snapshot")
    else:
        store._database.run(f"DELETE FROM {store._tables[f'{prefix(sync)}_snapshot']}")
