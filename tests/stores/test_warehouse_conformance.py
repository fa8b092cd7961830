"""The conformance suite of state stores, over tables in a warehouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_reverse_etl.sync.ports import StateStore
from airflow_reverse_etl.testing.store_conformance import StateStoreConformance
from tests.stores.warehouses import CopyingStore, copying_store, duckdb_place, postgres_place

pytestmark = pytest.mark.slow  # what the behaviour file says, once more in the words of the suite for users


class _Tables(StateStoreConformance):
    strict = True

    def reopened(self, store: StateStore) -> StateStore:
        assert isinstance(store, CopyingStore)
        store.close()
        return copying_store(store.place)


class TestTablesInDuckDB(_Tables):
    @pytest.fixture
    def store(self) -> StateStore:
        return copying_store(duckdb_place())


class TestTablesInPostgres(_Tables):
    @pytest.fixture
    def store(self, postgres: str) -> Iterator[StateStore]:
        store = copying_store(postgres_place(postgres))
        yield store
        store.close()
