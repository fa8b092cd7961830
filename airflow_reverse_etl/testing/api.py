"""Local JSON API with the same dials as the fake destination, for tests of HTTP clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing.fakes import Dials, Table

if TYPE_CHECKING:
    from aiohttp import web

#: Default token of :class:`FakeApi`.
TOKEN = "a-secret-token"  # noqa: S105 - of a fake


class FakeApi:
    """JSON API over real HTTP. Use it as an async context manager.

    ======================================  =======================================================================
    ``POST /rows/<operation>``              ``{"records": [{"id": …, …}, …]}`` → 200, or 207 when some rows failed:
                                            ``{"written": n, "errors": [{"id", "code", "message"}]}``
    ``PUT | PATCH | DELETE /rows/<id>``     one row: upsert, update, delete → 200, 404, 409, 422
    ======================================  =======================================================================

    Rows are matched on ``id``. Requests need ``Authorization: Bearer <token>``. The API answers a refused batch with
    400, a throttled one with 429 and ``Retry-After``, and closes the connection for a lost request or answer. It
    ignores the dial for a crash, as it is not the process that dies.

    ``requests`` has the method, path, headers and JSON of every request.
    """

    def __init__(self, dials: Dials | None = None, *, token: str = TOKEN) -> None:
        self.dials = dials or Dials()
        self.token = token
        self.table = Table()
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""
        self._throttled = 0

    def connection(self, conn_id: str = "fake_api") -> ConnectionInfo:
        """Return a connection to this API."""
        return ConnectionInfo(conn_id, "http", host=self.url, password=TOKEN)

    @staticmethod
    def options(**others: Any) -> dict[str, Any]:
        """Return the ``destination:`` of a sync of type ``http`` to this API."""
        return {
            "type": "http",
            "connection": "fake_api",
            "match_on": "id",
            "path": "/rows/{{ operation }}",
            "records": "records",
            "operations": {"delete": {}},
            "results": {"list": "errors", "rows": "failed", "key": {"id": "id"}, "codes": {"TAKEN": "conflict"}},
            **others,
        }

    async def __aenter__(self) -> Self:
        from aiohttp import web

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/rows/{operation}", self._batch)
        for method in ("PUT", "PATCH", "DELETE"):
            app.router.add_route(method, "/rows/{id}", self._row)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop answering: the API is then unreachable."""
        await self._runner.cleanup()

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        operation = Operation(request.match_info["operation"])
        records = (await request.json())["records"]
        return await self._answer(request, operation, records)

    async def _row(self, request: web.Request) -> web.StreamResponse:
        operations = {"PUT": Operation.UPSERT, "PATCH": Operation.UPDATE, "DELETE": Operation.DELETE}
        record = await request.json() if request.can_read_body else {}
        return await self._answer(
            request, operations[request.method], [{**record, "id": request.match_info["id"]}], single=True
        )

    async def _answer(
        self, request: web.Request, operation: Operation, records: list[dict[str, Any]], *, single: bool = False
    ) -> web.StreamResponse:
        from aiohttp import web

        self.requests.append((request.method, request.raw_path, dict(request.headers), records))
        number = len(self.requests)
        dials = self.dials
        await asyncio.sleep(dials.latency)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"code": "UNAUTHORIZED", "message": "unknown token"}, status=401)
        if self._throttled < dials.throttle:
            self._throttled += 1
            headers = {"Retry-After": f"{dials.retry_after:g}"} if dials.retry_after is not None else {}
            return web.json_response({"code": "RATE_LIMIT"}, status=429, headers=headers)
        if number in dials.lose_request:
            return self._hang_up(request)
        if len(records) > 1 and any(str(record["id"]) in dials.refuse for record in records):
            return web.json_response({"code": "INVALID", "message": "a row is not acceptable"}, status=400)
        errors = [error for record in records if (error := self._write(operation, record))]
        if number in dials.lose_answer:
            return self._hang_up(request)
        if single and errors:
            status = {"INVALID": 422, "NOT_FOUND": 404, "TAKEN": 409}[errors[0]["code"]]
            return web.json_response(errors[0], status=status)
        if single:
            return web.json_response({})
        reply = {"written": len(records) - len(errors), "errors": errors}
        status = 207 if errors else 200
        return web.json_response(reply, status=status)

    def _write(self, operation: Operation, record: dict[str, Any]) -> dict[str, Any] | None:
        key = str(record["id"])
        if key in self.dials.reject or key in self.dials.refuse:
            return {"id": record["id"], "code": "INVALID", "message": f"row {key} is not acceptable"}
        if self.table.is_taken(self.dials.unique, key, record):
            return {"id": record["id"], "code": "TAKEN", "message": f"another record has this {self.dials.unique}"}
        if not self.table.write(operation, key, record):
            return {"id": record["id"], "code": "NOT_FOUND", "message": "row not found"}
        return None

    @staticmethod
    def _hang_up(request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        assert request.transport is not None
        request.transport.abort()
        return web.Response()
