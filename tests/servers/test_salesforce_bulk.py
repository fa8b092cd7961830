"""Jobs of Salesforce's Bulk API 2.0 against a server with its semantics, with the real engine."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.destinations import salesforce_csv
from airflow_reverse_etl.destinations.registry import create, create_for_jobs
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.client import Client
from airflow_reverse_etl.http.messages import Request as Sent
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Batch, JobRef, JobState, Receipts
from airflow_reverse_etl.sync.load.jobs.job_loader import NOT_NAMED
from airflow_reverse_etl.sync.ports import LoadsInJobs
from airflow_reverse_etl.testing import CountingLimiter, CrashError, DestinationConformance
from tests.servers.clock import QuietClock
from tests.servers.faults import LOST_ANSWER, LOST_REQUEST, Fault
from tests.servers.loads import Loads
from tests.servers.messages import Reply
from tests.servers.remote import ServerRemote
from tests.servers.vendors.salesforce import Salesforce, failed
from tests.stores.every import opened

MAPPING = {"Key__c": "key", "Name": "name"}
ROWS = [(f"A-{number}", f"Account {number}") for number in range(1, 6)]
FIELD = {"createable": True, "updateable": True, "nillable": True, "defaultedOnCreate": False, "type": "string"}
FIELDS = [
    {**FIELD, "name": "Id", "type": "id", "createable": False, "updateable": False, "idLookup": True},
    {**FIELD, "name": "Key__c", "externalId": True, "unique": True},
    {**FIELD, "name": "Name"},
    {**FIELD, "name": "ParentId", "type": "reference", "relationshipName": "Parent", "referenceTo": ["Account"]},
]
CREATE = ("POST", "/services/data/v62.0/jobs/ingest")


def server(**more: Any) -> Salesforce:
    return Salesforce(clock=QuietClock(), **{"fields": FIELDS, **more})


def bulk(salesforce: Salesforce, **others: Any) -> Loads:
    destination = {"type": "salesforce", "object": "Account", "match_on": "Key__c", "bulk_from_rows": 3}
    destination |= others.pop("destination", {})
    values = {"mapping": MAPPING, **others}
    return Loads(salesforce, destination, columns=("key", "name"), others=values)


def calls(salesforce: Salesforce, part: str) -> list[str]:
    return [f"{found.method} {found.path}" for found in salesforce.requests if part in found.path]


async def test_many_rows_go_in_a_job_and_few_do_not() -> None:
    async with server(page=2) as salesforce:
        loads = bulk(salesforce)
        report = await loads.run(ROWS)
        assert (report.accepted, report.rejected) == (5, 0)
        assert [job.state for job in salesforce.jobs.values()] == ["JobComplete"]
        assert not calls(salesforce, "composite")
        report = await loads.run([*ROWS, ("A-6", "New"), ("A-7", "New")])
        assert (report.accepted, len(salesforce.jobs)) == (2, 1), "two rows are below the number"
        assert calls(salesforce, "composite")


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"bulk_from_rows": None}, {}),
        ({"allow_duplicates": True}, {}),
        ({}, {"mode": "append"}),
        ({"match_on": []}, {"mode": "insert"}),
    ],
)
async def test_rows_that_no_result_could_name_go_by_collections(options: dict[str, Any], more: dict[str, Any]) -> None:
    async with server() as salesforce:
        await bulk(salesforce, destination=options, **more).run(ROWS)
        assert not salesforce.jobs
        assert len(salesforce.records.held) == 5


async def test_rows_are_settled_by_the_lists_that_name_them() -> None:
    """One is refused, one is locked for a while, one is not processed at first; no list has the order of the upload."""
    locked = {"A-2": 1}
    left = {"A-4": 1}

    def invalid(record: Any) -> dict[str, Any] | None:
        if locked.pop(record["Key__c"], 0):
            return failed("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        if record["Key__c"] == "A-3":
            return failed("FIELD_CUSTOM_VALIDATION_EXCEPTION", "Account 3 is not a name", "Name")
        return None

    async with server(invalid=invalid, unprocessed=lambda record: bool(left.pop(record["Key__c"], 0))) as salesforce:
        report = await bulk(salesforce).run(ROWS)
        assert (report.accepted, report.rejected, report.unknown) == (4, 1, 0)
        assert report.reasons[0]["code"] == "FIELD_CUSTOM_VALIDATION_EXCEPTION"
        assert report.reasons[0]["message"] == "… is not a name"
        assert [len(job.rows or []) for job in salesforce.jobs.values()] == [5, 2]


async def test_a_mirror_deletes_in_a_job_what_it_finds() -> None:
    def still_used(record: Any) -> bool:
        return record.get("Id") == salesforce.id_of("a-2") and len(salesforce.jobs) == 2

    async with server(unprocessed=still_used) as salesforce:
        loads = bulk(salesforce, mode="mirror", guards={"min_rows": 0, "max_removed": "100%"})
        await loads.run(ROWS)
        salesforce.records.write(Operation.DELETE, "a-5")
        report = await loads.run(ROWS[:1])
        assert (report.accepted, report.rejected, report.unknown) == (4, 0, 0)
        assert list(salesforce.records.held) == ["a-1"]
        assert [job.columns for job in salesforce.jobs.values()] == [["Key__c", "Name"], ["Id"], ["Id"]]


async def test_an_update_in_a_job_skips_what_salesforce_does_not_have() -> None:
    async with server() as salesforce:
        await bulk(salesforce).run(ROWS[:3])
        report = await bulk(salesforce, mode="update", name="other").run([(key, "New") for key, _ in ROWS])
        assert (report.accepted, report.skipped) == (3, 2)
        assert {record["Name"] for record in salesforce.records.held.values()} == {"New"}


async def test_parents_are_named_in_the_header_and_cleared_in_their_own_field() -> None:
    mapping = {**MAPPING, "Parent.Key__c": {"sql": "nullif(name, 'none')"}}
    async with server() as salesforce:
        await bulk(salesforce, mapping=mapping).run([("A-1", "A-2"), ("A-3", "none"), ("A-4", "A-2")])
        held = salesforce.records.held
        assert held["a-1"] == {"Key__c": "A-1", "Name": "A-2", "Parent": {"Key__c": "A-2"}}
        assert held["a-3"] == {"Key__c": "A-3", "Name": "none", "ParentId": None}


async def test_a_text_that_bulk_takes_for_null_is_rejected_and_the_others_are_sent() -> None:
    async with server() as salesforce:
        report = await bulk(salesforce).run([*ROWS, ("A-6", "#N/A")])
        assert (report.accepted, report.rejected) == (5, 1)


async def test_a_used_up_limit_of_requests_is_waited_for() -> None:
    limit = Reply.of([{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}], 403)
    left = {"POST": 1, "GET": 1}

    def fault(_: int, request: Any) -> Fault | None:
        if "jobs/ingest" in request.path and left.get(request.method, 0):
            left[request.method] -= 1
            return Fault.instead(limit)
        return None

    async with server(fault=fault) as salesforce:
        assert (await bulk(salesforce).run(ROWS)).accepted == 5
        assert sum(job.state == "JobComplete" for job in salesforce.jobs.values()) == 1


async def test_a_job_that_salesforce_refuses_stops_the_load() -> None:
    refusal = Reply.of([{"errorCode": "INVALIDENTITY", "message": "Entity 'Account' is not supported."}], 400)

    def fault(_: int, request: Any) -> Fault | None:
        return Fault.instead(refusal) if (request.method, request.path) == CREATE else None

    async with server(fault=fault) as salesforce:
        with pytest.raises(ConfigurationError, match="is not supported"):
            await bulk(salesforce).run(ROWS)


@pytest.mark.parametrize(
    ("error", "rejected"),
    [("InvalidBatch : Field name not found : Foo", 5), ("InternalServerError : try later", 0)],
)
async def test_a_failed_job_rejects_rows_only_if_no_try_would_help(error: str, rejected: int) -> None:
    async with server() as salesforce:
        create_ = salesforce._create

        def broken(wanted: Any) -> Reply:
            reply = create_(wanted)
            if len(salesforce.jobs) == 1:
                salesforce.jobs[reply.json()["id"]].error = error
            return reply

        salesforce._create = broken  # type: ignore[method-assign]
        report = await bulk(salesforce).run(ROWS)
        assert (report.accepted, report.rejected) == (5 - rejected, rejected)
        if rejected:
            assert report.reasons[0]["message"] == error


@pytest.mark.parametrize("cut", [LOST_REQUEST, LOST_ANSWER])
@pytest.mark.parametrize("step", ["POST jobs", "PUT batches", "PATCH job", "GET job", "GET results"])
async def test_a_lost_request_or_answer_loses_no_row_and_writes_none_twice(cut: Fault, step: str) -> None:
    method, what = step.split()
    left = [cut]

    def fault(_: int, request: Any) -> Fault | None:
        place = request.path.partition("/jobs/ingest")[2].count("/")
        wanted = {"jobs": 0, "job": 1, "batches": 2, "results": 2}[what]
        matches = "/jobs/ingest" in request.path and (request.method, place) == (method, wanted)
        return left.pop() if matches and left else None

    async with server(fault=fault) as salesforce:
        report = await bulk(salesforce).run(ROWS)
        assert (report.accepted, report.unknown) == (5, 0)
        assert set(salesforce.records.written.values()) == {1}


# -- killed ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", pytest.param("tables in duckdb", marks=pytest.mark.slow)])
def store(request: Any, tmp_path: Path) -> Iterator[Any]:
    with opened(request.param, request, tmp_path) as found:
        yield found


@pytest.mark.long
@pytest.mark.parametrize("mode", ["insert", "mirror"])
async def test_killed_at_each_arrow(store: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before and after each request of a load in turn, and its last state is the last save."""
    exchange = Client.exchange
    save = store.save_checkpoint
    at = {"left": -1}

    def die_at_zero() -> None:
        at["left"] -= 1
        if at["left"] == 0:
            raise CrashError("killed")

    async def exchanged(self: Any, request: Sent) -> Any:
        die_at_zero()
        reply = await exchange(self, request)
        die_at_zero()
        return reply

    def saved(*arguments: Any, **more: Any) -> None:
        if at["left"] <= 0 and at["left"] > -1000:
            raise CrashError("killed")
        save(*arguments, **more)

    monkeypatch.setattr(Client, "exchange", exchanged)
    store.save_checkpoint = saved
    kills = 0
    async with server(page=2, polls=1) as salesforce:
        loads = bulk(salesforce, mode=mode, guards={"min_rows": 0, "max_removed": "100%"})
        loads.store = store
        rows: list[tuple[str, str]] = []
        for arrow in range(1, 100):
            rows = ([] if mode == "mirror" else rows) + [(f"R{arrow}-{number}", "x") for number in range(3)]
            at["left"] = arrow
            try:
                await loads.run(rows, retries=0)
                at["left"] = -5000
                break
            except CrashError:
                kills += 1
            at["left"] = -5000
            report = await loads.run(rows, retries=0)
            assert report.unknown == 0
            assert sorted(salesforce.records.held) == sorted(key.lower() for key, _ in rows)
            assert set(salesforce.records.written.values()) == {1}
    assert kills >= 18, "a load has at least nine requests"


