"""Endpoints made from connections."""

from __future__ import annotations

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.endpoint import Endpoint
from airflow_reverse_etl.sync.ports import ConnectionInfo


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (ConnectionInfo("c", host="api.example.com"), "https://api.example.com"),
        (ConnectionInfo("c", host="api.example.com", schema="http", port=8080), "http://api.example.com:8080"),
        (ConnectionInfo("c", host="https://api.example.com/v1/", port=8443), "https://api.example.com:8443/v1"),
    ],
)
def test_a_connection_gives_the_base_url(connection: ConnectionInfo, url: str) -> None:
    endpoint = Endpoint.from_connection(connection)
    assert endpoint.url == url
    assert str(endpoint.join("/rows/a%2Fb")) == f"{url}/rows/a%2Fb"


@pytest.mark.parametrize(
    ("connection", "header", "value"),
    [
        (ConnectionInfo("c", host="h", password="s3cret"), "Authorization", "Bearer s3cret"),
        (ConnectionInfo("c", host="h", login="me", password="s3cret"), "Authorization", "Basic bWU6czNjcmV0"),
        (ConnectionInfo("c", host="h", password="s3cret", extra={"auth_header": "X-Key"}), "X-Key", "s3cret"),
        (ConnectionInfo("c", host="h", extra={"headers": {"X-Key": "s3cret"}}), "X-Key", "s3cret"),
    ],
)
def test_credentials_go_into_headers_and_nowhere_else(connection: ConnectionInfo, header: str, value: str) -> None:
    endpoint = Endpoint.from_connection(connection)
    assert endpoint.headers[header] == value
    assert "s3cret" not in repr(endpoint)
    assert "s3cret" in endpoint.secrets


@pytest.mark.parametrize("host", ["ftp://h", "https://", "https://user@h", "https://h?key=1"])
def test_a_host_that_is_not_a_url_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="not a URL"):
        Endpoint.from_connection(ConnectionInfo("c", host=host))


def test_a_connection_without_host_is_refused() -> None:
    with pytest.raises(CredentialsError):
        Endpoint.from_connection(ConnectionInfo("c"))


def test_credentials_never_go_to_another_host() -> None:
    endpoint = Endpoint.from_connection(ConnectionInfo("c", host="https://api.example.com", password="s3cret"))
    assert str(endpoint.join("https://api.example.com/x")) == "https://api.example.com/x"
    with pytest.raises(ConfigurationError, match="connection's host"):
        endpoint.join("https://api.example.com.evil.test/x")
