"""An artifact by its path or URL."""

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
    """The file's content.

    :param read_file: of a folder or bucket, and a name.
    :param open_session: with the credentials of the connection, if there is one.

    :raises ConfigurationError: the URL holds a password, or is of another host than the connection.
    :raises ProjectError: there is no such file, or it is larger than 1 GiB.
    :raises UnreachableError: the server or the storage did not answer.
    """
    parts = urlsplit(source)
    if parts.password is not None:
        raise ConfigurationError(
            "the source's URL holds a password", todo="put it into a connection, as source_conn_id"
        )
    if parts.scheme in ("http", "https"):
        return _download(source, conn_id, open_session)
    folder, _, name = source.rpartition("/")
    data = read_file(folder or ("/" if source.startswith("/") else "."), name)
    if data is None:
        raise ProjectError("there is no such file", todo="check source, and that this worker can see it", file=source)
    return data


def without_query(source: str) -> str:
    """The URL as it may be shown: what follows a ? is often a signature."""
    return source.partition("?")[0] if "://" in source else source


def _download(url: str, conn_id: str | None, open_session: Callable[[], requests.Session]) -> bytes:
    import requests

    shown = without_query(url)
    try:
        with (
            _session(url, conn_id, open_session) as session,
            session.get(url, timeout=_TIMEOUT_SECONDS, stream=True, allow_redirects=conn_id is None) as reply,
        ):
            _check(reply.status_code, conn_id, url=shown)
            data = bytearray()
            for chunk in reply.iter_content(1 << 20):
                data += chunk
                if len(data) > _LARGEST:
                    raise ProjectError("the file is larger than 1 GiB", todo="check source", url=shown)
            return bytes(data)
    except requests.RequestException as error:  # its text may repeat the URL with what was put into it
        raise UnreachableError(
            f"no answer: {type(error).__name__}", todo="try again later; if it stays, check the URL", url=shown
        ) from None


def _check(status: int, conn_id: str | None, *, url: str) -> None:
    if status in (401, 403):
        raise CredentialsError(
            f"the server refused: {status}", todo="check source_conn_id", connection=conn_id, url=url
        )
    if status == 429 or status >= 500:
        raise UnreachableError(f"the server answered {status}", todo="try again later", url=url)
    if status != 200:
        raise ProjectError(f"the server answered {status}", todo="check source", url=url)


def _session(url: str, conn_id: str | None, open_session: Callable[[], requests.Session]) -> requests.Session:
    session = open_session()
    if not conn_id:
        return session
    own, asked = urlsplit(session.base_url), urlsplit(url)  # type: ignore[attr-defined]
    if (own.scheme, own.netloc) != (asked.scheme, asked.netloc):
        session.close()
        raise ConfigurationError(
            "source is on another host than its connection",
            todo="name the connection of that host: credentials are sent nowhere else",
            connection=conn_id,
        )
    return session
