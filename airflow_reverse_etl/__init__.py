"""Reverse ETL as a normal part of an Airflow DAG.

Public names are loaded on first use: importing the package imports nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ReverseEtlError
    from airflow_reverse_etl.operators.groups.folder import reverse_etl_dag, sync_group
    from airflow_reverse_etl.operators.maintenance import reverse_etl_maintenance_dag
    from airflow_reverse_etl.operators.sync_group import reverse_etl
    from airflow_reverse_etl.spec.model import Sync

__version__ = "0.1.0"

__all__ = [
    "ReverseEtlError",
    "Sync",
    "__version__",
    "reverse_etl",
    "reverse_etl_dag",
    "reverse_etl_maintenance_dag",
    "sync_group",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ReverseEtlError": "airflow_reverse_etl.errors",
        "reverse_etl": "airflow_reverse_etl.operators.sync_group",
        "reverse_etl_dag": "airflow_reverse_etl.operators.groups.folder",
        "reverse_etl_maintenance_dag": "airflow_reverse_etl.operators.maintenance",
        "sync_group": "airflow_reverse_etl.operators.groups.folder",
        "Sync": "airflow_reverse_etl.spec.model",
    },
)
