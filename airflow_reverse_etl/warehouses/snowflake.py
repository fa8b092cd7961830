"""Snowflake's ADBC driver, with the login of Airflow's hook and the types of Snowflake's connector.

Sources: ``adbc_driver_snowflake.DatabaseOptions`` and ``StatementOptions`` (1.11); the parameters of
snowflake-connector-python's ``connect``, which ``SnowflakeHook`` of apache-airflow-providers-snowflake 6 builds.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = "adbc.snowflake.sql."
_CLIENT = f"{_SQL}client_option."

#: Parameters of the connector → options of the driver.
_OPTIONS = {
    "user": "username",
    "account": f"{_SQL}account",
    "region": f"{_SQL}region",
    "database": f"{_SQL}db",
    "schema": f"{_SQL}schema",
    "warehouse": f"{_SQL}warehouse",
    "role": f"{_SQL}role",
    "host": f"{_SQL}uri.host",
    "port": f"{_SQL}uri.port",
    "protocol": f"{_SQL}uri.protocol",
    "application": f"{_CLIENT}app_name",
}
#: Authenticator → the connector's parameters that it needs.
_LOGINS = {
    "snowflake": ("password", "private_key"),
    "snowflake_jwt": ("private_key",),
    "oauth": ("token",),
}
#: Parameters with which the hook fetches a token. The login itself uses the token.
_TOKEN_PARAMETERS = (
    "azure_conn_id",
    "token_endpoint",
    "scope",
    "client_id",
    "client_secret",
    "grant_type",
    "refresh_token",
)

#: Nanoseconds, the driver's default, cover the years 1677 to 2262 only; other dates would become wrong. The timeout
#: replaces minutes of waiting for a host that does not answer: the connector, which is tried next, fails at once.
_ALWAYS = {f"{_CLIENT}max_timestamp_precision": "microseconds", f"{_CLIENT}login_timeout": "30s"}

#: Chunks that are fetched ahead stay in memory, a few tens of megabytes each: two instead of two hundred.
STATEMENT = {"adbc.rpc.result_queue_size": "2", "adbc.snowflake.rpc.prefetch_concurrency": "2"}


def database_options(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the ADBC driver's options for the connector's parameters. They hold the password, key or token.

    :raises ConfigurationError: the driver may not support a parameter or the login, or supports it differently. The
        connector can read instead.
    """
    given = {name: value for name, value in parameters.items() if value not in (None, "", {})}
    authenticator = given.pop("authenticator", "snowflake")
    login = {name: given.pop(name) for name in _LOGINS.get(authenticator, ()) if name in given}
    if authenticator == "oauth":
        given = {name: value for name, value in given.items() if name not in _TOKEN_PARAMETERS}
    unsupported = given.keys() - _OPTIONS.keys()
    if not login or unsupported:
        reason = f"parameters {', '.join(sorted(unsupported))}" if login else f"authenticator {authenticator!r}"
        raise ConfigurationError(reason, todo="read with snowflake-connector-python")
    options = {**_ALWAYS, **{_OPTIONS[name]: str(value) for name, value in given.items()}}
    if "private_key" in login:
        text = base64.encodebytes(login["private_key"]).decode()
        key = f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"
        return {**options, f"{_SQL}auth_type": "auth_jwt", f"{_CLIENT}jwt_private_key_pkcs8_value": key}
    if "token" in login:
        return {**options, f"{_SQL}auth_type": "auth_oauth", f"{_CLIENT}auth_token": login["token"]}
    return {**options, "password": login["password"]}


def integer_if_possible(kind: pa.DataType | None, at: int, first: pa.RecordBatch | None) -> pa.DataType | None:
    """Return int64 for a NUMBER without a scale, as the connector does, unless a value is too large.

    :param kind: the column's type, returned in all other cases.
    :param at: position of the column.
    :param first: the first batch of rows.
    """
    import pyarrow as pa

    if kind is None or not pa.types.is_decimal(kind) or kind.scale:
        return kind
    try:
        if first is not None:
            first.column(at).cast(pa.int64())
    except pa.ArrowInvalid:
        return kind
    return pa.int64()


def adbc_connection(hook: Any) -> Any:
    """Return an ADBC connection with the hook's parameters for its own driver, including tokens that it fetches."""
    from adbc_driver_snowflake.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    parameters = hook._get_conn_params  # the hook has no public method for them; older providers have a property
    if callable(parameters):
        parameters = parameters()
    return connect(db_kwargs=database_options(parameters))