# -- parts -------------------------------------------------------------------------------------------------------------


def test_values_become_cells() -> None:
    record = {
        "Text": 'Zoë "Zed", \r\n1',
        "Empty": "",
        "None": None,
        "True": True,
        "Number": Decimal("10.50"),
        "Day": date(2026, 11, 27),
        "Time": datetime(2026, 11, 27, 12, tzinfo=UTC),
        "Choices": ["a", "b"],
        "Owner": {"attributes": {"type": "User"}, "ExternalId__c": "u1"},
        "Region__r": {"Key__c": None},
    }
    content, problems = salesforce_csv.table([record, {"Text": "#N/A"}, {"Text": float("nan")}, {"Text": "\ud800"}])
    assert problems.keys() == {1, 2, 3}
    assert b"\r" not in content.replace(b'\r\n1"', b""), "lines end with LF"
    assert list(csv.DictReader(io.StringIO(content.decode(), newline=""))) == [
        {
            "Text": 'Zoë "Zed", \r\n1',
            "Empty": "#N/A",
            "None": "#N/A",
            "True": "true",
            "Number": "10.50",
            "Day": "2026-11-27",
            "Time": "2026-11-27T12:00:00Z",
            "Choices": "a;b",
            "User:Owner.ExternalId__c": "u1",
            "Region__c": "#N/A",
        }
    ]


