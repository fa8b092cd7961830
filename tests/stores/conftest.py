"""The stores that the behaviour tests run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from airflow_reverse_etl.stores import files as files_module
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.schema import prefix
from airflow_reverse_etl.testing.store import MemoryStateStore
from tests.stores.warehouses import PLACES, copying_store


def as_object_storage(files: StateFiles, folder: Path) -> StateFiles:
    """Make the files go through deltalake's object storage instead of the file system's own calls."""
    files._root = None
    files.url = f"file://{folder}"
    files._remote = fs.PyFileSystem(files_module._object_storage(files.url, {}))
    return files


@pytest.fixture(
    params=[
        "lake",
        pytest.param("lake in object storage", marks=pytest.mark.slow),
        "memory",
        "tables in duckdb",
        "tables in postgres",
        pytest.param("tables in snowflake", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStateStore()
        return
    if request.param.startswith("tables"):
        tables = copying_store(PLACES[request.param.split()[-1]](request))
        yield tables
        tables.close()
        return
    store = LakeStore(str(tmp_path / "state"), memory_limit="500MB", threads=2)
    if request.param == "lake in object storage":
        (tmp_path / "bucket").mkdir()
        as_object_storage(store._files, tmp_path / "bucket")
    yield store


@pytest.fixture
def lose_snapshot(store: Any) -> Callable[[str], None]:
    """Delete the snapshot of a store without its knowledge."""

    def lose(sync: str) -> None:
        if isinstance(store, MemoryStateStore):
            store._state(sync).snapshot.clear()
        elif isinstance(store, LakeStore):
            store._files.delete(f"syncs/{sync}/snapshot")
        else:
            store._database.run(f"DELETE FROM {store._tables[f'{prefix(sync)}_snapshot']}")

    return lose
