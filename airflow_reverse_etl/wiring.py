"""The one place that knows which Airflow this is, 3.1 to 3.3, and how its connections become our adapters.

Names whose home differs by version are re-exported; everything else of ours imports them from here. Cheap to import:
whatever opens a connection or a store is loaded when it is called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    Asset,
    AssetAlias,
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    Context,
    TaskGroup,
)

try:  # Airflow 3.2 moved the exceptions into the SDK
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[attr-defined, no-redef]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError
from airflow_reverse_etl.sync.ports import ConnectionInfo

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
    from airflow_reverse_etl.sync.ports import Warehouse

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Context",
    "TaskDeferred",
    "TaskGroup",
    "airflow_errors",
    "async_connection_info",
    "checkout_folder",
    "connection_info",
    "dbapi_connect",
    "open_warehouse",
    "setting",
    "state_files",
    "state_store",
    "storage_options",
    "warehouse_store",
]

SECTION = "reverse_etl"

#: Airflow connection type → sqlglot dialect, where the names differ.
_DIALECTS = {
    "databricks_sql": "databricks",
    "gcpbigquery": "bigquery",
    "google_cloud_platform": "bigquery",
    "mssql": "tsql",
}
#: Connection types whose own hook runs no SQL → module, class and argument of the hook of their provider that does.
_SQL_HOOKS = {
    "databricks": ("databricks.hooks.databricks_sql", "DatabricksSqlHook", "databricks_conn_id"),
    "google_cloud_platform": ("google.cloud.hooks.bigquery", "BigQueryHook", "gcp_conn_id"),
}
#: What a connection of type adbc calls its database → sqlglot dialect.
_ADBC_DIALECTS = {"postgresql": "postgres", "sqlite3": "sqlite"}


def setting(option: str) -> str:
    """An option of the Airflow configuration section ``[reverse_etl]``; its default when it is not set.

    :raises ConfigurationError: the option does not exist.
    """
    defaults = _defaults()
    if option not in defaults:
        raise ConfigurationError(f"there is no option {option!r} in [{SECTION}]", todo=f"known: {', '.join(defaults)}")
    value = _configuration().get(SECTION, option, fallback=None)
    return str(value) if value not in (None, "") else defaults[option]


@cache
def _defaults() -> dict[str, str]:
    from airflow_reverse_etl.provider import get_provider_info

    options = get_provider_info()["config"][SECTION]["options"]
    return {name: option["default"] or "" for name, option in options.items()}


def _configuration() -> Any:
    try:  # Airflow 3.2
        from airflow.sdk.configuration import conf
    except ImportError:  # Airflow 3.1
        from airflow.configuration import conf
    return conf


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Our errors as Airflow's: those that no retry would help fail the task at once."""
    try:
        yield
    except ConfigurationError as error:
        raise AirflowFailException(error.told()) from None
    except ReverseEtlError as error:
        raise AirflowException(error.told()) from None


def state_files() -> StateFiles:
    """The files under ``[reverse_etl] state_url``.

    :raises CredentialsError: ``state_conn_id`` names a connection that is not there.
    """
    from airflow_reverse_etl.stores.files import StateFiles

    return StateFiles(*_state_place())


def state_store() -> LakeStore:
    """The store of snapshots, plans and checkpoints under ``[reverse_etl] state_url``.

    :raises CredentialsError: ``state_conn_id`` names a connection that is not there.
    """
    from airflow_reverse_etl.stores.lake.store import LakeStore

    scratch = setting("scratch_folder")
    return LakeStore(
        *_state_place(),
        memory_limit=setting("memory_limit"),
        scratch=Path(scratch) if scratch else None,
        history=_history(),
        change_log=_is_on("change_log"),
    )


def warehouse_store(conn_id: str) -> WarehouseStore | None:
    """The store of state as tables in the warehouse behind a connection; None where that cannot be.

    :raises CredentialsError: there is no such connection.
    :raises ConfigurationError: the connection is not one to a SQL database, or its provider is not installed.
    """
    from airflow_reverse_etl.sql.state_sql import STATE_SQL
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore

    dialect = _dialect(connection_info(conn_id))
    if dialect not in STATE_SQL:
        return None
    return WarehouseStore(
        _for_models(dbapi_connect(conn_id), dialect),
        lambda: open_warehouse(conn_id),
        dialect=dialect,
        schema=setting("warehouse_schema"),
        history=_history(),
        change_log=_is_on("change_log"),
    )


