"""Airflow's configuration and connections, as our adapters get them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock, call

import pytest

from airflow_reverse_etl import errors
from airflow_reverse_etl.compat import AirflowException, AirflowFailException, airflow_errors
from airflow_reverse_etl.sync.ports import ConnectionInfo

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[1]


TRANSLATIONS = [
    (errors.ModelNotFoundError, AirflowFailException),
    (errors.UnreachableError, AirflowException),
    (errors.StateError, AirflowFailException),
    (errors.GuardError, AirflowFailException),
    (errors.FailurePolicyError, AirflowFailException),
    # A lost connection fails dbt, too.
    (errors.DbtRunError, AirflowException),
]


@pytest.mark.parametrize(("error", "expected"), TRANSLATIONS)
def test_an_error_is_told_with_the_name_to_look_it_up_by(
    error: type[errors.ReverseEtlError], expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught, airflow_errors():
        raise error("it is not there", todo="put it there", model="m")
    assert type(caught.value) is expected
    lines = [
        "it is not there (model 'm')",
        "What to do: put it there",
        f"More: reverse-etl errors {error.__name__}",
    ]
    assert str(caught.value).splitlines() == lines
    assert f"| `{error.__name__}` |" in (ROOT / "docs" / "reference" / "errors.md").read_text()


@pytest.mark.parametrize(("error", "expected"), TRANSLATIONS)
def test_a_sync_task_translates_errors_like_every_other_task(
    error: type[errors.ReverseEtlError], expected: type[Exception]
) -> None:
    from airflow_reverse_etl.operators.base import SyncOperator

    class Failing(SyncOperator):
        def _load_sync(self, context: Any) -> Any:
            return None

        def _work(self, sync: Any, context: Any) -> Any:
            raise error("it is not there")

    with pytest.raises(expected) as caught:
        Failing(task_id="failing", sync="{{ var.value.sync }}").execute({"ti": Mock()})
    assert type(caught.value) is expected
    assert str(caught.value) == error("it is not there").with_hint()


def test_state_is_under_airflow_home_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The placeholder in the default is filled in, with the environment's AIRFLOW_HOME."""
    from airflow_reverse_etl.wiring import state_files

    monkeypatch.delenv("AIRFLOW__REVERSE_ETL__STATE_URL", raising=False)
    assert state_files().child("x").endswith("/reverse_etl/x")
    assert "{" not in state_files().child("x")


def test_state_files_are_where_the_configuration_says(state_url: Path) -> None:
    """Readable again by the next task."""
    from airflow_reverse_etl.wiring import state_files

    state_files().write("a/b.json", b"{}")
    assert (state_url / "a" / "b.json").read_bytes() == b"{}"


def test_a_connection_becomes_plain_data(add_connection: Callable[..., None]) -> None:
    """All fields; its ``repr`` shows no secret."""
    from airflow_reverse_etl.connections import connection_info

    add_connection(
        "crm", conn_type="http", host="h", port=1, schema="s", login="l0g1n", password="s3cret", extra={"k": "v4lue"}
    )
    info = connection_info("crm")
    assert info == ConnectionInfo("crm", "http", "h", 1, "s", "l0g1n", "s3cret", {"k": "v4lue"})
    assert not any(secret in repr(info) for secret in ("l0g1n", "s3cret", "v4lue"))


def test_a_missing_connection_is_named(airflow_db: None) -> None:
    """With what to do about it."""
    from airflow_reverse_etl.connections import connection_info

    with pytest.raises(errors.CredentialsError, match="'nobody'"):
        connection_info("nobody")


def test_a_connection_without_sql_is_no_warehouse(add_connection: Callable[..., None]) -> None:
    """The error names the connection and its type."""
    from airflow_reverse_etl.wiring import open_warehouse

    add_connection("crm", conn_type="reverse_etl_http", host="h")
    with pytest.raises(errors.ConfigurationError, match="reverse_etl_http"):
        open_warehouse("crm")
    add_connection("odd", conn_type="no_such_type", host="h")
    with pytest.raises(errors.ConfigurationError, match="no_such_type"):
        open_warehouse("odd")


def test_duckdb_is_a_warehouse(add_connection: Callable[..., None], tmp_path: Path) -> None:
    """Through the official provider's hook."""
    import duckdb

    from airflow_reverse_etl.wiring import open_warehouse

    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    add_connection("duck", conn_type="duckdb", host=str(tmp_path / "w.duckdb"))
    warehouse = open_warehouse("duck")
    assert warehouse.dialect == "duckdb"
    assert warehouse.read("SELECT * FROM t").read_all().to_pylist() == [{"id": 1}]
    warehouse.close()


