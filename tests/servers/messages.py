"""Requests as a test server receives them, and the replies that it gives."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from multidict import CIMultiDict


@dataclass(frozen=True)
class Request:
    """A request.

    :param target: percent-encoded path and query.
    :param headers: case-insensitive.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def segments(self) -> list[str]:
        """The decoded parts of the path, for a ``match`` statement: ``["rows", "a/b"]`` of ``/rows/a%2Fb``."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        """The first value of each parameter in the URL."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is empty or not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form in the body, and the client of basic authentication as an OAuth2 client sends it."""
        fields = dict(parse_qsl(self.body.decode("latin-1")))
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            client_id, _, secret = base64.b64decode(encoded).decode().partition(":")
            fields |= {"client_id": client_id, "client_secret": secret}
        return fields


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply. ``Reply.of`` makes one of JSON."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, *, content_type: str = "application/json", **headers: str) -> Self:
        """Make a reply of a value that becomes JSON. In names of headers write ``_`` for ``-``."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"Content-Type": content_type, **named})

    @classmethod
    def text(cls, text: str, status: int = 200, *, content_type: str = "text/plain") -> Self:
        """Make a reply of text."""
        return cls(status, text.encode(), {"Content-Type": content_type})

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    def with_headers(self, headers: Mapping[str, str]) -> Reply:
        """Return the reply with more headers; its own stay."""
        return Reply(self.status, self.body, {**headers, **self.headers})


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type that the headers state, without parameters, in lower case."""
    return CIMultiDict(headers).get("Content-Type", "").partition(";")[0].strip().lower()
