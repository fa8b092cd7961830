"""Contacts to HubSpot beside drt's connector, on a server with HubSpot's limits.

``python -m tests.benchmarks.bench_vendors [rows]``. The account allows 190 requests in ten seconds. drt sends a contact
in a request, at most nine requests a second, so it gets fewer rows, and is compared by its rate.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import duckdb

from tests.benchmarks.contenders import BUILD, DRT, HERE, OURS, ROOT, Contender
from tests.servers.messages import Reply, Request
from tests.servers.threads import in_thread
from tests.servers.vendors.hubspot import TOKEN, HubSpot

ROWS = 100_000
DRT_ROWS = 300
PER_TEN_SECONDS = 190
_DRT = Contender("drt-hubspot", "hubspot_run.py", DRT.packages)
_PROPERTY = {"description": "", "groupName": "a", "label": "", "type": "string", "fieldType": "text", "options": []}


class Account(HubSpot):
    """An account that also takes single contacts, and checks no contract: that takes longer than the answer."""

    contract = None
    first = math.inf
    last = 0.0

    def answer(self, request: Request) -> Reply:
        now = time.monotonic()
        self.first = min(self.first, now)
        self.last = now
        if request.method == "POST" and request.segments == ["crm", "v3", "objects", "contacts"]:
            reply = self._write_one(request.json["properties"])
        else:
            reply = super().answer(request)
        return reply

    def _write_one(self, properties: dict[str, Any]) -> Reply:
        from airflow_reverse_etl.spec.operations import Operation

        self.records.write(Operation.INSERT, properties["email"].lower(), properties)
        return Reply.of({"id": self.id_of(properties["email"].lower()), "properties": properties}, 201)


@dataclass(frozen=True, slots=True)
class Measured:
    """The work of one contender.

    :param seconds: of the whole run, from the first query to its end.
    :param sending: seconds from its first request to its last.
    """

    tool: str
    rows: int
    seconds: float
    sending: float
    requests: int
    refused: int
    megabytes: float

    @property
    def share(self) -> float:
        """Part of the allowed requests that it used while it was sending."""
        return (self.requests - self.refused - 1) / self.sending / (PER_TEN_SECONDS / 10)

    def line(self) -> str:
        return (
            f"{self.tool:<6} {self.rows:>8,} rows {self.seconds:>8.1f} s"
            f" {self.requests / self.rows:>7.3f} requests/row "
            f"{self.share:>6.2f} of the rate {self.refused / self.requests:>7.2%} of 429 {self.megabytes:>6.0f} MB"
        )


def measure(contender: Contender, rows: int, database: str) -> Measured:
    """Let a contender send contacts to an account of its own.

    :raises AssertionError: not every contact arrived.
    """
    properties = {"contacts": [{**_PROPERTY, "name": name} for name in ("email", "firstname")]}
    tool = "ours" if contender is OURS else "drt"
    with in_thread(Account(per_ten_seconds=PER_TEN_SECONDS, properties=properties)) as server:
        task = {"tool": tool, "url": server.url, "token": TOKEN, "database": database, "rows": rows}
        command = [contender.python(), str(HERE / "hubspot_run.py"), json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.records.held) == rows, f"{tool} delivered {len(server.records.held):,} of {rows:,}"
    found = json.loads(done.stdout.splitlines()[-1])
    refused = sum(reply.status == 429 for reply in server.replies)
    sending = server.last - server.first
    return Measured(tool, rows, found["seconds"], sending, len(server.requests), refused, found["megabytes"])


def main(rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows a second, requests a row, part of the allowed rate, part of refused requests, and memory."""
    BUILD.mkdir(parents=True, exist_ok=True)
    database = str(BUILD / "vendors.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(
            "create or replace table customers as select i as id, 'user' || i || '@example.com' as email,"
            f" 'First' || (i % 1000) as first_name from range({rows}) numbers(i)"
        )
    ours = measure(OURS, rows, database)
    peer = measure(_DRT, DRT_ROWS, database)
    print(f"{ours.line()}\n{peer.line()}", flush=True)
    name = "contacts to HubSpot"
    rates = (ours.rows / ours.seconds, peer.rows / peer.seconds)
    return [
        _record(name, rates[0], "rows/s", rates[1], rates[0] / rates[1]),
        _record(f"{name}, part of the rate", ours.share, "", peer.share, ours.share / peer.share),
        _record(f"{name}, memory", ours.megabytes, "MB", peer.megabytes, peer.megabytes / ours.megabytes),
    ]


def _record(name: str, value: float, unit: str, peer: float, ratio: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "peer": "drt", "peer_value": peer, "ratio": ratio}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
