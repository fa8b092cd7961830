"""A local GitHub that serves the calls of an App by their published rules.

Source: GitHub REST API 2022-11-28, ``apps/apps`` ("Get a repository installation for the authenticated app", "Create an
installation access token for an app"), and "Generating a JSON Web Token for a GitHub App".
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()
APP, INSTALLATION, REPOSITORY = "12345", 678, "acme/shop"


@dataclass
class GitHub:
    """State of the server.

    :param life: seconds until a token expires.
    :param fault: status and message to answer with instead of a token.
    :param clock: seconds by which the server's clock is ahead of ours.
    """

    port: int = 0
    life: float = 3600
    fault: tuple[int, str] | None = None
    clock: float = 0
    tokens: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    expires: dict[str, float] = field(default_factory=dict)
    bodies: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{REPOSITORY}.git"

    def valid(self, token: str) -> bool:
        """Return whether the token was issued and has not expired."""
        return token in self.tokens and time.time() + self.clock < self.expires[token]

    def answer(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        scheme, _, signed = headers["Authorization"].partition(" ")
        try:
            claims = jwt.decode(signed, KEY.public_key(), algorithms=["RS256"], options={"verify_iat": False})
            now = time.time() + self.clock
        except jwt.PyJWTError:
            return 401, {"message": "A JSON web token could not be decoded"}
        if scheme != "Bearer" or claims["iss"] != APP or not 0 < claims["exp"] - now <= 600:
            return 401, {"message": "Integration not found, or 'exp' is too far in the future"}
        if method == "GET" and path.startswith("/api/v3/repos/"):
            found = path == f"/api/v3/repos/{REPOSITORY}/installation"
            return (200, {"id": INSTALLATION}) if found else (404, {"message": "Not Found"})
        if (method, path) != ("POST", f"/api/v3/app/installations/{INSTALLATION}/access_tokens"):
            return 404, {"message": "Not Found"}
        if self.fault:
            return self.fault[0], {"message": self.fault[1]}
        self.bodies.append(body)
        if any(name != "shop" for name in body.get("repositories", [])):
            return 422, {"message": "There is at least one repository that does not exist or is not accessible"}
        self.tokens.append(f"ghs_s3cret{len(self.tokens)}")
        until = datetime.now(UTC) + timedelta(seconds=self.clock + self.life)
        self.expires[self.tokens[-1]] = until.timestamp()
        return 201, {"token": self.tokens[-1], "expires_at": until.strftime("%Y-%m-%dT%H:%M:%SZ")}


@contextmanager
def github() -> Iterator[GitHub]:
    state = GitHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            status, answer = state.answer(self.command, self.path, self.headers, json.loads(body) if body else None)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _handle  # noqa: N815 - names that http.server looks for

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
