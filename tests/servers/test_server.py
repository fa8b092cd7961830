"""The base of test servers: cuts, partial writes, repeated requests, visibility."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, LOST_REQUEST, Cut, Fault, in_order
from tests.servers.messages import Reply
from tests.servers.rows_api import RowsApi
from tests.servers.shapes import failures_by_id

THREE: dict[str, Any] = {"records": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}


async def post(server: RowsApi, operation: str = "upsert", **options: Any) -> tuple[int, Any]:
    """Send three rows; returns the status and the JSON of the reply."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session,
        session.post(f"{server.url}/rows/{operation}", json=THREE, **options) as reply,
    ):
        return reply.status, await reply.json()


async def test_a_server_holds_what_it_was_sent() -> None:
    async with RowsApi(failures_by_id, bad=["b"]) as server:
        assert await post(server) == (
            200,
            {"written": 2, "errors": [{"id": "b", "code": "INVALID", "message": "this row is not valid"}]},
        )
        assert list(server.records.held) == ["a", "c"]
        assert await post(server, "delete") == (
            200,
            {"written": 2, "errors": [{**ERROR, "id": "b", "code": "INVALID"}]},
        )
        assert server.records.held == {}
    assert [request.json for request in server.requests] == [THREE, THREE]


ERROR = {"message": "this row is not valid"}


@pytest.mark.parametrize("cut", [cut for cut in Cut if cut is not Cut.SHORT])
async def test_an_answer_that_is_cut_off_is_an_error_of_the_client(cut: Cut) -> None:
    async with RowsApi(failures_by_id, fault=in_order([Fault(cut=cut)])) as server:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await post(server)
        assert len(server.records.held) == 3
        assert (await post(server))[0] == 200


async def test_a_short_answer_looks_complete() -> None:
    async with (
        RowsApi(failures_by_id, fault=in_order([Fault(cut=Cut.SHORT)])) as server,
        aiohttp.ClientSession() as client,
    ):
        reply = await client.post(f"{server.url}/rows/upsert", json=THREE)
        assert (reply.status, await reply.text()) == (200, '{"written": 3,')


@pytest.mark.parametrize(
    ("fault", "written"), [(LOST_REQUEST, 0), (LOST_ANSWER, 3), (Fault(writes=2, cut=Cut.RESET), 2)]
)
async def test_a_fault_says_how_much_of_a_request_is_carried_out(fault: Fault, written: int) -> None:
    async with RowsApi(failures_by_id, fault=in_order([fault])) as server:
        with pytest.raises(aiohttp.ClientError):
            await post(server)
        assert len(server.records.held) == written


async def test_a_part_is_written_before_an_error() -> None:
    """Mixpanel answers 400 after it took the good events."""
    fault = Fault.instead(Reply.of({"error": "some data points failed"}, 400), writes=2)
    async with RowsApi(failures_by_id, fault=in_order([fault])) as server:
        assert await post(server) == (400, {"error": "some data points failed"})
        assert list(server.records.held) == ["a", "b"]


async def test_a_row_that_is_inserted_twice_is_counted() -> None:
    async with RowsApi(failures_by_id) as server:
        await post(server, "insert")
        await post(server, "insert")
        assert server.records.twice(Operation.INSERT) == {"a", "b", "c"}
        assert server.records.twice(Operation.UPSERT) == set()


async def test_a_key_that_is_known_gets_the_earlier_reply() -> None:
    async with RowsApi(failures_by_id, idempotency_header="Idempotency-Key") as server:
        first = await post(server, "insert", headers={"idempotency-key": "1"})
        server.bad = ["a"]
        assert await post(server, "insert", headers={"idempotency-key": "1"}) == first
        assert server.records.twice(Operation.INSERT) == set()
        assert (await post(server, "insert", headers={"idempotency-key": "2"}))[1]["written"] == 2


async def test_reads_lag_behind_writes() -> None:
    clock = QuietClock()
    async with RowsApi(failures_by_id, clock=clock, visible_after=5) as server:
        await post(server)
        assert server.records.seen("a") is None
        clock.advance(5)
        assert server.records.seen("a") == {"id": "a"}
        await post(server, "delete")
        assert server.records.seen("a") == {"id": "a"}
        clock.advance(5)
        assert server.records.seen("a") is None


async def test_requests_may_come_in_chunks() -> None:
    async def chunks() -> Any:
        yield b'{"records": [{"id":'
        yield b'"a"}]}'

    async with RowsApi(failures_by_id) as server, aiohttp.ClientSession() as client:
        reply = await client.post(f"{server.url}/rows/upsert", data=chunks())
        assert (await reply.json())["written"] == 1
        assert (await client.delete(f"{server.url}/nothing/here")).status == 404


async def test_a_server_that_stopped_takes_no_connection() -> None:
    async with RowsApi(failures_by_id) as server:
        await server.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(server)


async def test_time_moves_only_when_nothing_happens() -> None:
    clock = QuietClock()
    async with RowsApi(failures_by_id, clock=clock) as server:
        for _ in range(5):
            await post(server)
        assert clock.monotonic() == 0
        await clock.sleep(86_400)
        assert clock.monotonic() == 86_400
