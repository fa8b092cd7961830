"""A server that answers as a function says, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson


@dataclass(frozen=True)
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """Answer of the server; without a status it closes the connection."""

    status: int | None = 200
    json: object = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A running server."""

    url: str
    received: list[Received]

    def header(self, name: str) -> list[str]:
        """Return the values of a header, one for each request that was received."""
        return [request.headers.get(name, "") for request in self.received]


@contextmanager
def serving(answer: Callable[[Received], Answer]) -> Iterator[Server]:
    """Run a server on a free port until the context exits."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Received(self.command, self.path, self.headers, body)
            received.append(request)
            found = answer(request)
            if found.status is None:
                self.close_connection = True
                return
            data = orjson.dumps(found.json) if found.json is not None else b""
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", received)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
