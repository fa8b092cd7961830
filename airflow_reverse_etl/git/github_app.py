"""GitHub Apps: an installation token from the App's private key, kept in memory and renewed before it expires.

Facts: GitHub's documentation "Authenticating as a GitHub App installation" and REST API 2022-11-28, ``apps/apps``.
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

_RENEW_SECONDS = 300  # before a token expires: git must be able to finish with it
_TIMEOUT_SECONDS = 30
_SIGNED_SECONDS = 540  # GitHub takes at most 600, by its own clock


class _Token(NamedTuple):
    text: str
    expires: float


_tokens: dict[str, _Token] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class GitHubApp:
    """A GitHub App, on github.com or an Enterprise host. ``repr`` shows no secret.

    :param app_id: the App's id, or its client id.
    :param private_key: PEM, as GitHub hands it out.
    :param installation_id: default: looked up for each repository.
    :param narrow: ask for tokens that are good for the one repository only.
    """

    app_id: str
    private_key: str = field(repr=False)
    installation_id: str | None = None
    narrow: bool = True

    def token(self, url: str, *, verify: bool | str = True, proxy: str | None = None) -> str:
        """A token for a repository's https URL, good for at least five minutes more. Safe to call from any thread.

        :param verify: True, or the path of a file with certificate authorities.
        :param proxy: URL of an HTTP proxy; default: the worker's own settings.
        :raises CredentialsError: the App's id and key do not belong together, or it may not do this.
        :raises RepositoryNotFoundError: the App is not installed on the repository.
        :raises UnreachableError: GitHub did not answer.
        """
        api, owner, name = api_and_repository(url)
        secret = hashlib.sha256(self.private_key.encode()).hexdigest()
        scope = f"{owner}/{name}" if self.narrow or not self.installation_id else self.installation_id
        identity = "\n".join([api, self.app_id, secret, scope, str(self.narrow)])
        with _lock:
            known = _tokens.get(identity)
            if known is None or known.expires < time.time() + _RENEW_SECONDS:
                options = {"verify": verify, "proxies": {"http": proxy, "https": proxy} if proxy else None}
                known = _tokens[identity] = self._new_token(api, owner, name, options)
        return known.text

    def _new_token(self, api: str, owner: str, name: str, options: Mapping[str, Any]) -> _Token:
        repository = f"{owner}/{name}"
        installation = self.installation_id
        if not installation:
            found = self._ask("GET", f"{api}/repos/{quote(repository)}/installation", repository, options)
            installation = str(found["id"])
        body = {"repositories": [name]} if self.narrow else {}
        place = f"{api}/app/installations/{quote(installation, safe='')}/access_tokens"
        made = self._ask("POST", place, repository, {**options, "json": body})
        return _Token(made["token"], datetime.fromisoformat(made["expires_at"]).timestamp())

    def _ask(self, method: str, url: str, repository: str, options: Mapping[str, Any]) -> dict[str, Any]:
        import requests

        headers = {
            "Authorization": f"Bearer {self._signature()}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        with requests.Session() as session:
            session.auth = _keep_headers  # or requests would put a ~/.netrc entry in place of the signature
            try:
                reply = session.request(
                    method, url, headers=headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False, **options
                )
                answer = reply.json() if reply.content else {}
            except requests.RequestException as error:  # its text may repeat the proxy with its password
                raise UnreachableError(
                    f"GitHub did not answer: {type(error).__name__}",
                    todo="try again later; if it stays, check the URL's host, the proxy, and ca_certificates",
                    url=url,
                ) from None
        if reply.ok and isinstance(answer, dict):
            return answer
        said = str(answer.get("message", "")) if isinstance(answer, dict) else ""
        raise _refusal(reply.status_code, said, method, repository=repository, url=url)

    def _signature(self) -> str:
        import jwt

        now = int(time.time())
        claims = {"iat": now - 60, "exp": now + _SIGNED_SECONDS, "iss": str(self.app_id)}
        try:
            return jwt.encode(claims, self.private_key.replace("\\n", "\n").replace("\r\n", "\n"), algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):  # their texts may quote the key
            raise CredentialsError(
                "the GitHub App's private key cannot be read",
                todo="paste the whole .pem file that GitHub made for the App, without a passphrase",
            ) from None


def api_and_repository(url: str) -> tuple[str, str, str]:
    """The API of a repository's host, its owner and its name: ``https://ghe.acme.org/shop/dbt.git`` has the API
    ``https://ghe.acme.org/api/v3``.

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


def _refusal(status: int, said: str, method: str, **where: object) -> Exception:
    """What a refused request means, by status; ``said`` is GitHub's message."""
    if status == HTTPStatus.UNAUTHORIZED:
        return CredentialsError(
            f"GitHub does not accept the App's signature: {said}",
            todo="check that github_app_id and private_key are of the same App, and that the worker's clock is right",
            **where,
        )
    if status == HTTPStatus.NOT_FOUND and method == "GET":
        return RepositoryNotFoundError(
            "the GitHub App is not installed on this repository, or there is no such repository",
            todo="install the App for the repository's owner, and let it have this repository",
            **where,
        )
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
        return RepositoryNotFoundError(
            f"the GitHub App's installation does not have this repository: {said}",
            todo="check github_installation_id (empty: it is looked up), and let the installation have this repository",
            **where,
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR or "rate limit" in said:
        return UnreachableError(f"GitHub answered {status}: {said}", todo="try again later", **where)
    return CredentialsError(
        f"GitHub refused the App: {status} {said}",
        todo="check that its installation is not suspended, and that it may read the repository's contents",
        **where,
    )
