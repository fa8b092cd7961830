"""From a connection to where HTTP requests go and how they authenticate. The only place that touches secrets."""

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


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Endpoint:
    """A base URL, the headers that every request has, and how the server is verified.

    :param secrets: texts that must not appear anywhere else.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    verify: bool | str = True

    @classmethod
    def of(cls, connection: ConnectionInfo) -> Endpoint:
        """Read a connection.

        * ``host``: a host name or a URL (``https://api.example.com/v1``); ``schema``: ``https`` (the default) or
          ``http``; ``port``.
        * ``login`` and ``password``: basic authentication. ``password`` alone: a bearer token, or the value of the
          header that ``extra.auth_header`` names.
        * ``extra.headers``: more headers. ``extra.verify``: false, or the path of a CA bundle.

        :raises CredentialsError: there is no host.
        :raises ConfigurationError: no request can be made with it: the URL is not one of http or https, the port does
            not exist, or a header has a line break.
        """
        if not connection.host:
            raise CredentialsError(
                "the connection has no host", todo="enter the API's host or URL", connection=connection.conn_id
            )
        extra: Mapping[str, Any] = connection.extra
        own = {str(name): str(value) for name, value in dict(extra.get("headers") or {}).items()}
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "airflow-provider-reverse-etl",
            **_authentication(connection),
            **own,
        }
        texts = {**headers, "login": connection.login or "", "password": connection.password or ""}
        broken = [repr(name) for name, text in texts.items() if _CONTROL.search(name + text)]
        if broken:
            raise ConfigurationError(
                f"the connection has line breaks or other control characters in {', '.join(broken)}",
                todo="enter login, password and headers again; a copied token often ends with a line break",
                connection=connection.conn_id,
            )
        secrets = (connection.password or "", *own.values())
        return cls(_url(connection), headers, secrets, extra.get("verify", True))

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def join(self, path: str) -> URL:
        """The URL of a path, which is percent-encoded already. An absolute URL must be on the connection's host.

        Credentials go with every request, hence nowhere else.
        """
        if (known := self._urls.get(path)) is None:
            if len(self._urls) > 1000:
                self._urls.clear()
            known = self._urls[path] = self._join(path)
        return known

    def _join(self, path: str) -> URL:
        from yarl import URL

        if "://" not in path:
            return URL(f"{self.url}/{path.lstrip('/')}" if path else self.url, encoded=True)
        if urlsplit(path)[:2] != urlsplit(self.url)[:2]:
            raise ConfigurationError(
                "a request must go to the connection's host",
                todo="give a path, or use a connection with that host",
                host=self.host,
            )
        return URL(path, encoded=True)

    @cached_property
    def _urls(self) -> dict[str, URL]:
        return {}

    def ssl(self) -> ssl.SSLContext | bool:
        """What aiohttp is told about verification."""
        if isinstance(self.verify, str):
            import ssl

            try:
                return ssl.create_default_context(cafile=self.verify)
            except OSError as error:
                raise ConfigurationError(
                    f"the connection's 'verify' is not a readable CA bundle: {error}",
                    todo="give the path of a PEM file that is there where the task runs",
                    file=self.verify,
                ) from None
        return self.verify

    def proxy(self) -> str | None:
        """The proxy that the environment sets for this host (``HTTPS_PROXY``, ``NO_PROXY`` ...), asked for once."""
        from urllib.request import getproxies, proxy_bypass

        parts = urlsplit(self.url)
        return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _url(connection: ConnectionInfo) -> str:
    host = str(connection.host)
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    try:
        parts = urlsplit(url)
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
    if not password and not connection.login:
        return {}
    if connection.login:
        pair = f"{connection.login}:{password or ''}".encode()
        return {"Authorization": f"Basic {b64encode(pair).decode()}"}
    if name := connection.extra.get("auth_header"):
        return {str(name): str(password)}
    return {"Authorization": f"Bearer {password}"}
