"""Endpoints made from connections: where HTTP requests go and how they authenticate.

No other module touches the secrets of HTTP connections.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.sync.ports import ConnectionInfo

if TYPE_CHECKING:
    import ssl

    from yarl import URL


_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
#: URLs that an endpoint remembers. Paths that name rows are all different, so the cache is emptied when it is full.
_MAX_CACHED_URLS = 1000


@dataclass(frozen=True)
class Endpoint:
    """A base URL, the headers of every request, and how the server's certificate is verified.

    :param secrets: texts that must not appear in logs or messages.
    :param verify: whether the certificate is verified, or the path of a CA bundle to verify it with.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    verify: bool | str = True

    @classmethod
    def from_connection(cls, connection: ConnectionInfo) -> Endpoint:
        """Build the endpoint that a connection describes.

        * ``host``: a host name or a URL (``https://api.example.com/v1``); ``schema``: ``https`` (the default) or
          ``http``; ``port``.
        * ``login`` and ``password``: basic authentication. ``password`` alone: a bearer token, or the value of the
          header that ``extra.auth_header`` names.
        * ``extra.headers``: more headers. ``extra.verify``: false, or the path of a CA bundle.

        :raises CredentialsError: the connection has no host.
        :raises ConfigurationError: the URL is not an http or https one, the port does not exist, or a header has a
            line break.
        """
        if not connection.host:
            raise CredentialsError(
                "the connection has no host", todo="enter the API's host or URL", connection=connection.conn_id
            )
        extra: Mapping[str, Any] = connection.extra
        own_headers = {str(name): str(value) for name, value in dict(extra.get("headers") or {}).items()}
        headers = {
            "Accept": "application/json",
            # Sent with every request, also with one that has no body; a destination overrides it per request.
            "Content-Type": "application/json",
            "User-Agent": "airflow-provider-reverse-etl",
            **_authentication(connection),
            **own_headers,
        }
        texts = {**headers, "login": connection.login or "", "password": connection.password or ""}
        broken = [repr(name) for name, text in texts.items() if _CONTROL_CHARACTER.search(name + text)]
        if broken:
            raise ConfigurationError(
                f"the connection has line breaks or other control characters in {', '.join(broken)}",
                todo="enter login, password and headers again; a copied token often ends with a line break",
                connection=connection.conn_id,
            )
        secrets = (connection.password or "", *own_headers.values())
        return cls(_base_url(connection), headers, secrets, extra.get("verify", True))

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def join(self, path: str) -> URL:
        """Return the URL of a percent-encoded path, or an absolute URL unchanged if it is on the connection's host.

        Every request carries the credentials, so none may go to another host.

        :raises ConfigurationError: an absolute URL leads to another host.
        """
        url = self._urls.get(path)
        if url is None:
            if len(self._urls) > _MAX_CACHED_URLS:
                self._urls.clear()
            url = self._join(path)
            self._urls[path] = url
        return url

    def _join(self, path: str) -> URL:
        from yarl import URL

        if "://" not in path:
            return URL(f"{self.url}/{path.lstrip('/')}" if path else self.url, encoded=True)
        if urlsplit(path)[:2] != urlsplit(self.url)[:2]:
            raise ConfigurationError(
                "a request must go to the connection's host",
                todo="use a path, or a connection with that host",
                host=self.host,
            )
        return URL(path, encoded=True)

    @cached_property
    def _urls(self) -> dict[str, URL]:
        return {}

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

    def proxy(self) -> str | None:
        """Return the proxy that the environment sets for this host (``HTTPS_PROXY``, ``NO_PROXY`` ...), if any."""
        from urllib.request import getproxies, proxy_bypass

        parts = urlsplit(self.url)
        if proxy_bypass(parts.netloc):
            return None
        return getproxies().get(parts.scheme)


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


def _authentication(connection: ConnectionInfo) -> dict[str, str]:
    password = connection.password
    if connection.login:
        credentials = f"{connection.login}:{password or ''}".encode()
        return {"Authorization": f"Basic {b64encode(credentials).decode()}"}
    if not password:
        return {}
    if name := connection.extra.get("auth_header"):
        return {str(name): str(password)}
    return {"Authorization": f"Bearer {password}"}
