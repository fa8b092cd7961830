"""Fakes with failure dials and conformance suites, for users' own tests and destinations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.destinations.registry import registered
    from airflow_reverse_etl.testing.api import FakeApi
    from airflow_reverse_etl.testing.conformance import DestinationConformance, Remote
    from airflow_reverse_etl.testing.fakes import (
        CountingLimiter,
        CrashError,
        Dials,
        FakeDestination,
        FrozenClock,
        MemoryWarehouse,
        RecordingObserver,
    )
    from airflow_reverse_etl.testing.flows import converse
    from airflow_reverse_etl.testing.jobs import FakeBulkApi, JobDials
    from airflow_reverse_etl.testing.store import MemoryStateStore
    from airflow_reverse_etl.testing.store_conformance import StateStoreConformance

__all__ = [
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
]

_FAKES = (
    "CountingLimiter",
    "CrashError",
    "Dials",
    "FakeDestination",
    "FrozenClock",
    "MemoryWarehouse",
    "RecordingObserver",
)

if "pytest" in sys.modules:  # a failed assertion of a suite then shows its values
    _suites = [f"{__name__}.conformance", f"{__name__}.store_conformance"]
    sys.modules["pytest"].register_assert_rewrite(*_suites)

__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys(_FAKES, "airflow_reverse_etl.testing.fakes"),
        "DestinationConformance": "airflow_reverse_etl.testing.conformance",
        "FakeApi": "airflow_reverse_etl.testing.api",
        "FakeBulkApi": "airflow_reverse_etl.testing.jobs",
        "JobDials": "airflow_reverse_etl.testing.jobs",
        "MemoryStateStore": "airflow_reverse_etl.testing.store",
        "Remote": "airflow_reverse_etl.testing.conformance",
        "StateStoreConformance": "airflow_reverse_etl.testing.store_conformance",
        "converse": "airflow_reverse_etl.testing.flows",
        "registered": "airflow_reverse_etl.destinations.registry",
    },
)
