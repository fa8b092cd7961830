"""The stores that the behaviour tests run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.sync.ports import StateStore
from tests.stores.bench import Bench
from tests.stores.every import STORES, opened
from tests.stores.warehouses import PLACES, Place


@pytest.fixture(
    params=[
        *STORES,
        pytest.param("lake in object storage", marks=pytest.mark.slow),
        pytest.param("tables in snowflake", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "lake in object storage":
        bucket = request.getfixturevalue("bucket")
        yield LakeStore(f"{bucket.url}/state", bucket.options, memory_limit="500MB", threads=2)
        return
    with opened(request.param, request, tmp_path / "state") as store:
        yield store


@pytest.fixture
def bench(store: StateStore) -> Callable[..., Bench]:
    return lambda *arguments, **more: Bench(store, *arguments, **more)


@pytest.fixture(scope="module", params=sorted(PLACES))
def place(request: pytest.FixtureRequest) -> Place:
    """A warehouse of each dialect that can be run."""
    return PLACES[request.param](request)
