"""The HTTP client and the comment logic that the Git hosts share."""

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

_MAX_WAIT_SECONDS = 120.0  # for one request, over all its tries; less than the shortest life of an App's token
_TRIES = 5
_sleep = time.sleep


@dataclass(frozen=True, slots=True)
class Route:
    """The route to an API.

    :param verify: True, or the path of a file with certificate authorities.
    :param proxy: URL of an HTTP proxy.
    """

    verify: bool | str = True
    proxy: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Api:
    """A client of one API with one token. ``repr`` shows no secret.

    A request is repeated only if the server certainly did nothing: at 503, and at a rate limit (429, and 403 on
    GitHub). The client waits as long as the server asks for, up to two minutes.

    :param url: root of the API, without a trailing slash.
    :param headers: headers of every request. They reach no other host, because redirects are not followed.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float = 30.0
    route: Route = field(default_factory=Route)
    _session: requests.Session | None = field(default=None, repr=False)

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Send a request and return the JSON of the response.

        :param path: path below the root, or a whole URL of this API, such as that of a next page.
        """
        return self._request(method, path, **request).json()

    def pages(self, path: str) -> Iterator[Any]:
        """Yield every item of a list over all pages, which a ``Link`` header or ``next`` in the body leads to."""
        next_page: str | None = path
        while next_page:
            response = self._request("GET", next_page)
            page = response.json()
            next_page = response.links.get("next", {}).get("url")
            if isinstance(page, dict):
                yield from page["values"]
                next_page = next_page or page.get("next")
            else:
                yield from page

    def _request(self, method: str, path: str, **request: Any) -> requests.Response:
        url = path if path.startswith(f"{self.url}/") else f"{self.url}/{path.lstrip('/')}"
        if self._session is None:
            self._session = self._open()
        waited = 0.0
        for attempt in range(_TRIES):
            response = self._send(self._session, method, url, request)
            wait = _seconds_to_wait(response, attempt)
            if wait is None or attempt == _TRIES - 1 or waited + wait > _MAX_WAIT_SECONDS:
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
        except requests.RequestException as error:  # not shown: its text may contain the proxy's password
            raise UnreachableError(
                f"{self.url} did not answer: {type(error).__name__}",
                todo="try again; check the URL, the proxy, and ca_certificates",
            ) from None

    def _open(self) -> requests.Session:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(self.headers)  # set as auth, so that a .netrc cannot replace the token
            return request

        session = requests.Session()
        session.auth = authorize
        retry = Retry(connect=2, read=0, other=0, respect_retry_after_header=False, backoff_factor=0.5)
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        return session

    def _error(self, method: str, path: str, response: requests.Response) -> ReverseEtlError:
        status = response.status_code
        what = f"{method} {path}: {status} {_message(response)}".strip()
        if status == 429 or status >= 500 or _is_rate_limited(response):
            return UnreachableError(what, todo=f"try again {_when(response)}", url=self.url)
        if status in (401, 403):
            todo = "give the token the rights that the how-to guide lists"
            permissions = response.headers.get("X-Accepted-GitHub-Permissions")
            if permissions and status == 403:
                todo = f"give the token the permission {permissions}"
            return CredentialsError(what, todo=todo, url=self.url)
        if status == 404:
            todo = "check the repository's name, the commit, and that the token can see them"
            return RepositoryNotFoundError(what, todo=todo, url=self.url)
        return ConfigurationError(what, todo="check the API's URL and the repository's name", url=self.url)


def _is_rate_limited(response: requests.Response) -> bool:
    """Return True if GitHub refuses with 403 because of a rate limit.

    The primary limit shows in the headers, a secondary one in ``Retry-After`` or in the message.
    """
    headers = response.headers
    in_headers = headers.get("x-ratelimit-remaining") == "0" or "Retry-After" in headers
    return response.status_code == 403 and (in_headers or "rate limit" in _message(response))


def _seconds_to_wait(response: requests.Response, attempt: int) -> float | None:
    """Return the seconds until the request may be repeated, or None if repeating would not help."""
    if response.status_code not in (429, 503) and not _is_rate_limited(response):
        return None
    reset = _reset(response)
    if reset is not None:
        return max(reset, 0.0)
    # GitHub: without a time, at least a minute after a secondary limit.
    return 60.0 if response.status_code == 403 else 0.5 * 2**attempt


def _reset(response: requests.Response) -> float | None:
    """Return the seconds that ``Retry-After``, or a host's own header (a time since 1970), asks to wait."""
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
    if not seconds:
        return "later"
    reset = datetime.fromtimestamp(time.time() + seconds, UTC)
    return f"after {reset:%Y-%m-%d %H:%M:%S} UTC"


def write_comment(api: Api, path: str, body: str, *, needed: bool, shape: Callable[[str], Any], update: str) -> str:
    """Update our comment, or write it if it is missing and ``needed``.

    :param path: path of the list of comments.
    :param shape: function that turns a text into the JSON of a request.
    :param update: ``METHOD path`` of one comment, with ``{}`` for its id.
    :returns: what was done. An error is returned as text, too: the status, which has the same result, is written by
        then.
    """
    method, _, comment_path = update.partition(" ")
    try:
        for comment in api.pages(f"{path}?per_page=100&pagelen=100"):
            if _text(comment).startswith(MARKER) and not comment.get("deleted"):
                try:
                    api.call(method, comment_path.format(comment["id"]), json=shape(body))
                except (CredentialsError, RepositoryNotFoundError):
                    continue  # written with another token
                return "updated the comment"
        if not needed:
            return "no comment is needed"
        api.call("POST", path, json=shape(body))
    except ReverseEtlError as error:
        return f"could not write the comment: {error}"
    return "wrote a comment"


def _text(comment: Mapping[str, Any]) -> str:
    """Return a comment's text: ``body`` on GitHub and GitLab, ``content.raw`` on Bitbucket."""
    return str(comment.get("body") or (comment.get("content") or {}).get("raw") or "")


def _message(response: requests.Response) -> str:
    """Return the first 300 characters of the server's own message."""
    try:
        body = response.json()
    except ValueError:
        return response.reason or ""
    if not isinstance(body, dict):
        return ""
    message = body.get("message") or body.get("error") or ""
    if isinstance(message, dict):
        message = message.get("message", message)
    return str(message)[:300]
