"""Access tokens of OAuth 2.0, as flows."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.http.auth.keys import Auth, AuthFlow
from airflow_reverse_etl.http.auth.signatures import sign_jwt
from airflow_reverse_etl.http.error_text import error_text
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request
from airflow_reverse_etl.spec.receipts import Outcome

#: Seconds before its end at which a token is renewed.
_RENEW_SECONDS = 60.0
#: Life of a token whose reply does not state one, in seconds.
_DEFAULT_LIFE_SECONDS = 3600.0


@dataclass(slots=True)
class OAuth2(Auth):
    """An access token from a token endpoint, by RFC 6749; renewed before it expires, and once when it is refused.

    The grant is client credentials; or refresh token, if there is one; or a signed assertion by RFC 7523
    (:class:`JwtBearer`). A refresh token that the endpoint replaces is used from then on, until the process ends.

    :param token_url: absolute URL of the token endpoint.
    :param form: further fields of the token request, such as ``scope`` and ``audience``.
    :param client_auth: ``body`` or ``basic``: where client id and secret go in the token request
        (``client_secret_post`` and ``client_secret_basic`` of RFC 7591).
    :param base_url_field: field of the token's reply that has the base URL of the API, as Salesforce's
        ``instance_url``.
    :param clock: the time, in seconds since 1970.
    """

    token_url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    form: Mapping[str, str] = field(default_factory=dict)
    client_auth: str = "body"
    base_url_field: str | None = None
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    _token: str = field(default="", init=False, repr=False, compare=False)
    _expires: float = field(default=0.0, init=False, repr=False, compare=False)
    _base_url: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Client secret, refresh token and access token."""
        return self.client_secret, self.refresh_token, self._token

    @property
    def base_url(self) -> str | None:
        """Base URL that the last token brought."""
        return self._base_url

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the access token; request one first if it has none, or one that is about to expire."""
        if not self._token or self.clock() >= self._expires:
            self._read((yield self._token_request()))
        return request.with_header("Authorization", f"Bearer {self._token}")

    def forget(self, sent: Request) -> bool:
        """Forget the token, unless another request has renewed it already."""
        if (sent.headers or {}).get("Authorization") == f"Bearer {self._token}":
            self._token = ""
        return True

    def grant(self) -> Mapping[str, str]:
        """Return the fields of the token request that describe the grant."""
        if self.refresh_token:
            return {"grant_type": "refresh_token", "refresh_token": self.refresh_token}
        return {"grant_type": "client_credentials"}

    def _token_request(self) -> Request:
        form = {**self.form, **self.grant()}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self.client_auth == "basic":
            # RFC 6749, section 2.3.1: both parts are form-encoded first.
            client = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
            headers["Authorization"] = f"Basic {b64encode(client.encode()).decode()}"
        elif self.client_id:
            form["client_id"] = self.client_id
            form["client_secret"] = self.client_secret
        body = urlencode({name: value for name, value in form.items() if value})
        return Request("POST", self.token_url, body.encode(), headers)

    def _read(self, reply: Reply) -> None:
        answer = reply.json()
        token = answer.get("access_token") if isinstance(answer, Mapping) else None
        if reply.status >= 300 or not isinstance(token, str) or not token:
            raise self._refusal(reply)
        self._token = token
        life = _seconds(answer.get("expires_in"))
        self._expires = self.clock() + life - min(_RENEW_SECONDS, life / 2)
        if isinstance(renewed := answer.get("refresh_token"), str):
            self.refresh_token = renewed
        if self.base_url_field and isinstance(url := answer.get(self.base_url_field), str):
            self._base_url = url.rstrip("/")

    def _refusal(self, reply: Reply) -> Exception:
        code, message = error_text(reply)
        words = " ".join(part for part in (code, message) if part)
        if reply.status == 429 or reply.status >= 500:
            text = f"no access token: the token endpoint answered {reply.status}"
            return NotAnsweredError(Outcome.RETRYABLE, "no_access_token", text)
        if 200 <= reply.status < 300:
            words = "its reply has no access_token"
        return CredentialsError(
            f"the token endpoint answered {reply.status}: {words}",
            todo="check the connection's token_url, client id, secret and grant",
            token_url=self.token_url,
        )


def _seconds(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return _DEFAULT_LIFE_SECONDS


@dataclass(slots=True)
class JwtBearer(OAuth2):
    """An access token for a signed assertion (RFC 7523), as Salesforce, Google and DocuSign issue it.

    :param private_key: key in PEM form.
    :param claims: the assertion's claims, such as ``iss``, ``sub`` and ``aud``; the times are added.
    :param algorithm: algorithm of the signature.
    """

    private_key: str = field(default="", repr=False)
    claims: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"

    def grant(self) -> Mapping[str, str]:
        """Return a fresh assertion."""
        assertion = sign_jwt(self.claims, self.private_key, now=self.clock(), algorithm=self.algorithm)
        return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
