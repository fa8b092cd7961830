"""A small CRM with an HTTP API, for the demo and the tests. Plays the part of HubSpot, Salesforce and others.

===========================================  ==========================================================
``POST /v1/contacts/batch/upsert``           ``{"records": [{"email": "…", "properties": {…}}, …]}``
``POST /v1/contacts/batch/delete``           ``{"records": [{"email": "…"}, …]}``
``GET /v1/contacts``                         ``{"total": n, "records": [{"email": "…", "properties": {…}}]}``
``GET /v1/stats``                            ``{"requests": n, "throttled": n, "rows": n, "rejected": n}``
===========================================  ==========================================================

* Every request needs ``Authorization: Bearer <token>``; without it the answer is 401.
* A contact is matched on its e-mail address. Upsert creates it or merges its properties; null clears a property.
  Deleting a missing contact is not an error. So sending either request twice has the same result as sending it once.
* A batch has 1 to 100 records; otherwise the answer is 400, and nothing is written.
* A batch is not all or nothing: 200 if every record was accepted, 207 if some were refused. ``results`` lists the
  accepted ones (``{"email", "status"}``, status ``created | updated | deleted | absent``), ``errors`` the refused ones
  (``{"email", "code", "message"}``, code ``INVALID_EMAIL | BLOCKED_DOMAIN | INVALID_PROPERTY``).
* After too many POST requests within one second the answer is 429 with ``Retry-After`` in seconds, and nothing is
  written.
* Contacts are on disk (SQLite) before the answer is sent.

Run it with ``CRM_TOKEN=… python crm.py --data crm.sqlite``: it prints its URL and serves until it is terminated.
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
    """The CRM's records in an SQLite file. Records are on disk when :meth:`write` returns."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute("create table if not exists contacts (email text primary key, properties text not null)")

    def all(self) -> list[dict[str, Any]]:
        rows = self._db.execute("select email, properties from contacts order by email")
        return [{"email": email, "properties": json.loads(properties)} for email, properties in rows]

    def write(self, action: Callable[[dict[str, Any]], str], records: list[Any]) -> dict[str, list[Any]]:
        """Apply an action to each valid record; return the results and the errors."""
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
        email = record["email"].lower()
        properties = record.get("properties", {})
        found = self._db.execute("select properties from contacts where email = ?", (email,)).fetchone()
        merged = {**json.loads(found[0]), **properties} if found else properties
        kept = json.dumps({name: value for name, value in merged.items() if value is not None})
        self._db.execute("insert or replace into contacts values (?, ?)", (email, kept))
        return "updated" if found else "created"

    def delete(self, record: dict[str, Any]) -> str:
        deleted = self._db.execute("delete from contacts where email = ?", (record["email"].lower(),)).rowcount
        return "deleted" if deleted else "absent"


def _problem(record: Any) -> tuple[str, str] | None:
    email = record.get("email") if isinstance(record, dict) else None
    if not isinstance(email, str) or not _EMAIL.fullmatch(email):
        return "INVALID_EMAIL", "not a valid e-mail address"
    if email.lower().rsplit("@", 1)[1] in BLOCKED_DOMAINS:
        return "BLOCKED_DOMAIN", "addresses of this domain are on the block list"
    if not isinstance(record.get("properties", {}), dict):
        return "INVALID_PROPERTY", "properties must be an object"
    return None


class RateLimit:
    """Limit of ``per_second`` requests in any second."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._recent: deque[float] = deque()

    def wait(self) -> float:
        """Return 0 if a request is allowed now, else the seconds until one is."""
        now = self._clock()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) >= self._per_second:
            return self._recent[0] + 1 - now
        self._recent.append(now)
        return 0.0


def application(contacts: Contacts, *, token: str, limit: RateLimit) -> web.Application:
    """Build the API described at the top of this module."""
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
                # The header has whole seconds, so round up.
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
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for any free one")
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
