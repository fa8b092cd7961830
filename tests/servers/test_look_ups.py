"""Look-ups and further requests of type ``http``, through the whole engine: whatever is lost on the way, each record is
written once, links follow, and no row counts as delivered before its links do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, LOST_REQUEST, Cut, Fault, FaultRule, in_order
from tests.servers.loads import Loads
from tests.servers.messages import Reply, Request
from tests.servers.server import Server


class Crm(Server):
    """Contacts that only their ids change, archive and link. It has no unique field: creating twice makes two."""

    def __init__(self, **more: Any) -> None:
        super().__init__(clock=QuietClock(), **more)
        self.ids: dict[str, str] = {}
        self._created = 0

    @property
    def contacts(self) -> dict[str, str | None]:
        """Email → plan."""
        return {key: record["plan"] for key, record in self.records.held.items() if "plan" in record}

    @property
    def links(self) -> set[tuple[str, str]]:
        """(email, company)."""
        return {(record["from"], record["to"]) for record in self.records.held.values() if "to" in record}

    def answer(self, request: Request) -> Reply:
        entries = request.json["inputs"]
        match request.segments:
            case ["contacts", "read"]:
                emails = [entry["email"] for entry in entries]
                return self._shown([email for email in emails if self.records.seen(email) is not None])
            case ["contacts", "create"]:
                for entry in entries:
                    self.create(entry["email"], entry["plan"])
                return self._shown([entry["email"] for entry in entries], 201)
            case ["contacts", "update"]:
                emails = [self._email_of(entry["id"]) for entry in entries]
                for email, entry in zip(emails, entries, strict=True):
                    self.records.write(Operation.UPDATE, email, {"plan": entry["plan"]})
                return self._shown(emails)
            case ["contacts", "archive"]:
                for entry in entries:
                    self.records.write(Operation.DELETE, self._email_of(entry["id"]))
                return Reply(204)
            case ["links"]:
                return self._link(entries)
        return Reply(404)

    def create(self, email: str, plan: str | None) -> None:
        self.records.write(Operation.INSERT, email, {"email": email, "plan": plan})
        self._created += 1
        self.ids[email] = f"c{self._created}"

    def _shown(self, emails: Sequence[str], status: int = 200) -> Reply:
        return Reply.of({"results": [{"id": self.ids[email], "email": email} for email in emails]}, status)

    def _email_of(self, id_: str) -> str:
        return next(email for email, found in self.ids.items() if found == id_)

    def _link(self, entries: Sequence[Mapping[str, Any]]) -> Reply:
        errors = []
        for entry in entries:
            email = self._email_of(entry["from"])
            if entry["to"] == "nobody":
                errors.append({"from": entry["from"], "code": "NO_COMPANY", "message": "company not found"})
            else:
                self.records.write(Operation.UPSERT, f"{email} {entry['to']}", {"from": email, "to": entry["to"]})
        return Reply.of({"errors": errors})


FIND = {
    "path": "/contacts/read",
    "records": "inputs",
    "item": {"email": "{{ row.email }}"},
    "list": "results",
    "key": {"email": "email"},
}
CONTACTS: dict[str, Any] = {
    "match_on": "email",
    "path": "/contacts/update",
    "records": "inputs",
    "item": {"id": "{{ id }}", "plan": "{{ row.plan }}"},
    "max_batch_rows": 2,
    "idempotent": ["upsert", "update", "delete"],  # a look-up shows a record as soon as it was created
    "find": FIND,
    "then": [
        {
            "path": "/links",
            "records": "inputs",
            "when": "{{ row.company }}",
            "item": {"from": "{{ id }}", "to": "{{ row.company }}"},
            "results": {"list": "errors", "rows": "failed", "key": {"from": "from"}},
        }
    ],
    "operations": {
        "insert": {
            "path": "/contacts/create",
            "item": {"email": "{{ row.email }}", "plan": "{{ row.plan }}"},
            "find": None,
            "ids": {"list": "results", "key": {"email": "email"}},
            "then": [],
        },
        "delete": {"path": "/contacts/archive", "item": {"id": "{{ id }}"}, "then": []},
    },
}
PEOPLE = [
    ("1", "ada@x.org", "gold", "Acme"),
    ("2", "bob@x.org", "gold", None),
    ("3", "cem@x.org", "free", "Bolt"),
    ("4", "dee@x.org", "free", "Acme"),
]
LINKS = {("ada@x.org", "Acme"), ("cem@x.org", "Bolt"), ("dee@x.org", "Acme")}


def contacts(server: Crm, **others: Any) -> Loads:
    return Loads(
        server,
        {**CONTACTS, **others.pop("destination", {})},
        columns=("number", "email", "plan", "company"),
        others={
            "mapping": {"email": "email", "plan": "plan", "company": "company"},
            "mode": "mirror",
            "guards": {"min_rows": 0, "max_removed": "100%"},
            "rate": {"concurrency": 1},
            **others,
        },
    )


async def story(fault: FaultRule | None = None, **more: Any) -> Crm:
    """Two contacts are there; four are synced; two of them change; one leaves."""
    async with Crm(**more) as crm:
        for email in ("ada@x.org", "eve@x.org"):
            crm.create(email, "none")
        if fault is not None:
            crm.fault = fault
        loads = contacts(crm)
        await loads.run(PEOPLE)
        report = await loads.run([PEOPLE[0], ("2", "bob@x.org", "free", "Acme"), PEOPLE[2]])
        assert loads.delivered == {"1", "2", "3"}, report
    return crm


def check(crm: Crm) -> None:
    assert crm.contacts == {"ada@x.org": "gold", "bob@x.org": "free", "cem@x.org": "free", "eve@x.org": "none"}
    assert crm.links == LINKS | {("bob@x.org", "Acme")}
    assert not crm.records.twice(Operation.INSERT)


async def test_contacts_are_looked_up_created_updated_linked_and_archived() -> None:
    check(await story())


@pytest.mark.long
async def test_any_answer_may_be_lost() -> None:
    """Each in its turn: a create whose answer is lost is looked up, and found, before it is sent again."""
    requests = len((await story()).requests)
    assert requests > 10
    for lost in range(requests):
        check(await story(in_order([*[None] * lost, LOST_ANSWER])))


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST, Fault(writes=1, cut=Cut.RESET)])
async def test_many_requests_may_be_lost(fault: Fault, step: int) -> None:
    check(await story(lambda number, _: fault if number % step == 0 and number < 40 else None))


async def test_a_row_whose_link_fails_is_sent_again_and_its_record_created_once() -> None:
    async with Crm() as crm:
        loads = contacts(crm)
        report = await loads.run([("1", "ada@x.org", "gold", "nobody"), *PEOPLE[1:3]])
        assert (report.accepted, report.rejected) == (2, 1)
        assert report.reasons[0]["code"] == "NO_COMPANY"
        assert set(crm.contacts) == {"ada@x.org", "bob@x.org", "cem@x.org"}, "its record was written"
        report = await loads.run(PEOPLE[:3])
        assert (report.accepted, report.rejected) == (1, 0)
        assert crm.links == {("ada@x.org", "Acme"), ("cem@x.org", "Bolt")}
        assert not crm.records.twice(Operation.INSERT)


async def test_a_further_request_that_needs_an_id_is_not_sent_without_one() -> None:
    """The reply to the create has the ids at another place than the options say."""
    elsewhere = {"insert": {**CONTACTS["operations"]["insert"], "ids": {"list": "records", "key": {"email": "email"}}}}
    async with Crm() as crm:
        report = await contacts(crm, mode="upsert", destination={"operations": elsewhere}).run(PEOPLE)
        assert {reason["code"] for reason in report.reasons} == {"no_id"}
        assert (report.accepted, report.rejected) == (1, 3), "the row without a link needs no id"
        assert not crm.links


#: The API searches an index that shows a new record five minutes later.
LAG = 300.0


async def created_twice(idempotent: Sequence[str]) -> set[str]:
    plain = {"then": [], "idempotent": idempotent}
    async with Crm(visible_after=LAG, fault=in_order([None, LOST_ANSWER])) as crm:
        loads = contacts(crm, mode="upsert", destination=plain, failure={"on_unknown": "accept"})
        await loads.run(PEOPLE[:2])
        await crm.clock.sleep(2 * LAG)
        await loads.run(PEOPLE[:2])
        assert set(crm.contacts) == {"ada@x.org", "bob@x.org"}
        assert loads.delivered == {"1", "2"}
        return crm.records.twice(Operation.INSERT)


async def test_an_upsert_that_is_called_safe_to_repeat_needs_look_ups_that_show_new_records_at_once() -> None:
    assert await created_twice(["upsert"]) == {"ada@x.org", "bob@x.org"}


async def test_an_upsert_by_look_ups_that_lag_creates_no_record_twice_if_the_sync_says_so() -> None:
    assert await created_twice([]) == set()


async def test_a_lost_answer_to_a_look_up_leaves_no_row_in_doubt() -> None:
    """Not even if the rows may not be sent twice: nothing was written."""
    async with Crm(fault=in_order([LOST_ANSWER])) as crm:
        loads = contacts(crm, mode="upsert", destination={"then": [], "idempotent": []})
        report = await loads.run(PEOPLE)
        assert (report.accepted, report.unknown) == (4, 0)
