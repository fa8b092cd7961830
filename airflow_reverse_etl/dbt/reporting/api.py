"""What the Git hosts' APIs have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.dbt.formats import MARKER
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


@dataclass(slots=True)
class Api:
    """One API with one token. ``repr`` shows no secret.

    Asks again only after 429 and 503, with which a server says that it did nothing.

    :param url: its root, without a slash at the end.
    :param headers: sent with every request, and to no other host: redirects are not followed.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float = 30.0
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
        import requests

        url = path if path.startswith(f"{self.url}/") else f"{self.url}/{path.lstrip('/')}"
        if self._session is None:
            self._session = self._open()
        try:
            response = self._session.request(method, url, timeout=self.timeout, allow_redirects=False, **request)
        except requests.RequestException as error:
            raise UnreachableError(
                f"{self.url} did not answer: {type(error).__name__}", todo="try again; check the proxy and the URL"
            ) from None
        if response.status_code >= 300:
            raise self._error(method, path, response)
        return response

    def _open(self) -> requests.Session:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(self.headers)  # as auth, so that a .netrc cannot put another in its place
            return request

        session = requests.Session()
        session.auth = authorize
        retry = Retry(4, connect=2, read=0, status_forcelist=(429, 503), allowed_methods=None, backoff_factor=0.5)
        retry.raise_on_status = False
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        return session

    def _error(self, method: str, path: str, response: requests.Response) -> ReverseEtlError:
        said = f"{method} {path}: {response.status_code} {_message(response)}".strip()
        status = response.status_code
        if status in (401, 403):
            return CredentialsError(said, todo="give the token the rights that the how-to guide lists", url=self.url)
        if status == 404:
            todo = "check the repository's name, the commit, and that the token can see them"
            return RepositoryNotFoundError(said, todo=todo, url=self.url)
        if status == 429 or status >= 500:
            return UnreachableError(said, todo="try again", url=self.url)
        return ConfigurationError(said, todo="check the API's URL and the repository's name", url=self.url)


def write_comment(api: Api, path: str, body: str, *, needed: bool, shape: Callable[[str], Any], update: str) -> str:
    """Our one comment: updated where it is, else written if ``needed``.

    :param path: of the list of comments.
    :param shape: a request's JSON for a text.
    :param update: ``METHOD path`` of one comment, with ``{}`` for its id.
    """
    for comment in api.pages(f"{path}?per_page=100&pagelen=100"):
        if _text(comment).startswith(MARKER):
            method, _, place = update.partition(" ")
            api.call(method, place.format(comment["id"]), json=shape(body))
            return "updated the comment"
    if not needed:
        return "no comment is needed"
    api.call("POST", path, json=shape(body))
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
