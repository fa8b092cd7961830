"""The state store in memory keeps the promises of every store."""

from __future__ import annotations

import pytest

from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing import MemoryStateStore, StateStoreConformance


class TestConformance(StateStoreConformance):
    @pytest.fixture
    def store(self) -> StateStore:
        return MemoryStateStore()
