"""Servers made from connections: where HTTP requests go and how they authenticate.

No other module touches the secrets of HTTP connections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.auth.connection import Lookup, auth_of
from airflow_reverse_etl.http.auth.keys import NO_AUTH, Auth
from airflow_reverse_etl.sync.ports import ConnectionInfo

if TYPE_CHECKING:
    import ssl

USER_AGENT = "airflow-provider-reverse-etl"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
#: Extras that name the place of the key in a request.
_KEY_PLACES = ("auth_header", "auth_query", "auth_body")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Server:
    """An HTTP server: its base URL, the credentials, the headers of every request, and the route to it.

    :param url: base URL, without a trailing slash.
    :param headers: headers of every request, in addition to the credentials.
    :param secrets: texts that must not appear in logs or messages, in addition to those of ``auth``.
    :param verify: False: the server's certificate is not verified; a text: path of a CA bundle to verify it with.
    :param proxy_url: proxy; default: the environment's.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Auth = NO_AUTH
    own_secrets: tuple[str, ...] = field(default=(), repr=False)
    verify: bool | str = True
    proxy_url: str | None = field(default=None, repr=False)

    @classmethod
    def from_connection(
        cls,
        connection: ConnectionInfo,
        lookup: Lookup | None = None,
        *,
        base_url: str = "",
        auth_header: str = "",
    ) -> Server:
        """Build the server that a connection describes. ``docs/reference/connections.md`` lists its fields.

        :param lookup: function that returns other connections, which ``google_conn_id`` and ``aws_conn_id`` name.
        :param base_url: base URL of a connection without a host.
        :param auth_header: header for the password of a connection that names no place for it; empty for the usual one.
        :raises CredentialsError: the connection has no host, or its credentials are incomplete.
        :raises ConfigurationError: the URL is not an http or https one, the port does not exist, or a header has a
            line break.
        """
        connection = _completed(connection, base_url, auth_header)
        if not connection.host:
            raise CredentialsError(
                "the connection has no host", todo="enter the API's host or URL", connection=connection.conn_id
            )
        extra: Mapping[str, Any] = connection.extra
        headers = _headers(extra.get("headers"), connection.conn_id)
        name = extra.get("auth_header") or extra.get("auth_query") or ""
        texts = {**headers, "login": connection.login or "", "password": connection.password or "", str(name): ""}
        broken = [repr(name) for name, text in texts.items() if _CONTROL_CHARACTER.search(name + text)]
        if broken:
            raise ConfigurationError(
                f"the connection has line breaks or other control characters in {', '.join(broken)}",
                todo="enter login, password and headers again; a copied token often ends with a line break",
                connection=connection.conn_id,
            )
        secrets = (connection.password or "", *headers.values())
        auth = auth_of(connection, lookup)
        return cls(_base_url(connection), headers, auth, secrets, _verify(extra.get("verify")))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in logs or messages."""
        return (*self.own_secrets, *self.auth.secrets)

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def place(self) -> str:
        """The base URL in one form, however the connection spells it: without the scheme's default port."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])).geturl()

    def join(self, path: str) -> str:
        """Return the URL of a percent-encoded path, or an absolute URL unchanged if it is on the connection's host.

        Every request carries the credentials, so none may go to another host.

        :raises ConfigurationError: an absolute URL leads to another host.
        """
        base = self.auth.base_url or self.url
        if "://" not in path:
            return f"{base}/{path.lstrip('/')}" if path else base
        # A URL from before the token that brought another base URL.
        if base != self.url and path.startswith(f"{self.url}/"):
            return base + path.removeprefix(self.url)
        if urlsplit(path)[:2] != urlsplit(base)[:2]:
            raise ConfigurationError(
                "a request must go to the connection's host",
                todo="use a path, or a connection with that host",
                host=self.host,
            )
        return path

    def ssl(self) -> ssl.SSLContext | bool:
        """Return the value of aiohttp's ``ssl`` argument.

        :raises ConfigurationError: the CA bundle cannot be read.
        """
        if isinstance(self.verify, str):
            import ssl

            try:
                return ssl.create_default_context(cafile=self.verify)
            except OSError as error:
                raise ConfigurationError(
                    f"the connection's 'verify' is not a readable CA bundle: {error}",
                    todo="set 'verify' to the path of a PEM file on the machine where the task runs",
                    file=self.verify,
                ) from None
        return self.verify

    def proxy(self, url: str) -> str | None:
        """Return the proxy for a URL: ours, else the environment's (``HTTPS_PROXY``, ``NO_PROXY`` ...), if any."""
        from urllib.request import getproxies, proxy_bypass

        if self.proxy_url:
            return self.proxy_url
        parts = urlsplit(url)
        if proxy_bypass(parts.netloc):
            return None
        return getproxies().get(parts.scheme)


def _headers(given: object, conn_id: str) -> dict[str, str]:
    """Return the headers of a connection, which a form gives as an object or as its JSON.

    :raises ConfigurationError: they are something else.
    """
    if isinstance(given, str) and given.strip():
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]
    if given and not isinstance(given, Mapping):
        raise ConfigurationError(
            "the connection's headers are not a JSON object",
            todo='write them as {"X-Version": "2"}',
            connection=conn_id,
        )
    found = given if isinstance(given, Mapping) else {}
    return {str(name): str(value) for name, value in found.items()}


def _verify(given: object) -> bool | str:
    """Return whether certificates are verified, or the path of what they are verified with; a form gives text."""
    if isinstance(given, bool):
        return given
    text = str(given or "").strip()
    return {"": True, "true": True, "false": False}.get(text.lower(), text)


def _completed(connection: ConnectionInfo, base_url: str, auth_header: str) -> ConnectionInfo:
    """Return a connection with what its type knows, where the connection itself says nothing."""
    extra = connection.extra
    if auth_header and not any(extra.get(place) for place in _KEY_PLACES):
        extra = {**extra, "auth_header": auth_header}
    return replace(connection, host=connection.host or base_url, extra=extra)


def _base_url(connection: ConnectionInfo) -> str:
    host = str(connection.host)
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    try:
        parts = urlsplit(url)
        # A port in the host field goes before the connection's own.
        if connection.port and parts.port is None:
            parts = urlsplit(parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl())
        if parts.port == 0:  # reading it raises ValueError for one out of range
            raise ValueError("Port out of range 1-65535")
        (parts.hostname or "").encode("idna")  # likewise, for what cannot be looked up
    except ValueError as error:
        raise ConfigurationError(
            f"the connection's host or port is not valid: {error}",
            todo="enter a host name or a URL, and a port from 1 to 65535",
            connection=connection.conn_id,
        ) from None
    odd = parts.username or parts.query or re.search(r"[\x00-\x20\x7f]", url)
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise ConfigurationError(
            "the connection's host is not a URL of http or https",
            todo="enter a host name or a URL without user name and query; credentials have fields of their own",
            connection=connection.conn_id,
        )
    return parts.geturl().rstrip("/")
