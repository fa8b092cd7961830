"""A Git host that a check reports to: server, connection and syncs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

from tests.check import hosts
from tests.check.hosts import Host
from tests.git.github import APP, PEM, GitHub
from tests.git.servers import HttpServer, Origin, certificate, git, http_server

Check = Callable[..., dict[str, Any]]
Logged = Callable[[], str]

COLUMNS = [f"c{n}" for n in range(60)]
SYNC = (
    "name: people\nmodel: customers\nsource: warehouse\nprimary_key: id\ndestination: {type: http}\nmapping:\n"
    + "".join(f"  {name}: {name}\n" for name in COLUMNS)
)
PREFIX = {hosts.github: "/api/v3", hosts.gitlab: "/api/v4", hosts.bitbucket: "/2.0"}


@contextmanager
def serving(origin: Origin, kind: Callable[..., Any], host: Host, app: GitHub | None = None) -> Iterator[HttpServer]:
    """Git and API of one host. With an App, its tokens are the only ones."""
    host.sha, folder = git(origin.bare, "rev-parse", "branch"), origin.bare.parents[1]
    if app:
        host.valid = app.valid

    def respond(method: str, url: str, headers: Message, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if app and ("/installation" in url):
            found: Any = app.answer(method, url, headers, json.loads(data) if data else None)
        else:
            found = hosts.answer(kind, host, method, url.removeprefix(PREFIX[kind]), headers, data)
        return found[0], list((found[2] if len(found) == 3 else {}).items()), json.dumps(found[1]).encode()

    pem = certificate(folder / "own.pem", "bitbucket.org", "api.bitbucket.org")
    user = {hosts.gitlab: "oauth2", hosts.bitbucket: "x-token-auth"}.get(kind, "x-access-token")
    with http_server(folder, tls=pem, api=respond, user=user, valid=host.valid) as server:
        host.url = f"https://127.0.0.1:{server.port}{PREFIX[kind]}"
        yield server


def app_fields(server: HttpServer, **extra: Any) -> dict[str, Any]:
    return {"host": server.url("acme/shop.git"), "extra": {"github_app_id": APP, "private_key": PEM, **extra}}
