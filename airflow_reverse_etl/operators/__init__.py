"""Operators: a dbt project from Git, a dbt command, a sync."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.notifications.watch import SyncWatchOperator
    from airflow_reverse_etl.operators.dbt import DbtOperator
    from airflow_reverse_etl.operators.dbt_check import DbtModelCheckOperator
    from airflow_reverse_etl.operators.dbt_cloud import DbtCloudModelSyncOperator
    from airflow_reverse_etl.operators.dbt_models import DbtMetaSyncsOperator, DbtModelSyncOperator
    from airflow_reverse_etl.operators.dbt_pipeline import DbtPipeline
    from airflow_reverse_etl.operators.reverse_etl import ReverseEtlOperator
    from airflow_reverse_etl.operators.sync_group import (
        ReverseEtlCommitOperator,
        ReverseEtlLoadOperator,
        ReverseEtlPlanOperator,
        ReverseEtlRemoveOperator,
    )

__all__ = [
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
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudModelSyncOperator": "airflow_reverse_etl.operators.dbt_cloud",
        "DbtModelCheckOperator": "airflow_reverse_etl.operators.dbt_check",
        "DbtMetaSyncsOperator": "airflow_reverse_etl.operators.dbt_models",
        "DbtModelSyncOperator": "airflow_reverse_etl.operators.dbt_models",
        "DbtOperator": "airflow_reverse_etl.operators.dbt",
        "DbtPipeline": "airflow_reverse_etl.operators.dbt_pipeline",
        "ReverseEtlCommitOperator": "airflow_reverse_etl.operators.sync_group",
        "ReverseEtlLoadOperator": "airflow_reverse_etl.operators.sync_group",
        "ReverseEtlPlanOperator": "airflow_reverse_etl.operators.sync_group",
        "ReverseEtlRemoveOperator": "airflow_reverse_etl.operators.sync_group",
        "ReverseEtlOperator": "airflow_reverse_etl.operators.reverse_etl",
        "SyncWatchOperator": "airflow_reverse_etl.notifications.watch",
    },
)
