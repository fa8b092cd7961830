"""Triggers: wait in the triggerer, without a worker slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.triggers.dbt_cloud import DbtCloudJobTrigger, dbt_cloud_job
    from airflow_reverse_etl.triggers.git import GitCommitTrigger, git_commit
    from airflow_reverse_etl.triggers.jobs import JobTrigger

__all__ = ["DbtCloudJobTrigger", "GitCommitTrigger", "JobTrigger", "dbt_cloud_job", "git_commit"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudJobTrigger": "airflow_reverse_etl.triggers.dbt_cloud",
        "GitCommitTrigger": "airflow_reverse_etl.triggers.git",
        "JobTrigger": "airflow_reverse_etl.triggers.jobs",
        "dbt_cloud_job": "airflow_reverse_etl.triggers.dbt_cloud",
        "git_commit": "airflow_reverse_etl.triggers.git",
    },
)
