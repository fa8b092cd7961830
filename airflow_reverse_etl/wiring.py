"""Builds the adapters, warehouses and state stores, from Airflow's connections and settings.

The module is cheap to import: code that opens a connection or a store is imported on its first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import AirflowException, BaseHook
from airflow_reverse_etl.connections import connection_info, storage_options
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.sql.dialects.registry import PLANNERS, dialect_of, writable_dialect
from airflow_reverse_etl.sync.ports import ConnectionInfo

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy
    from airflow_reverse_etl.spec.receipts import JobRef
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.stores.lake.store import LakeStore
    from airflow_reverse_etl.stores.recipes import Recipes
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
    from airflow_reverse_etl.sync.clock import RunTiming
    from airflow_reverse_etl.sync.context import RunContext
    from airflow_reverse_etl.sync.ports import Destination, LoadsInJobs, Observer, RecordIds, Warehouse

#: Hooks that test a connection of another provider's type as syncs use it. Loaded by name, as Airflow does.
_TESTS = {"salesforce": ("airflow_reverse_etl.hooks.http", "SalesforceTestHook")}


def run_context(
    sync: Sync,
    run_id: str,
    *,
    query: str | None,
    label: str,
    log: Callable[[str], object],
    observer: Observer,
    deferrable: bool = False,
    timing: RunTiming | None = None,
    finished: frozenset[str] = frozenset(),
) -> RunContext:
    """Build the surroundings of a run, with the store that has the sync's state.

    :param query: the model as a SELECT; None for a step that does not plan.
    :param label: description of the run, for other runs of the sync.
    :param log: receives a line on why the store was chosen.
    :param finished: as :class:`RunContext` takes it.
    :raises ConfigurationError: the sync's source cannot plan, though it says so; or the sync has state to adopt.
    :raises CredentialsError: a connection does not exist, or a privilege in the warehouse is missing.
    """
    from airflow_reverse_etl.stores.rate_budget import FileBudget
    from airflow_reverse_etl.sync.clock import DEFAULT_TIMING, SystemClock
    from airflow_reverse_etl.sync.context import RunContext

    return RunContext(
        run_id,
        store_of(sync, query=query, log=log),
        observer=observer,
        clock=SystemClock(),
        label=label,
        deferrable=deferrable,
        budget=FileBudget(state_files()),
        timing=timing or DEFAULT_TIMING,
        finished=finished,
        asks_for=_destination_of_job,
        record_ids=record_ids(sync),
    )


def _destination_of_job(ref: JobRef) -> LoadsInJobs:
    """Create the destination of a job whose sync has another one by now."""
    from airflow_reverse_etl.destinations.registry import create_for_jobs

    return create_for_jobs(ref.type, connection=connection_info(ref.connection) if ref.connection else None)


def store_of(
    sync: Sync, *, query: str | None = None, log: Callable[[str], object] = lambda _: None
) -> LakeStore | WarehouseStore:
    """Return the store that has the state of a sync.

    The parameters and errors are those of :func:`run_context`.
    """
    from airflow_reverse_etl.stores.choose import choose_store

    return choose_store(
        sync,
        query,
        lake=state_store(),
        open_warehouse_store=lambda: warehouse_store(sync.source),
        has_state_to_adopt=lambda: has_state_to_adopt(sync.name, sync.source),
        log=log,
    )


def privacy_policy() -> PrivacyPolicy | None:
    """Return the privacy policy of ``[reverse_etl] privacy_policy``; None if none is set.

    :raises SpecError: the file cannot be read, or is not valid.
    """
    from airflow_reverse_etl.spec.privacy.policy import PrivacyPolicy

    path = config.settings().privacy_policy
    return PrivacyPolicy.load(path) if path else None


def earlier_rows(sync: Sync, run_id: str, *, runs: int) -> list[int]:
    """Return the numbers of the model's rows in the last runs before this one, the last run first.

    :param runs: most runs.
    """
    from airflow_reverse_etl.stores.choose import closing_store

    store = store_of(sync)
    with closing_store(store):
        past = store.past_runs(sync.name, limit=runs + 1)
    return [run.report.model_rows for run in past if run.run_id != run_id][:runs]


def record_ids(sync: Sync) -> RecordIds | None:
    """Return the receiver of the ids of a sync's records, or None without ``write_ids``.

    :raises CredentialsError: the connection of the sync's source does not exist.
    :raises ConfigurationError: it does not lead to a SQL database, or its provider is not installed.
    """
    if sync.write_ids is None:
        return None
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.stores.record_ids import KeptRecordIds

    dialect = _checked_dialect(dialect_of(connection_info(sync.source).conn_type).name, sync.source)
    return KeptRecordIds(
        StateFiles(*_environment_place()), sync.name, dbapi_connect(sync.source), dialect=dialect, table=sync.write_ids
    )


def destination_of(sync: Sync) -> Destination:
    """Create the destination of a sync, without opening it.

    :raises CredentialsError: the connection does not exist, or is incomplete.
    :raises SpecError: the destination cannot do what the sync asks; lists all problems.
    """
    from airflow_reverse_etl.destinations.registry import create

    conn_id = sync.destination.connection
    if conn_id is None:
        return create(sync, connection=None)
    connection = connection_info(conn_id)
    if options := storage_options(connection):  # credentials of object storage, from its connection type
        connection = replace(connection, extra={**connection.extra, "storage_options": options})
    return create(sync, connection=connection, connect=lambda: dbapi_connect(conn_id)(), lookup=connection_info)


def state_files() -> StateFiles:
    """Return the files under ``[reverse_etl] state_url``.

    :raises ConfigurationError: a setting is not valid.
    :raises CredentialsError: the connection in ``state_conn_id`` does not exist.
    """
    from airflow_reverse_etl.stores.files import StateFiles

    return StateFiles(*_state_place())


def state_store(*, environment: str | None = None) -> LakeStore:
    """Return the store of snapshots, plans and checkpoints under ``[reverse_etl] state_url``.

    :param environment: None for that of the settings, empty for none.
    :raises ConfigurationError: a setting is not valid.
    :raises CredentialsError: the connection in ``state_conn_id`` does not exist.
    """
    return _lake(*_environment_place(environment))


def recipes() -> Recipes:
    """Return what the last run of each sync left for a maintenance run.

    The errors are those of :func:`state_store`.
    """
    from airflow_reverse_etl.stores.files import StateFiles
    from airflow_reverse_etl.stores.recipes import Recipes

    return Recipes(StateFiles(*_environment_place(None)))


def state_store_at(url: str, conn_id: str | None) -> LakeStore:
    """Return a store at any URL.

    :param conn_id: Airflow connection with the credentials of an object storage.
    :raises CredentialsError: the connection does not exist.
    """
    return _lake(url, storage_options(connection_info(conn_id)) if conn_id else {})


def _lake(url: str, options: dict[str, str]) -> LakeStore:
    from airflow_reverse_etl.stores.lake.store import LakeStore

    settings = config.settings()
    return LakeStore(
        url,
        options,
        memory_limit=settings.memory_limit,
        scratch=settings.scratch_folder,
        history=settings.history_days,
        change_log=settings.change_log,
    )


def warehouse_store(conn_id: str, *, environment: str | None = None) -> WarehouseStore | None:
    """Return the store that keeps state as tables in the warehouse, or None if the database does not support it.

    :param environment: None for that of the settings, empty for none.
    :raises CredentialsError: the connection does not exist.
    :raises ConfigurationError: the connection does not lead to a SQL database, or its provider is not installed.
    """
    from airflow_reverse_etl.stores.warehouse.store import WarehouseStore

    dialect = dialect_of(connection_info(conn_id).conn_type).name
    if dialect not in PLANNERS:
        return None
    settings = config.settings()
    suffix = settings.environment if environment is None else environment
    return WarehouseStore(
        _for_models(dbapi_connect(conn_id), dialect),
        lambda: open_warehouse(conn_id),
        dialect=dialect,
        schema=f"{settings.warehouse_schema}_{suffix}" if suffix else settings.warehouse_schema,
        history=settings.history_days,
        change_log=settings.change_log,
    )


def has_state_to_adopt(sync: str, conn_id: str) -> bool:
    """Return whether a sync has state without an environment, while there is an environment that is not new.

    :param conn_id: of the sync's source.
    """
    settings = config.settings()
    if not settings.environment or settings.environment_is_new:
        return False
    if state_store(environment="").has_state(sync):
        return True
    tables = warehouse_store(conn_id, environment="")
    return tables is not None and tables.has_state(sync)


def _environment_place(environment: str | None = None) -> tuple[str, dict[str, str]]:
    url, options = _state_place()
    folder = config.settings().environment if environment is None else environment
    return f"{url.rstrip('/')}/{folder}" if folder else url, options


def _state_place() -> tuple[str, dict[str, str]]:
    settings = config.settings()
    conn_id = settings.state_conn_id
    return settings.state_url, storage_options(connection_info(conn_id)) if conn_id else {}


def test_connection(conn_id: str) -> tuple[bool, str]:
    """Test a connection with its hook, as Airflow's connection form does.

    :returns: whether the test passed, and a message without the connection's password.
    :raises CredentialsError: the connection does not exist.
    :raises ConfigurationError: its provider is not installed, or its type has no test.
    """
    from airflow_reverse_etl.http.redaction import clean

    info = connection_info(conn_id)
    try:
        hook = _hook(info)
    except (AirflowException, ImportError) as error:
        raise ConfigurationError(
            f"no hook for connections of type {info.conn_type!r}: {error}",
            todo="install the Airflow provider of that type, or correct the connection's type",
            connection=conn_id,
        ) from None
    if not hasattr(hook, "test_connection"):
        raise ConfigurationError(
            f"connections of type {info.conn_type!r} have no test",
            todo="use the connection in a sync, with `reverse-etl validate --connect`",
            connection=conn_id,
        )
    passed, message = hook.test_connection()
    return bool(passed), clean(str(message), (info.password or "",))


def _hook(info: ConnectionInfo) -> Any:
    if info.conn_type in _TESTS:
        module, name = _TESTS[info.conn_type]
        return getattr(import_module(module), name)(info.conn_id)
    return BaseHook.get_hook(info.conn_id)


def dbapi_connect(conn_id: str) -> Callable[[], Any]:
    """Return a function that opens a new DB-API connection each time it is called.

    :raises CredentialsError: the connection does not exist.
    :raises ConfigurationError: the connection does not lead to a SQL database, or its provider is not installed.
    """
    info = connection_info(conn_id)
    _sql_hook(info)
    # A hook for each connection: the Databricks hook returns the same one each time.
    return lambda: _connect(_sql_hook(info), info)


def open_warehouse(conn_id: str) -> Warehouse:
    """Return the warehouse behind a connection, with Arrow batches if its driver has them.

    DuckDB is read natively. Postgres, Snowflake and BigQuery use the ADBC driver if it is installed; connections of
    type ``adbc`` use theirs. Without ADBC, the drivers of BigQuery, Databricks and Snowflake return Arrow, and log in
    in every way that the hooks know. All others use a cursor of the hook's DB-API driver.

    :raises CredentialsError: the connection does not exist.
    :raises ConfigurationError: the connection does not lead to a SQL database, its provider is not installed, or its
        SQL is unknown.
    """
    info = connection_info(conn_id)
    hook = _sql_hook(info)
    dialect = dialect_of(info.conn_type).name
    if dialect == "duckdb":
        from airflow_reverse_etl.warehouses.duckdb import DuckDBWarehouse, opened

        return DuckDBWarehouse(opened(_for_models(hook.get_conn, dialect), conn_id), conn_id)
    from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
    from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse

    if dialect == "adbc":
        if hook.dialect_name == "default":
            raise ConfigurationError(
                "the connection does not say which database it is", todo="set its extra `dialect`", connection=conn_id
            )
        spoken = _checked_dialect(hook.dialect_name, conn_id)
        return AdbcWarehouse(_for_models(hook.get_conn, spoken), dialect=spoken, conn_id=conn_id)
    _checked_dialect(dialect, conn_id)
    if dialect == "bigquery":
        from airflow_reverse_etl.warehouses import bigquery

        connect = partial(bigquery.connection, hook)
    else:
        connect = hook.get_conn
    plain = DbApiWarehouse(connect, dialect=dialect, conn_id=conn_id)
    if dialect == "postgres" and find_spec("adbc_driver_postgresql"):
        from airflow_reverse_etl.warehouses import postgres

        return AdbcWarehouse(partial(postgres.adbc_connection, hook), dialect=dialect, conn_id=conn_id, dbapi=plain)
    if dialect == "snowflake" and find_spec("adbc_driver_snowflake"):
        from airflow_reverse_etl.warehouses import snowflake

        connect = partial(snowflake.adbc_connection, hook)
        return AdbcWarehouse(connect, dialect=dialect, conn_id=conn_id, dbapi=plain, options=snowflake.STATEMENT)
    if dialect == "bigquery" and find_spec("adbc_driver_bigquery"):
        connect = partial(bigquery.adbc_connection, hook, info)
        return AdbcWarehouse(connect, dialect=dialect, conn_id=conn_id, dbapi=plain, options=bigquery.STATEMENT)
    return plain


def _checked_dialect(name: str, conn_id: str) -> str:
    """Return sqlglot's name of a dialect.

    :raises ConfigurationError: sqlglot does not know it, so no statement can be written for it.
    """
    found = writable_dialect(name)
    if found is None:
        raise ConfigurationError(
            f"no SQL dialect found for databases of type {name!r}",
            todo="load the model into a database whose SQL sqlglot knows, such as Postgres, MySQL or Trino",
            connection=conn_id,
        )
    return found.name


def _for_models(connect: Callable[[], Any], dialect: str) -> Callable[[], Any]:
    """Keep models away from the worker's files, unless the configuration allows them."""
    if dialect != "duckdb" or config.settings().duckdb_external_access:
        return connect
    from airflow_reverse_etl.warehouses.duckdb import without_files

    return partial(without_files, connect)


def _connect(hook: Any, info: ConnectionInfo) -> Any:
    """Open a connection; to BigQuery with Google's driver, because Airflow's hook uses legacy SQL by default."""
    if dialect_of(info.conn_type).name != "bigquery":
        return hook.get_conn()
    from airflow_reverse_etl.warehouses import bigquery

    return bigquery.dbapi_connection(hook)


def _sql_hook(info: ConnectionInfo) -> Any:
    try:
        hooks = dialect_of(info.conn_type).hooks
        if info.conn_type in hooks:
            module, name, argument = hooks[info.conn_type]
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
            f"a connection of type {info.conn_type!r} does not lead to a SQL database",
            todo="name the connection of the warehouse that holds the model",
            connection=info.conn_id,
        )
    return hook
