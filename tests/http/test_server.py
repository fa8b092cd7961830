"""Endpoints made from connections."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.auth.cloud import AwsAuth, GoogleAuth
from airflow_reverse_etl.http.auth.keys import NO_AUTH, ApiKey, Auth, Basic, bearer
from airflow_reverse_etl.http.auth.oauth2 import JwtBearer, OAuth2
from airflow_reverse_etl.http.auth.signatures import Hmac
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.sync.ports import ConnectionInfo


def extra(**fields: object) -> ConnectionInfo:
    """Return a connection with these extras; with a user name if they describe OAuth2."""
    login = "me" if "token_url" in fields else None
    return ConnectionInfo("c", host="h", login=login, password="s3cret", extra=fields)


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        (ConnectionInfo("c", host="api.example.com"), "https://api.example.com"),
        (ConnectionInfo("c", host="api.example.com", schema="http", port=8080), "http://api.example.com:8080"),
        (ConnectionInfo("c", host="https://api.example.com/v1/", port=8443), "https://api.example.com:8443/v1"),
    ],
)
def test_a_connection_gives_the_base_url(connection: ConnectionInfo, url: str) -> None:
    endpoint = Server.from_connection(connection)
    assert endpoint.url == url
    assert str(endpoint.join("/rows/a%2Fb")) == f"{url}/rows/a%2Fb"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"host": "API.example.com"}, "https://api.example.com"),
        ({"host": "api.example.com", "port": 443}, "https://api.example.com"),
        ({"host": "http://api.example.com:80/V1/"}, "http://api.example.com/V1"),
        ({"host": "api.example.com", "schema": "http", "port": 443}, "http://api.example.com:443"),
        ({"host": "api.example.com", "port": 8443}, "https://api.example.com:8443"),
        ({"host": "https://api.example.com:8443"}, "https://api.example.com:8443"),
    ],
)
def test_a_place_has_one_form_and_no_default_port(fields: dict[str, Any], place: str) -> None:
    assert Server.from_connection(ConnectionInfo("c", **fields)).place == place


@pytest.mark.parametrize(
    ("connection", "auth"),
    [
        (ConnectionInfo("c", host="h"), NO_AUTH),
        (ConnectionInfo("c", host="h", password="s3cret"), bearer("s3cret")),
        (ConnectionInfo("c", host="h", login="me", password="s3cret"), Basic("me", "s3cret")),
        (extra(auth_header="X-Key"), ApiKey("X-Key", "s3cret")),
        (extra(auth_query="key"), ApiKey("key", "s3cret", "query")),
        (extra(auth_body="token"), ApiKey("token", "s3cret", "body")),
        (
            extra(token_url="https://t", scope="a b", audience="api", client_auth="basic", token_base_url="url"),
            OAuth2(
                "https://t",
                "me",
                "s3cret",
                form={"scope": "a b", "audience": "api"},
                client_auth="basic",
                base_url_field="url",
            ),
        ),
        (
            extra(token_url="https://t", refresh_token="again"),
            OAuth2("https://t", "me", "s3cret", refresh_token="again"),
        ),
        (
            extra(token_url="https://t", private_key="PEM", subject="user", audience="https://login"),
            JwtBearer("https://t", private_key="PEM", claims={"iss": "me", "sub": "user", "aud": "https://login"}),
        ),
        (
            extra(hmac_header="X-Sign", hmac_content="{timestamp}{body}", hmac_timestamp_header="X-Time"),
            Hmac(b"s3cret", "X-Sign", content="{timestamp}{body}", others={"X-Time": "{timestamp}"}),
        ),
    ],
)
def test_a_connection_says_how_requests_authenticate(connection: ConnectionInfo, auth: Auth) -> None:
    endpoint = Server.from_connection(connection)
    assert endpoint.auth == auth
    assert type(endpoint.auth) is type(auth)
    assert "s3cret" not in repr(endpoint)
    if connection.password:
        assert "s3cret" in endpoint.secrets


def test_credentials_of_google_and_aws_come_from_their_own_connections() -> None:
    others = {"gcp": ConnectionInfo("gcp", "google_cloud_platform"), "aws": ConnectionInfo("aws", "aws")}
    found = [
        Server.from_connection(ConnectionInfo("c", host="h", extra={name: conn_id}), others.__getitem__).auth
        for name, conn_id in [("google_conn_id", "gcp"), ("aws_conn_id", "aws")]
    ]
    assert [type(auth) for auth in found] == [GoogleAuth, AwsAuth]
    with pytest.raises(CredentialsError, match="'gcp' cannot be read here"):
        Server.from_connection(ConnectionInfo("c", host="h", extra={"google_conn_id": "gcp"}))


def test_values_of_a_connections_own_headers_are_secrets() -> None:
    endpoint = Server.from_connection(ConnectionInfo("c", host="h", extra={"headers": {"X-Key": "s3cret"}}))
    assert endpoint.headers == {"X-Key": "s3cret"}
    assert "s3cret" in endpoint.secrets
    assert "s3cret" not in repr(endpoint)


@pytest.mark.parametrize("host", ["ftp://h", "https://", "https://user@h", "https://h?key=1"])
def test_a_host_that_is_not_a_url_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="not a URL"):
        Server.from_connection(ConnectionInfo("c", host=host))


def test_a_connection_without_host_is_refused() -> None:
    with pytest.raises(CredentialsError):
        Server.from_connection(ConnectionInfo("c"))


def test_credentials_never_go_to_another_host() -> None:
    endpoint = Server.from_connection(ConnectionInfo("c", host="https://api.example.com", password="s3cret"))
    assert str(endpoint.join("https://api.example.com/x")) == "https://api.example.com/x"
    with pytest.raises(ConfigurationError, match="connection's host"):
        endpoint.join("https://api.example.com.evil.test/x")
