"""The contract in the docstring of the demo's CRM."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from dags_examples.demo.crm import Contacts, RateLimit, application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKEN = {"Authorization": "Bearer s3cret"}
Crm = TestClient[Any, Any]


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
async def crm(tmp_path: Path, ticks: Ticks) -> AsyncIterator[Crm]:
    app = application(Contacts(tmp_path / "crm.sqlite"), token="s3cret", limit=RateLimit(3, ticks))
    async with TestClient(TestServer(app), headers=TOKEN) as client:
        yield client


async def upsert(crm: Crm, *records: Any) -> tuple[int, Any]:
    reply = await crm.post("/v1/contacts/batch/upsert", json={"records": list(records)})
    return reply.status, await reply.json()


async def test_upsert_creates_then_merges_and_null_clears(crm: Crm) -> None:
    status, reply = await upsert(crm, {"email": "a@x.io", "properties": {"plan": "pro", "city": "Bonn"}})
    assert (status, reply["results"]) == (200, [{"email": "a@x.io", "status": "created"}])
    _, reply = await upsert(crm, {"email": "A@x.io", "properties": {"plan": "free", "city": None}})
    assert reply["results"][0]["status"] == "updated"
    held = await (await crm.get("/v1/contacts")).json()
    assert held == {"total": 1, "records": [{"email": "a@x.io", "properties": {"plan": "free"}}]}


async def test_refused_records_are_named_and_the_others_written(crm: Crm) -> None:
    status, reply = await upsert(crm, {"email": "ok@x.io"}, {"email": "no"}, {"email": "z@spam.example"})
    assert status == 207
    assert [row["email"] for row in reply["results"]] == ["ok@x.io"]
    assert [(row["email"], row["code"]) for row in reply["errors"]] == [
        ("no", "INVALID_EMAIL"),
        ("z@spam.example", "BLOCKED_DOMAIN"),
    ]
    assert (await (await crm.get("/v1/contacts")).json())["total"] == 1


async def test_delete_is_repeatable(crm: Crm) -> None:
    await upsert(crm, {"email": "a@x.io"})
    statuses = []
    for _ in range(2):
        reply = await crm.post("/v1/contacts/batch/delete", json={"records": [{"email": "a@x.io"}]})
        statuses.append((await reply.json())["results"][0]["status"])
    assert statuses == ["deleted", "absent"]


@pytest.mark.parametrize("body", ["[]", "no json", '{"records": []}', '{"records": 1}'])
async def test_a_bad_body_is_a_400(crm: Crm, body: str) -> None:
    assert (await crm.post("/v1/contacts/batch/upsert", data=body)).status == 400


async def test_more_than_a_hundred_records_are_refused_whole(crm: Crm) -> None:
    status, _ = await upsert(crm, *({"email": f"{i}@x.io"} for i in range(101)))
    assert status == 400
    assert (await (await crm.get("/v1/contacts")).json())["total"] == 0


async def test_no_token_no_answer(crm: Crm) -> None:
    async with aiohttp.ClientSession() as stranger:
        assert (await stranger.get(crm.make_url("/v1/contacts"))).status == 401


async def test_the_rate_limit_answers_429_with_a_retry_after_that_suffices(crm: Crm, ticks: Ticks) -> None:
    seen = [await crm.post("/v1/contacts/batch/upsert", json={"records": [{"email": "a@x.io"}]}) for _ in range(4)]
    assert [reply.status for reply in seen] == [200, 200, 200, 429]
    ticks.now += int(seen[-1].headers["Retry-After"])
    assert (await upsert(crm, {"email": "a@x.io"}))[0] == 200
    stats = await (await crm.get("/v1/stats")).json()
    assert stats == {"requests": 5, "throttled": 1, "rows": 4, "rejected": 0}


def test_as_a_process_it_prints_its_address_and_keeps_contacts_on_disk(tmp_path: Path) -> None:
    from urllib.request import Request, urlopen

    command = [sys.executable, "-m", "dags_examples.demo.crm", "--data", str(tmp_path / "crm.sqlite")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CRM_TOKEN": "s3cret"}
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip() + "/v1/contacts/batch/upsert"
            with urlopen(Request(url, b'{"records": [{"email": "a@x.io"}]}', TOKEN)) as reply:
                assert reply.status == 200
        finally:
            server.terminate()
    assert Contacts(tmp_path / "crm.sqlite").all() == [{"email": "a@x.io", "properties": {}}]
