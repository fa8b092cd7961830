"""The public surface is a reviewed list: changing it means changing this file."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

PUBLIC = {
    "airflow_reverse_etl": [
        "ReverseEtlError",
        "Sync",
        "__version__",
        "reverse_etl",
        "reverse_etl_dag",
        "reverse_etl_maintenance_dag",
        "sync_group",
    ],
    "airflow_reverse_etl.hooks": ["DbtCloudApiHook", "GitRepositoryHook", "ReverseEtlHttpHook"],
    "airflow_reverse_etl.notifications": ["SyncNotifier"],
    "airflow_reverse_etl.operators": [
        "DbtCloudModelSyncOperator",
        "DbtMetaSyncsOperator",
        "DbtModelCheckOperator",
        "DbtModelSyncOperator",
        "DbtOperator",
        "DbtPipeline",
        "ReverseEtlCommitOperator",
        "ReverseEtlLoadOperator",
        "ReverseEtlOperator",
        "ReverseEtlPlanOperator",
        "ReverseEtlRemoveOperator",
        "SyncWatchOperator",
    ],
    "airflow_reverse_etl.sensors": ["DbtCloudJobSensor", "GitCommitSensor"],
    "airflow_reverse_etl.testing": [
        "CountingLimiter",
        "CrashError",
        "DestinationConformance",
        "Dials",
        "FakeApi",
        "FakeBulkApi",
        "FakeDestination",
        "FrozenClock",
        "JobDials",
        "MemoryStateStore",
        "MemoryWarehouse",
        "RecordingObserver",
        "Remote",
        "StateStoreConformance",
        "converse",
        "registered",
    ],
    "airflow_reverse_etl.triggers": [
        "DbtCloudJobTrigger",
        "GitCommitTrigger",
        "JobTrigger",
        "dbt_cloud_job",
        "git_commit",
    ],
}

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("package", PUBLIC)
def test_exports(package: str) -> None:
    """Exactly these names, each importable."""
    module = import_module(package)
    assert sorted(module.__all__) == PUBLIC[package]
    for name in module.__all__:
        assert name in dir(module)
        assert name == "__version__" or getattr(module, name).__name__ == name


@pytest.mark.parametrize("package", [package for package in PUBLIC if not package.endswith(".testing")])
def test_exported_classes_are_documented_throughout(package: str) -> None:
    """A class of the public surface has a docstring, and so has each public method that it defines itself."""
    module = import_module(package)
    for name in module.__all__:
        cls = getattr(module, name)
        if not inspect.isclass(cls):
            continue
        assert inspect.getdoc(cls), name
        for method, value in vars(cls).items():
            if not method.startswith("_") and callable(getattr(value, "__func__", value)):
                assert inspect.getdoc(getattr(cls, method)), f"{name}.{method}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'Snyc'"):
        import_module("airflow_reverse_etl").Snyc  # noqa: B018
