"""Connections of apache-airflow-providers-salesforce (5), read as OAuth 2.0.

Source: ``SalesforceHook`` and simple-salesforce's ``login``, November 2026.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.sync.ports import ConnectionInfo

#: Domains at which every organization logs in.
_SHARED = ("login", "test")


def http_connection(connection: ConnectionInfo) -> ConnectionInfo:
    """Return the HTTP connection that a Salesforce connection describes; any other connection as it is.

    :raises CredentialsError: the connection logs in by SOAP, or lacks something.
    """
    if connection.conn_type != "salesforce":
        return connection
    key = _extra(connection, "consumer_key")
    secret = _extra(connection, "consumer_secret")
    domain = _extra(connection, "domain") or "login"
    url = _extra(connection, "instance_url").rstrip("/") or f"https://{domain}.salesforce.com"
    private_key = _private_key(connection)
    oauth: dict[str, Any] = {"token_url": f"{url}/services/oauth2/token", "token_base_url": "instance_url"}
    if key and private_key and connection.login:
        audience = f"https://{'test' if domain == 'test' or '--' in domain else 'login'}.salesforce.com"
        oauth |= {"private_key": private_key, "subject": connection.login, "audience": audience}
        return replace(connection, host=url, login=key, password="", extra=oauth)
    if key and secret:
        if domain in _SHARED and not _extra(connection, "instance_url"):
            raise CredentialsError(
                "client credentials need the domain of the organization",
                todo="enter its My Domain as domain, such as acme.my, without .salesforce.com",
                connection=connection.conn_id,
            )
        return replace(connection, host=url, login=key, password=secret, extra=oauth)
    raise CredentialsError(
        "the connection logs in with user name, password and security token, which is SOAP",
        todo="enter consumer_key, consumer_secret and domain of an app with client credentials: Salesforce has "
        "SOAP login off in new organizations, and ends it in Summer '27",
        connection=connection.conn_id,
    )


def _extra(connection: ConnectionInfo, name: str) -> str:
    """Return a field of the extra, whose name may have the prefix of old connections; empty if it is absent."""
    extra = connection.extra
    return str(extra.get(name) or extra.get(f"extra__salesforce__{name}") or "")


def _private_key(connection: ConnectionInfo) -> str:
    if path := _extra(connection, "private_key_file_path"):
        try:
            return Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise CredentialsError(
                f"cannot read the private key: {error.strerror}",
                todo="correct private_key_file_path, on every worker",
                connection=connection.conn_id,
            ) from None
    return _extra(connection, "private_key")
