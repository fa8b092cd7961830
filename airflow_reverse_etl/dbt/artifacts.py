"""Download of a dbt artifact from a path or URL."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ProjectError, UnreachableError
from airflow_reverse_etl.http.blocking import BlockingClient
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.server import Server

_LARGEST = 1 << 30
_TIMEOUT_SECONDS = 60
_MAX_REDIRECTS = 5


def fetch(
    source: str,
    conn_id: str | None,
    *,
    read_file: Callable[[str, str], bytes | None],
    server_of: Callable[[str], Server],
) -> bytes:
    """Return the content of a file.

    :param source: path or URL of the file.
    :param conn_id: connection with the credentials for an http(s) URL.
    :param read_file: function that reads a file, given its folder or bucket and its name; None: file not found.
    :param server_of: function that returns the server of a connection, if ``conn_id`` is given.
    :raises ConfigurationError: the URL contains a password, or its host is not the connection's.
    :raises ProjectError: the file does not exist, or is larger than 1 GiB.
    :raises UnreachableError: the server or the storage did not answer.
    """
    parts = urlsplit(source)
    if parts.password is not None:
        raise ConfigurationError(
            "the source's URL contains a password",
            todo="move the password from the URL into a connection, named by source_conn_id",
        )
    if parts.scheme in ("http", "https"):
        return _download(source, conn_id, server_of(conn_id) if conn_id else None)
    folder, _, name = source.rpartition("/")
    if not folder:
        folder = "/" if source.startswith("/") else "."
    data = read_file(folder, name)
    if data is None:
        raise ProjectError("the file was not found", todo="check source, and that this worker can see it", file=source)
    return data


def without_query(source: str) -> str:
    """Remove the query from a URL before it is shown: it often contains a signature."""
    return source.partition("?")[0] if "://" in source else source


def _download(url: str, conn_id: str | None, server: Server | None) -> bytes:
    shown = without_query(url)
    try:
        reply = _get(_on_its_host(url, server, conn_id), url)
        # A redirect may lead to another host, which must not get the connection's credentials.
        for _ in range(_MAX_REDIRECTS):
            if server or not 300 <= reply.status < 400 or "Location" not in reply.headers:
                break
            url = urljoin(url, reply.headers["Location"])
            reply = _get(_anonymous(url), url)
    except NotAnsweredError as lost:
        if lost.receipt.code == "reply_too_large":
            raise ProjectError("the file is larger than 1 GiB", todo="check source", url=shown) from None
        raise UnreachableError(
            f"the server did not answer: {lost}",
            todo="try again later; if the error persists, check the URL",
            url=shown,
        ) from None
    _check_status(reply.status, conn_id, url=shown)
    return reply.body


def _get(server: Server, url: str) -> Reply:
    with BlockingClient(server, timeout=_TIMEOUT_SECONDS, max_reply_bytes=_LARGEST) as client:
        return client.exchange(Request("GET", url))


def _anonymous(url: str) -> Server:
    parts = urlsplit(url)
    return Server(f"{parts.scheme}://{parts.netloc}")


def _on_its_host(url: str, server: Server | None, conn_id: str | None) -> Server:
    if server is None:
        return _anonymous(url)
    if urlsplit(server.url)[:2] != urlsplit(url)[:2]:
        raise ConfigurationError(
            "the source's host is not the connection's host",
            todo="set source_conn_id to a connection of the source's host",
            connection=conn_id,
        )
    return server


def _check_status(status: int, conn_id: str | None, *, url: str) -> None:
    if status in (401, 403):
        raise CredentialsError(
            f"the server refused the request: {status}", todo="check source_conn_id", connection=conn_id, url=url
        )
    if status == 429 or status >= 500:
        raise UnreachableError(f"the server answered {status}", todo="try again later", url=url)
    if status != 200:
        raise ProjectError(f"the server answered {status}", todo="check source", url=url)
