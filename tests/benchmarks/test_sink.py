"""The benchmark's sink counts what arrives, however a client cuts it into packets."""

from __future__ import annotations

import json
import socket

import pytest

from tests.benchmarks.contenders import sink

BODY = b'{"records": [{"email": "a"}, {"email": "b"}]}'
PLAIN = b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_requests_and_rows_are_counted(step: int) -> None:
    with sink(0.0) as url, socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = PLAIN + CHUNKED + PLAIN + b"GET / HTTP/1.1\r\n\r\n"
        for start in range(0, len(data), step):
            connection.sendall(data[start : start + step])
        reply = b""
        while b'"rows"' not in reply:
            reply += connection.recv(65536)
    assert reply.count(b"200 OK") == 4
    assert json.loads(reply.rsplit(b"\r\n\r\n")[-1]) == {"requests": 3, "rows": 6, "connections": 1}
