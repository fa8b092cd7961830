"""A small CRM with an HTTP API, for the demo and the tests. Stands in for HubSpot, Salesforce and the like.

===========================================  ==========================================================
``POST /v1/contacts/batch/upsert``           ``{"records": [{"email": "…", "properties": {…}}, …]}``
``POST /v1/contacts/batch/delete``           ``{"records": [{"email": "…"}, …]}``
``GET /v1/contacts``                         ``{"total": n, "records": [{"email": "…", "properties": {…}}]}``
``GET /v1/stats``                            ``{"requests": n, "throttled": n, "rows": n, "rejected": n}``
===========================================  ==========================================================

* Every request needs ``Authorization: Bearer <token>``; without it the answer is 401.
* A contact is matched on its e-mail address. Upsert creates it or merges its properties; null clears a property.
  Deleting a contact that is not there is not an error. So both may be sent twice with the result of once.
* A batch has 1 to 100 records, else 400 and nothing is written.
* A batch is not all or nothing: 200 when every record was taken, 207 when some were refused. ``results`` has the
  taken ones (``{"email", "status"}``, status ``created | updated | deleted | absent``), ``errors`` the refused ones
  (``{"email", "code", "message"}``, code ``INVALID_EMAIL | BLOCKED_DOMAIN | INVALID_PROPERTY``).
* Too many POST requests within one second: 429 with ``Retry-After`` in seconds, and nothing is written.
* Contacts are on disk (SQLite) before the answer is sent.

Run it with ``CRM_TOKEN=… python crm.py --data crm.sqlite``: it prints its address and serves until it is terminated.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import re
import sqlite3
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_BATCH = 100
BLOCKED_DOMAINS = frozenset({"mailinator.example", "spam.example"})
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Contacts:
    """The CRM's records, in an SQLite file. What :meth:`write` returned is on disk."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute("create table if not exists contacts (email text primary key, properties text not null)")

    def all(self) -> list[dict[str, Any]]:
        rows = self._db.execute("select email, properties from contacts order by email")
        return [{"email": email, "properties": json.loads(properties)} for email, properties in rows]

    def write(self, action: Callable[[dict[str, Any]], str], records: list[Any]) -> dict[str, list[Any]]:
        """Do ``action`` for each record; the refused ones change nothing."""
        reply: dict[str, list[Any]] = {"results": [], "errors": []}
        with self._db:
            for record in records:
                if problem := _problem(record):
                    code, message = problem
                    email = record.get("email") if isinstance(record, dict) else None
                    reply["errors"].append({"email": email, "code": code, "message": message})
                else:
                    reply["results"].append({"email": record["email"], "status": action(record)})
        return reply

    def upsert(self, record: dict[str, Any]) -> str:
        email, properties = record["email"].lower(), record.get("properties", {})
        found = self._db.execute("select properties from contacts where email = ?", (email,)).fetchone()
        merged = {**json.loads(found[0]), **properties} if found else properties
        kept = json.dumps({name: value for name, value in merged.items() if value is not None})
        self._db.execute("insert or replace into contacts values (?, ?)", (email, kept))
        return "updated" if found else "created"

    def delete(self, record: dict[str, Any]) -> str:
        gone = self._db.execute("delete from contacts where email = ?", (record["email"].lower(),)).rowcount
        return "deleted" if gone else "absent"


def _problem(record: Any) -> tuple[str, str] | None:
    email = record.get("email") if isinstance(record, dict) else None
    if not isinstance(email, str) or not _EMAIL.fullmatch(email):
        return "INVALID_EMAIL", "this is not an e-mail address"
    if email.lower().rsplit("@", 1)[1] in BLOCKED_DOMAINS:
        return "BLOCKED_DOMAIN", "addresses of this domain are on the block list"
    if not isinstance(record.get("properties", {}), dict):
        return "INVALID_PROPERTY", "properties must be an object"
    return None


class RateLimit:
    """At most ``per_second`` requests in any second."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._taken: deque[float] = deque()

    def wait(self) -> float:
        """0 when the request may pass, else the seconds until one may."""
        now = self._clock()
        while self._taken and self._taken[0] <= now - 1:
            self._taken.popleft()
        if len(self._taken) >= self._per_second:
            return self._taken[0] + 1 - now
        self._taken.append(now)
        return 0.0


def application(contacts: Contacts, *, token: str, limit: RateLimit) -> web.Application:
    """The API described at the top of this module."""
    stats = {"requests": 0, "throttled": 0, "rows": 0, "rejected": 0}

    @web.middleware
    async def gate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()):
            return web.json_response({"code": "UNAUTHORIZED", "message": "unknown or missing token"}, status=401)
        if request.method == "POST":
            stats["requests"] += 1
            if wait := limit.wait():
                stats["throttled"] += 1
                # Whole seconds, rounded up, as the header demands.
                return web.json_response(
                    {"code": "RATE_LIMIT", "message": "too many requests"},
                    status=429,
                    headers={"Retry-After": str(int(wait) + 1)},
                )
        return await handler(request)

    def batch(action: Callable[[dict[str, Any]], str]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            try:
                records = (await request.json())["records"]
                valid = isinstance(records, list) and 1 <= len(records) <= MAX_BATCH
            except (ValueError, KeyError, TypeError):
                valid = False
            if not valid:
                message = f"the body must be {{'records': [1 to {MAX_BATCH} objects]}}"
                return web.json_response({"code": "BAD_REQUEST", "message": message}, status=400)
            reply = contacts.write(action, records)
            stats["rows"] += len(records)
            stats["rejected"] += len(reply["errors"])
            return web.json_response(reply, status=207 if reply["errors"] else 200)

        return handle

    async def read(_: web.Request) -> web.Response:
        records = contacts.all()
        return web.json_response({"total": len(records), "records": records})

    async def count(_: web.Request) -> web.Response:
        return web.json_response(stats)

    app = web.Application(middlewares=[gate])
    app.router.add_post("/v1/contacts/batch/upsert", batch(contacts.upsert))
    app.router.add_post("/v1/contacts/batch/delete", batch(contacts.delete))
    app.router.add_get("/v1/contacts", read)
    app.router.add_get("/v1/stats", count)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="SQLite file with the contacts")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--requests-per-second", type=int, default=5)
    args = parser.parse_args()
    app = application(Contacts(args.data), token=os.environ["CRM_TOKEN"], limit=RateLimit(args.requests_per_second))

    async def serve() -> None:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", args.port).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