async def test_the_trigger_asks_by_the_reference_alone() -> None:
    async with server(polls=1) as salesforce:
        sync = bulk(salesforce).sync()
        assert isinstance(create(sync, connection=salesforce.connection()), LoadsInJobs)
        salesforce._create({"operation": "upsert", "object": "Account", "externalIdFieldName": "Key__c"})
        job = next(iter(salesforce.jobs.values()))
        now = salesforce.clock.now()
        ref = JobRef("salesforce", "server", "Account", Operation.UPSERT, job.id, RangeSet(range(1, 2)), now, now)
        asks = create_for_jobs("salesforce", connection=salesforce.connection())
        await asks.open(CountingLimiter())
        assert await asks.poll(ref) is JobState.OPEN
        job.state = "UploadComplete"
        assert [await asks.poll(ref) for _ in range(2)][-1] is JobState.FINISHED
        salesforce.jobs.clear()
        assert await asks.poll(ref) is JobState.GONE
        await asks.close()


# -- conformance -------------------------------------------------------------------------------------------------------


class InJobs:
    """The destination, whose batches are sent as jobs, and answered when these are finished."""

    def __init__(self, destination: Any) -> None:
        self._destination = destination

    def __getattr__(self, name: str) -> Any:
        return getattr(self._destination, name)

    async def send(self, batch: Batch) -> Receipts:
        id_ = ""
        async for step in self._destination.submit(batch):
            if isinstance(step, Receipts):
                return step
            id_ = step
        now = datetime.now(UTC)
        rows = RangeSet(range(1, len(batch) + 1))
        match_on = (("Key__c", 0),)
        ref = JobRef("salesforce", "server", "Account", batch.operation, id_, rows, now, now, match_on)
        assert await self._destination.poll(ref) is JobState.FINISHED
        found = dict.fromkeys(batch.keys, NOT_NAMED)
        named = replace(batch, records=[{"Key__c": record["Key__c"]} for record in batch.records])
        async for page in self._destination.collect(ref, named):
            found |= page
        return Receipts(exceptions=found)


