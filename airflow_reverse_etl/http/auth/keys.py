"""Credentials of HTTP requests: each kind is a flow, which the asynchronous and the blocking client drive alike.

No secret is in a ``repr``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.messages import Reply, Request

#: Generator that yields requests of its own, for a token, and returns the request with its credentials.
AuthFlow = Generator[Request, Reply, Request]


class Auth:
    """Base class of credentials; by itself, no credentials."""

    __slots__ = ()

    @property
    def blocking(self) -> bool:
        """Return True if the next flow may wait for I/O of its own. The asynchronous client drives it in a thread."""
        return False

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in logs or messages."""
        return ()

    @property
    def base_url(self) -> str | None:
        """Base URL that a token brought, which replaces the connection's."""
        return None

    def authenticate(self, request: Request) -> AuthFlow:
        """Return the request with the credentials. Requests that the flow yields carry no other credentials.

        :raises CredentialsError: the credentials were refused when a token was requested.
        :raises NotAnsweredError: no token can be had now. The request was not sent.
        """
        yield from ()  # makes the function a flow
        return request

    def forget(self, sent: Request) -> bool:  # noqa: ARG002 - for subclasses
        """Forget the token that a refused request carried; returns whether the next flow gets another one."""
        return False


#: No credentials.
NO_AUTH = Auth()


@dataclass(frozen=True, slots=True)
class Basic(Auth):
    """User name and password, by RFC 7617."""

    login: str
    password: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password, and the header's value."""
        return self.password, self._encoded

    @property
    def _encoded(self) -> str:
        return b64encode(f"{self.login}:{self.password}".encode()).decode()

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the header ``Authorization``."""
        yield from ()  # makes the function a flow
        return request.with_header("Authorization", f"Basic {self._encoded}")


@dataclass(frozen=True, slots=True)
class ApiKey(Auth):
    """A key in a header, in the query, or in the JSON object of the body.

    :param name: name of the header, of the parameter, or of the body's field.
    :param place: ``header``, ``query`` or ``body``. A request without a body carries no key in its body.
    """

    name: str
    key: str = field(repr=False)
    place: str = "header"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key; without the scheme before it, as in ``Bearer …``."""
        return self.key, self.key.rpartition(" ")[2]

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the key."""
        yield from ()  # makes the function a flow
        match self.place:
            case "query":
                mark = "&" if "?" in request.url else "?"
                return replace(request, url=f"{request.url}{mark}{quote(self.name)}={quote(self.key, safe='')}")
            case "body":
                return replace(request, body=self._in_body(request.body)) if request.body is not None else request
            case _:
                return request.with_header(self.name, self.key)

    def _in_body(self, body: bytes) -> bytes:
        import orjson

        rest = body.lstrip()[1:]
        if not body.lstrip().startswith(b"{"):
            raise ConfigurationError(
                f"the key {self.name!r} cannot go into the body, which is not an object",
                todo="set `records` in the destination, so that the body is an object",
            )
        separator = b"" if rest.lstrip().startswith(b"}") else b","
        return b"{" + orjson.dumps(self.name) + b":" + orjson.dumps(self.key) + separator + rest


def bearer(token: str) -> ApiKey:
    """Return the credentials of a bearer token, by RFC 6750."""
    return ApiKey("Authorization", f"Bearer {token}")
