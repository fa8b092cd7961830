"""Airflow connections as plain data, their SQL dialects, and their credentials of object storage."""

from __future__ import annotations

import json
from typing import Any

from airflow_reverse_etl.compat import AirflowNotFoundException, BaseHook
from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.sync.ports import ConnectionInfo


def connection_info(conn_id: str) -> ConnectionInfo:
    """Return an Airflow connection as plain data.

    :raises CredentialsError: the connection does not exist.
    """
    try:
        return _info(BaseHook.get_connection(conn_id))
    except AirflowNotFoundException:
        raise _no_connection(conn_id) from None


async def async_connection_info(conn_id: str) -> ConnectionInfo:
    """Return an Airflow connection from inside an event loop, such as the triggerer's.

    :raises CredentialsError: the connection does not exist.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        return _info(await get_async_connection(conn_id))
    except AirflowNotFoundException:
        raise _no_connection(conn_id) from None


def _no_connection(conn_id: str) -> CredentialsError:
    return CredentialsError(
        "Airflow connection not found",
        todo="create it under Admin > Connections, with `airflow connections add`, or in the secrets backend",
        connection=conn_id,
    )


def _info(connection: Any) -> ConnectionInfo:
    return ConnectionInfo(
        conn_id=connection.conn_id,
        conn_type=connection.conn_type or "",
        host=connection.host,
        port=connection.port,
        schema=connection.schema,
        login=connection.login,
        password=connection.password,
        extra=dict(connection.extra_dejson),
    )


def storage_options(info: ConnectionInfo) -> dict[str, str]:
    """Return the credentials of an object storage in deltalake's format.

    The connection is of type aws, google_cloud_platform or wasb. An extra ``storage_options`` is added, and wins.

    Source of the names: the object_store crate's configuration keys for S3, GCS and Azure.
    """
    extra = info.extra
    options: dict[str, object] = {}
    if info.conn_type == "aws":
        options = {
            "aws_access_key_id": info.login,
            "aws_secret_access_key": info.password,
            "aws_session_token": extra.get("aws_session_token"),
            "aws_region": extra.get("region_name"),
            "aws_endpoint_url": extra.get("endpoint_url"),
            "aws_allow_http": "true" if str(extra.get("endpoint_url", "")).startswith("http://") else None,
        }
    elif info.conn_type == "google_cloud_platform":
        key = extra.get("keyfile_dict")
        options = {
            "google_service_account_key": json.dumps(key) if isinstance(key, dict) else key,
            "google_service_account": extra.get("key_path"),
        }
    elif info.conn_type in ("wasb", "adls"):
        options = {
            "azure_storage_account_name": info.login or info.host,
            "azure_storage_account_key": info.password,
            "azure_storage_sas_token": extra.get("sas_token"),
            "azure_storage_tenant_id": extra.get("tenant_id"),
        }
    options |= {str(name).lower(): value for name, value in (extra.get("storage_options") or {}).items()}
    return {name: str(value) for name, value in options.items() if value is not None}
