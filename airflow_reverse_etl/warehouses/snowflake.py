"""Snowflake's ADBC driver: it logs in as Airflow's hook does, and has the types that the connector has.

Sources: ``adbc_driver_snowflake.DatabaseOptions`` and ``StatementOptions`` (1.11); the parameters of
snowflake-connector-python's ``connect``, as ``SnowflakeHook`` of apache-airflow-providers-snowflake 6 makes them.
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

#: Parameters of the connector → options of the driver, which are text.
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
#: What one login needs of the connector's parameters.
_LOGINS = {
    "snowflake": ("password", "private_key"),
    "snowflake_jwt": ("private_key",),
    "oauth": ("token",),
}
#: By which the hook fetches a token; the login itself is done with that.
_TOKEN = ("azure_conn_id", "token_endpoint", "scope", "client_id", "client_secret", "grant_type", "refresh_token")

#: Nanoseconds, the driver's default, reach from the year 1677 to 2262: of others it makes wrong dates. And it would
#: wait minutes for a host that does not answer, where the connector, which is asked next, says so at once.
_ALWAYS = {f"{_CLIENT}max_timestamp_precision": "microseconds", f"{_CLIENT}login_timeout": "30s"}

#: What is fetched ahead is held in memory: two chunks, each of a few ten megabytes, in place of two hundred.
STATEMENT = {"adbc.rpc.result_queue_size": "2", "adbc.snowflake.rpc.prefetch_concurrency": "2"}


def database_options(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Options of the ADBC driver for what the connector would be given. They hold the password, key or token.

    :raises ConfigurationError: a parameter or a login that the driver may not have, or has in another way: the
        connector, which is what they are for, can read as well.
    """
    given = {name: value for name, value in parameters.items() if value not in (None, "", {})}
    authenticator = given.pop("authenticator", "snowflake")
    login = {name: given.pop(name) for name in _LOGINS.get(authenticator, ()) if name in given}
    if authenticator == "oauth":
        given = {name: value for name, value in given.items() if name not in _TOKEN}
    if not login or (more := given.keys() - _OPTIONS.keys()):
        raise ConfigurationError(
            f"authenticator {authenticator!r}" if not login else f"parameters {', '.join(sorted(more))}",
            todo="read with snowflake-connector-python",
        )
    options = {**_ALWAYS, **{_OPTIONS[name]: str(value) for name, value in given.items()}}
    if "private_key" in login:
        text = base64.encodebytes(login["private_key"]).decode()
        key = f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"
        return {**options, f"{_SQL}auth_type": "auth_jwt", f"{_CLIENT}jwt_private_key_pkcs8_value": key}
    if "token" in login:
        return {**options, f"{_SQL}auth_type": "auth_oauth", f"{_CLIENT}auth_token": login["token"]}
    return {**options, "password": login["password"]}


def whole(kind: pa.DataType | None, at: int, first: pa.RecordBatch | None) -> pa.DataType | None:
    """The type of a column: a NUMBER without a scale is an integer, as the connector has it, unless it is too large.

    :param kind: what it is otherwise. :param at: the column. :param first: the first batch of it.
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
    """An ADBC connection with the parameters that the hook has for its own driver, tokens that it fetches included."""
    from adbc_driver_snowflake.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    parameters = hook._get_conn_params  # nothing public has them; a property in older providers
    return connect(db_kwargs=database_options(parameters() if callable(parameters) else parameters))
