"""Sensors: tasks that wait for a commit, or for a run of a dbt Cloud job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.sensors.dbt_cloud import DbtCloudJobSensor
    from airflow_reverse_etl.sensors.git import GitCommitSensor

__all__ = ["DbtCloudJobSensor", "GitCommitSensor"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudJobSensor": "airflow_reverse_etl.sensors.dbt_cloud",
        "GitCommitSensor": "airflow_reverse_etl.sensors.git",
    },
)
