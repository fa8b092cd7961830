"""Requests that are signed: with a JSON Web Token, or with an HMAC."""

from __future__ import annotations

import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.http.auth.keys import Auth, AuthFlow
from airflow_reverse_etl.http.messages import Request

#: Life of a signed token, in seconds. Salesforce accepts at most five minutes, Google an hour.
_TOKEN_SECONDS = 180


@dataclass(frozen=True, slots=True)
class SignedJwt(Auth):
    """A signed token in each request, as a GitHub App sends it; the key is never sent.

    :param claims: the token's claims; the times are added.
    :param seconds: life of a token.
    """

    private_key: str = field(repr=False)
    claims: Mapping[str, Any]
    algorithm: str = "RS256"
    seconds: int = _TOKEN_SECONDS
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def authenticate(self, request: Request) -> AuthFlow:
        """Add a fresh token."""
        yield from ()  # makes the function a flow
        token = sign_jwt(
            self.claims, self.private_key, now=self.clock(), algorithm=self.algorithm, seconds=self.seconds
        )
        return request.with_header("Authorization", f"Bearer {token}")


def restored_pem(key: str) -> str:
    """Return a PEM text with its line breaks, which forms and JSON turn into ``\\n``, CRLF, blanks or nothing."""
    text = key.replace("\\r", "").replace("\\n", "\n").replace("\r\n", "\n").strip()
    found = re.fullmatch(r"(-----BEGIN [A-Z0-9 ]+-----)(.+)(-----END [A-Z0-9 ]+-----)", text, re.DOTALL)
    if not found or "\n" in found[2].strip():
        return text + "\n"
    first, body, last = found.groups()
    # The headers of an old encrypted key stand before an empty line.
    headers = re.findall(r"(?:Proc-Type|DEK-Info): ?\S+", body)
    for header in headers:
        body = body.replace(header, "")
    body = re.sub(r"\s", "", body)
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([first, *headers, *([""] if headers else []), *lines, last]) + "\n"


def sign_jwt(
    claims: Mapping[str, Any], key: str, *, now: float, algorithm: str = "RS256", seconds: int = _TOKEN_SECONDS
) -> str:
    """Return a signed JSON Web Token that begins a minute ago, as clocks differ.

    :raises CredentialsError: the key cannot be read.
    """
    import jwt

    times = {"iat": int(now) - 60, "exp": int(now) + seconds}
    try:
        return jwt.encode({**times, **claims}, restored_pem(key), algorithm=algorithm)
    except (ValueError, TypeError, NotImplementedError, jwt.PyJWTError):  # their texts may quote the key
        raise CredentialsError(
            "the private key cannot be read", todo="paste the whole .pem file, without a passphrase"
        ) from None


@dataclass(frozen=True, slots=True)
class Hmac(Auth):
    """A signature of each request, made with a shared secret.

    :param header: header for the signature.
    :param content: what is signed: a text with ``{method}``, ``{path}``, ``{timestamp}``, ``{id}`` and ``{body}``.
    :param value: the header's value: a text with ``{signature}``, and ``{timestamp}`` if the API wants it there.
    :param algorithm: name of the hash function, as :mod:`hashlib` has it.
    :param encoding: ``hex`` or ``base64``.
    :param others: more headers, with the same variables as ``content``, except ``{body}``.
    """

    secret: bytes = field(repr=False)
    header: str
    content: str = "{body}"
    value: str = "{signature}"
    algorithm: str = "sha256"
    encoding: str = "hex"
    others: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The shared secret as text."""
        return (self.secret.decode(errors="ignore"), b64encode(self.secret).decode())

    @classmethod
    def standard_webhooks(cls, secret: str, *, clock: Callable[[], float] = time.time) -> Hmac:
        """Return the signature that the Standard Webhooks specification describes.

        :param secret: the secret in Base64, with or without the prefix ``whsec_``.
        :raises CredentialsError: the secret is not in Base64.
        """
        try:
            key = b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise CredentialsError(
                "the secret of the Standard Webhooks is not in Base64", todo="copy it again, with its prefix whsec_"
            ) from None
        return cls(
            key,
            "webhook-signature",
            content="{id}.{timestamp}.{body}",
            value="v1,{signature}",
            encoding="base64",
            others={"webhook-id": "{id}", "webhook-timestamp": "{timestamp}"},
            clock=clock,
        )

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the signature."""
        yield from ()  # makes the function a flow
        import hashlib
        import hmac

        body = request.body or b""
        values = {
            "method": request.method,
            "path": request.url,
            "timestamp": str(int(self.clock())),
            # The same content has the same id, so that the receiver recognises a repetition.
            "id": f"msg_{hashlib.sha256(body).hexdigest()[:32]}",
        }
        before, _, after = self.content.partition("{body}")
        signed = (
            before.format(**values).encode()
            + (body if "{body}" in self.content else b"")
            + after.format(**values).encode()
        )
        digest = hmac.new(self.secret, signed, self.algorithm).digest()
        signature = digest.hex() if self.encoding == "hex" else b64encode(digest).decode()
        headers = {name: text.format(**values) for name, text in self.others.items()}
        headers[self.header] = self.value.format(signature=signature, **values)
        return replace(request, headers={**(request.headers or {}), **headers})
