"""GitHub Apps: installation tokens, requested with the App's private key, cached in memory, renewed before they expire.

Sources: GitHub's documentation "Authenticating as a GitHub App installation" and REST API 2022-11-28, ``apps/apps``.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RepositoryNotFoundError, UnreachableError
from airflow_reverse_etl.http.auth.signatures import SignedJwt
from airflow_reverse_etl.http.blocking import BlockingClient
from airflow_reverse_etl.http.error_text import error_text
from airflow_reverse_etl.http.messages import NotAnsweredError, Request
from airflow_reverse_etl.http.redaction import clean
from airflow_reverse_etl.http.server import Server

_RENEW_SECONDS = 300  # before a token expires, so that a git command can finish with the token it began with
_TIMEOUT_SECONDS = 30
_SIGNATURE_SECONDS = 540  # GitHub accepts at most 600, by its own clock
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


class _Token(NamedTuple):
    text: str
    expires: float


_tokens: dict[str, _Token] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class GitHubApp:
    """A GitHub App, on github.com or an Enterprise host. ``repr`` shows no secret.

    :param app_id: the App's id, or its client id.
    :param private_key: private key in PEM form, as downloaded from GitHub.
    :param installation_id: id of the App's installation; default: looked up for each repository.
    :param narrow: limit each token to its one repository.
    """

    app_id: str
    private_key: str = field(repr=False)
    installation_id: str | None = None
    narrow: bool = True

    def token(self, url: str, *, verify: bool | str = True, proxy: str | None = None) -> str:
        """Return a token for a repository's https URL, valid for at least five minutes. Safe to call from any thread.

        :param verify: True, or the path of a file with certificate authorities.
        :param proxy: URL of an HTTP proxy; default: the worker's own settings.
        :raises CredentialsError: the App's id and key do not belong together, or the App lacks a permission.
        :raises RepositoryNotFoundError: the App is not installed on the repository.
        :raises UnreachableError: GitHub did not answer.
        """
        api, owner, name = api_and_repository(url)
        claims = {"iss": str(self.app_id)}
        auth = SignedJwt(self.private_key, claims, seconds=_SIGNATURE_SECONDS, clock=time.time)
        server = Server(api, _HEADERS, auth, verify=verify, proxy_url=proxy)
        key_hash = hashlib.sha256(self.private_key.encode()).hexdigest()
        scope = f"{owner}/{name}" if self.narrow or not self.installation_id else self.installation_id
        identity = "\n".join([api, self.app_id, key_hash, scope, str(self.narrow)])
        with _lock:
            cached = _tokens.get(identity)
            if cached is None or cached.expires < time.time() + _RENEW_SECONDS:
                cached = self._request_token(server, owner, name)
                _tokens[identity] = cached
        return cached.text

    def _request_token(self, server: Server, owner: str, name: str) -> _Token:
        repository = f"{owner}/{name}"
        installation = self.installation_id
        with BlockingClient(server, timeout=_TIMEOUT_SECONDS) as client:
            if not installation:
                request = Request("GET", f"/repos/{quote(repository)}/installation")
                installation = str(_answer(client, request, repository)["id"])
            body = orjson.dumps({"repositories": [name]} if self.narrow else {})
            path = f"/app/installations/{quote(installation, safe='')}/access_tokens"
            created = _answer(client, Request("POST", path, body), repository)
        return _Token(created["token"], datetime.fromisoformat(created["expires_at"]).timestamp())


def _answer(client: BlockingClient, request: Request, repository: str) -> dict[str, Any]:
    url = client.server.join(request.url)
    try:
        reply = client.exchange(request)
    except NotAnsweredError as lost:
        raise UnreachableError(
            f"GitHub did not answer: {lost}",
            todo="try again later; if the error persists, check the URL's host, the proxy, and ca_certificates",
            url=url,
        ) from None
    answer = reply.json()
    if reply.status < 300 and isinstance(answer, dict):
        return answer
    _, message = error_text(reply)
    raise _refusal(reply.status, clean(message, client.server.secrets), request.method, repository=repository, url=url)


def api_and_repository(url: str) -> tuple[str, str, str]:
    """Return the URL of the host's API, the owner and the name of a repository.

    The API of ``https://ghe.acme.org/shop/dbt.git`` is ``https://ghe.acme.org/api/v3``.

    :raises ConfigurationError: not the URL of a GitHub repository.
    """
    parts = urlsplit(url)
    names = parts.path.strip("/").removesuffix(".git").split("/")
    if parts.scheme not in ("http", "https") or len(names) != 2 or not all(names):
        raise ConfigurationError(
            "a GitHub App needs the https URL of a repository",
            todo="write it as https://github.com/owner/repository",
            repository=url,
        )
    host = parts.netloc.rpartition("@")[2]
    if host.lower() in ("github.com", "www.github.com"):
        api = "https://api.github.com"
    elif host.lower().endswith(".ghe.com"):
        api = f"https://api.{host}"
    else:
        api = f"{parts.scheme}://{host}/api/v3"
    return api, names[0], names[1]


def _refusal(status: int, message: str, method: str, **where: object) -> Exception:
    """Build the error for a refused request. ``message`` is GitHub's own."""
    if status == HTTPStatus.UNAUTHORIZED:
        return CredentialsError(
            f"GitHub does not accept the App's signature: {message}",
            todo="check that github_app_id and private_key belong to one App, and that the worker's clock is right",
            **where,
        )
    if status == HTTPStatus.NOT_FOUND and method == "GET":
        return RepositoryNotFoundError(
            "the GitHub App is not installed on this repository, or the repository does not exist",
            todo="install the App for the repository's owner, and grant it access to this repository",
            **where,
        )
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
        return RepositoryNotFoundError(
            f"the GitHub App's installation has no access to this repository: {message}",
            todo="correct github_installation_id (empty: a lookup), or grant the App access to this repository",
            **where,
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR or "rate limit" in message:
        return UnreachableError(f"GitHub answered {status}: {message}", todo="try again later", **where)
    return CredentialsError(
        f"GitHub refused the App: {status} {message}",
        todo="check that the App's installation is not suspended and may read the repository's contents",
        **where,
    )
