"""A destination of type ``http``, and its flow driven by replies, without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_reverse_etl.destinations.http import HttpDestination, Reply
from airflow_reverse_etl.destinations.json_api import JsonApi
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Receipts
from airflow_reverse_etl.sync.ports import ConnectionInfo
from airflow_reverse_etl.testing import converse

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


def talk(destination: HttpDestination, sent: Batch, *replies: Reply) -> tuple[list[Any], Receipts]:
    """Drive a flow with these replies; returns its requests and the receipts."""
    return converse(destination.flow(sent), *replies)


def reply(status: int, body: Any = None, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode() if body is not None else b"", headers)


def outcomes(receipts: Receipts, sent: Batch) -> list[str]:
    return [receipts.of(key).outcome.value for key in sent.keys]
