"""The credentials that an Airflow connection describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.http.auth.keys import NO_AUTH, ApiKey, Auth, Basic, bearer
from airflow_reverse_etl.http.auth.oauth2 import JwtBearer, OAuth2
from airflow_reverse_etl.http.auth.signatures import Hmac
from airflow_reverse_etl.sync.ports import ConnectionInfo

#: Function that returns the Airflow connection with an id.
Lookup = Callable[[str], ConnectionInfo]


def auth_of(connection: ConnectionInfo, lookup: Lookup | None = None) -> Auth:
    """Return the credentials that a connection describes.

    The extra's keys decide which kind they are; ``docs/reference/connections.md`` lists them.

    :raises CredentialsError: the credentials are incomplete.
    """
    extra = connection.extra
    password = connection.password or ""
    if conn_id := extra.get("google_conn_id"):
        from airflow_reverse_etl.http.auth.cloud import GoogleAuth

        return GoogleAuth(_other(connection, str(conn_id), lookup))
    if conn_id := extra.get("aws_conn_id"):
        from airflow_reverse_etl.http.auth.cloud import AwsAuth

        return AwsAuth(_other(connection, str(conn_id), lookup), str(extra.get("aws_service") or "execute-api"))
    if extra.get("token_url"):
        return _oauth2(connection)
    if extra.get("hmac_header") or extra.get("standard_webhooks"):
        return _hmac(connection)
    for place in ("header", "query", "body"):
        if (name := extra.get(f"auth_{place}")) and password:
            return ApiKey(str(name), password, place)
    if connection.login:
        return Basic(connection.login, password)
    return bearer(password) if password else NO_AUTH


def _other(connection: ConnectionInfo, conn_id: str, lookup: Lookup | None) -> ConnectionInfo:
    if lookup is None:
        raise CredentialsError(
            f"connection {conn_id!r} cannot be read here",
            todo="put the credentials into the connection itself",
            connection=connection.conn_id,
        )
    return lookup(conn_id)


def _oauth2(connection: ConnectionInfo) -> OAuth2:
    extra = {name: str(value) for name, value in connection.extra.items() if value}
    options: dict[str, Any] = {
        "token_url": extra["token_url"],
        "client_id": connection.login or "",
        "client_secret": connection.password or "",
        "client_auth": extra.get("client_auth", "body"),
        "base_url_field": extra.get("token_base_url"),
    }
    scope = {"scope": extra["scope"]} if extra.get("scope") else {}
    audience = extra.get("audience", "")
    if private_key := extra.get("private_key"):
        claims = {"iss": connection.login, "sub": extra.get("subject", connection.login), **scope}
        claims["aud"] = audience or extra["token_url"]
        # The signature proves who the client is, so its id and secret are not sent.
        options |= {"client_id": "", "client_secret": ""}
        return JwtBearer(**options, private_key=private_key, claims=claims)
    form = {**scope, "audience": audience} if audience else scope
    return OAuth2(**options, refresh_token=extra.get("refresh_token", ""), form=form)


def _hmac(connection: ConnectionInfo) -> Hmac:
    extra = connection.extra
    password = connection.password or ""
    if not password:
        raise CredentialsError(
            "the connection has no secret to sign requests with",
            todo="enter the shared secret as the password",
            connection=connection.conn_id,
        )
    if extra.get("standard_webhooks"):
        return Hmac.standard_webhooks(password)
    options: dict[str, Any] = {
        name: str(extra[f"hmac_{name}"])
        for name in ("content", "value", "algorithm", "encoding")
        if extra.get(f"hmac_{name}")
    }
    if header := extra.get("hmac_timestamp_header"):
        options["others"] = {str(header): "{timestamp}"}
    return Hmac(password.encode(), str(extra["hmac_header"]), **options)
