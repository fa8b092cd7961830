"""Replies to type ``http`` whose meaning is in codes, in lists by kind, or in counts; and the worth of the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_reverse_etl.destinations.registry import check_options
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipts
from tests.destinations.json_api import api, batch, outcomes, reply, talk

TWO = batch({"id": 1, "email": "Ada@Example.com"}, {"id": 2, "email": "grace@example.com"})
ONE = batch({"id": 1, "email": "Ada@Example.com"})


def receive(status: int, body: Any, sent: Batch = TWO, *, mode: str = "upsert", **options: Any) -> Receipts:
    headers = options.pop("reply_headers", {})
    if mode == "insert":
        sent = replace(sent, operation=Operation.INSERT)
    return talk(api(mode=mode, **options), sent, reply(status, body, **headers))[1]


# -- codes of whole replies --------------------------------------------------------------------------------------------

CODES = {"codes": {"REQUEST_LIMIT_EXCEEDED": "throttle", 80000: "throttle", "DUPLICATE": "accept", "GONE": "skip"}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "later"}]),
        (400, {"error": {"code": 80000, "message": "too many calls"}}),
        (401, {"code": "REQUEST_LIMIT_EXCEEDED"}),
        (200, {"success": False, "errors": [{"code": "REQUEST_LIMIT_EXCEEDED"}]}),
    ],
)
def test_a_code_takes_precedence_over_the_status(status: int, body: Any) -> None:
    receipts = receive(status, body, **CODES, statuses={403: "reject"}, reply_headers={"Retry-After": "20"})
    assert outcomes(receipts, TWO) == ["retryable"] * 2
    assert (receipts.refused_whole, receipts.retry_after) == (False, 20.0)


def test_another_code_leaves_the_meaning_to_the_status() -> None:
    with pytest.raises(CredentialsError):
        receive(403, [{"errorCode": "INSUFFICIENT_ACCESS"}], **CODES)
    assert receive(400, {"error": {"code": 100}}, **CODES).refused_whole


@pytest.mark.parametrize(
    ("meaning", "error"), [("credentials", CredentialsError), ("configuration", ConfigurationError)]
)
def test_a_code_may_stop_the_load(meaning: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        receive(200, {"success": False, "errors": [{"code": "603"}]}, codes={603: meaning})


def test_the_code_is_read_where_the_option_error_says() -> None:
    body = {"fault": {"detail": {"errorcode": "SpikeArrest"}}, "code": "DUPLICATE"}
    options = {"codes": {"SpikeArrest": "throttle"}, "error": {"code": "fault.detail.errorcode"}}
    assert outcomes(receive(500, body, **options), TWO) == ["retryable"] * 2


def test_the_codes_of_rows_are_not_the_code_of_the_reply() -> None:
    results = {"list": "errors", "rows": "failed", "key": {"id": "id"}}
    body = {"errors": [{"id": 2, "code": "REQUEST_LIMIT_EXCEEDED"}]}
    assert outcomes(receive(207, body, **CODES, results=results), TWO) == ["accepted", "rejected"]


@pytest.mark.parametrize(("code", "outcome"), [("DUPLICATE", "accepted"), ("GONE", "skipped")])
@pytest.mark.parametrize("status", [200, 409])
def test_a_refusal_that_means_success_or_a_missing_row_speaks_of_one_row(code: str, outcome: str, status: int) -> None:
    options = {**CODES, "success": {"path": "ok", "value": True}}
    body = {"ok": False, "code": code}
    assert receive(status, body, **options).refused_whole, "the other rows of the batch were not written"
    assert outcomes(receive(status, body, ONE, **options), ONE) == [outcome]


def test_a_status_that_means_success_splits_a_refused_batch_too() -> None:
    assert receive(409, {}, statuses={409: "accept"}).refused_whole
    assert receive(409, {}, ONE, statuses={409: "accept"}) == Receipts()


def test_a_code_for_success_hides_no_failure() -> None:
    accept = {"codes": {"Success": "accept"}}
    failures = {"list": "errors", "rows": "failed", "key": {"id": "id"}}
    assert outcomes(receive(200, {"code": "Success", "errors": [{"id": 1}]}, **accept, results=failures), TWO) == [
        "rejected",
        "accepted",
    ]
    assert receive(200, {"code": "Success", "failCount": 1}, **accept).stop is not None
    assert receive(200, {"code": "Success"}, **accept) == Receipts()


@pytest.mark.parametrize("body", [None, {"error": "Not found"}, {"errors": [{"detail": "Not found"}]}])
def test_the_words_of_a_404_do_not_stop_the_deletion_of_a_missing_row(body: Any) -> None:
    path = {"path": "/rows/{{ row.id }}", "rows": "single", "match_on": "id"}
    destination = api(mode="mirror", **path, operations={"delete": {"method": "DELETE"}})
    assert talk(destination, replace(ONE, operation=Operation.DELETE), reply(404, body))[1] == Receipts()


# -- codes of rows -----------------------------------------------------------------------------------------------------

ROWS = {"results": {"list": "result", "ok": {"status": "ok"}, "codes": {1006: "configuration", "LOCK": "throttle"}}}


def test_the_code_of_a_row_may_ask_to_wait() -> None:
    body = {"result": [{"status": "ok"}, {"status": "failed", "code": "LOCK"}]}
    receipts = receive(200, body, **ROWS, reply_headers={"Retry-After": "5"})
    assert (outcomes(receipts, TWO), receipts.retry_after) == (["accepted", "retryable"], 5.0)


def test_a_code_that_asks_to_wait_without_a_time_leaves_the_time_to_the_engine() -> None:
    receipts = receive(200, {"result": [{"status": "ok"}, {"status": "failed", "code": "LOCK"}]}, **ROWS)
    assert (receipts.throttled, receipts.retry_after) == (True, None)
    alone = api(mode="mirror", rows="single", operations={"delete": {"rows": "batch"}}, match_on="id", **CODES)
    requests, receipts = talk(alone, TWO, reply(403, {"code": "REQUEST_LIMIT_EXCEEDED"}))
    assert (len(requests), receipts.throttled) == (1, True)
    assert outcomes(receipts, TWO) == ["retryable"] * 2


def test_the_code_of_a_row_may_stop_the_load() -> None:
    body = {"result": [{"status": "ok"}, {"status": "failed", "code": "1006", "message": "Field 'x' not found"}]}
    receipts = receive(200, body, **ROWS)
    assert outcomes(receipts, TWO) == ["accepted", "retryable"]
    assert isinstance(receipts.stop, ConfigurationError)
    assert "code 1006: Field 'x' not found" in receipts.stop.what


def test_a_row_that_a_refusal_names_as_existing_is_not_sent_again() -> None:
    results = {"list": "errors", "rows": "failed", "key": {"id": "id"}, "codes": {"EXISTS": "accept"}}
    body = {"errors": [{"id": 1, "code": "EXISTS"}]}
    requests, receipts = talk(api(results=results), TWO, reply(409, body), reply(200))
    assert [len(json.loads(request.body)) for request in requests] == [2, 1]
    assert outcomes(receipts, TWO) == ["accepted"] * 2
    worse = {"errors": [{"id": 1, "code": "INVALID"}, {"id": 1, "code": "EXISTS"}]}
    assert outcomes(receive(207, worse, results=results), TWO) == ["rejected", "accepted"]


def test_rows_that_a_refusal_does_not_name_were_not_written_if_the_load_stops() -> None:
    body = {"errors": [{"id": 2, "code": "UNKNOWN_FIELD"}]}
    results = {"list": "errors", "rows": "failed", "key": {"id": "id"}, "codes": {"UNKNOWN_FIELD": "configuration"}}
    receipts = receive(400, body, results=results)
    assert outcomes(receipts, TWO) == ["retryable"] * 2
    assert receipts.stop is not None


def test_a_row_that_is_sent_alone_may_stop_the_load() -> None:
    results = {"list": "errors", "rows": "failed", "key": {"id": "id"}, "codes": {"UNKNOWN_FIELD": "configuration"}}
    options = {"rows": "single", "operations": {"delete": {"rows": "batch"}}, "match_on": "id", "results": results}
    receipts = receive(200, {"errors": [{"id": 1, "code": "UNKNOWN_FIELD"}]}, mode="mirror", **options)
    assert outcomes(receipts, TWO) == ["retryable"] * 2
    assert receipts.stop is not None


# -- lists by kind -----------------------------------------------------------------------------------------------------


def by_kind(list_: Any, **others: Any) -> dict[str, Any]:
    return {"results": {"list": list_, "rows": "failed", "key": {"": "email"}, **others}}


@pytest.mark.parametrize("list_", ["failedUpdates", ["failedUpdates.invalidEmails", "failedUpdates.notFoundEmails"]])
def test_failures_are_listed_by_kind_under_the_address_in_other_letters(list_: Any) -> None:
    body = {"failedUpdates": {"invalidEmails": ["ada@example.com"], "notFoundEmails": ["grace@example.com"]}}
    receipts = receive(200, body, **by_kind(list_, codes={"notFoundEmails": "skip"}))
    found = [receipts.of(key) for key in TWO.keys]
    assert [(receipt.outcome, receipt.code, receipt.message) for receipt in found] == [
        (Outcome.REJECTED, "invalidEmails", ""),
        (Outcome.SKIPPED, "notFoundEmails", ""),
    ]


@pytest.mark.parametrize("body", [{"failedUpdates": {}}, {"failedUpdates": {"invalidEmails": []}}, {"written": 2}])
def test_a_reply_without_failures_of_any_kind_is_a_success(body: Any) -> None:
    assert receive(200, body, **by_kind("failedUpdates")) == Receipts()


def test_an_object_that_has_not_only_lists_is_not_read() -> None:
    body = {"errors": {"ada@example.com": {"code": "BLOCKED"}}}
    receipts = receive(200, body, **by_kind("errors"))
    assert receipts.stop is not None
    assert outcomes(receipts, TWO) == ["unknown"] * 2


def test_one_of_several_lists_may_be_missing() -> None:
    lists = by_kind(["invalid", "missing"])
    assert outcomes(receive(200, {"missing": ["grace@example.com"]}, **lists), TWO) == ["accepted", "rejected"]
    assert receive(200, {"errors": ["grace@example.com"]}, **lists).stop is not None


# -- part of the rows was written --------------------------------------------------------------------------------------

IMPORT = {
    "statuses": {400: "partial"},
    "results": {"list": "failed_records", "rows": "failed", "index": "index", "accepted": "num_records_imported"},
}


@pytest.mark.parametrize("mode", ["insert", "upsert"])
def test_rows_that_were_written_before_a_refusal_are_not_sent_again(mode: str) -> None:
    body = {"code": 400, "error": "some failed", "num_records_imported": 1, "failed_records": [{"index": 0}]}
    receipts = receive(400, body, mode=mode, **IMPORT)
    assert (receipts.refused_whole, receipts.stop) == (False, None)
    assert outcomes(receipts, TWO) == ["rejected", "accepted"]


@pytest.mark.parametrize("body", [None, {"error": "bad JSON"}, {"error": "?", "failed_records": []}, "a page"])
def test_rows_of_a_refusal_that_names_none_of_them_are_split_only_if_that_is_safe(body: Any) -> None:
    unsafe = receive(400, body, mode="insert", **IMPORT)
    assert (outcomes(unsafe, TWO), unsafe.refused_whole) == (["unknown"] * 2, False)
    assert receive(400, body, **IMPORT).refused_whole
    assert outcomes(receive(400, body, ONE, **IMPORT), ONE) == ["rejected"]


def test_a_refusal_that_counts_written_rows_is_read_as_partly_written() -> None:
    options = {"results": IMPORT["results"]}
    body = {"num_records_imported": 1, "failed_records": [{"index": 0}]}
    receipts = receive(400, body, mode="insert", **options)
    assert outcomes(receipts, TWO) == ["rejected", "accepted"]


def test_a_refusal_that_names_written_rows_is_read_as_partly_written() -> None:
    body = {"result": [{"status": "ok"}, {"status": "failed"}]}
    assert outcomes(receive(422, body, mode="insert", **ROWS), TWO) == ["accepted", "rejected"]
    assert receive(422, {"result": [{"status": "failed"}] * 2}, mode="insert", **ROWS).of("k1").code == "rejected"


def test_a_code_may_mean_that_part_of_the_rows_was_written() -> None:
    options = {"codes": {20001: "partial"}, "results": {**IMPORT["results"], "accepted": None}}
    body = {"code": 20001, "failed_records": [{"index": 1}]}
    assert outcomes(receive(500, body, mode="insert", **options), TWO) == ["accepted", "rejected"]


def test_partly_written_needs_results() -> None:
    for options in ({"statuses": {400: "partial"}}, {"codes": {"X": "partial"}}):
        found = check_options({"type": "http", "connection": "crm", "path": "/rows", **options})
        assert any("'partial' needs 'results'" in message for _, message in found)


# -- counts ------------------------------------------------------------------------------------------------------------


def counted(**counts: str) -> dict[str, Any]:
    return {"results": {"list": "errors", "rows": "failed", "key": {"id": "id"}, **counts}}


WRITTEN = counted(accepted="written")
FAILED = counted(failed="count")


@pytest.mark.parametrize(
    ("options", "body", "expected"),
    [
        (WRITTEN, {"written": 2, "errors": []}, ["accepted", "accepted"]),
        (WRITTEN, {"written": 2}, ["accepted", "accepted"]),
        (WRITTEN, {"written": [{"id": 1}], "errors": [{"id": 2}]}, ["accepted", "rejected"]),
        (WRITTEN, {"written": 0, "errors": [{"id": 1}, {"id": 2}]}, ["rejected", "rejected"]),
        (FAILED, {"count": 1, "errors": [{"id": 2}]}, ["accepted", "rejected"]),
        (FAILED, {"count": 1, "errors": [{"id": [1, 2]}]}, ["rejected", "rejected"]),
        (FAILED, {"errors": []}, ["accepted", "accepted"]),
    ],
)
def test_rows_that_no_entry_names_are_accepted_if_the_counts_agree(
    options: Any, body: Any, expected: list[str]
) -> None:
    assert outcomes(receive(200, body, mode="insert", **options), TWO) == expected


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (WRITTEN, {"written": 1, "errors": []}),
        (WRITTEN, {"written": 1}),
        (WRITTEN, {"written": 0, "errors": [{"id": 2}]}),
        (WRITTEN, {"written": 3, "errors": []}),
        (FAILED, {"count": 1, "errors": []}),
        (FAILED, {"count": 2, "errors": [{"id": 2}]}),
    ],
)
def test_counts_that_do_not_agree_accept_no_row_that_no_entry_names(options: Any, body: Any) -> None:
    safe = receive(200, body, **options)
    assert (safe.refused_whole, safe.default.outcome) == (True, Outcome.REJECTED), "the engine finds the bad row"
    unsafe = receive(200, body, mode="insert", **options)
    assert unsafe.stop is not None
    assert "do not agree" in unsafe.stop.what
    named = [str(entry["id"]) for entry in body.get("errors", [])]
    assert outcomes(unsafe, TWO) == ["rejected" if str(n) in named else "unknown" for n in (1, 2)]


@pytest.mark.parametrize("mode", ["insert", "upsert"])
def test_a_row_alone_that_is_not_counted_as_written_is_rejected(mode: str) -> None:
    receipt = receive(200, {"written": 0}, ONE, mode=mode, **WRITTEN).of("k1")
    assert (receipt.outcome, receipt.code, receipt.status) == (Outcome.REJECTED, "not_named", 200)
    assert receive(200, {"count": 1}, ONE, mode=mode, **FAILED).of("k1").outcome is Outcome.REJECTED
    assert receive(200, {"written": 2}, ONE, mode=mode, **WRITTEN).stop is not None, "it is another number"


@pytest.mark.parametrize(
    ("options", "body", "option"),
    [
        (WRITTEN, {"errors": []}, "results.accepted"),
        (WRITTEN, {}, "results.accepted"),
        (WRITTEN, {"written": "2", "errors": []}, "results.accepted"),
        (FAILED, {"errors": [{"id": 2}]}, "results.failed"),
    ],
)
def test_a_count_that_is_missing_stops_the_load(options: Any, body: Any, option: str) -> None:
    receipts = receive(200, body, **options)
    assert receipts.stop is not None
    assert f"the path of `{option}`" in receipts.stop.what
    assert receipts.of("k1").outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("name", ["failCount", "error_count", "numErrors", "FailedRecordCount", "failed_records"])
def test_a_count_of_failures_that_the_sync_does_not_read_stops_the_load(name: str) -> None:
    assert receive(200, {name: 1}).stop is not None
    assert receive(200, {name: 0}) == Receipts()
    assert receive(200, {name: 1}, **by_kind("misspelt")).stop is not None


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ({"ok": {"status": "ok"}, "accepted": "written"}, "need rows: failed"),
        ({"ok": {"status": "ok"}, "list": ["a", "b"]}, "several paths in 'list' need rows: failed"),
        ({"ok": {"status": "ok"}, "codes": {"X": "refuse"}}, "Input should be"),
    ],
)
def test_results_that_do_not_fit_together_are_a_problem(results: dict[str, Any], problem: str) -> None:
    found = check_options({"type": "http", "connection": "crm", "path": "/rows", "results": results})
    assert any(problem in message for _, message in found), found


# -- what the answers are worth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "worth"),
    [
        ({}, "batch"),
        ({"success": {"path": "ok", "value": True}}, "batch"),
        ({"rows": "single"}, "row"),
        (ROWS, "row"),
        ({**ROWS, "answers": "taken"}, "taken"),
        ({"answers": "row"}, "row"),
    ],
)
def test_the_options_say_what_the_answers_are_worth(options: dict[str, Any], worth: str) -> None:
    assert api(**options).capabilities.operations[Operation.UPSERT].answers == worth


def test_rows_answered_with_202_were_only_taken() -> None:
    failures = {"results": {"list": "errors", "rows": "failed", "key": {"id": "id"}}}
    assert receive(202, None) == Receipts(taken=True)
    assert receive(202, {"errors": [{"id": 1}]}, **failures).taken
    assert not receive(200, None).taken
    alone = api(mode="mirror", rows="single", operations={"delete": {"rows": "batch"}}, match_on="id")
    assert talk(alone, TWO, reply(202), reply(200))[1] == Receipts(taken=True)
