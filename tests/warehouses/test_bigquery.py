"""BigQuery over the wire: a server in place of the service, read by its ADBC driver and by its client."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import pytest

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.warehouses.adbc import AdbcWarehouse
from airflow_reverse_etl.warehouses.bigquery import database_options
from tests.bigquery import BY_CLIENT, PROJECT, BigQuery, Hook

pytestmark = pytest.mark.long

#: Five batches.
MODEL = """
    SELECT id, CONCAT('Zoë ', CAST(id AS STRING)) AS name, CAST('1.25' AS NUMERIC) AS amount, id / 7 AS share,
        CAST(id AS BIGNUMERIC) AS large, MOD(id, 2) = 0 AS active, DATE '2026-01-31' AS day,
        DATETIME '2026-01-31 12:00:00.123456' AS at, TIMESTAMP '2026-01-31 12:00:00.123456+00' AS moment,
        TIME '12:34:56.5' AS time, CAST(NULL AS STRING) AS nothing, FROM_HEX('00ff') AS bytes
    FROM UNNEST(GENERATE_ARRAY(1, 4500)) AS id
"""


def read(query: str, extra: Mapping[str, Any], columns: list[str] | None) -> Any:
    """Return rows, or the error, of a new process: drivers see only the variables that their process started with.

    :param columns: asked for and compared first.
    """
    from airflow_reverse_etl import wiring

    info = SimpleNamespace(conn_type="google_cloud_platform", conn_id="bq", extra=extra)
    given = {"connection_info": lambda conn_id: info, "_sql_hook": lambda info: Hook()}
    with patch.multiple(wiring, **given), closing(wiring.open_warehouse("bq")) as warehouse:
        try:
            assert columns is None or [column.name for column in warehouse.columns(query)] == columns
            return warehouse.read(query).read_all()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return f"{type(error).__name__}: {error}"


@pytest.fixture(scope="module")
def service() -> BigQuery:
    return BigQuery()


@pytest.fixture(scope="module")
def environment(service: BigQuery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with service.running(tmp_path_factory.mktemp("bigquery")) as environment:
        yield environment


@pytest.fixture(scope="module")
def process(environment: dict[str, str]) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with patch.dict(os.environ, environment):
            pool.submit(os.getpid).result()
        try:
            yield pool
        finally:  # one that hangs would be waited for
            for child in list(pool._processes.values()):
                child.kill()


@pytest.fixture
def ask(process: ProcessPoolExecutor, service: BigQuery) -> Callable[..., Any]:
    def asked(query: str, extra: Mapping[str, Any] | None = None, *, columns: list[str] | None = None) -> Any:
        service.asked.clear()
        return process.submit(read, query, extra or {}, columns).result(timeout=120)

    return asked


@pytest.mark.parametrize(
    "query",
    [
        MODEL,
        "SELECT TIMESTAMP '9999-12-31 23:59:59+00' AS f, DATE '0001-01-01' AS g, DATETIME '0001-01-01 00:00:00' AS h",
        "SELECT [1, 2] AS ids, STRUCT(1 AS a, 'x' AS b) AS pair, [STRUCT('k' AS `key`)] AS pairs",
    ],
)
def test_the_driver_reads_what_the_client_reads(ask: Callable[..., Any], service: BigQuery, query: str) -> None:
    """The result does not depend on which of them a worker has."""
    found = ask(query)
    assert service.asked == ["go"]
    expected = ask(query, BY_CLIENT)
    assert service.asked == ["python"]
    assert found.schema == expected.schema
    order = [(name, "ascending") for name in ("id",) if name in found.column_names]  # it reads streams side by side
    assert (found.sort_by(order) if order else found).to_pylist() == expected.to_pylist()


@pytest.mark.parametrize("way", ["default", "path", "text", "object"])
def test_it_logs_in_as_the_hook_does(
    ask: Callable[..., Any], service: BigQuery, environment: dict[str, str], way: str
) -> None:
    path = environment["GOOGLE_APPLICATION_CREDENTIALS"]
    with open(path) as file:  # noqa: PTH123 - a string
        text = file.read()
    prefixed = "extra__google_cloud_platform__keyfile_dict"
    extra = {
        "default": {"project": PROJECT, "scope": ""},
        "path": {"key_path": path},
        "text": {prefixed: text, "num_retries": 5, "priority": "BATCH", "use_legacy_sql": False},
        "object": {"keyfile_dict": json.loads(text), prefixed: "an old one"},
    }[way]
    assert ask("SELECT 1 AS x", extra).to_pylist() == [{"x": 1}]
    assert service.asked == ["go"]


def test_the_client_reports_columns_without_rows(ask: Callable[..., Any], service: BigQuery) -> None:
    assert ask("SELECT 1 AS x, 'x' AS y FROM UNNEST([1]) WHERE FALSE").column_names == ["x", "y"]
    assert service.asked == ["go", "python"]
    assert ask("SELECT 1 AS x, 'x' AS y", columns=["x", "y"]).to_pylist() == [{"x": 1, "y": "x"}]
    assert service.asked == ["python", "go"]


@pytest.mark.parametrize("extra", [{}, BY_CLIENT], ids=["driver", "client"])
@pytest.mark.parametrize("rows", [0, 2000])
def test_a_stream_that_breaks_off_is_not_the_end_of_the_rows(
    ask: Callable[..., Any], service: BigQuery, monkeypatch: pytest.MonkeyPatch, extra: dict[str, str], rows: int
) -> None:
    """Otherwise the missing rows would count as removed."""
    monkeypatch.setattr(service, "breaks_after", rows)
    error = ask(MODEL, extra)
    assert isinstance(error, str)
    assert error.startswith("UnreachableError")


def test_the_client_says_what_is_wrong_with_a_query(ask: Callable[..., Any], service: BigQuery) -> None:
    error = ask("SELECT nope FROM (SELECT 1 AS x)")
    assert error.startswith("ModelNotFoundError")
    assert "nope" in error
    assert service.asked == ["go", "python"]


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"impersonation_chain": "a@b", "scope": "c"}, "impersonation_chain, scope"),
        ({"is_anonymous": True}, "is_anonymous"),
        ({"extra__google_cloud_platform__key_secret_name": "secret", "keyfile_dict": "{}"}, "key_secret_name"),
    ],
)
def test_what_the_driver_may_not_have_is_left_to_the_client(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        database_options(extra, project=PROJECT, location=None)


def test_what_is_not_known_is_not_given() -> None:
    assert list(database_options({"key_path": "key.json"}, project=None, location=None)) == [
        "adbc.bigquery.sql.auth_credentials",
        "adbc.bigquery.sql.auth_type",
    ]


def test_where_the_driver_does_not_look_the_client_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "folder")
    with pytest.raises(ConfigurationError, match="CLOUDSDK_CONFIG"):
        database_options({"key_path": ""}, project=PROJECT, location=None)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "key.json")
    assert "key.json" in database_options({}, project=PROJECT, location=None).values()


def test_a_value_that_the_service_quotes_is_not_reported(ask: Callable[..., Any]) -> None:
    error = ask("SELECT CAST(name AS INT64) AS n FROM (SELECT 'secret' AS name)")
    assert error.startswith("ConfigurationError: the model's query fails")
    assert "secret" not in error


def test_a_query_that_takes_long_is_cancelled_where_it_runs() -> None:
    """The driver cannot cancel through its connection."""
    runs = threading.Event()

    class Cursor(Mock):
        def execute(self, query: str) -> None:
            runs.set()
            assert self.cancelled.wait(20)
            raise OSError

    cursor = Cursor(cancelled=threading.Event())
    cursor.adbc_cancel.side_effect = cursor.cancelled.set
    warehouse = AdbcWarehouse(lambda: Mock(cursor=lambda: cursor), dialect="bigquery", conn_id="bq")

    def interrupted(future: Future[Any]) -> None:
        assert runs.wait(20)
        raise KeyboardInterrupt

    with patch.object(Future, "result", interrupted), pytest.raises(KeyboardInterrupt):
        warehouse.read("SELECT 1 AS x")
    assert cursor.cancelled.is_set()
    warehouse.close()
