"""Receiver of dbt Cloud's webhook deliveries: ``POST /reverse-etl/dbt-cloud/<connection id>`` on the API server.

It serves only the connections that ``[reverse_etl] dbt_cloud_webhooks`` lists. Airflow does not authenticate requests
to a plugin, and dbt Cloud cannot log in: only the signature protects the receiver. Every request without one gets the
same empty 404, before the secrets backend or the database is asked.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_reverse_etl.config import settings
from airflow_reverse_etl.connections import connection_info
from airflow_reverse_etl.dbt_cloud.webhooks import Delivery, is_signed
from airflow_reverse_etl.errors import ReverseEtlError

log = logging.getLogger(__name__)

PREFIX = "/reverse-etl/dbt-cloud"

_LARGEST_BODY = 64 * 1024
_SECRETS_SECONDS = 60.0
_WARN_SECONDS = 60.0
_REMEMBERED = 10_000
_SIGNATURE = re.compile(rb"[0-9a-fA-F]{64}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _RefusedError(Exception):
    """The sender is not dbt Cloud, as far as we can tell."""


class Receiver:
    """An ASGI application. Answers 200 after a delivery is processed, 503 if dbt Cloud should repeat it.

    :param conn_ids: connections of type ``dbt_cloud`` whose extra ``webhook_secret`` has the secret that dbt Cloud
        showed when the webhook was created, or a list of them.
    :param secrets_of: reads account id and secrets of a connection; asked at most once a minute.
    :param emit: writes the asset event of a connection's delivery.
    :param read_seconds: longest time that a sender may take for the body.
    """

    def __init__(
        self,
        conn_ids: frozenset[str],
        *,
        secrets_of: Callable[[str], tuple[int, tuple[str, ...]]],
        emit: Callable[[str, Delivery], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        read_seconds: float = 5.0,
    ) -> None:
        self._conn_ids = conn_ids
        self._secrets_of = secrets_of
        self._emit = emit
        self._now = now
        self._read_seconds = read_seconds
        self._secrets: dict[str, tuple[float, int, tuple[str, ...]]] = {}
        self._lookup = asyncio.Lock()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._warn_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status = await self._receive(scope, receive)
        except _RefusedError as reason:
            self._warn("A delivery to the dbt Cloud webhook was refused: %s", reason)
            status = 404
        except ValueError as error:
            self._warn("A signed delivery of dbt Cloud was not accepted: %s", error)
            status = 400
        except Exception:  # the traceback belongs in this log; the sender learns nothing
            log.exception("A delivery of dbt Cloud could not be processed; dbt Cloud will repeat it")
            status = 503
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def _receive(self, scope: Scope, receive: Receive) -> int:
        conn_id = scope["path"].removeprefix(scope.get("root_path", "")).strip("/")
        signature = dict(scope["headers"]).get(b"authorization", b"")
        if scope["method"] != "POST" or conn_id not in self._conn_ids or not _SIGNATURE.fullmatch(signature):
            raise _RefusedError("not one of ours, or not signed")
        body = await _read(receive, self._read_seconds)
        account_id, secrets = await self._secrets_for(conn_id)
        if not is_signed(body, signature.decode().lower(), secrets):
            raise _RefusedError(f"connection {conn_id!r} has no secret that signed it")
        delivery = Delivery.from_body(body)
        if delivery.account_id != account_id or not delivery.is_fresh(self._now()):
            raise ValueError("it is of another account, or too old")
        if delivery.is_success and delivery.event_id not in self._done:
            await asyncio.to_thread(self._emit, conn_id, delivery)
            self._done[delivery.event_id] = None
            while len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        return 200

    async def _secrets_for(self, conn_id: str) -> tuple[int, tuple[str, ...]]:
        """Return account id and secrets, cached for a minute, failures too: a flood must not reach the backend."""
        async with self._lookup:
            known = self._secrets.get(conn_id)
            if known is None or known[0] < time.monotonic():
                try:
                    found = await asyncio.to_thread(self._secrets_of, conn_id)
                except ReverseEtlError as error:
                    log.warning("The dbt Cloud webhook of connection %r has no secret: %s", conn_id, error)
                    found = (0, ())
                known = self._secrets[conn_id] = (time.monotonic() + _SECRETS_SECONDS, *found)
        return known[1], known[2]

    def _warn(self, text: str, reason: Exception) -> None:
        """Log at most one line a minute: a flood must not fill the log."""
        if time.monotonic() >= self._warn_at:
            self._warn_at = time.monotonic() + _WARN_SECONDS
            log.warning(text, reason)


async def _read(receive: Receive, seconds: float) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > _LARGEST_BODY or message["type"] == "http.disconnect":
                    raise _RefusedError("larger than any delivery, or broken off")
    except TimeoutError:
        raise _RefusedError("too slow") from None
    return body


def connection_secrets(conn_id: str) -> tuple[int, tuple[str, ...]]:
    """Return account id and webhook secrets of a connection: several secrets, while one is being replaced."""
    info = connection_info(conn_id)
    secrets = info.extra.get("webhook_secret") or []
    return int(info.login or 0), tuple([secrets] if isinstance(secrets, str) else secrets)


_one_at_a_time = threading.Lock()  # SQLite has no row locks, and one API server then


def emit_asset_event(conn_id: str, delivery: Delivery) -> None:
    """Write the event that the job's watcher would write, unless this run has one already.

    The API server's session writes to Airflow's own tables. It locks the asset's row, so that only one of two API
    servers with the same delivery writes.
    """
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_reverse_etl.triggers.dbt_cloud import job_asset

    run = delivery.run
    name = job_asset(conn_id, run.job_id).name
    callbacks: list[Callable[[], None]] = []
    with _one_at_a_time, create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.name == name).with_for_update())
        if asset is None:
            log.info("No DAG is scheduled on %s: the delivery for run %s starts nothing", name, run.id)
            return
        recent = select(AssetEvent).where(
            AssetEvent.asset_id == asset.id, AssetEvent.timestamp > datetime.now(UTC) - timedelta(hours=2)
        )
        if any((event.extra.get("payload") or {}).get("run_id") == run.id for event in session.scalars(recent)):
            return
        options: dict[str, Any] = {"source_is_api": True, "callback_sink": callbacks}
        known = inspect.signature(asset_manager.register_asset_change).parameters  # older versions swallow unknown ones
        asset_manager.register_asset_change(
            asset=asset,
            extra={"from_webhook": True, "payload": run.to_json()},
            session=session,
            **{option: value for option, value in options.items() if option in known},
        )
    for callback in callbacks:
        callback()


def _apps() -> list[dict[str, Any]]:
    conn_ids = settings().dbt_cloud_webhooks
    if not conn_ids:
        return []
    receiver = Receiver(conn_ids, secrets_of=connection_secrets, emit=emit_asset_event)
    return [{"app": receiver, "url_prefix": PREFIX, "name": "Reverse ETL: dbt Cloud webhook"}]


class DbtCloudWebhookPlugin(AirflowPlugin):
    """Serves the receiver, if a connection is listed for it."""

    name = "reverse_etl_dbt_cloud_webhook"
    fastapi_apps = _apps()
