"""Deliveries are accepted if they are signed, fresh and new. Unsigned requests learn nothing and reach nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_reverse_etl.dbt_cloud.models import RunStatus
from airflow_reverse_etl.dbt_cloud.webhooks import Delivery, sign
from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.hooks.dbt_cloud import DbtCloudApiHook
from airflow_reverse_etl.plugins import dbt_cloud_webhook
from airflow_reverse_etl.plugins.dbt_cloud_webhook import PREFIX, Receiver, connection_secrets, emit_asset_event
from airflow_reverse_etl.triggers import dbt_cloud_job
from tests.dbt_cloud.server import BODY, DbtCloudServer, post

pytestmark = pytest.mark.airflow

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "s3cret"


class Desk:
    """A receiver, and a record of its requests and writes."""

    def __init__(self, **options: Any) -> None:
        self.lookups: list[str] = []
        self.events: list[Delivery] = []
        self.secrets: tuple[str, ...] = ("old", SECRET)
        self.problem: Exception | None = None
        self.receiver = Receiver(
            frozenset({"dbt_cloud"}), secrets_of=self._secrets_of, emit=self._emit, now=lambda: NOW, **options
        )

    def _secrets_of(self, conn_id: str) -> tuple[int, tuple[str, ...]]:
        self.lookups.append(conn_id)
        if self.problem:
            raise self.problem
        return 1, self.secrets

    def _emit(self, conn_id: str, delivery: Delivery) -> None:
        if self.problem:
            raise self.problem
        self.events.append(delivery)

    async def send(
        self,
        body: dict[str, Any] | bytes,
        *,
        secret: str = SECRET,
        path: str = "dbt_cloud",
        method: str = "POST",
        **more: Any,
    ) -> int:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = more.get("signature", sign(raw, secret))
        headers = [(b"authorization", signature.encode())] if signature else []
        scope = {"type": "http", "method": method, "path": f"{PREFIX}/{path}", "root_path": PREFIX, "headers": headers}
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def answer(message: Any) -> None:
            sent.append(message)

        await self.receiver(scope, more.get("receive", receive), answer)
        assert sent[1]["body"] == b""
        return int(sent[0]["status"])


def delivery(**changes: Any) -> dict[str, Any]:
    data = {**BODY["data"], **changes.pop("data", {})}  # type: ignore[dict-item]
    return {**BODY, **changes, "data": data}


async def test_a_signed_delivery_becomes_an_event_once() -> None:
    desk = Desk()
    assert [await desk.send(BODY), await desk.send(BODY)] == [200, 200]
    assert [event.run.id for event in desk.events] == [12345]


async def test_a_secret_that_is_being_replaced_still_counts() -> None:
    assert await Desk().send(BODY, secret="old") == 200


@pytest.mark.parametrize(
    "about",
    [
        {"secret": "guess"},
        {"signature": None},
        {"signature": "x" * 64},
        {"signature": "Bearer abc"},
        {"path": "other"},
        {"path": ""},
        {"path": "dbt_cloud/x"},
        {"method": "GET"},
    ],
)
async def test_unknown_senders_all_get_the_same_answer(about: dict[str, Any]) -> None:
    desk = Desk()
    assert await desk.send(BODY, **about) == 404
    assert not desk.events


async def test_a_changed_body_is_refused() -> None:
    raw = json.dumps(BODY).encode()
    assert await Desk().send(raw + b" ", signature=sign(raw, SECRET)) == 404


async def test_a_flood_of_forged_requests_asks_for_the_secret_once() -> None:
    desk = Desk()
    assert {await desk.send(BODY, secret="guess") for _ in range(500)} == {404}
    assert {await desk.send(BODY, path=f"guess{n}") for n in range(500)} == {404}
    assert desk.lookups == ["dbt_cloud"]
    assert not desk.events


async def test_a_flood_reaches_no_secrets_backend_that_fails_either() -> None:
    desk = Desk()
    desk.problem = CredentialsError("no such connection")
    assert {await desk.send(BODY) for _ in range(100)} == {404}
    assert len(desk.lookups) == 1


async def test_concurrent_first_deliveries_look_the_secret_up_once() -> None:
    desk = Desk()
    assert set(await asyncio.gather(*(desk.send(BODY) for _ in range(20)))) == {200}
    assert len(desk.lookups) == 1


@pytest.mark.parametrize("at", [NOW - timedelta(hours=2), NOW + timedelta(hours=1)])
async def test_old_and_future_deliveries_are_refused(at: datetime) -> None:
    desk = Desk()
    assert await desk.send(delivery(timestamp=at.isoformat())) == 400
    assert not desk.events


async def test_a_delivery_of_another_account_is_refused() -> None:
    assert await Desk().send(delivery(accountId=2)) == 400


async def test_what_is_signed_but_no_delivery_is_refused() -> None:
    assert await Desk().send(b"[]") == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"eventType": "job.run.started"},
        {"eventType": "job.run.errored", "data": {"runStatusCode": 20}},
        {"data": {"runStatusCode": 20}},
        {"data": {"runStatusCode": 30}},
    ],
)
async def test_anything_but_a_success_is_taken_and_starts_nothing(changes: dict[str, Any]) -> None:
    desk = Desk()
    assert await desk.send(delivery(**changes)) == 200
    assert not desk.events


async def test_a_delivery_that_could_not_be_written_comes_again() -> None:
    desk = Desk()
    await desk.send(delivery(eventId="first"))
    desk.problem = RuntimeError("database is locked")
    assert await desk.send(BODY) == 503
    desk.problem = None
    assert await desk.send(BODY) == 200
    assert len(desk.events) == 2


async def test_large_and_slow_senders_are_cut_off() -> None:
    desk = Desk(read_seconds=0.05)
    assert await desk.send(b"x" * 70_000) == 404

    async def never() -> Any:
        await asyncio.sleep(10)

    assert await desk.send(BODY, receive=never) == 404
    assert not desk.lookups


# --- in Airflow's API server, from dbt Cloud ---


@pytest.fixture
def api_server(airflow_db: None) -> Iterator[str]:
    """Serve a plugin's application as Airflow does: mounted in FastAPI, served by uvicorn."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    receiver = Receiver(frozenset({"dbt_cloud"}), secrets_of=connection_secrets, emit=emit_asset_event)
    app.mount(PREFIX, receiver)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}/dbt_cloud"
        server.should_exit = True
        thread.join()


