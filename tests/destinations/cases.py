"""Wire cases: what a type sends to an API, and what the API answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_reverse_etl.destinations.http import HttpDestination
from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.ports import ConnectionInfo

WIRE = Path(__file__).parent / "wire"
CASES = sorted(WIRE.glob("*/*.json"))
#: A mode that has the operation.
MODES = {"upsert": "upsert", "insert": "insert", "update": "update", "delete": "mirror"}


def read(case: Path) -> dict[str, Any]:
    found = json.loads(case.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def made(type_: str, wire: dict[str, Any], connection: ConnectionInfo | None = None) -> HttpDestination:
    """Create the destination of a case. Its mapping has the fields of the records.

    :param connection: of an account; default: the one that the case describes.
    """
    names = dict.fromkeys(name for record in wire["records"] for name in record)
    options = {"path": "/"} if type_ == "http" else {}
    sync = Sync.load(
        {
            "name": "rows",
            "model": "rows",
            "source": "warehouse",
            "mode": MODES[wire["operation"]],
            "mapping": {name: name for name in ("id", *names)},
            "destination": {"type": type_, "connection": type_, **options, **wire["destination"]},
        }
    )
    values = {"host": "api.example.com", "password": "s3cret", **wire.get("connection", {})}
    conn_type = values.pop("conn_type", type_)
    destination = create(sync, connection=connection or ConnectionInfo(type_, conn_type, **values))
    assert isinstance(destination, HttpDestination)
    return destination