class Remote(ServerRemote):
    refused = Reply.of([{"errorCode": "INVALID_SESSION_ID", "message": "Session expired or invalid"}], 401)

    def create(self, mode: str) -> Any:
        return InJobs(super().create(mode))

    def bad(self) -> dict[str, Any]:
        return {"Key__c": "bad-account", "Name": "Lovelace"}


class TestConformance(DestinationConformance):
    operations = frozenset(Operation)
    identifier = "Key__c"

    @pytest.fixture
    async def remote(self) -> Any:
        def invalid(record: Any) -> dict[str, Any] | None:
            if record.get("Key__c") != "bad-account":
                return None
            return failed("FIELD_CUSTOM_VALIDATION_EXCEPTION", f"{record['Name']} is not a name", "Name")

        async with Salesforce(invalid=invalid, page=2) as salesforce:
            yield Remote(salesforce, {"type": "salesforce", "object": "Account", "match_on": "Key__c"}, name="Name")

    @pytest.fixture(autouse=True)
    def _answers_later(self, request: pytest.FixtureRequest) -> None:
        if getattr(request.function, "needs", None) == "lose_answer":
            pytest.skip("nothing is at work before a job is closed, and then its state is asked")
        if request.function.__name__ == "test_the_limiter_is_asked_for_every_request":
            pytest.skip("the receipts of a job do not count its requests: the engine does")

    def record(self, key: str, name: str | None = "Ada") -> dict[str, Any]:
        return {"Key__c": key, "Name": name}
