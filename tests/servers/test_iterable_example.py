"""The destination of the page "Example: a destination for Iterable", against a server with Iterable's semantics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.destinations.http import HttpDestination
from airflow_reverse_etl.destinations.registry import registered
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, SpecError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.testing import DestinationConformance
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, LOST_REQUEST, Fault, in_order
from tests.servers.loads import Loads
from tests.servers.messages import Reply
from tests.servers.remote import ServerRemote
from tests.servers.vendors.iterable import KEY, Iterable

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-destination-for-iterable.md"
PEOPLE = [(str(number), f"Person{number}@Example.com", "gold") for number in range(1, 6)]


def class_of_the_page() -> type[HttpDestination]:
    code = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert code is not None
    namespace: dict[str, Any] = {"__name__": "iterable_reverse_etl"}
    exec(compile(code[1], str(PAGE), "exec", dont_inherit=True), namespace)
    found = namespace["Iterable"]
    assert issubclass(found, HttpDestination)
    return found


@pytest.fixture(autouse=True)
def _type() -> Iterator[None]:
    with registered("iterable", class_of_the_page()):
        yield


def users(
    server: Iterable,
    *,
    mapping: dict[str, Any] | None = None,
    match_on: str = "email",
    password: str = KEY,
    **others: Any,
) -> Loads:
    return Loads(
        server,
        {"type": "iterable", "match_on": match_on},
        columns=("number", "email", "plan"),
        others={"mapping": mapping or {"email": "email", "plan": "plan"}, **others},
        password=password,
    )


def project(**more: Any) -> Iterable:
    return Iterable(clock=QuietClock(), **more)


async def test_users_arrive_whatever_the_server_does_on_the_way() -> None:
    """More requests than a second allows, an answer and a request that are lost, users that are refused by kind."""
    faults = in_order([None, None, LOST_ANSWER, None, LOST_REQUEST])
    people = [*PEOPLE, ("6", "not an address", "gold"), ("7", "Gone@Example.com", "gold")]
    async with project(per_second=2, forgotten=["gone@example.com"], fault=faults) as iterable:
        report = await users(iterable, rate={"batch_size": 2}).run(people)
        assert (report.accepted, report.rejected) == (5, 2)
        assert {reason["code"] for reason in report.reasons} == {"invalidEmails", "forgottenEmails"}
        assert sorted(iterable.records.held) == [email.lower() for _, email, _ in PEOPLE]
    assert 429 in [reply.status for reply in iterable.replies]


async def test_a_mirror_deletes_users_one_by_one() -> None:
    """One that is already gone counts as deleted, and a lost answer is asked for again."""
    async with project() as iterable:
        loads = users(iterable, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        await loads.run(PEOPLE)
        iterable.records.write(Operation.DELETE, "person5@example.com")
        iterable.fault = in_order([None, LOST_ANSWER])
        report = await loads.run(PEOPLE[:2])
        assert (report.accepted, report.rejected) == (3, 0)
        assert report.answers == {"upsert": "row", "delete": "taken"}
        assert sorted(iterable.records.held) == ["person1@example.com", "person2@example.com"]


async def test_a_project_that_knows_its_users_by_id_creates_them() -> None:
    mapping = {"userId": "number", "email": "email", "address.city": "plan"}
    async with project() as iterable:
        loads = users(iterable, mapping=mapping, match_on="userId", mode="mirror", guards={"max_removed": "100%"})
        await loads.run([("a/1", "ada@x.org", "Turin"), ("b", "bob@x.org", None)])
        assert iterable.records.held["a/1"] == {"userId": "a/1", "email": "ada@x.org", "address": {"city": "Turin"}}
        await loads.run([("b", "bob@x.org", None)])
        assert list(iterable.records.held) == ["b"]


async def test_only_the_mapped_parts_of_an_object_are_overwritten() -> None:
    async with project() as iterable:
        iterable.records.write(Operation.UPSERT, "a@x.org", {"address": {"city": "Rome", "street": "Via Appia"}})
        await users(iterable, mapping={"email": "email", "address.city": "plan"}).run([("1", "a@x.org", "Turin")])
        assert iterable.records.held["a@x.org"]["address"] == {"city": "Turin", "street": "Via Appia"}


async def test_times_have_the_form_that_iterable_takes() -> None:
    mapping = {"email": "email", "signedUp": "plan"}
    async with project() as iterable:
        rows = [("1", "a@x.org", "2026-01-02T04:04:05+01:00"), ("2", "b@x.org", "2026-01-02"), ("3", "c@x.org", None)]
        report = await users(iterable, mapping=mapping).run([*rows, ("4", "d@x.org", "yesterday")])
        assert (report.accepted, report.rejected) == (3, 1)
        found = [iterable.records.held[email]["signedUp"] for _, email, _ in rows]
        assert found == ["2026-01-02 03:04:05 +00:00", "2026-01-02 00:00:00 +00:00", None]


async def test_a_field_that_the_project_does_not_have_stops_the_run_before_a_row_is_read() -> None:
    """Iterable would drop the field, and report the users as updated."""
    async with project() as iterable:
        with pytest.raises(SpecError, match=r"mapping.plam: field not found at the destination; did you mean 'plan'"):
            await users(iterable, mapping={"email": "email", "plam": "plan"}).run(PEOPLE)
        assert not iterable.records.held


async def test_another_identifier_than_a_users_is_refused() -> None:
    async with project() as iterable:
        with pytest.raises(SpecError, match="match_on: must be email or userId"):
            await users(iterable, match_on="plan").run(PEOPLE)


async def test_a_key_that_is_not_valid_stops_the_run_in_the_words_of_iterable() -> None:
    async with project() as iterable:
        with pytest.raises(CredentialsError, match="Invalid API key"):
            await users(iterable, password="wr0ng").run(PEOPLE)


async def test_a_wrong_url_deletes_nobody() -> None:
    """Its status 404 is not that of a user who does not exist."""
    async with project() as iterable:
        loads = users(iterable, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        await loads.run(PEOPLE)
        iterable.fault = lambda *_: Fault.instead(Reply.of({"code": "NotFound", "msg": "no such path"}, 404))
        with pytest.raises(ConfigurationError, match="no such path"):
            await loads.run(PEOPLE[:2])
        assert len(iterable.records.held) == 5


class Remote(ServerRemote):
    """A project that knows its users by id, and the destination of the page."""

    def bad(self) -> dict[str, Any]:
        assert isinstance(self.server, Iterable)
        self.server.forgotten = ["bad-user"]
        return {"userId": "bad-user", "name": "Lovelace"}


class TestConformance(DestinationConformance):
    operations = frozenset({Operation.UPSERT, Operation.DELETE})
    identifier = "userId"
    strict = True

    @pytest.fixture
    async def remote(self) -> Any:
        async with Iterable(fields={"userId": "string", "name": "string"}, per_second=100) as server:
            yield Remote(server, {"type": "iterable", "match_on": "userId"}, password=KEY)
