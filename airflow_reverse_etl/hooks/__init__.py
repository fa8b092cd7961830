"""Hooks: the forms of connections, their tests, and the clients they open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook
    from airflow_reverse_etl.hooks.git import GitRepositoryHook
    from airflow_reverse_etl.hooks.http import ReverseEtlHttpHook

__all__ = ["DbtCloudApiHook", "GitRepositoryHook", "ReverseEtlHttpHook"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DbtCloudApiHook": "airflow_reverse_etl.hooks.dbt_cloud",
        "GitRepositoryHook": "airflow_reverse_etl.hooks.git",
        "ReverseEtlHttpHook": "airflow_reverse_etl.hooks.http",
    },
)
