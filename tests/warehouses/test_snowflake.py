"""Snowflake over the wire: fakesnow's server in place of the service, read by its ADBC driver and by its connector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import fakesnow
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_reverse_etl import wiring
from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError
from airflow_reverse_etl.sync.ports import Warehouse
from airflow_reverse_etl.warehouses.snowflake import database_options, integer_if_possible

pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's own

#: What SnowflakeHook gives the connector.
PARAMETERS = {
    "user": "fake",
    "password": "snow",
    "schema": "PUBLIC",
    "database": "ANALYTICS",
    "account": "fakesnow",
    "warehouse": "",
    "region": "",
    "role": "",
    "authenticator": "snowflake",
    "session_parameters": None,
    "application": "AIRFLOW",
}
MODEL = """
    SELECT i AS ID, 'Zoë ' || i AS NAME, i::NUMBER(10, 2) AS AMOUNT, i / 3::FLOAT AS SHARE, i % 2 = 0 AS ACTIVE,
        '2026-01-31'::DATE AS DAY, '2026-01-31 12:00:00.123456'::TIMESTAMP_NTZ AS AT, NULL::VARCHAR AS NOTHING,
        '2026-01-31 12:00:00'::TIMESTAMP_TZ AS MOMENT, TO_BINARY('00FF', 'HEX') AS BYTES
    FROM (SELECT SEQ4() AS i FROM TABLE(GENERATOR(ROWCOUNT => 20000)))
"""


@pytest.fixture(scope="module")
def key() -> bytes:
    private = rsa.generate_private_key(65537, 2048)
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    import snowflake.connector

    with fakesnow.server() as found:
        where = {name: found[name] for name in ("host", "port", "protocol")}
        with snowflake.connector.connect(**found) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE ANALYTICS")
        yield where


@pytest.fixture
def open_warehouse(
    server: dict[str, Any], monkeypatch: pytest.MonkeyPatch, add_connection: Callable[..., None]
) -> Callable[..., Warehouse]:
    """Open the warehouse of a hook with these parameters; ``connects`` counts the connections of the hook."""
    import snowflake.connector

    add_connection("snow", conn_type="snowflake")

    def opened(parameters: Mapping[str, Any] = PARAMETERS, connects: list[int] | None = None) -> Warehouse:
        def connect() -> Any:
            if connects is not None:
                connects.append(1)
            return snowflake.connector.connect(**{**PARAMETERS, **server})

        hook = SimpleNamespace(_get_conn_params=lambda: {**parameters, **server}, get_conn=connect)
        monkeypatch.setattr(wiring, "_sql_hook", lambda info: hook)
        return wiring.open_warehouse("snow")

    return opened


@pytest.mark.parametrize(
    "query",
    [
        MODEL,
        "SELECT '12:34:56.5'::TIME AS T, '2026-01-31'::TIMESTAMP_LTZ AS L",
        "SELECT '9999-12-31 23:59:59'::TIMESTAMP_NTZ AS F, '0001-01-01'::TIMESTAMP_TZ AS G, '9999-12-31'::DATE AS H",
        "SELECT 1 AS X, 'x' AS Y WHERE 1 = 0",
    ],
)
def test_the_driver_reads_what_the_connector_reads(open_warehouse: Callable[..., Warehouse], query: str) -> None:
    """The result does not depend on which of them a worker has."""
    connects: list[int] = []
    with closing(open_warehouse(PARAMETERS, connects)) as driver:
        found = driver.read(query).read_all()
        assert [column.name for column in driver.columns(query)] == found.column_names
    assert connects == []
    with closing(open_warehouse({**PARAMETERS, "session_parameters": {"QUERY_TAG": "ours"}}, connects)) as connector:
        expected = connector.read(query).read_all()
    assert connects == [1]
    assert found.to_pylist() == expected.to_pylist()
    if expected.num_rows:  # the connector has no types for no rows
        assert found.schema == expected.schema


@pytest.mark.parametrize("way", ["password", "key", "token"])
def test_it_logs_in_as_the_hook_does(open_warehouse: Callable[..., Warehouse], key: bytes, way: str) -> None:
    connects: list[int] = []
    fetched = {"authenticator": "oauth", "token": "t", "client_id": "c", "client_secret": "s", "scope": None}
    login: dict[str, Any] = {
        "password": {},
        "key": {"password": None, "private_key": key},
        "token": {"user": None, "password": None, **fetched},
    }[way]
    with closing(open_warehouse({**PARAMETERS, **login}, connects)) as warehouse:
        assert warehouse.read("SELECT 1 AS X").read_all().to_pylist() == [{"X": 1}]
    assert connects == []


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"session_parameters": {"TIMEZONE": "UTC"}, "proxy_host": "proxy"}, "proxy_host, session_parameters"),
        ({"authenticator": "externalbrowser", "password": ""}, "externalbrowser"),
        ({"authenticator": "programmatic_access_token", "token": "t"}, "programmatic_access_token"),
        ({"authenticator": "oauth"}, "oauth"),
        ({"password": ""}, "snowflake"),
    ],
)
def test_what_the_driver_may_not_have_is_left_to_the_connector(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        database_options({**PARAMETERS, **parameters})
    assert "snow" not in str(caught.value).replace("snowflake", "")


def test_the_connector_says_what_is_wrong_with_a_query(open_warehouse: Callable[..., Warehouse]) -> None:
    connects: list[int] = []
    with closing(open_warehouse(PARAMETERS, connects)) as warehouse, pytest.raises(ModelNotFoundError, match="NOPE"):
        warehouse.read("SELECT NOPE FROM (SELECT 1 AS X)")
    assert connects == [1]


def test_whole_numbers_beyond_64_bits_stay_decimals() -> None:
    """fakesnow does not support them, so the test makes the driver's batch."""
    numbers = pa.RecordBatch.from_pydict({"N": pa.array([Decimal(2**70)], pa.decimal128(38, 0))})
    assert integer_if_possible(numbers.schema.field("N").type, 0, numbers) == pa.decimal128(38, 0)
    assert integer_if_possible(numbers.schema.field("N").type, 0, None) == pa.int64()
