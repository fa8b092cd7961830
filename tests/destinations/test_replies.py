"""Replies to type ``http``: no failure counts as success, and a row is accepted only if the reply confirms that row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_reverse_etl.destinations.http import Reply
from airflow_reverse_etl.destinations.json_api import JsonApi
from airflow_reverse_etl.destinations.registry import check_options, create
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipts
from tests.destinations.json_api import CONNECTION, api, batch, outcomes, reply, sync, talk

THREE = batch({"id": 1, "name": "Ada"}, {"id": 2, "name": "Lovelace"}, {"id": 3, "name": "Babbage"})
ONE = batch({"id": 1, "name": "Lovelace"})
#: An API that lists every row under its identifier.
NAMED = {"results": {"list": "results", "key": {"id": "id"}, "ok": {"ok": True}}}


def receive(answer: Reply, sent: Batch = THREE, *, mode: str = "upsert", **options: Any) -> Receipts:
    return talk(api(mode=mode, **options), sent, answer)[1]


def stop(receipts: Receipts) -> ConfigurationError:
    """Return the error that ends the load, whose rows must all be unknown."""
    assert receipts.stop is not None
    assert receipts.default.outcome is Outcome.UNKNOWN
    return receipts.stop


@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (207, None),
        (207, {"written": 3}),
        (200, {"errors": [{"id": 2}]}),
        (200, {"failed": ["2"]}),
        (201, {"failures": [2]}),
        (200, {"errors": True, "items": []}),
        (200, {"failed": 2}),
        (200, {"errors": {"email": ["is not valid"]}}),
        (200, {"ok": False, "error": "invalid_auth"}),
        (200, {"success": False}),
        (200, {"successful": False}),
        (200, {"Success": False, "Errors": []}),
        (200, {"error": {"message": "no"}}),
        (200, {"data": {"result": {"errors": ["x"]}}}),
        (200, {"results": [{"id": 1, "success": True}, {"id": 2, "success": False}]}),
        (200, [{"id": 1, "errors": []}, {"id": 2, "errors": [{"statusCode": "REQUIRED_FIELD_MISSING"}]}]),
    ],
)
def test_a_reply_that_reports_failures_stops_the_load_if_the_sync_does_not_read_them(
    status: int, body: Any, rows: str
) -> None:
    error = stop(receive(reply(status, body), THREE if rows == "batch" else ONE, rows=rows))
    assert "per-row results" in str(error)
    assert "set `results`" in error.todo
    assert "Lovelace" not in str(error)


@pytest.mark.parametrize(
    "body",
    [None, {}, [], {"ok": True}, {"success": True, "errors": []}, {"failed": 0, "error": None}, {"errors": {}}, [{}]],
)
def test_a_reply_that_reports_no_failure_is_a_success(body: Any) -> None:
    assert outcomes(receive(reply(200, body)), THREE) == ["accepted"] * 3


def test_the_error_names_where_the_reply_reports_failures_and_which_lists_it_has() -> None:
    error = stop(receive(reply(200, {"results": [{"id": 1}], "errors": [{"id": 2}]})))
    assert "at errors, which the sync does not read; it has the lists errors, results" in error.what


def test_the_option_statuses_makes_such_a_reply_a_success() -> None:
    assert receive(reply(207, {"errors": [1]}), statuses={207: "accept"}) == Receipts()


def test_the_paths_of_a_reply_that_are_values_of_a_row_are_not_shown() -> None:
    sent = batch({"id": 1, "name": "ada@example.com"})
    error = stop(receive(reply(200, {"ada@example.com": {"errors": ["no"]}}), sent))
    assert "ada@example.com" not in str(error)


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, "text", {"results": 5}, {"rows": [{"id": 1, "ok": True}]}])
def test_a_reply_without_the_list_that_the_sync_names_stops_the_load(body: Any) -> None:
    error = stop(receive(reply(200, body), **NAMED))
    assert "no list at 'results'" in error.what
    assert "correct `results.list`" in error.todo
    if isinstance(body, dict) and "rows" in body:
        assert "it has the lists rows" in error.what


def test_a_list_of_failures_may_be_left_out_only_if_the_reply_reports_no_failure() -> None:
    failures = {"results": {"list": "errs", "rows": "failed", "key": {"id": "id"}}}
    assert outcomes(receive(reply(200, {"written": 3}), **failures), THREE) == ["accepted"] * 3
    assert "no list at 'errs'" in stop(receive(reply(200, {"errors": [{"id": 2}]}), **failures)).what
    assert "no list at 'errs'" in stop(receive(reply(207, {"written": 2}), **failures)).what
    assert "at failures" in stop(receive(reply(200, {"errs": [], "failures": [{"id": 2}]}), **failures)).what


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3], ["accepted", "accepted", "accepted"]),
        ([3, 1, 2], ["accepted", "accepted", "accepted"]),
        ([1, 1, 1], ["accepted", "unknown", "unknown"]),
        ([1, 2, 9], ["accepted", "accepted", "unknown"]),
        ([1, 2, 3, 3, 9], ["accepted", "accepted", "accepted"]),
        ([2], ["unknown", "accepted", "unknown"]),
    ],
)
def test_a_row_is_accepted_when_an_entry_names_it(ids: list[int], expected: list[str]) -> None:
    body = {"results": [{"id": id_, "ok": True} for id_ in ids]}
    assert outcomes(receive(reply(200, body), **NAMED), THREE) == expected


def test_a_row_is_accepted_when_an_entry_has_its_position() -> None:
    by_index = {"results": {"list": "results", "index": "row", "ok": {"ok": True}}}
    body = {"results": [{"row": 0, "ok": True}] * 3}
    assert outcomes(receive(reply(200, body), **by_index), THREE) == ["accepted", "unknown", "unknown"]


@pytest.mark.parametrize("count", [2, 4])
def test_a_list_of_another_length_names_no_row_by_its_place(count: int) -> None:
    by_place = {"results": {"list": "results", "ok": {"ok": True}}}
    error = stop(receive(reply(200, {"results": [{"ok": True}] * count}), **by_place))
    assert "set `results.key` or `results.index`" in error.todo
    assert outcomes(receive(reply(200, {"results": [{"ok": True}] * 3}), **by_place), THREE) == ["accepted"] * 3


def test_a_list_that_names_none_of_the_rows_stops_the_load() -> None:
    error = stop(receive(reply(200, {"results": [{"ref": id_, "ok": True} for id_ in (1, 2, 3)]}), **NAMED))
    assert "entries of 'results' match no row of the request" in error.what


def test_a_code_that_is_a_sentence_shows_no_value_of_a_row() -> None:
    failures = {"results": {"list": "errors", "rows": "failed", "key": {"id": "id"}, "code": "error"}}
    named = receive(reply(200, {"errors": [{"id": 2, "error": "Contact Lovelace is not valid"}]}), **failures)
    assert named.of("k2").code == "Contact … is not valid"
    whole = receive(reply(422, {"error": "Contact Lovelace is not valid"}))
    assert "Lovelace" not in whole.default.code


def test_a_receipt_has_the_host_and_the_status() -> None:
    receipt = receive(reply(429, {"message": "slow down"})).default
    assert (receipt.host, receipt.status) == ("api.example.com", 429)


FAILURES = {"results": {"list": "errors", "rows": "failed", "key": {"name": "name"}}}


def test_a_list_of_errors_under_another_name_is_no_success() -> None:
    misspelt = {"results": {**FAILURES["results"], "list": "rejcted"}}
    error = stop(receive(reply(200, {"rejected": [{"name": "Ada", "code": "BLOCKED"}]}), **misspelt))
    assert "it has the lists rejected" in error.what


def test_rows_that_failed_in_a_second_list_are_no_success() -> None:
    both = {"errors": [{"name": "Ada", "code": "X"}], "failures": [{"name": "Babbage"}]}
    assert "at errors, failures" in stop(receive(reply(200, both), **FAILURES)).what
    counted = {"success": False, "failed": 1, "errors": [{"name": "Ada", "code": "X"}]}
    assert outcomes(receive(reply(200, counted), **FAILURES), THREE) == ["rejected", "accepted", "accepted"]


def test_the_word_of_the_author_holds_for_what_looks_like_a_failure_beside_the_list() -> None:
    echoed = reply(200, {"errors": [], "data": {"contact": {"failed": 2}}})
    assert "at data.contact.failed" in stop(receive(echoed, **FAILURES)).what
    assert receive(echoed, statuses={200: "accept"}, **FAILURES) == Receipts()


def test_an_insert_stops_at_entries_that_name_none_of_its_rows() -> None:
    """Sent again, its good rows would be there twice, three times, five times."""
    sent = replace(THREE, operation=Operation.INSERT)
    foreign = reply(207, {"errors": [{"name": "someone", "code": "X"}]})
    assert "match no row of the request" in stop(receive(foreign, sent, mode="insert", **FAILURES)).what
    assert (
        "match no row of the request" in stop(receive(reply(200, {"results": []}), sent, mode="insert", **NAMED)).what
    )


def test_a_row_that_is_not_mentioned_has_host_and_status_in_its_receipt() -> None:
    receipt = receive(reply(200, {"results": [{"id": 1, "ok": True}]}), **NAMED).of("k2")
    assert (receipt.code, receipt.host, receipt.status) == ("no_result", "api.example.com", 200)


def test_json_with_a_byte_order_mark_is_json() -> None:
    assert receive(Reply(200, b"\xef\xbb\xbf{}")) == Receipts()


# -- success -----------------------------------------------------------------------------------------------------------

SLACK = {"success": {"path": "ok", "value": True}}


@pytest.mark.parametrize("rows", ["single", "batch"])
def test_a_verdict_on_the_whole_reply_decides(rows: str) -> None:
    sent = THREE if rows == "batch" else ONE
    assert receive(reply(200, {"ok": True}), sent, rows=rows, **SLACK) == Receipts()
    refused = receive(reply(200, {"ok": False, "error": "invalid_name"}), sent, rows=rows, **SLACK)
    assert (refused.default.outcome, refused.default.code) == (Outcome.REJECTED, "invalid_name")
    assert refused.refused_whole is (rows == "batch"), "the engine finds the bad row"


def test_one_of_several_values_may_mean_success() -> None:
    options = {"success": {"path": "status", "value": ["created", "updated"]}}
    assert receive(reply(200, {"status": "updated"}), **options) == Receipts()


def test_a_reply_without_the_verdict_stops_the_load() -> None:
    assert "no value at 'ok'" in stop(receive(reply(200, {"done": True}), **SLACK)).what


def test_a_verdict_does_not_cover_rows_that_are_listed_as_failed() -> None:
    assert "at errors" in stop(receive(reply(200, {"ok": True, "errors": [{"id": 2}]}), **SLACK)).what


# -- what is not JSON --------------------------------------------------------------------------------------------------

PAGE = Reply(200, b"<html>We are down for maintenance</html>", {"Content-Type": "text/html; charset=utf-8"})


def test_a_page_leaves_the_rows_unknown_if_sending_again_is_safe() -> None:
    receipts = receive(PAGE)
    assert receipts.stop is None
    assert (receipts.default.outcome, receipts.default.code) == (Outcome.UNKNOWN, "reply_not_json")
    assert "text/html" in receipts.default.message
    assert "set `reply: text`" in receipts.default.message


def test_a_page_stops_the_load_at_once_if_sending_again_is_not_safe() -> None:
    error = stop(receive(PAGE, replace(THREE, operation=Operation.INSERT), mode="insert"))
    assert "set `reply: text`" in error.todo


def test_a_reply_of_plain_text_is_an_answer_if_the_sync_expects_text() -> None:
    assert receive(Reply(200, b"ok"), reply="text") == Receipts()
    assert receive(PAGE, reply="text") == Receipts()
    found = check_options({"type": "http", "connection": "crm", "path": "/rows", "reply": "text", **SLACK})
    assert any("cannot be used with reply: text" in message for _, message in found)


@pytest.mark.parametrize("body", [b"", b"  \n", b"null"])
def test_an_empty_reply_is_an_answer(body: bytes) -> None:
    assert receive(Reply(204, body)) == Receipts()
    assert receive(Reply(200, body), ONE, rows="single", **({} if body.strip() else SLACK)) == Receipts()


# -- idempotency keys --------------------------------------------------------------------------------------------------

HEADER = {"idempotency_header": "Idempotency-Key"}


def key(sent: Batch, *, mode: str, **options: Any) -> str:
    track = {"track": options.pop("track")} if "track" in options else {}
    destination = create(sync({**HEADER, **options}, mode=mode, **track), connection=CONNECTION)
    assert isinstance(destination, JsonApi)
    [request], _ = talk(destination, sent, reply(200))
    assert request.headers is not None
    return str(request.headers["Idempotency-Key"])


def test_an_insert_that_is_tracked_has_the_same_key_in_every_run() -> None:
    sent = replace(ONE, operation=Operation.INSERT, plan_id="plan-1")
    first = key(sent, mode="insert")
    assert key(replace(sent, run_id="run-2", plan_id="plan-2", seqs=[7]), mode="insert") == first
    assert key(replace(sent, keys=["another"]), mode="insert") != first
    assert key(replace(sent, records=[{"id": 1, "name": "Ada"}]), mode="insert") != first
    assert key(sent, mode="insert", path="/elsewhere") != first
    assert key(replace(sent, keys=["another"]), mode="insert", match_on="id") == key(sent, mode="insert", match_on="id")


@pytest.mark.parametrize(("mode", "track"), [("append", {}), ("insert", {"track": "none"}), ("upsert", {})])
def test_everything_else_has_another_key_in_each_plan_and_for_each_row(mode: str, track: dict[str, str]) -> None:
    operation = Operation.UPSERT if mode == "upsert" else Operation.INSERT
    sent = replace(ONE, operation=operation, plan_id="plan-1")
    first = key(sent, mode=mode, **track)
    assert key(sent, mode=mode, **track) == first
    assert key(replace(sent, plan_id="plan-2"), mode=mode, **track) != first
    assert key(replace(sent, seqs=[2]), mode=mode, **track) != first, "two equal rows of one run are two rows"
    assert key(replace(sent, records=[{"id": 1, "name": "Ada"}]), mode=mode, **track) != first
