"""The HTTP server that every contender of the benchmark sends to: reads a request, counts it, answers ``{}``.

A bare asyncio protocol, because a web framework here would be slower than the clients it should measure. Runs as a
process of its own: ``python sink.py [delay in seconds]`` prints its port and serves until terminated. Each reply comes
``delay`` seconds after its request. ``GET`` answers the counts since the last ``GET``; a row is counted by its
``"email"`` field.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
_OK = _HEAD + b"2\r\n\r\n{}"
_COUNTS = {"requests": 0, "rows": 0, "connections": 0}


class Sink(asyncio.Protocol):
    """One connection: requests with ``Content-Length`` or chunked bodies, answered in order."""

    delay = 0.0
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _COUNTS["connections"] += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            length = self._length(head, end + 4)
            if length is None or len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._answer(head, body)

    def _length(self, head: bytes, start: int) -> int | None:
        """Bytes of the body, or None while they are not known."""
        at = head.find(b"content-length:")
        if at >= 0:
            stop = head.find(b"\r\n", at)
            return int(head[at + 15 : stop if stop >= 0 else None])
        if b"transfer-encoding: chunked" in head:
            end = self._buffer.find(b"0\r\n\r\n", start)
            return None if end < 0 else end + 5 - start
        return 0

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            counts = json.dumps(_COUNTS).encode()
            _COUNTS.update(dict.fromkeys(_COUNTS, 0))
            self._transport.write(_HEAD + str(len(counts)).encode() + b"\r\n\r\n" + counts)
            return
        _COUNTS["requests"] += 1
        _COUNTS["rows"] += body.count(b'"email"')
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self._transport.write, _OK)
        else:
            self._transport.write(_OK)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    Sink.delay = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())
