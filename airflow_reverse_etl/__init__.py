"""Reverse ETL as a normal part of an Airflow DAG.

Public names are loaded on first use: importing the package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ReverseEtlError as ReverseEtlError
    from airflow_reverse_etl.sync.spec import Sync as Sync

__version__ = "0.1.0"

__all__ = ["ReverseEtlError", "Sync", "__version__"]

_HOME = {
    "ReverseEtlError": "airflow_reverse_etl.errors",
    "Sync": "airflow_reverse_etl.sync.spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