def _is_on(option: str) -> bool:
    return setting(option).lower() in ("true", "1", "yes")


def _history() -> timedelta:
    days = setting("history_days")
    if not days.isdigit() or not int(days):
        raise ConfigurationError(f"[{SECTION}] history_days is {days!r}", todo="set a number of days, 1 or more")
    return timedelta(days=int(days))


def checkout_folder() -> Path:
    """The worker's own folder for checkouts of Git repositories: ``[reverse_etl] checkout_folder``."""
    return Path(_in_home(setting("checkout_folder"))).absolute()


def _in_home(place: str) -> str:
    return place.replace("{AIRFLOW_HOME}", os.environ.get("AIRFLOW_HOME") or str(Path("~/airflow").expanduser()))


def _state_place() -> tuple[str, dict[str, str]]:
    conn_id = setting("state_conn_id")
    url = _in_home(setting("state_url"))
    return url, storage_options(connection_info(conn_id)) if conn_id else {}


def connection_info(conn_id: str) -> ConnectionInfo:
    """An Airflow connection as plain data.

    :raises CredentialsError: there is no such connection.
    """
    try:
        return _info(BaseHook.get_connection(conn_id))
    except AirflowNotFoundException:
        raise _no_connection(conn_id) from None


async def async_connection_info(conn_id: str) -> ConnectionInfo:
    """The same from an event loop, such as the triggerer's.

    :raises CredentialsError: there is no such connection.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        return _info(await get_async_connection(conn_id))
    except AirflowNotFoundException:
        raise _no_connection(conn_id) from None


def _no_connection(conn_id: str) -> CredentialsError:
    return CredentialsError(
        "there is no such Airflow connection",
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
    """Credentials of an object storage, as deltalake takes them, from a connection of type aws, google_cloud_platform
    or wasb. An extra ``storage_options`` is passed on as it is, and wins.

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
    options |= extra.get("storage_options") or {}
    return {name: str(value) for name, value in options.items() if value is not None}


def dbapi_connect(conn_id: str) -> Callable[[], Any]:
    """A function that opens a new DB-API connection each time it is called.

    :raises CredentialsError: there is no such connection.
    :raises ConfigurationError: the connection is not one to a SQL database, or its provider is not installed.
    """
    info = connection_info(conn_id)
    _sql_hook(info)
    # a hook for each: Databricks' hands out one connection again and again
    return lambda: _connect(_sql_hook(info), info)


def open_warehouse(conn_id: str) -> Warehouse:
    """The warehouse behind a connection, with Arrow batches where its driver has them.

    DuckDB natively; Postgres, Snowflake and BigQuery with the ADBC driver, if it is installed; connections of type
    ``adbc`` with theirs; the Arrow of BigQuery's, Databricks' and Snowflake's own drivers, which know all ways to log
    in that the hooks know; any other through a cursor of the hook's DB-API driver.

    :raises CredentialsError: there is no such connection.
    :raises ConfigurationError: the connection is not one to a SQL database, or its provider is not installed.
    """
    info = connection_info(conn_id)
    hook = _sql_hook(info)
    dialect = _dialect(info)
    if dialect == "duckdb":
        from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse

        return DuckDBWarehouse(_for_models(hook.get_conn, dialect)(), conn_id)
    from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
    from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse

    if dialect == "adbc":
        spoken = _ADBC_DIALECTS.get(hook.dialect_name, hook.dialect_name)
        if spoken == "default":
            raise ConfigurationError(
                "the connection does not say which database it is", todo="set its extra `dialect`", connection=conn_id
            )
        return AdbcWarehouse(_for_models(hook.get_conn, spoken), dialect=spoken, conn_id=conn_id)
    connect = partial(_bigquery, hook) if dialect == "bigquery" else hook.get_conn
    plain = DbApiWarehouse(connect, dialect=dialect, conn_id=conn_id)
    if dialect == "postgres" and find_spec("adbc_driver_postgresql"):
        return AdbcWarehouse(partial(_postgres_adbc, hook), dialect=dialect, conn_id=conn_id, other=plain)
    if dialect == "snowflake" and find_spec("adbc_driver_snowflake"):
        from airflow_reverse_etl.warehouses.snowflake import STATEMENT

        connect = partial(_snowflake_adbc, hook)
        return AdbcWarehouse(connect, dialect=dialect, conn_id=conn_id, other=plain, options=STATEMENT)
    if dialect == "bigquery" and find_spec("adbc_driver_bigquery"):
        from airflow_reverse_etl.warehouses import bigquery

        connect = partial(_bigquery_adbc, hook, info)
        return AdbcWarehouse(connect, dialect=dialect, conn_id=conn_id, other=plain, options=bigquery.STATEMENT)
    return plain


