"""Triggers: the waiting, outside of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudJobTrigger, dbt_cloud_job

__all__ = ["DbtCloudJobTrigger", "dbt_cloud_job"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudJobTrigger": "airflow_reverse_etl.triggers.dbt_cloud",
        "dbt_cloud_job": "airflow_reverse_etl.triggers.dbt_cloud",
    },
)
