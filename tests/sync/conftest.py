"""A store and a world for each scenario of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_reverse_etl.sync.ports import StateStore
from tests.stores.every import opened
from tests.sync.world import World


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    """A store in memory, or of each kind where a scenario is marked :data:`on_every_store`."""
    with opened(getattr(request, "param", "memory"), request, tmp_path) as store:
        yield store


@pytest.fixture
def world(store: StateStore) -> World:
    return World(store=store)
