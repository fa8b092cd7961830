"""Download of a dbt artifact from a path or URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ProjectError, UnreachableError

if TYPE_CHECKING:
    import requests

_LARGEST = 1 << 30
_TIMEOUT_SECONDS = 60


def fetch(
    source: str,
    conn_id: str | None,
    *,
    read_file: Callable[[str, str], bytes | None],
    open_session: Callable[[], requests.Session],
) -> bytes:
    """Return the content of a file.

    :param source: path or URL of the file.
    :param conn_id: connection with the credentials for an http(s) URL.
    :param read_file: function that reads a file, given its folder or bucket and its name; None: file not found.
    :param open_session: function that opens a session with the connection's credentials, if ``conn_id`` is given.
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
        return _download(source, conn_id, open_session)
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


def _download(url: str, conn_id: str | None, open_session: Callable[[], requests.Session]) -> bytes:
    import requests

    shown = without_query(url)
    try:
        with (
            _session(url, conn_id, open_session) as session,
            session.get(url, timeout=_TIMEOUT_SECONDS, stream=True, allow_redirects=conn_id is None) as reply,
        ):
            _check_status(reply.status_code, conn_id, url=shown)
            data = bytearray()
            for chunk in reply.iter_content(1 << 20):
                data += chunk
                if len(data) > _LARGEST:
                    raise ProjectError("the file is larger than 1 GiB", todo="check source", url=shown)
            return bytes(data)
    except requests.RequestException as error:  # the error's text may contain the URL with its signature
        raise UnreachableError(
            f"the server did not answer: {type(error).__name__}",
            todo="try again later; if the error persists, check the URL",
            url=shown,
        ) from None


def _check_status(status: int, conn_id: str | None, *, url: str) -> None:
    if status in (401, 403):
        raise CredentialsError(
            f"the server refused the request: {status}", todo="check source_conn_id", connection=conn_id, url=url
        )
    if status == 429 or status >= 500:
        raise UnreachableError(f"the server answered {status}", todo="try again later", url=url)
    if status != 200:
        raise ProjectError(f"the server answered {status}", todo="check source", url=url)


def _session(url: str, conn_id: str | None, open_session: Callable[[], requests.Session]) -> requests.Session:
    session = open_session()
    if not conn_id:
        return session
    connection = urlsplit(session.base_url)  # type: ignore[attr-defined]
    source = urlsplit(url)
    if (connection.scheme, connection.netloc) != (source.scheme, source.netloc):
        session.close()
        raise ConfigurationError(
            "the source's host is not the connection's host",
            todo="set source_conn_id to a connection of the source's host",
            connection=conn_id,
        )
    return session
