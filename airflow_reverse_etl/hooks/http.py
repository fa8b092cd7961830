"""Hooks of the connection types of HTTP destinations."""

from __future__ import annotations

import json
import re
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_reverse_etl.compat import BaseHook, field_behaviour, form_widgets
from airflow_reverse_etl.connections import connection_info
from airflow_reverse_etl.destinations.info import ConnectionForm, Info
from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.provider import destination_connections

if TYPE_CHECKING:
    import requests

    from airflow_reverse_etl.http.blocking import BlockingClient
    from airflow_reverse_etl.http.server import Server
    from airflow_reverse_etl.sync.ports import ConnectionInfo

#: Seconds that the connection test waits, for the connection and for the answer.
TIMEOUT = 10.0


class ReverseEtlHttpHook(BaseHook):
    """A connection to an HTTP API: base URL, credentials, headers. Base class of the hooks of named types.

    This hook provides the connection's form, its test, and a session for tasks of your own. It sends no rows: a sync's
    destination sends them over an asynchronous session.

    :param http_conn_id: Airflow connection id.
    """

    conn_name_attr = "http_conn_id"
    default_conn_name = "reverse_etl_http_default"
    conn_type = "reverse_etl_http"
    hook_name = "HTTP API (Reverse ETL)"
    #: Description of the named type; None for any HTTP API.
    info: ClassVar[Info | None] = None

    def __init__(self, http_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.http_conn_id = http_conn_id

    def get_conn(self) -> requests.Session:
        """Return a session that sends the connection's credentials and headers. The caller closes it.

        Its ``base_url`` attribute is the connection's URL. Requests to other hosts would carry the credentials too.

        :raises CredentialsError: the connection does not exist, or has no host.
        """
        from airflow_reverse_etl.http.blocking import session_of

        server = self._server()
        session = session_of(server)
        session.base_url = server.url  # type: ignore[attr-defined]
        return session

    def test_connection(self) -> tuple[bool, str]:
        """Request the connection's test path, and the scopes of its token if the type knows how.

        :returns: False if the credentials are refused or lack a permission, the server fails or is another one, or no
            answer arrives; and a message.
        """
        from airflow_reverse_etl.http.blocking import BlockingClient
        from airflow_reverse_etl.http.error_text import error_text
        from airflow_reverse_etl.http.messages import NotAnsweredError, Request
        from airflow_reverse_etl.http.redaction import clean

        try:
            path = connection_info(self.http_conn_id).extra.get("test_path") or (self.info.test if self.info else "")
            server = self._server()
            with BlockingClient(server, timeout=TIMEOUT) as client:
                reply = client.exchange(Request("GET", str(path)))
                missing = self._missing_scope(client) if reply.status < HTTPStatus.BAD_REQUEST else ""
        except ReverseEtlError as error:
            return False, str(error)
        except NotAnsweredError as lost:
            return False, (
                f"no answer from {server.host}: {lost}; check the base URL with its port, that this machine may reach "
                "it, and for a certificate of your own authority the field Verify certificate"
            )
        status = f"{reply.status} {_phrase(reply.status)}".strip()
        words = clean(error_text(reply)[1], client.server.secrets)
        answer = f"{status}: {words}" if reply.status >= HTTPStatus.BAD_REQUEST and words else status
        if self.info and (used_up := error_text(reply)[0]) in self.info.used_up:
            return False, f"the credentials are right, but the day's requests are used up: {used_up}"
        if reply.status == HTTPStatus.FORBIDDEN and self.info:
            return False, f"the credentials are right, but lack a permission: {answer}"
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return False, f"the credentials were refused: {answer}"
        if reply.status == HTTPStatus.NOT_FOUND and self.info:
            return False, f"the host is not one of {self.info.title}: {answer}"
        if reply.status == HTTPStatus.NOT_FOUND:
            place = f"the test path {path}" if path else "the base URL"
            todo = (
                "correct the base URL or the test path"
                if path
                else "name a path that answers GET as the test path, or correct the base URL"
            )
            return False, f"nothing is at {place}: {answer}; {todo}"
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return False, f"the server failed: {answer}"
        if missing:
            return False, f"the credentials are right, but lack a scope: {missing}"
        return True, f"the server answered {answer}"

    def _missing_scope(self, client: BlockingClient) -> str:
        """Return the scope that the connection's token lacks; empty if it has one, or if that is not known."""
        from airflow_reverse_etl.http.messages import Request

        scopes = self.info.scopes if self.info else None
        connection = connection_info(self.http_conn_id)
        # A token that was fetched is not in the connection.
        if scopes is None or not connection.password or connection.extra.get("token_url"):
            return ""
        body = json.dumps({scopes.field: connection.password}).encode()
        reply = client.exchange(Request("POST", scopes.path, body, {"Content-Type": "application/json"}))
        answer = reply.json()
        found = answer.get(scopes.list) if isinstance(answer, dict) and reply.status < HTTPStatus.BAD_REQUEST else None
        if not isinstance(found, list) or any(re.fullmatch(scopes.needed, str(name)) for name in found):
            return ""
        return f"{scopes.example}, or that of another object"

    def _connection(self) -> ConnectionInfo:
        return connection_info(self.http_conn_id)

    def _server(self) -> Server:
        from airflow_reverse_etl.http.server import Server

        connection = self._connection()
        if self.info is None:
            return Server.from_connection(connection, connection_info)
        return Server.from_connection(
            connection, connection_info, base_url=self.info.base_url, auth_header=self.info.auth_header
        )

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's behaviour, for Airflow 3.1. Later versions read the provider information themselves."""
        return field_behaviour(cls._form())

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's additional fields, for Airflow 3.1."""
        return form_widgets(cls._form())

    @classmethod
    def _form(cls) -> dict[str, Any]:
        if cls.info and isinstance(cls.info.connection, ConnectionForm):
            return cls.info.connection.connection_type()
        return next(found for found in destination_connections() if found["connection-type"] == cls.conn_type)


class SalesforceTestHook(ReverseEtlHttpHook):
    """Test of a connection of type ``salesforce``, which the hook of Airflow's provider has, too, but not for syncs.

    That hook logs in by simple-salesforce; a sync logs in as the destination type does.
    """

    @cached_property
    def info(self) -> Info:  # type: ignore[override]
        from airflow_reverse_etl.destinations.salesforce import INFO

        return INFO

    def _connection(self) -> ConnectionInfo:
        from airflow_reverse_etl.destinations.salesforce_connection import http_connection

        return http_connection(super()._connection())


def connection_hook(info: Info) -> type[ReverseEtlHttpHook]:
    """Return the hook class of a named type's connections, with their form and their test.

    Assign it to the name that ``info.connection.hook`` has.
    """
    form = info.connection
    assert isinstance(form, ConnectionForm), "a type with a connection type of its own"
    module, _, name = form.hook.rpartition(".")
    members = {
        "conn_type": form.type,
        "hook_name": form.name,
        "default_conn_name": f"{form.type}_default",
        "info": info,
        "__module__": module,
        "__doc__": f"A connection to {info.title}.",
        # Airflow 3.1 asks only methods of the class itself, not those of its bases.
        "get_ui_field_behaviour": ReverseEtlHttpHook.__dict__["get_ui_field_behaviour"],
        "get_connection_form_widgets": ReverseEtlHttpHook.__dict__["get_connection_form_widgets"],
    }
    return type(name, (ReverseEtlHttpHook,), members)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
