"""The stores that the behaviour tests run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from airflow_reverse_etl.stores import files as files_module
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.sync.ports import StateStore
from tests.stores.bench import Bench
from tests.stores.every import STORES, opened
from tests.stores.warehouses import PLACES, Place


def as_object_storage(files: StateFiles, folder: Path) -> StateFiles:
    """Make the files go through deltalake's object storage instead of the file system's own calls."""
    files._root = None
    files.url = f"file://{folder}"
    files._remote = fs.PyFileSystem(files_module._object_storage(files.url, {}))
    return files


@pytest.fixture(
    params=[
        *STORES,
        pytest.param("lake in object storage", marks=pytest.mark.slow),
        pytest.param("tables in snowflake", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with opened(request.param.removesuffix(" in object storage"), request, tmp_path / "state") as store:
        if request.param == "lake in object storage":
            (tmp_path / "bucket").mkdir()
            as_object_storage(store._files, tmp_path / "bucket")
        yield store


@pytest.fixture
def bench(store: StateStore) -> Callable[..., Bench]:
    return lambda *arguments, **more: Bench(store, *arguments, **more)


@pytest.fixture(scope="module", params=sorted(PLACES))
def place(request: pytest.FixtureRequest) -> Place:
    """A warehouse of each dialect that can be run."""
    return PLACES[request.param](request)
