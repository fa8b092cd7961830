"""The example of a vendor's server, with a sync of type ``http``."""

from __future__ import annotations

from typing import Any

from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, in_order
from tests.servers.loads import Loads
from tests.servers.vendors.hubspot import TOKEN, HubSpot

UPSERT: dict[str, Any] = {
    "path": "/crm/v3/objects/contacts/batch/upsert",
    "object": "contacts",
    "match_on": "id",
    "records": "inputs",
    "results": {
        "list": "errors",
        "rows": "failed",
        "key": {"context.objectWriteTraceId": "objectWriteTraceId"},
        "code": "category",
    },
}
MAPPING: dict[str, Any] = {
    "id": "email",
    "idProperty": {"value": "email"},
    "objectWriteTraceId": "number",
    "properties.email": "email",
}
PEOPLE = [(str(number), f"person{number}@example.com") for number in range(1, 6)]


def loads(server: HubSpot, **others: Any) -> Loads:
    return Loads(
        server,
        UPSERT,
        columns=("number", "email"),
        others={"mapping": MAPPING, "rate": {"batch_size": 2, "concurrency": 2}, **others},
        password=TOKEN,
    )


async def test_rows_arrive_whatever_the_server_does_on_the_way() -> None:
    """More requests than ten seconds allow, an answer that is lost, a row that is not valid."""
    clock = QuietClock()

    def invalid(properties: Any) -> str | None:
        return "Email address is invalid" if properties["email"].startswith("person3@") else None

    async with HubSpot(clock=clock, per_ten_seconds=2, invalid=invalid, fault=in_order([LOST_ANSWER])) as server:
        report = await loads(server).run(PEOPLE)
        assert (report.accepted, report.rejected) == (4, 1)
        assert report.reasons[0]["code"] == "VALIDATION_ERROR"
        assert sorted(server.records.held) == [email for number, email in PEOPLE if number != "3"]
    assert [reply.status for reply in server.replies].count(429) >= 1
