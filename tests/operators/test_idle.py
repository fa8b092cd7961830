"""A task with nothing to send imports only what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.bench_idle import idle_task, prepare

#: Modules of a load, of other kinds of state, sources and destinations, and of comparing a model that changed.
UNUSED = {
    "adbc_driver_manager",
    "aiohttp",
    "airflow_reverse_etl.check.drift",
    "airflow_reverse_etl.destinations.table",
    "airflow_reverse_etl.stores.warehouse.store",
    "airflow_reverse_etl.warehouses.adbc",
    "airflow_reverse_etl.warehouses.dbapi",
    "dbt",
    "numpy",
    "obstore",
    "pandas",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "requests",
    "yarl",
}


@pytest.mark.slow
@pytest.mark.parametrize("destination", ["http", pytest.param("file", marks=pytest.mark.slow)])
def test_a_task_with_nothing_to_send_imports_only_what_it_needs(tmp_path: Path, destination: str) -> None:
    prepare(tmp_path, destination)
    run = idle_task(tmp_path, "--destination", destination)
    assert not any(run["planned"].values())
    assert UNUSED.isdisjoint(run["modules"]), sorted(UNUSED & set(run["modules"]))
