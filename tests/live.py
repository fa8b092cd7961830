"""``make live TYPE=hubspot``: the wire cases of a type that succeed, against an account of your own.

The connection comes from the environment: ``AIRFLOW_CONN_HUBSPOT`` for type ``hubspot``. Take a sandbox: the cases
write their made-up records to it. What was sent and answered is written to ``build/live/<type>/<case>.json``, without
the connection's secrets and without headers, for a comparison with the case, or as its next version.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from airflow_reverse_etl.destinations.http import Reply, Request
from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.http.redaction import masked
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.clock import SystemClock
from airflow_reverse_etl.sync.load.rate_limit import Pace
from airflow_reverse_etl.sync.ports import ConnectionInfo
from tests.destinations.cases import WIRE, made, read
from tests.destinations.json_api import batch

BUILD = Path(__file__).parents[1] / "build" / "live"


async def run_case(type_: str, wire: dict[str, Any], connection: ConnectionInfo) -> tuple[str, list[str]]:
    """Send the records of a case.

    :returns: the exchange as JSON, without secrets; and the outcomes of the rows.
    """
    destination = made(type_, wire, connection)
    exchanges: list[tuple[Request, Reply]] = []
    exchange = destination._exchange

    async def recorded(request: Request) -> Reply:
        reply = await exchange(request)
        exchanges.append((request, reply))
        return reply

    destination._exchange = recorded  # type: ignore[method-assign]
    operation = Operation(wire["operation"])
    sent = batch(*wire["records"], operation=operation)
    await destination.open(Pace(2, SystemClock()))
    try:
        receipts = await destination.send(sent)
        found = [receipts.of(key).outcome.value for key in sent.keys]
    except ReverseEtlError as error:
        found = [f"{type(error).__name__}: {error.what}"]
    finally:
        await destination.close()
    document = {
        **{name: wire[name] for name in ("source", "destination", "operation", "records")},
        "requests": [_request(request) for request, _ in exchanges],
        "replies": [{"status": reply.status, "body": reply.json()} for _, reply in exchanges],
        "outcomes": found,
    }
    return masked(json.dumps(document, indent=2, ensure_ascii=False), destination.server.secrets), found


def _request(request: Request) -> dict[str, Any]:
    body = json.loads(request.body) if request.body else None
    return {"method": request.method, "path": request.url, "body": body}


def run(type_: str, connection: ConnectionInfo, folder: Path = BUILD) -> dict[str, str]:
    """Run the cases of a type that succeed; returns case → what differs."""
    cases = [case for case in sorted((WIRE / type_).glob("*.json")) if _succeeds(read(case))]
    if not cases:
        raise SystemExit(f"type {type_!r} has no wire cases")
    (folder / type_).mkdir(parents=True, exist_ok=True)
    differences = {}
    for case in cases:
        wire = read(case)
        text, found = asyncio.run(run_case(type_, wire, connection))
        (folder / type_ / case.name).write_text(text + "\n", encoding="utf-8")
        expected = [receipt[0] for receipt in wire["receipts"]]
        differences[case.stem] = "" if found == expected else f"{', '.join(found)} instead of {', '.join(expected)}"
    return differences


def _succeeds(wire: dict[str, Any]) -> bool:
    """Return whether an account can be brought to answer as in the case: nothing is refused."""
    return all(receipt[0] == "accepted" for receipt in wire.get("receipts", [["none"]]))


def main(type_: str) -> int:
    from airflow_reverse_etl.connections import connection_info

    found = run(type_, connection_info(type_))
    for case, differs in found.items():
        print(f"{case}: {differs or 'as in the case'}")
    print(f"recorded in {BUILD / type_}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
