"""Destination type ``http``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from airflow_reverse_etl.destinations.registry import check_options, create
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, SpecError
from airflow_reverse_etl.http.client import MAX_REPLY_BYTES
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Outcome, Receipts
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination
from airflow_reverse_etl.testing.api import FakeApi
from airflow_reverse_etl.testing.conformance import DestinationConformance
from airflow_reverse_etl.testing.fakes import CountingLimiter, Dials
from tests.destinations.json_api import CONNECTION, api, batch, outcomes, reply, sync, talk


class FakeApiRemote:
    def __init__(self, api: FakeApi, options: Mapping[str, Any]) -> None:
        self._api, self._options = api, options

    def create(self, mode: str) -> Destination:
        return create(sync(self._api.options(**self._options), mode=mode), connection=self._api.connection())

    async def stored(self) -> Mapping[str, str | None]:
        return {key: row["name"] for key, row in self._api.table.rows.items()}

    def bad(self) -> dict[str, Any]:
        self._api.dials.reject = ["bad"]
        return {"id": "bad", "name": "someone's name"}

    def throttle(self, times: int, seconds: float) -> None:
        self._api.dials.throttle, self._api.dials.retry_after = times, seconds

    def lose_answer(self) -> None:
        self._api.dials.lose_answer = [1]

    def make_unique(self) -> None:
        self._api.dials.unique = "name"

    def revoke(self) -> None:
        self._api.token = "another"

    async def stop(self) -> None:
        await self._api.stop()


BATCHES: dict[str, Any] = {
    "operations": {
        "delete": {},
        "update": {"results": None, "rows": "single", "method": "PATCH", "path": "/rows/{{ row.id }}", "records": None},
    }
}
SINGLE: dict[str, Any] = {
    "path": "/rows/{{ row.id }}",
    "method": "PUT",
    "rows": "single",
    "records": None,
    "results": None,
    "operations": {"update": {"method": "PATCH"}, "delete": {"method": "DELETE"}, "insert": {}},
}


SINGLE_DELETE: dict[str, Any] = {
    "method": "DELETE",
    "path": "/rows/{{ row.id }}",
    "rows": "single",
    "records": None,
    "results": None,
}


class TestConformance(DestinationConformance):
    """Conformance over real HTTP: many rows a request, one row a request, batches refused as a whole."""

    strict = True
    reports_conflicts = True

    @pytest.fixture(params=["batches", "single", "all or nothing"])
    async def remote(self, request: pytest.FixtureRequest) -> AsyncIterator[FakeApiRemote]:
        async with FakeApi(Dials()) as fake:
            remote = FakeApiRemote(fake, SINGLE if request.param == "single" else BATCHES)
            if request.param == "all or nothing":
                remote.bad = lambda: setattr(fake.dials, "refuse", ["bad"]) or {"id": "bad", "name": "x"}  # type: ignore[method-assign]
            yield remote


# -- requests ----------------------------------------------------------------------------------------------------------


def test_values_in_a_path_stay_one_segment() -> None:
    destination = api(path="/{{ object }}/{{ row.id }}", rows="single", method="PUT", object="a/b")
    requests, _ = talk(destination, batch({"id": "x/../y?z=1&é"}), reply(200))
    assert requests[0].url == "/a%2Fb/x%2F..%2Fy%3Fz%3D1%26%C3%A9"


@pytest.mark.parametrize("value", ["..", ".", "", None])
def test_a_value_that_is_not_allowed_in_a_path_rejects_its_row(value: Any) -> None:
    destination = api(path="/rows/{{ row.id }}", rows="single")
    requests, receipts = talk(destination, batch({"id": value}))
    assert not requests
    assert (receipts.requests, receipts.of("k1").outcome, receipts.of("k1").code) == (0, Outcome.REJECTED, "bad_value")


@pytest.mark.parametrize("record", [{"id": "a\r\nX-Evil: 1"}, {}])
def test_a_value_that_is_not_allowed_in_a_header_rejects_its_row(record: dict[str, Any]) -> None:
    _, receipts = talk(api(headers={"X-Row": "{{ row.id }}"}, rows="single"), batch(record))
    assert receipts.of("k1").code == "bad_value"


def test_headers_and_paths_can_contain_the_run_and_the_operation() -> None:
    destination = api(path="/{{ operation }}", headers={"X-Run": "{{ run_id }}"})
    for run_id in ("run-1", "run-2"):
        sent = replace(batch({"id": 1}), run_id=run_id)
        [request], _ = talk(destination, sent, reply(200))
        assert (request.url, request.headers) == ("/upsert", {"X-Run": run_id})


def test_with_an_idempotency_header_everything_may_be_sent_again() -> None:
    assert api(idempotency_header="Idempotency-Key").capabilities.idempotent(Operation.INSERT)


def test_ndjson_has_a_line_for_each_row() -> None:
    [request], _ = talk(api(body="ndjson"), batch({"id": 1}, {"id": 2}), reply(200))
    assert (request.body, request.headers) == (b'{"id":1}\n{"id":2}\n', {"Content-Type": "application/x-ndjson"})


@pytest.mark.parametrize("rows", ["single", "batch"])
def test_a_row_without_json_form_is_rejected_and_holds_back_no_other(rows: str) -> None:
    destination = api(rows=rows)
    sent = batch({"id": 1}, {"id": float("nan")}) if rows == "batch" else batch({"id": float("nan")})
    requests, receipts = talk(destination, sent, *([reply(200)] if rows == "batch" else []))
    assert [request.body for request in requests] == ([b'[{"id":1}]'] if rows == "batch" else [])
    assert receipts.of(sent.keys[-1]).code == "not_json"
    assert outcomes(receipts, sent) == (["accepted", "rejected"] if rows == "batch" else ["rejected"])


def test_a_body_that_is_too_large_is_split_without_a_request() -> None:
    requests, receipts = talk(api(max_batch_bytes=20), batch({"id": "a" * 10}, {"id": "b" * 10}))
    assert (requests, receipts.refused_whole, receipts.requests) == ([], True, 0)
    _, receipts = talk(api(max_batch_bytes=20), batch({"id": "a" * 100}))
    assert receipts.of("k1").code == "too_large"


# -- replies -----------------------------------------------------------------------------------------------------------

ERRORS = {"results": {"list": "errors", "rows": "failed", "key": {"id": "id"}}}


def test_an_error_that_names_no_row_splits_the_batch_where_that_is_safe() -> None:
    lost = reply(207, {"errors": [{"code": "INVALID", "message": "some row"}]})
    sent = batch({"id": 1}, {"id": 2})
    assert talk(api(**ERRORS), sent, lost)[1].refused_whole
    _, receipts = talk(api(mode="insert", **ERRORS), replace(sent, operation=Operation.INSERT), lost)
    assert (receipts.refused_whole, outcomes(receipts, sent)) == (False, ["unknown", "unknown"])
    alone = batch({"id": 1})
    assert outcomes(talk(api(**ERRORS), alone, lost)[1], alone) == ["rejected"]


def test_a_row_that_a_full_list_leaves_out_is_unknown() -> None:
    results = {"list": "results", "key": {"id": "id"}, "error": "error"}
    answer = reply(200, {"results": [{"id": 1}, {"id": 3, "error": {"x": 1}, "code": "BAD"}]})
    sent = batch({"id": 1}, {"id": 2}, {"id": 3})
    assert outcomes(talk(api(results=results), sent, answer)[1], sent) == ["accepted", "unknown", "rejected"]


def test_a_code_may_mean_a_unique_conflict() -> None:
    results = {**ERRORS["results"], "codes": {"TAKEN": "conflict"}}
    answer = reply(200, {"errors": [{"id": 1, "code": "TAKEN"}, {"id": 2, "code": "BAD"}]})
    sent = batch({"id": 1}, {"id": 2}, {"id": 3})
    assert outcomes(talk(api(results=results), sent, answer)[1], sent) == ["conflict", "rejected", "accepted"]


def test_rows_that_a_409_names_have_a_conflict_and_the_others_are_sent() -> None:
    sent = batch({"id": 1}, {"id": 2})
    answers = reply(409, {"errors": [{"id": 1, "code": "EMAIL_TAKEN"}]}), reply(200, {"errors": []})
    requests, receipts = talk(api(**ERRORS), sent, *answers)
    assert outcomes(receipts, sent) == ["conflict", "accepted"]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "accepted"),
        (204, "accepted"),
        (400, "rejected"),
        (408, "retryable"),
        (409, "conflict"),
        (413, "rejected"),
        (422, "rejected"),
        (423, "retryable"),
        (429, "retryable"),
        (500, "unknown"),
        (502, "unknown"),
        (503, "retryable"),
        (504, "unknown"),
    ],
)
def test_a_status_decides_the_outcome_of_the_rows(status: int, outcome: str) -> None:
    sent = batch({"id": 1}, {"id": 2})
    _, receipts = talk(api(), sent, reply(status, {"message": "words"}))
    assert outcomes(receipts, sent) == [outcome, outcome]
    assert receipts.refused_whole is (outcome in ("rejected", "conflict"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, ConfigurationError),
        (401, CredentialsError),
        (403, CredentialsError),
        (404, ConfigurationError),
        (405, ConfigurationError),
        (501, ConfigurationError),
    ],
)
def test_a_status_that_concerns_every_row_stops_the_load(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        talk(api(), batch({"id": 1, "name": "Ada Lovelace"}), reply(status, {"message": "no s3cret for Ada Lovelace"}))
    assert "s3cret" not in str(caught.value)
    assert "Lovelace" not in str(caught.value)
    assert "connection 'crm'" in str(caught.value)


def test_the_option_statuses_overrides_the_table() -> None:
    sent = batch({"id": 1}, {"id": 2})
    _, receipts = talk(api(statuses={409: "retry"}), sent, reply(409))
    assert outcomes(receipts, sent) == ["retryable", "retryable"]


@pytest.mark.parametrize(("operation", "outcome"), [("update", "skipped"), ("delete", "accepted")])
def test_a_404_means_a_missing_row_if_the_path_names_the_row(operation: str, outcome: str) -> None:
    destination = api(
        path="/rows/{{ row.id }}", rows="single", operations={"delete": {"method": "DELETE"}}, match_on="id"
    )
    sent = batch({"id": 1}, operation=Operation(operation))
    assert outcomes(talk(destination, sent, reply(404))[1], sent) == [outcome]


async def test_single_deletes_in_a_larger_batch_each_keep_their_outcome() -> None:
    async with FakeApi(Dials(lose_answer=[2])) as fake:
        remote = FakeApiRemote(fake, {"operations": {"delete": SINGLE_DELETE}})
        destination = remote.create("mirror")
        await destination.open(CountingLimiter())
        receipts = await destination.send(batch({"id": "1"}, {"id": "2"}, {"id": "3"}, operation=Operation.DELETE))
        await destination.close()
    assert [receipts.of(f"k{n}").outcome.value for n in (1, 2, 3)] == ["accepted", "unknown", "accepted"]
    assert receipts.requests == 3


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"path": None}, "'path' is required"),
        ({"path": "/{{ row.id }}"}, "the variable 'row' needs rows: single"),
        ({"path": "/{{ nme }}"}, "uses nme; known: id, object, operation, row, run_id"),
        ({"path": "/{{ row.id"}, "not a valid template"),
        ({"rowz": "single"}, "unknown key; did you mean 'rows'?"),
        ({"results": {"list": "errors"}}, "which show the rows that were written"),
        ({"results": {"list": "errors", "rows": "failed"}}, "which match an entry with its row"),
        ({"records": "a", "envelope": {"a": 1}}, "already has a value"),
        ({"records": "a.b", "envelope": {"a": 1}}, "must be an object"),
        ({"envelope": {"a": 1}}, "needs 'records', the field for the records"),
        ({"connection": None}, "connection: is required"),
    ],
)
def test_a_wrong_option_is_a_problem_with_its_place(options: dict[str, Any], problem: str) -> None:
    spec = {"type": "http", "connection": "crm", "path": "/rows", **options}
    found = check_options({key: value for key, value in spec.items() if value is not None})
    assert any(problem in f"{'.'.join(where)}: {message}" for where, message in found), found


def test_everything_that_the_destination_cannot_do_is_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        create(sync({"rows": "single"}, mode="mirror", rate={"batch_size": 5}), connection=CONNECTION)
    assert len(caught.value.problems) == 3
    assert "mirror needs delete" in str(caught.value)


# -- the wire ----------------------------------------------------------------------------------------------------------


async def serve(answer: Any, options: Mapping[str, Any] | None = None) -> Receipts:
    """Send one row to a handler."""
    runner = web.AppRunner(app := web.Application(), shutdown_timeout=0.1)
    app.router.add_route("*", "/{path:.*}", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = ConnectionInfo(
        "crm", "http", host=f"http://127.0.0.1:{runner.addresses[0][1]}/base/", login="me", password="pw"
    )
    destination = create(sync(options or {}), connection=connection)
    await destination.open(CountingLimiter())
    try:
        return await destination.send(batch({"id": 1}))
    finally:
        await destination.close()
        await runner.cleanup()


async def test_requests_carry_the_credentials_below_the_base_url() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/base/rows"
        assert request.headers["Authorization"] == "Basic bWU6cHc="
        return web.Response()

    assert (await serve(answer)).of("k1").outcome is Outcome.ACCEPTED


async def test_a_redirect_is_not_followed() -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    with pytest.raises(ConfigurationError, match="redirect"):
        await serve(answer)
    assert seen == ["/base/rows"]


async def test_a_row_whose_answer_takes_too_long_is_unknown() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    receipts = await serve(answer, {"timeout": 0.1})
    assert (receipts.of("k1").outcome, receipts.of("k1").code) == (Outcome.UNKNOWN, "timeout")


async def test_a_reply_that_is_too_large_is_not_read() -> None:
    async def answer(request: web.Request) -> web.Response:
        response = web.Response(body=bytes(MAX_REPLY_BYTES + 1))
        response.enable_compression()
        return response

    assert (await serve(answer)).of("k1").code == "reply_too_large"


async def test_a_large_body_arrives_whole() -> None:
    async with FakeApi() as fake:
        destination = create(sync(fake.options()), connection=fake.connection())
        await destination.open(CountingLimiter())
        receipts = await destination.send(batch({"id": "1", "name": "x" * 3_000_000}))
        await destination.close()
    assert receipts.of("k1").outcome is Outcome.ACCEPTED


# -- connections that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "problem"),
    [
        ({"host": "api.example.com", "port": 99_999}, "port"),
        ({"host": "http://api.example.com:99999"}, "port"),
        ({"host": "a..b"}, "host or port is not valid"),
        ({"host": "api.example.com:0"}, "host or port is not valid"),
        ({"host": "exa mple.com"}, "not a URL"),
        ({"host": "api.example.com", "login": "me\n", "password": "s3cret"}, "control characters in 'login'"),
        ({"host": "api.example.com\n"}, "not a URL"),
        (
            {"host": "api.example.com", "password": "s3cret\n"},
            "control characters in 'password'",
        ),
        ({"host": "api.example.com", "extra": {"headers": {"X-Key": "s3cret\r\nX: y"}}}, "'X-Key'"),
    ],
)
def test_a_connection_that_allows_no_request_is_a_configuration_error(connection: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        api(ConnectionInfo("crm", "http", **connection))
    assert "s3cret" not in str(caught.value)
    assert "connection 'crm'" in str(caught.value)


async def receipts_from(connection: ConnectionInfo) -> Receipts:
    destination = create(sync({}), connection=connection)
    await destination.open(CountingLimiter())
    try:
        return await destination.send(batch({"id": 1}))
    finally:
        await destination.close()


async def test_https_to_a_plain_port_is_a_configuration_error() -> None:
    async with FakeApi() as fake:
        with pytest.raises(ConfigurationError, match="no secure connection"):
            await receipts_from(ConnectionInfo("crm", "http", host=fake.url.replace("http://", "https://")))


async def test_an_unknown_host_is_named_and_tried_again() -> None:
    receipt = (await receipts_from(ConnectionInfo("crm", "http", host="http://crm.invalid:8080"))).default
    assert (receipt.outcome, receipt.code, receipt.host) == (Outcome.RETRYABLE, "unknown_host", "crm.invalid:8080")


async def test_a_host_that_does_not_answer_is_named_and_tried_again() -> None:
    async with FakeApi() as fake:
        pass
    receipt = (await receipts_from(ConnectionInfo("crm", "http", host=fake.url))).default
    assert (receipt.outcome, receipt.code) == (Outcome.RETRYABLE, "not_connected")
    assert receipt.host == fake.url.removeprefix("http://")
