"""What the Git hosts' APIs have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.reports.markdown import MARKER
from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    RepositoryNotFoundError,
    ReverseEtlError,
    UnreachableError,
)

if TYPE_CHECKING:
    import requests

NAME = "reverse-etl check"

_PATIENCE_SECONDS = 120.0  # that one request may wait for a limit in all; less than the shortest life of an App's token
_TRIES = 5
_sleep = time.sleep


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to an API: ``verify`` is True or a file of certificate authorities, ``proxy`` an HTTP proxy's URL."""

    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Api:
    """One API with one token. ``repr`` shows no secret.

    Asks again only where a server says that it did nothing: 503, and what it refuses because of a rate limit (429, and
    403 on GitHub), after the time that it asks for, up to two minutes.

    :param url: its root, without a slash at the end.
    :param headers: sent with every request, and to no other host: redirects are not followed.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float = 30.0
    route: Route = field(default_factory=Route)
    _session: requests.Session | None = field(default=None, repr=False)

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON. ``path`` may be a whole URL of this API, as for a next page."""
        return self._answer(method, path, **request).json()

    def pages(self, path: str) -> Iterator[Any]:
        """Every item of a list, over all pages: by ``Link`` header, or by ``next`` beside ``values``."""
        following: str | None = path
        while following:
            response = self._answer("GET", following)
            found = response.json()
            yield from found["values"] if isinstance(found, dict) else found
            following = response.links.get("next", {}).get("url")
            following = following or (found.get("next") if isinstance(found, dict) else None)

    def _answer(self, method: str, path: str, **request: Any) -> requests.Response:
        url = path if path.startswith(f"{self.url}/") else f"{self.url}/{path.lstrip('/')}"
        if self._session is None:
            self._session = self._open()
        waited = 0.0
        for attempt in range(_TRIES):
            response = self._send(self._session, method, url, request)
            wait = _asked_to_wait(response, attempt)
            if wait is None or attempt == _TRIES - 1 or waited + wait > _PATIENCE_SECONDS:
                break
            _sleep(wait)
            waited += wait
        if response.status_code >= 300:
            raise self._error(method, path, response)
        return response

    def _send(self, session: requests.Session, method: str, url: str, request: Mapping[str, Any]) -> requests.Response:
        import requests

        proxies = {"http": self.route.proxy, "https": self.route.proxy} if self.route.proxy else None
        try:
            return session.request(
                method,
                url,
                timeout=self.timeout,
                allow_redirects=False,
                verify=self.route.verify,
                proxies=proxies,
                **request,
            )
        except requests.RequestException as error:  # its text may repeat the proxy with its password
            raise UnreachableError(
                f"{self.url} did not answer: {type(error).__name__}",
                todo="try again; check the URL, the proxy, and ca_certificates",
            ) from None

    def _open(self) -> requests.Session:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(self.headers)  # as auth, so that a .netrc cannot put another in its place
            return request

        session = requests.Session()
        session.auth = authorize
        retry = Retry(connect=2, read=0, other=0, respect_retry_after_header=False, backoff_factor=0.5)
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        return session

    def _error(self, method: str, path: str, response: requests.Response) -> ReverseEtlError:
        said = f"{method} {path}: {response.status_code} {_message(response)}".strip()
        status = response.status_code
        if status == 429 or status >= 500 or _limited(response):
            return UnreachableError(said, todo=f"try again {_when(response)}", url=self.url)
        if status in (401, 403):
            rights = response.headers.get("X-Accepted-GitHub-Permissions")
            todo = f"give it {rights}; " if rights and status == 403 else ""
            return CredentialsError(said, todo=f"{todo}the how-to guide lists the rights of a token", url=self.url)
        if status == 404:
            todo = "check the repository's name, the commit, and that the token can see them"
            return RepositoryNotFoundError(said, todo=todo, url=self.url)
        return ConfigurationError(said, todo="check the API's URL and the repository's name", url=self.url)


def _limited(response: requests.Response) -> bool:
    """GitHub refuses with 403, too: ``x-ratelimit-remaining: 0``, or, of its secondary limits, in words."""
    headers = response.headers
    over = headers.get("x-ratelimit-remaining") == "0" or "Retry-After" in headers
    return response.status_code == 403 and (over or "rate limit" in _message(response))


def _asked_to_wait(response: requests.Response, attempt: int) -> float | None:
    """Seconds until a request may be repeated; None when that would not help."""
    if response.status_code not in (429, 503) and not _limited(response):
        return None
    reset = _reset(response)
    if reset is not None:
        return max(reset, 0.0)
    # GitHub: without a time, at least a minute after a secondary limit.
    return 60.0 if response.status_code == 403 else 0.5 * 2**attempt


def _reset(response: requests.Response) -> float | None:
    """Seconds from now, as ``Retry-After`` or the hosts' own headers (a time since 1970) say."""
    headers = response.headers
    try:
        if "Retry-After" in headers:
            return float(headers["Retry-After"])
        if headers.get("x-ratelimit-remaining", headers.get("RateLimit-Remaining")) == "0":
            return float(headers.get("x-ratelimit-reset") or headers["RateLimit-Reset"]) - time.time()
    except (KeyError, ValueError):
        pass
    return None


def _when(response: requests.Response) -> str:
    seconds = _reset(response)
    return f"after {datetime.fromtimestamp(time.time() + seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else "later"


def write_comment(api: Api, path: str, body: str, *, needed: bool, shape: Callable[[str], Any], update: str) -> str:
    """Our one comment: updated where it is, else written if ``needed``. Returns what was done, or why it was not: the
    status is written by then, and says the same.

    :param path: of the list of comments.
    :param shape: a request's JSON for a text.
    :param update: ``METHOD path`` of one comment, with ``{}`` for its id.
    """
    method, _, place = update.partition(" ")
    try:
        for comment in api.pages(f"{path}?per_page=100&pagelen=100"):
            if _text(comment).startswith(MARKER) and not comment.get("deleted"):
                try:
                    api.call(method, place.format(comment["id"]), json=shape(body))
                except (CredentialsError, RepositoryNotFoundError):
                    continue  # somebody else's, such as an earlier token's
                return "updated the comment"
        if not needed:
            return "no comment is needed"
        api.call("POST", path, json=shape(body))
    except ReverseEtlError as error:
        return f"could not write the comment: {error}"
    return "wrote a comment"


def _text(comment: Mapping[str, Any]) -> str:
    """GitHub and GitLab: ``body``; Bitbucket: ``content.raw``."""
    return str(comment.get("body") or (comment.get("content") or {}).get("raw") or "")


def _message(response: requests.Response) -> str:
    """The server's own words, shortened."""
    try:
        said = response.json()
    except ValueError:
        return response.reason or ""
    found = said.get("message") or said.get("error") or "" if isinstance(said, dict) else ""
    return str(found.get("message", found) if isinstance(found, dict) else found)[:300]