@pytest.mark.parametrize("allowed", [True, False])
def test_models_in_duckdb_use_files_only_if_the_configuration_says_so(
    add_connection: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """Where they are read, where they are counted, and where they are planned in DuckDB itself."""
    from airflow_reverse_etl import Sync
    from airflow_reverse_etl.wiring import open_warehouse, warehouse_store

    (tmp_path / "rows.csv").write_text("id\n1\n")
    add_connection("duck", conn_type="duckdb", host=str(tmp_path / "w.duckdb"))
    if allowed:
        monkeypatch.setenv("AIRFLOW__REVERSE_ETL__DUCKDB_EXTERNAL_ACCESS", "True")
    query = f"SELECT * FROM '{tmp_path / 'rows.csv'}'"
    sync = Sync(name="s", model={"sql": query}, source="duck", destination={"type": "file"}, mapping={"a": "id"})
    store = warehouse_store("duck")
    assert store is not None
    refused = pytest.raises(errors.ConfigurationError, match="duckdb_external_access")
    with nullcontext() if allowed else refused:
        assert store.model_rows(query, sync, at_most=5) == 1
    store.close()
    warehouse = open_warehouse("duck")
    with nullcontext() if allowed else refused:
        assert warehouse.read(query).read_all().to_pylist() == [{"id": 1}]
    warehouse.close()


@pytest.mark.parametrize("driver", ["adbc_driver_postgresql", ""])
def test_postgres_is_a_warehouse(
    add_connection: Callable[..., None], postgres: str, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """Through the official provider's hook: with its ADBC driver, and without."""
    from psycopg.conninfo import conninfo_to_dict

    from airflow_reverse_etl import wiring
    from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse

    monkeypatch.setattr(wiring, "find_spec", lambda name: name == driver)
    where = conninfo_to_dict(postgres)
    add_connection("pg", conn_type="postgres", login="postgres", schema="postgres", extra={"host": where["host"]})
    warehouse = wiring.open_warehouse("pg")
    assert isinstance(warehouse, AdbcWarehouse) is bool(driver)
    assert warehouse.dialect == "postgres"
    assert [column.name for column in warehouse.columns("SELECT 1 AS id")] == ["id"]
    table = warehouse.read("SELECT 1::SMALLINT AS id, ARRAY[1] AS list").read_all()
    assert table.to_pylist() == [{"id": 1, "list": "[1]"}]
    with pytest.raises(errors.ModelNotFoundError, match="nothing"):
        warehouse.read("SELECT * FROM nothing")
    warehouse.close()


def test_a_connection_of_type_adbc_is_a_warehouse(add_connection: Callable[..., None], postgres: str) -> None:
    """With the driver that it names. Its password is in no error."""
    from airflow_reverse_etl.wiring import open_warehouse

    extra = {"dialect": "postgresql", "db_kwargs": {"uri": postgres}}
    add_connection("any", conn_type="adbc", host="h", extra=extra)
    warehouse = open_warehouse("any")
    assert warehouse.dialect == "postgres"
    assert warehouse.read("SELECT 1.5::NUMERIC(5, 2) AS n").read_all().to_pylist() == [{"n": Decimal("1.50")}]
    warehouse.close()
    add_connection("odd", conn_type="adbc", host="h")
    with pytest.raises(errors.ConfigurationError, match="dialect"):
        open_warehouse("odd")
    broken = "postgresql://u:hid%den@127.0.0.1:1/d"
    add_connection("broken", conn_type="adbc", host="h", extra={**extra, "db_kwargs": {"uri": broken}})
    with pytest.raises(errors.ReverseEtlError) as caught:
        open_warehouse("broken").read("SELECT 1")
    assert "hid" not in str(caught.value)


def test_sqlite_is_a_warehouse(add_connection: Callable[..., None], tmp_path: Path) -> None:
    """As any other DB-API driver is."""
    import sqlite3

    from airflow_reverse_etl.wiring import dbapi_connect, open_warehouse

    add_connection("lite", conn_type="sqlite", host=str(tmp_path / "w.sqlite"))
    connection = dbapi_connect("lite")()
    assert isinstance(connection, sqlite3.Connection)
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    connection.commit()
    connection.close()
    warehouse = open_warehouse("lite")
    assert warehouse.dialect == "sqlite"
    assert warehouse.read("SELECT * FROM t").read_all().to_pylist() == [{"id": 1}]
    warehouse.close()


@pytest.mark.parametrize(
    ("conn_type", "module", "name", "argument"),
    [
        ("databricks", "airflow.providers.databricks.hooks.databricks_sql", "DatabricksSqlHook", "databricks_conn_id"),
        ("google_cloud_platform", "airflow.providers.google.cloud.hooks.bigquery", "BigQueryHook", "gcp_conn_id"),
    ],
)
def test_where_a_connections_own_hook_runs_no_sql_that_of_its_provider_does(
    conn_type: str,
    module: str,
    name: str,
    argument: str,
    add_connection: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names and arguments as in the Databricks provider 7.23 and the Google provider 22.8.

    Each session has a hook of its own, as Databricks' hands out the same connection again. BigQuery is spoken to by
    Google's driver, in the project and place of the connection.
    """
    from airflow_reverse_etl.wiring import dbapi_connect, open_warehouse

    hook, driver = Mock(spec_set=["get_records", "get_conn", "get_client", "project_id", "location"]), Mock()
    hooks = Mock(return_value=hook)
    for parent in (module.rpartition(".")[0], module, "google.cloud.bigquery", "google.cloud.bigquery.dbapi"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setattr(sys.modules[module], name, hooks, raising=False)
    monkeypatch.setattr(sys.modules["google.cloud.bigquery.dbapi"], "connect", driver, raising=False)
    add_connection("vendor", conn_type=conn_type, host="h")
    connect = dbapi_connect("vendor")
    hooks.reset_mock()
    sessions = [connect(), connect()]
    assert hooks.call_args_list == [call(**{argument: "vendor"})] * 2
    if conn_type == "databricks":
        assert sessions == [hook.get_conn()] * 2
        assert open_warehouse("vendor").dialect == "databricks"
    else:
        hook.get_client.assert_called_with(project_id=hook.project_id, location=hook.location)
        assert sessions == [driver.return_value] * 2
        assert open_warehouse("vendor").dialect == "bigquery"


def test_a_connection_whose_provider_is_missing_says_so(add_connection: Callable[..., None]) -> None:
    from airflow_reverse_etl.wiring import dbapi_connect

    add_connection("vendor", conn_type="databricks", host="h")
    with pytest.raises(errors.ConfigurationError, match="install the Airflow provider"):
        dbapi_connect("vendor")


def test_a_database_with_unknown_sql_is_named(
    add_connection: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow has a hook for it, and sqlglot no dialect."""
    from airflow_reverse_etl import wiring

    monkeypatch.setattr(wiring.BaseHook, "get_hook", Mock(return_value=Mock(spec_set=["get_records", "get_conn"])))
    add_connection("vendor", conn_type="vertica", host="h")
    with pytest.raises(
        errors.ConfigurationError, match="no SQL dialect found for databases of type 'vertica'"
    ) as caught:
        wiring.open_warehouse("vendor")
    assert caught.value.where == {"connection": "vendor"}


def test_an_adbc_connection_with_an_unknown_dialect_is_named(add_connection: Callable[..., None]) -> None:
    from airflow_reverse_etl.wiring import open_warehouse

    add_connection("odd", conn_type="adbc", host="h", extra={"dialect": "postgrex"})
    with pytest.raises(errors.ConfigurationError, match="no SQL dialect found for databases of type 'postgrex'"):
        open_warehouse("odd")


@pytest.mark.parametrize(
    ("info", "options"),
    [
        (
            ConnectionInfo(
                "a", "aws", login="id", password="key", extra={"endpoint_url": "http://minio:9000", "region_name": "eu"}
            ),
            {
                "aws_access_key_id": "id",
                "aws_secret_access_key": "key",
                "aws_endpoint_url": "http://minio:9000",
                "aws_region": "eu",
                "aws_allow_http": "true",
            },
        ),
        (
            ConnectionInfo("g", "google_cloud_platform", extra={"keyfile_dict": {"type": "service_account"}}),
            {"google_service_account_key": '{"type": "service_account"}'},
        ),
        (
            ConnectionInfo("z", "wasb", login="account", password="key"),
            {"azure_storage_account_name": "account", "azure_storage_account_key": "key"},
        ),
        (ConnectionInfo("x", "generic", extra={"storage_options": {"allow_http": True}}), {"allow_http": "True"}),
        (ConnectionInfo("e", "aws"), {}),
    ],
    ids=lambda value: value.conn_type if isinstance(value, ConnectionInfo) else "",
)
def test_storage_credentials(info: ConnectionInfo, options: dict[str, str]) -> None:
    """Airflow's storage connections, in the words of the object storage library; empty fields are left to it."""
    from airflow_reverse_etl.connections import storage_options

    assert storage_options(info) == options
