"""The API client and the comment logic that the Git hosts share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_reverse_etl.check.reports.markdown import MARKER
from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    RepositoryNotFoundError,
    ReverseEtlError,
    UnreachableError,
)
from airflow_reverse_etl.http.blocking import BlockingClient
from airflow_reverse_etl.http.error_text import error_text
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.http.rate_headers import retry_after
from airflow_reverse_etl.http.redaction import clean
from airflow_reverse_etl.http.retries import Retries
from airflow_reverse_etl.http.server import Server
from airflow_reverse_etl.sync.load.backoff import Backoff

NAME = "reverse-etl check"


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
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    _client: BlockingClient | None = field(default=None, init=False, repr=False, compare=False)

    def call(self, method: str, path: str, json: Any = None) -> Any:
        """Send a request, with JSON as its body, and return the JSON of the reply.

        :param path: path below the root, or a whole URL of this API, such as that of a next page.
        :raises UnreachableError: the API did not answer, or asks for a longer wait.
        :raises CredentialsError: the token was refused.
        :raises RepositoryNotFoundError: the repository or commit does not exist, or the token cannot see it.
        """
        return self._request(method, path, json).json()

    def pages(self, path: str) -> Iterator[Any]:
        """Yield every item of a list over all pages, which a ``Link`` header or ``next`` in the body leads to."""
        from requests.utils import parse_header_links

        next_page: str | None = path
        while next_page:
            reply = self._request("GET", next_page)
            page = reply.json()
            links = parse_header_links(reply.headers.get("Link", ""))
            next_page = next((link["url"] for link in links if link.get("rel") == "next"), None)
            if isinstance(page, dict):
                yield from page["values"]
                next_page = next_page or page.get("next")
            else:
                yield from page

    def _request(self, method: str, path: str, json: Any = None) -> Reply:
        import orjson

        # One client, so that a report's requests share a connection.
        if self._client is None:
            server = Server(self.url, self.headers, verify=self.route.verify, proxy_url=self.route.proxy)
            self._client = BlockingClient(server, timeout=self.timeout, sleep=self.sleep)
        body = None if json is None else orjson.dumps(json)
        try:
            reply = self._client.call(Request(method, path, body), _RETRIES)
        except NotAnsweredError as lost:
            raise UnreachableError(
                f"{self.url} did not answer: {lost}",
                todo="try again; check the URL, the proxy, and ca_certificates",
            ) from None
        if reply.status >= 300:
            raise self._error(method, path, reply)
        return reply

    def _error(self, method: str, path: str, reply: Reply) -> ReverseEtlError:
        status = reply.status
        what = f"{method} {path}: {status} {_message(reply)}".strip()
        if status >= 500 or _is_rate_limited(reply):
            return UnreachableError(what, todo=f"try again {_when(reply)}", url=self.url)
        if status in (401, 403):
            todo = "give the token the rights that the how-to guide lists"
            permissions = reply.headers.get("X-Accepted-GitHub-Permissions")
            if permissions and status == 403:
                todo = f"give the token the permission {permissions}"
            return CredentialsError(what, todo=todo, url=self.url)
        if status == 404:
            todo = "check the repository's name, the commit, and that the token can see them"
            return RepositoryNotFoundError(what, todo=todo, url=self.url)
        return ConfigurationError(what, todo="check the API's URL and the repository's name", url=self.url)


def _is_rate_limited(reply: Reply) -> bool:
    """Return True if the API refuses a request because there were too many.

    GitHub does so with 403, too: the primary limit shows in the headers, a secondary one in ``Retry-After`` or in the
    message.
    """
    if reply.status in (429, 503):
        return True
    in_headers = reply.headers.get("x-ratelimit-remaining") == "0" or "Retry-After" in reply.headers
    return reply.status == 403 and (in_headers or "rate limit" in _message(reply))


def _least_wait(reply: Reply) -> float:
    """Return 60 seconds for GitHub's secondary limits without a time, as its documentation asks."""
    return 60.0 if reply.status == 403 else 0.0


_RETRIES = Retries(
    Backoff(first=0.5, longest=30.0, attempts=5),
    # Less than the shortest life of an App's token.
    longest=120.0,
    throttled=_is_rate_limited,
    least=_least_wait,
)


def _when(reply: Reply) -> str:
    seconds = retry_after(reply)
    if not seconds:
        return "later"
    reset = datetime.fromtimestamp(time.time() + seconds, UTC)
    return f"after {reset:%Y-%m-%d %H:%M:%S} UTC"


def _message(reply: Reply) -> str:
    """Return the server's own message."""
    return clean(error_text(reply)[1], ())


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
