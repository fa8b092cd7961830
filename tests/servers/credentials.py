"""Credentials that a test server asks for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.servers.messages import Reply, Request
from tests.servers.rules import Rule

UNAUTHORISED = Reply.of({"code": "UNAUTHORISED", "message": "the credentials are not valid"}, 401)


@dataclass
class ApiKey(Rule):
    """A fixed text in a header, a parameter of the URL, or a field of a JSON body."""

    name: str
    value: str
    place: Literal["header", "query", "body"] = "header"
    refusal: Reply = UNAUTHORISED

    def refuse(self, request: Request, now: float) -> Reply | None:
        found: Mapping[str, Any] = {
            "header": request.headers,
            "query": request.query,
            "body": request.json if isinstance(request.json, dict) else {},
        }[self.place]
        return None if found.get(self.name) == self.value else self.refusal


def bearer(token: str) -> ApiKey:
    """Make the rule of a fixed bearer token."""
    return ApiKey("Authorization", f"Bearer {token}")


def basic(user: str, password: str) -> ApiKey:
    """Make the rule of basic authentication."""
    return ApiKey("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


@dataclass
class OAuth2(Rule):
    """Bearer tokens that run out, and the endpoint that issues them (RFC 6749; RFC 7523 for signed assertions).

    ``issued`` has the moment at which each token runs out; ``issued.clear()`` revokes all of them at once.

    :param lifetime: seconds.
    :param refresh_token: token of the grant ``refresh_token``; without one only the client's own credentials count.
    :param public_key: key that verifies the assertion of the grant ``jwt-bearer``.
    :param more: further fields of the token endpoint's answer, such as ``instance_url``.
    """

    client_id: str = "client"
    client_secret: str = "s3cret"
    lifetime: float = 3600.0
    path: str = "/oauth/token"
    refresh_token: str | None = None
    public_key: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    refusal: Reply = UNAUTHORISED
    issued: dict[str, float] = field(default_factory=dict, init=False)

    def refuse(self, request: Request, now: float) -> Reply | None:
        if request.path == self.path:
            return self._issue(request.form, now)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return None if self.issued.get(token, 0.0) > now else self.refusal

    def _issue(self, form: Mapping[str, str], now: float) -> Reply:
        if not self._may_have(form):
            return Reply.of({"error": "invalid_grant", "error_description": "not these credentials"}, 400)
        token = secrets.token_hex(8)
        self.issued[token] = now + self.lifetime
        return Reply.of(
            {"access_token": token, "token_type": "Bearer", "expires_in": int(self.lifetime), **self.more},
            Cache_Control="no-store",
        )

    def _may_have(self, form: Mapping[str, str]) -> bool:
        client = (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.client_secret)
        match form.get("grant_type"):
            case "client_credentials":
                return client
            case "refresh_token":
                return client and self.refresh_token is not None and form.get("refresh_token") == self.refresh_token
            case "urn:ietf:params:oauth:grant-type:jwt-bearer":
                return self.public_key is not None and self._verified(form.get("assertion", ""))
        return False

    def _verified(self, assertion: str) -> bool:
        import jwt

        # Not its expiry: the clock of the test need not be the machine's.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
        try:
            claims = jwt.decode(assertion, self.public_key or "", algorithms=["RS256"], options=options)
        except jwt.PyJWTError:
            return False
        return bool(claims.get("iss") == self.client_id)


@dataclass
class Signature(Rule):
    """An HMAC with SHA-256 in a header.

    :param content: what is signed.
    """

    header: str
    secret: bytes
    content: Callable[[Request], bytes] = lambda request: request.body
    encode: Callable[[bytes], str] = bytes.hex
    refusal: Reply = UNAUTHORISED

    def refuse(self, request: Request, now: float) -> Reply | None:
        expected = self.encode(hmac.digest(self.secret, self.content(request), hashlib.sha256))
        found = request.headers.get(self.header, "")
        return None if any(hmac.compare_digest(expected, part) for part in found.split()) else self.refusal


@dataclass
class StandardWebhooks(Rule):
    """Signatures of https://www.standardwebhooks.com over id, time and body. ``ids`` has the id of each message.

    :param secret: text that begins with ``whsec_``.
    :param tolerance: seconds that the clocks may differ.
    """

    secret: str
    tolerance: float = 300.0
    refusal: Reply = UNAUTHORISED
    ids: list[str] = field(default_factory=list, init=False)

    def refuse(self, request: Request, now: float) -> Reply | None:
        signature = Signature(
            "webhook-signature",
            base64.b64decode(self.secret.removeprefix("whsec_")),
            content=_webhook_content,
            encode=lambda digest: "v1," + base64.b64encode(digest).decode(),
        )
        sent = request.headers.get("webhook-timestamp", "")
        if not sent.isdigit() or abs(int(sent) - now) > self.tolerance or signature.refuse(request, now):
            return self.refusal
        self.ids.append(request.headers["webhook-id"])
        return None


def _webhook_content(request: Request) -> bytes:
    message = f"{request.headers.get('webhook-id', '')}.{request.headers.get('webhook-timestamp', '')}."
    return message.encode() + request.body
