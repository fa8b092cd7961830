"""GitHub Apps: installation tokens, requested with the App's private key, cached in memory, renewed before they expire.

Sources: GitHub's documentation "Authenticating as a GitHub App installation" and REST API 2022-11-28, ``apps/apps``.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, RepositoryNotFoundError, UnreachableError

_RENEW_SECONDS = 300  # before a token expires, so that a git command can finish with the token it began with
_TIMEOUT_SECONDS = 30
_SIGNATURE_SECONDS = 540  # GitHub accepts at most 600, by its own clock


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
        proxies = {"http": proxy, "https": proxy} if proxy else None
        options = {"verify": verify, "proxies": proxies}
        key_hash = hashlib.sha256(self.private_key.encode()).hexdigest()
        scope = f"{owner}/{name}" if self.narrow or not self.installation_id else self.installation_id
        identity = "\n".join([api, self.app_id, key_hash, scope, str(self.narrow)])
        with _lock:
            cached = _tokens.get(identity)
            if cached is None or cached.expires < time.time() + _RENEW_SECONDS:
                cached = self._request_token(api, owner, name, options)
                _tokens[identity] = cached
        return cached.text

    def _request_token(self, api: str, owner: str, name: str, options: Mapping[str, Any]) -> _Token:
        repository = f"{owner}/{name}"
        installation = self.installation_id
        if not installation:
            found = self._call("GET", f"{api}/repos/{quote(repository)}/installation", repository, options)
            installation = str(found["id"])
        body = {"repositories": [name]} if self.narrow else {}
        url = f"{api}/app/installations/{quote(installation, safe='')}/access_tokens"
        created = self._call("POST", url, repository, {**options, "json": body})
        return _Token(created["token"], datetime.fromisoformat(created["expires_at"]).timestamp())

    def _call(self, method: str, url: str, repository: str, options: Mapping[str, Any]) -> dict[str, Any]:
        import requests

        headers = {
            "Authorization": f"Bearer {self._signature()}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        with requests.Session() as session:
            session.auth = _keep_headers  # without it, requests replaces the signature by an entry of ~/.netrc
            try:
                reply = session.request(
                    method, url, headers=headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False, **options
                )
                answer = reply.json() if reply.content else {}
            except requests.RequestException as error:  # the error's text may contain the proxy's password
                raise UnreachableError(
                    f"GitHub did not answer: {type(error).__name__}",
                    todo="try again later; if the error persists, check the URL's host, the proxy, and ca_certificates",
                    url=url,
                ) from None
        if reply.ok and isinstance(answer, dict):
            return answer
        message = str(answer.get("message", "")) if isinstance(answer, dict) else ""
        raise _refusal(reply.status_code, message, method, repository=repository, url=url)

    def _signature(self) -> str:
        import jwt

        now = int(time.time())
        claims = {"iat": now - 60, "exp": now + _SIGNATURE_SECONDS, "iss": str(self.app_id)}
        try:
            key = self.private_key.replace("\\n", "\n").replace("\r\n", "\n")
            return jwt.encode(claims, key, algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):  # their texts may quote the key
            raise CredentialsError(
                "the GitHub App's private key cannot be read",
                todo="paste the whole .pem file of the App, without a passphrase",
            ) from None


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


def _keep_headers(request: Any) -> Any:
    return request


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
