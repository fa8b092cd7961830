"""The driver of HTTP destinations sends each request once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from airflow_reverse_etl.destinations.http import Reply
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Outcome, Receipts
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing.fakes import CountingLimiter
from tests.destinations.json_api import api, batch, sync
from tests.http.local_server import Answer, Received, serving


class DroppingServer:
    """A server that reads each request and closes the connection without an answer."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[DroppingServer]:
        dropping = cls()
        server = await asyncio.start_server(dropping._drop, "127.0.0.1", 0)
        dropping.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield dropping

    async def _drop(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.decode().split(" ")[0])
        writer.close()


@pytest.mark.parametrize(("operation", "method"), [(Operation.UPSERT, "PUT"), (Operation.DELETE, "DELETE")])
async def test_aiohttp_does_not_repeat_a_request_whose_connection_broke(operation: Operation, method: str) -> None:
    """Fails when aiohttp renames the private attribute that the driver sets."""
    async with DroppingServer.running() as server:
        destination = api(
            ConnectionInfo("crm", "http", host=server.url),
            mode="mirror",
            match_on="id",
            method=method,
            operations={"delete": {}},
        )
        await destination.open(CountingLimiter())
        try:
            receipts = await destination.send(batch({"id": 1}, operation=operation))
        finally:
            await destination.close()
    assert server.requests == [method]
    assert receipts.of("k1").outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_aiohttp_repeats_such_a_request_by_default(method: str) -> None:
    """Without this the test above would prove nothing."""
    async with DroppingServer.running() as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.request(method, server.url)
    assert server.requests == [method, method]


@pytest.mark.parametrize(("status", "taken"), [(200, False), (202, True), (204, False)])
def test_a_status_that_says_later_says_so_in_the_receipts(status: int, taken: bool) -> None:
    assert api().answer(batch({"id": 1}), Reply(status)) == Receipts(taken=taken)


async def test_a_load_continues_with_credentials_that_were_renewed_while_it_ran() -> None:
    """Ten requests with the old token, then the API takes only the new one, which the connection has by then."""
    written: list[bytes] = []

    def answer(request: Received) -> Answer:
        valid = "old" if len(written) < 10 else "new"
        if request.headers["Authorization"] != f"Bearer {valid}":
            return Answer(401, {"message": "token expired"})
        written.append(request.body)
        return Answer()

    with serving(answer) as server:
        old = ConnectionInfo("crm", "http", host=server.url, password="old")
        new = replace(old, password="new")
        destination = create(sync({}), connection=old, lookup=lambda _: new)
        await destination.open(CountingLimiter())
        receipts = [await destination.send(batch({"id": number})) for number in range(20)]
        await destination.close()
    assert {found.of("k1").outcome for found in receipts} == {Outcome.ACCEPTED}
    assert len(written) == 20
    assert len(server.received) == 21
