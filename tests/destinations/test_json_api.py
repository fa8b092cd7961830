"""Destination type ``http``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from airflow_reverse_etl.destinations.http import Reply
from airflow_reverse_etl.destinations.json_api import JsonApi
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination
from airflow_reverse_etl.sync.receipts import Batch, Operation, Receipts
from airflow_reverse_etl.sync.spec import Sync
from airflow_reverse_etl.testing.api import FakeApi
from airflow_reverse_etl.testing.conformance import DestinationConformance
from airflow_reverse_etl.testing.fakes import Dials

CONNECTION = ConnectionInfo("crm", "http", host="api.example.com", password="s3cret")


def sync(destination: Mapping[str, Any], *, mode: str = "upsert", **others: Any) -> Sync:
    return Sync.load(
        {
            "name": "rows",
            "model": "rows",
            "source": "warehouse",
            "mode": mode,
            "mapping": {"id": "id", "name": "name"},
            "destination": {"type": "http", "connection": "crm", "path": "/rows", **destination},
            **others,
        }
    )


def api(connection: ConnectionInfo = CONNECTION, *, mode: str = "upsert", **destination: Any) -> JsonApi:
    made = create(sync(destination, mode=mode), connection=connection)
    assert isinstance(made, JsonApi)
    return made


def batch(*records: Mapping[str, Any], operation: Operation = Operation.UPSERT) -> Batch:
    return Batch(operation, range(1, len(records) + 1), [f"k{n}" for n in range(1, len(records) + 1)], records, "run-1")


def talk(destination: JsonApi, sent: Batch, *replies: Reply) -> tuple[list[Any], Receipts]:
    """Drive a flow with these replies; returns its requests and the receipts."""
    flow = destination.flow(sent)
    requests, answers = [], iter(replies)
    try:
        request = next(flow)
        while True:
            requests.append(request)
            request = flow.send(next(answers))
    except StopIteration as end:
        return requests, end.value


def reply(status: int, body: Any = None, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode() if body is not None else b"", headers)


def outcomes(receipts: Receipts, sent: Batch) -> list[str]:
    return [receipts.of(key).outcome.value for key in sent.keys]


class FakeApiRemote:
    def __init__(self, api: FakeApi, options: Mapping[str, Any]) -> None:
        self._api, self._options = api, options

    def create(self, mode: str) -> Destination:
        return create(sync(self._api.options(**self._options), mode=mode), connection=self._api.connection())

    async def stored(self) -> Mapping[str, str | None]:
        return {key: row["name"] for key, row in self._api.table.rows.items()}

    def bad(self) -> dict[str, Any]:
        self._api.dials.reject = ["bad"]
        return {"id": "bad", "name": "someone's name"}

    def throttle(self, times: int, seconds: float) -> None:
        self._api.dials.throttle, self._api.dials.retry_after = times, seconds

    def lose_answer(self) -> None:
        self._api.dials.lose_answer = [1]

    def revoke(self) -> None:
        self._api.token = "another"

    async def stop(self) -> None:
        await self._api.stop()


BATCHES: dict[str, Any] = {
    "operations": {
        "delete": {},
        "update": {"results": None, "rows": "single", "method": "PATCH", "path": "/rows/{{ row.id }}", "records": None},
    }
}
SINGLE: dict[str, Any] = {
    "path": "/rows/{{ row.id }}",
    "method": "PUT",
    "rows": "single",
    "records": None,
    "results": None,
    "operations": {"update": {"method": "PATCH"}, "delete": {"method": "DELETE"}, "insert": {}},
}


class TestConformance(DestinationConformance):
    """Over real HTTP: many rows a request, one row a request, batches refused as a whole."""

    @pytest.fixture(params=["batches", "single", "all or nothing"])
    async def remote(self, request: pytest.FixtureRequest) -> AsyncIterator[FakeApiRemote]:
        async with FakeApi(Dials()) as fake:
            remote = FakeApiRemote(fake, SINGLE if request.param == "single" else BATCHES)
            if request.param == "all or nothing":
                remote.bad = lambda: setattr(fake.dials, "refuse", ["bad"]) or {"id": "bad", "name": "x"}  # type: ignore[method-assign]
            yield remote
