"""The state store in memory passes the conformance suite of state stores."""

from __future__ import annotations

import pytest

from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import MemoryStateStore, StateStoreConformance


class TestConformance(StateStoreConformance):
    strict = True

    @pytest.fixture
    def store(self) -> StateStore:
        return MemoryStateStore()
