"""An API that refuses a request after it has written some of its rows, and the engine: no row is written twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.errors import FailurePolicyError
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sync.context import RunContext, SourceModel
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.sync.run import run_sync
from airflow_reverse_etl.testing import FrozenClock, MemoryStateStore, MemoryWarehouse, RecordingObserver
from tests.destinations.json_api import sync

OPTIONS = {
    "path": "/import",
    "statuses": {400: "partial"},
    "results": {"list": "failed_records", "rows": "failed", "index": "index", "accepted": "num_records_imported"},
}


class ImportApi:
    """Imports the good records of a request. If there are bad ones, it answers 400 and names them.

    :param silent: names none of them.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.imported: Counter[str] = Counter()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ImportApi]:
        runner = web.AppRunner(app := web.Application(), shutdown_timeout=0.1)
        app.router.add_post("/import", self._import)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _import(self, request: web.Request) -> web.Response:
        records = await request.json()
        bad = [place for place, record in enumerate(records) if record["name"] == "bad"]
        good = [record["id"] for place, record in enumerate(records) if place not in bad]
        self.imported.update(good)
        if not bad:
            return web.json_response({"code": 200, "num_records_imported": len(good)})
        body: dict[str, Any] = {"code": 400, "error": "some records are not valid"}
        if not self.silent:
            body |= {"num_records_imported": len(good), "failed_records": [{"index": place} for place in bad]}
        return web.json_response(body, status=400)


async def deliver(remote: ImportApi, mode: str) -> RunReport:
    """Send 12 rows, of which the fourth and the ninth are bad, in requests of five."""
    names = {f"r{at:02}": "bad" if at in (4, 9) else "good" for at in range(1, 13)}
    warehouse = MemoryWarehouse({"rows": [{"id": key, "name": name} for key, name in names.items()]})
    policy = {"max_rejected": "100%", "on_unknown": "fail"}
    spec = sync(OPTIONS, mode=mode, primary_key="id", rate={"batch_size": 5, "concurrency": 2}, failure=policy)
    destination = create(spec, connection=ConnectionInfo("crm", "http", host=remote.url))
    model = SourceModel("select * from rows", ("id",), warehouse)
    context = RunContext("run-1", MemoryStateStore(), observer=RecordingObserver(), clock=FrozenClock())
    return await run_sync(spec, model, destination, context)


@pytest.mark.parametrize("mode", ["insert", "append", "upsert"])
async def test_each_good_row_is_written_once_and_each_bad_one_rejected(mode: str) -> None:
    async with ImportApi().running() as remote:
        report = await deliver(remote, mode)
    assert (report.accepted, report.rejected, report.unknown) == (10, 2, 0)
    assert set(remote.imported.values()) == {1}
    assert len(remote.imported) == 10


async def test_rows_of_a_refusal_that_names_none_are_not_sent_again_if_that_is_not_safe() -> None:
    async with ImportApi(silent=True).running() as remote:
        with pytest.raises(FailurePolicyError) as caught:
            await deliver(remote, "insert")
    assert set(remote.imported.values()) == {1}
    report = caught.value.report
    assert report is not None
    assert (report.accepted, report.rejected, report.unknown) == (2, 0, 10)
