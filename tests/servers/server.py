"""A test server: HTTP over a local socket, in the event loop of its test.

A client that blocks is called through ``asyncio.to_thread``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Self, final

from multidict import CIMultiDict

from airflow_reverse_etl.sync.clock import SystemClock
from airflow_reverse_etl.sync.ports import Clock, ConnectionInfo
from tests.servers.clock import QuietClock
from tests.servers.faults import Cut, Fault, FaultRule, no_fault
from tests.servers.messages import Reply, Request
from tests.servers.openapi import Contract
from tests.servers.records import AbandonedError, Records
from tests.servers.rules import Rule

NO_FAULT = Fault()


class Server:
    """Base class of test servers. Use a server as an async context manager.

    A subclass writes ``answer``, usually a ``match`` on method and segments of the path. Everything else is here: each
    request passes the rules in their order, then the contract; a request with the idempotency key of an earlier one
    gets the earlier reply; a fault may change any of it.

    ``requests`` has every request that arrived, ``replies`` what the server sent to each, or would have sent. At the
    end of the context, an error lists what broke the contract.

    :param rules: limits and credentials.
    :param clock: time of limits, tokens and visibility, usually a ``QuietClock``.
    :param fault: fault of each request; may be replaced at any time.
    :param idempotency_header: header by which the server recognises a repeated request.
    :param visible_after: seconds until a write shows in ``records.seen``.
    """

    contract: ClassVar[Contract | None] = None

    def __init__(
        self,
        *,
        rules: Sequence[Rule] = (),
        clock: Clock | None = None,
        fault: FaultRule = no_fault,
        idempotency_header: str | None = None,
        visible_after: float = 0.0,
    ) -> None:
        self.rules = list(rules)
        self.clock = clock or SystemClock()
        self.fault = fault
        self.records = Records(self._now, visible_after=visible_after)
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.violations: list[str] = []
        self.url = ""
        self._idempotency_header = idempotency_header
        self._earlier: dict[str, Reply] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def answer(self, request: Request) -> Reply:
        """Carry out a request that passed all rules, by ``self.records``."""
        raise NotImplementedError

    def connection(self, conn_id: str = "server", **fields: Any) -> ConnectionInfo:
        """Return a connection to this server."""
        return ConnectionInfo(conn_id, "http", host=self.url, **fields)

    @final
    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    @final
    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.stop()
        if kind is None and self.violations:
            raise AssertionError("the contract was broken:\n" + "\n".join(self.violations))

    async def stop(self) -> None:
        """Refuse connections from now on, and end the open ones."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _now(self) -> float:
        return self.clock.now().timestamp()

    # -- one connection --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader)) is not None:
                reply, cut = self._exchange(request)
                if cut is Cut.SILENCE:
                    await reader.read()
                if cut is Cut.RESET:
                    writer.transport.abort()
                writer.write(_bytes(reply, cut))
                if cut is not None:
                    break
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            self._connections.discard(task)
            writer.close()

    def _exchange(self, request: Request) -> tuple[Reply, Cut | None]:
        if isinstance(self.clock, QuietClock):
            self.clock.stir()
        self.requests.append(request)
        fault = self.fault(len(self.requests), request) or NO_FAULT
        try:
            with self.records.at_most(fault.writes):
                reply = self._answer(request)
        except AbandonedError:
            reply = Reply.of({"message": "the request was abandoned"}, 500)
        if fault.reply is not None:
            reply = fault.reply(reply)
        self.replies.append(reply)
        return reply, fault.cut

    def _answer(self, request: Request) -> Reply:
        now = self._now()
        refusals = (rule.refuse(request, now) for rule in self.rules)
        reply = next((refusal for refusal in refusals if refusal is not None), None)
        if reply is None:
            reply = self._carry_out(request)
        for rule in self.rules:
            reply = reply.with_headers(rule.headers(request, now))
        return reply

    def _carry_out(self, request: Request) -> Reply:
        key = request.headers.get(self._idempotency_header, "") if self._idempotency_header else ""
        if key in self._earlier:
            return self._earlier[key]
        if problems := self._checked(self.contract.of_request(request) if self.contract else []):
            return Reply.of({"message": problems}, 400)
        reply = self.answer(request)
        self._checked(self.contract.of_reply(request, reply) if self.contract else [])
        if key:
            self._earlier[key] = reply
        return reply

    def _checked(self, problems: list[str]) -> str:
        self.violations += problems
        return "; ".join(problems)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """Read a request, or None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    pairs = [line.partition(":") for line in lines]
    headers = CIMultiDict((name, value.strip()) for name, _, value in pairs)
    length = int(headers.get("Content-Length", 0))
    body = await (_read_chunks(reader) if "Transfer-Encoding" in headers else reader.readexactly(length))
    return Request(method, target, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _bytes(reply: Reply, cut: Cut | None) -> bytes:
    """Return what the server writes of a reply before it cuts."""
    if cut in (Cut.CLOSE, Cut.RESET, Cut.SILENCE):
        return b""
    if cut is Cut.GARBAGE:
        return b"\x16\x03\x01\x02\x00\x01\x00 not HTTP\r\n\r\n"
    half = reply.body[: (len(reply.body) + 1) // 2]
    if cut is Cut.SHORT:
        return _head(reply, "") + half
    if cut is Cut.CHUNK:
        return _head(reply, "Transfer-Encoding: chunked\r\n") + b"%x\r\n" % (len(reply.body) + 1) + half
    whole = _head(reply, f"Content-Length: {len(reply.body) + (cut is Cut.BODY)}\r\n")
    if cut is Cut.HEAD:
        return whole[: len(whole) // 2]
    return whole + (half if cut is Cut.BODY else reply.body)


def _head(reply: Reply, framing: str) -> bytes:
    phrase = HTTPStatus(reply.status).phrase if reply.status in _PHRASES else "Status"
    lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in reply.headers.items())]
    if reply.status == HTTPStatus.NO_CONTENT:
        framing = ""
    return ("\r\n".join(lines) + "\r\n" + framing + "\r\n").encode("latin-1")


_PHRASES = frozenset(HTTPStatus)