def _dialect(info: ConnectionInfo) -> str:
    """sqlglot's name of the SQL behind a connection."""
    return _DIALECTS.get(info.conn_type, info.conn_type)


def _postgres_adbc(hook: Any) -> Any:
    """An ADBC connection with the parameters that the hook finds out, tokens that it fetches included."""
    from adbc_driver_postgresql.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    from airflow_reverse_etl.warehouses.postgres import conninfo

    with closing(hook.get_conn()) as connection:
        return connect(conninfo(connection))


def _snowflake_adbc(hook: Any) -> Any:
    """An ADBC connection with the parameters that the hook has for its own driver, tokens that it fetches included."""
    from adbc_driver_snowflake.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    from airflow_reverse_etl.warehouses.snowflake import database_options

    parameters = hook._get_conn_params  # nothing public has them; a property in older providers
    return connect(db_kwargs=database_options(parameters() if callable(parameters) else parameters))


def _bigquery_adbc(hook: Any, info: ConnectionInfo) -> Any:
    """An ADBC connection with the credentials, project and place that the connection names."""
    from adbc_driver_bigquery.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    from airflow_reverse_etl.warehouses.bigquery import database_options

    options = database_options(info.extra, project=hook.project_id, location=hook.location)
    return connect(options, autocommit=True)


def _for_models(connect: Callable[[], Any], dialect: str) -> Callable[[], Any]:
    """What makes connections that models are read in: without the worker's files, unless the configuration says so."""
    if dialect != "duckdb" or _is_on("duckdb_external_access"):
        return connect
    from airflow_reverse_etl.warehouses.duckdb import without_files

    return partial(without_files, connect)


def _connect(hook: Any, info: ConnectionInfo) -> Any:
    """Google's own driver for BigQuery: the one in Airflow's hook speaks legacy SQL unless the connection says no."""
    if _dialect(info) != "bigquery":
        return hook.get_conn()
    from google.cloud.bigquery.dbapi import connect

    return connect(_bigquery_client(hook), prefer_bqstorage_client=False)


def _bigquery(hook: Any) -> Any:
    from airflow_reverse_etl.warehouses.bigquery import BigQueryConnection

    storage = None
    if find_spec("google.cloud.bigquery_storage"):
        from google.cloud.bigquery_storage import BigQueryReadClient

        storage = BigQueryReadClient(credentials=hook.get_credentials())
    return BigQueryConnection(_bigquery_client(hook), storage)


def _bigquery_client(hook: Any) -> Any:
    """In the project and place that the connection names; by itself the hook takes the worker's project."""
    return hook.get_client(project_id=hook.project_id, location=hook.location)


def _sql_hook(info: ConnectionInfo) -> Any:
    try:
        if info.conn_type in _SQL_HOOKS:
            module, name, argument = _SQL_HOOKS[info.conn_type]
            return getattr(import_module(f"airflow.providers.{module}"), name)(**{argument: info.conn_id})
        hook = BaseHook.get_hook(info.conn_id)
    except (AirflowException, ImportError) as error:
        raise ConfigurationError(
            f"no hook for connections of type {info.conn_type!r}: {error}",
            todo="install the Airflow provider of that database, or correct the connection's type",
            connection=info.conn_id,
        ) from None
    if not hasattr(hook, "get_records"):
        raise ConfigurationError(
            f"a connection of type {info.conn_type!r} is not one to a SQL database",
            todo="name the connection of the warehouse that holds the model",
            connection=info.conn_id,
        )
    return hook
