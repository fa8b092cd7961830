"""Sensors: wait for what somebody else runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.sensors.dbt_cloud import DbtCloudJobSensor

__all__ = ["DbtCloudJobSensor"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudJobSensor": "airflow_reverse_etl.sensors.dbt_cloud",
    },
)