def events_of(name: str) -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.name == name)
        return [event.extra for event in session.scalars(query)]


def test_a_webhook_is_created_tested_and_deleted(cloud: DbtCloudServer, connect: Any, api_server: str) -> None:
    hook, job = DbtCloudApiHook("dbt_cloud"), cloud.add_job()
    created = hook.create_webhook(job, api_server)
    connect(webhook_secret=created["hmac_secret"])
    assert [row["id"] for row in hook.list_webhooks(job)] == [created["id"]]
    assert hook.list_webhooks(job + 1) == []
    assert "hmac_secret" not in hook.list_webhooks()[0]
    assert hook.test_webhook(created["id"])["verification_status_code"] == 200
    hook.delete_webhook(created["id"])
    assert hook.list_webhooks() == []


def test_a_finished_job_starts_its_dag(
    cloud: DbtCloudServer, connect: Any, api_server: str, store_dag: Callable[[DAG], None]
) -> None:
    """The watcher's event comes within a second, and once even if dbt Cloud repeats the delivery."""
    job = cloud.add_job()
    asset = dbt_cloud_job("dbt_cloud", job)
    with DAG("by_webhook", schedule=[asset]) as dag:
        pass
    store_dag(dag)
    connect(webhook_secret=[DbtCloudApiHook("dbt_cloud").create_webhook(job, api_server)["hmac_secret"]])
    cloud.add_run(job, status=RunStatus.ERROR)
    started = time.monotonic()
    run = cloud.add_run(job)
    assert time.monotonic() - started < 1
    assert [sent["status"] for sent in cloud.deliveries] == [200, 200]
    body = cloud.deliveries[-1]["body"]
    again = json.dumps({**json.loads(body), "eventId": "wev_other"}).encode()  # another API server knows no event ids
    secret = next(iter(cloud._webhooks.values()))["hmac_secret"]
    assert post(api_server, again, signature=sign(again, secret)) == 200
    events = events_of(asset.name)
    assert [event["payload"]["run_id"] for event in events] == [run]
    assert set(events[0]["payload"]) == {
        "run_id", "job_id", "status", "finished_at", "git_sha", "git_branch", "project_id", "environment_id", "href",
    }  # fmt: skip


def test_without_a_dag_a_delivery_is_taken_and_starts_nothing(
    cloud: DbtCloudServer, connect: Any, api_server: str
) -> None:
    job = cloud.add_job(job_id=99)
    connect(webhook_secret=DbtCloudApiHook("dbt_cloud").create_webhook(job, api_server)["hmac_secret"])
    cloud.add_run(job)
    assert [sent["status"] for sent in cloud.deliveries] == [200]
    assert events_of(f"dbt_cloud/dbt_cloud/{job}") == []


def test_nothing_is_served_unless_a_connection_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dbt_cloud_webhook._apps() == []
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__DBT_CLOUD_WEBHOOKS", "dbt_cloud, other")
    dbt_cloud_webhook.settings.cache_clear()
    assert [app["url_prefix"] for app in dbt_cloud_webhook._apps()] == [PREFIX]
