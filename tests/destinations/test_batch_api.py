"""Requests of a JSON API beyond one for each batch: look-ups, groups, further requests, forms."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qsl

import pytest

from airflow_reverse_etl.destinations.batch_api import Endpoint, Row
from airflow_reverse_etl.destinations.registry import check_options
from airflow_reverse_etl.destinations.templates import BadValueError
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sync.ports import Support
from airflow_reverse_etl.testing import converse
from tests.destinations.json_api import api, batch, outcomes, reply, talk


def bodies(requests: list[Any]) -> list[Any]:
    return [json.loads(request.body) for request in requests]


# -- items and bodies --------------------------------------------------------------------------------------------------


def test_an_item_may_have_another_shape_than_the_record_and_keeps_the_types_of_values() -> None:
    item = {"id": "{{ row.id }}", "age": "{{ row.age }}", "tags": ["x", "{{ row.name }}!"], "kind": "contact"}
    requests, _ = talk(api(item=item), batch({"id": "1", "age": 7, "name": "Ada"}), reply(200))
    assert bodies(requests) == [[{"id": "1", "age": 7, "tags": ["x", "Ada!"], "kind": "contact"}]]


def test_a_row_whose_item_cannot_be_made_is_rejected_and_the_others_are_sent() -> None:
    sent = batch({"id": "1", "age": 7}, {"id": "2"}, {"id": "3", "age": float("nan")}, {"id": "4", "age": 9})
    requests, receipts = talk(api(item={"age": "{{ row.age }}"}), sent, reply(200))
    assert bodies(requests) == [[{"age": 7}, {"age": 9}]]
    assert outcomes(receipts, sent) == ["accepted", "rejected", "rejected", "accepted"]
    assert [receipts.of(key).code for key in sent.keys[1:3]] == ["bad_value", "not_json"]


def test_entries_of_a_reply_are_matched_with_the_items_that_were_sent() -> None:
    results = {"list": "errors", "rows": "failed", "key": {"trace": "trace"}}
    sent = batch({"id": "1", "n": "a"}, {"id": "2", "n": "b"})
    answer = reply(200, {"errors": [{"trace": "t2", "code": "BAD"}]})
    _, receipts = talk(api(item={"trace": "t{{ row.id }}"}, results=results), sent, answer)
    assert outcomes(receipts, sent) == ["accepted", "rejected"]


def test_a_form_holds_the_fields_of_one_row() -> None:
    record = {"email": "a@x.io", "address": {"city": "Köln"}, "tags": ["a", "b"], "vip": True, "none": None}
    requests, _ = talk(api(rows="single", body="form"), batch(record), reply(200))
    (request,) = requests
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(request.body.decode(), keep_blank_values=True) == [
        ("email", "a@x.io"),
        ("address[city]", "Köln"),
        ("tags[0]", "a"),
        ("tags[1]", "b"),
        ("vip", "true"),
        ("none", ""),
    ]


def test_a_form_holds_several_rows_as_a_json_array() -> None:
    destination = api(body="form", records="data", envelope={"verbose": 1})
    requests, _ = talk(destination, batch({"id": "1"}, {"id": "2"}), reply(200))
    assert dict(parse_qsl(requests[0].body.decode())) == {"verbose": "1", "data": '[{"id":"1"},{"id":"2"}]'}


def test_a_multipart_form_is_the_same_for_the_same_rows() -> None:
    destination = api(body="multipart", records="data", idempotency_header="Key")
    first, _ = talk(destination, batch({"id": "1"}), reply(200))
    again, _ = talk(destination, batch({"id": "1"}), reply(200))
    other, _ = talk(destination, batch({"id": "2"}), reply(200))
    assert first == again != other
    boundary = first[0].headers["Content-Type"].partition("boundary=")[2]
    assert first[0].body.startswith(f"--{boundary}".encode())
    assert b'name="data"\r\n\r\n[{"id":"1"}]' in first[0].body


# -- limits and groups -------------------------------------------------------------------------------------------------


def test_each_operation_has_limits_of_its_own() -> None:
    operations = {"update": {"rows": "single", "path": "/{{ row.id }}"}, "delete": {"max_batch_rows": 7}}
    supported = api(max_batch_rows=50, max_batch_bytes=900, operations=operations).capabilities.operations
    limits = {operation.value: (found.max_rows, found.max_bytes) for operation, found in supported.items()}
    assert limits == {"upsert": (50, 900), "insert": (50, 900), "update": (1, 900), "delete": (7, 900)}


def test_rows_of_different_groups_are_sent_in_different_requests() -> None:
    destination = api(path="/lists/{{ row.list }}", group_by=["list"])
    sent = batch({"id": "1", "list": "a"}, {"id": "2", "list": "b"}, {"id": "3", "list": "a"})
    requests, receipts = talk(destination, sent, reply(200), reply(422, {"message": "no"}))
    assert [(request.url, len(json.loads(request.body))) for request in requests] == [("/lists/a", 2), ("/lists/b", 1)]
    assert outcomes(receipts, sent) == ["accepted", "rejected", "accepted"]


def test_a_group_that_is_refused_is_split_without_sending_the_others_again() -> None:
    destination = api(path="/lists/{{ row.list }}", group_by=["list"])
    sent = batch({"id": "1", "list": "a"}, {"id": "2", "list": "b"}, {"id": "3", "list": "b"})
    _, receipts = talk(destination, sent, reply(200), reply(422, {"message": "no"}))
    assert receipts.refused_whole
    assert receipts.exceptions["k1"].outcome is Outcome.ACCEPTED
    assert set(receipts.exceptions) == {"k1"}


def test_a_row_whose_group_is_not_known_is_rejected() -> None:
    def list_of(row: Row) -> str:
        if "list" not in row.record:
            raise BadValueError("the row has no list")
        return str(row.record["list"])

    support = Support(idempotent=True, answers="batch", max_rows=10)
    endpoint = Endpoint(path="/rows", support=support, group=list_of)
    rows = [Row("k1", {"list": "a"}), Row("k2", {}), Row("k3", {"list": "a"})]
    requests, receipts = converse(api().call(endpoint, rows), reply(200))
    assert bodies(requests) == [[{"list": "a"}, {"list": "a"}]]
    assert [receipts.of(row.key).outcome for row in rows] == [Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED]
    assert receipts.of("k2").message == "the row has no list"


def test_the_path_of_a_group_reads_only_the_fields_that_its_rows_share() -> None:
    sent = batch({"id": "1", "list": "a"}, {"id": "2", "list": "a"})
    requests, receipts = talk(api(path="/lists/{{ row.id }}", group_by=["list"]), sent)
    assert requests == []
    assert outcomes(receipts, sent) == ["rejected", "rejected"]


def test_rows_after_a_demand_to_wait_are_not_sent() -> None:
    destination = api(path="/lists/{{ row.list }}", group_by=["list"])
    sent = batch({"id": "1", "list": "a"}, {"id": "2", "list": "b"})
    requests, receipts = talk(destination, sent, reply(429, None, **{"Retry-After": "7"}))
    assert len(requests) == 1
    assert outcomes(receipts, sent) == ["retryable", "retryable"]
    assert (receipts.throttled, receipts.retry_after) == (True, 7)


# -- look-ups ----------------------------------------------------------------------------------------------------------

ARCHIVE: dict[str, Any] = {
    "match_on": "id",
    "operations": {
        "delete": {
            "path": "/archive",
            "records": "inputs",
            "item": {"id": "{{ id }}"},
            "find": {
                "path": "/read",
                "records": "inputs",
                "item": {"id": "{{ row.id }}"},
                "list": "results",
                "key": {"email": "id"},
                "id": "hs_id",
            },
        },
        "upsert": {
            "path": "/people/{{ id }}",
            "method": "PUT",
            "rows": "single",
            "find": {"path": "/find?email={{ row.id }}", "method": "GET", "rows": "single", "id": "hs_id"},
        },
        "insert": {"path": "/people", "rows": "single"},
    },
}


def gone(*ids: str) -> Any:
    return batch(*({"id": found} for found in ids), operation=Operation.DELETE)


def test_ids_are_looked_up_before_records_are_deleted_by_them() -> None:
    sent = gone("a@x.io", "b@x.io", "c@x.io")
    found = {"results": [{"hs_id": 0, "email": "A@x.io"}, {"hs_id": 12, "email": "c@x.io"}]}
    requests, receipts = talk(api(**ARCHIVE), sent, reply(200, found), reply(204))
    assert [request.url for request in requests] == ["/read", "/archive"]
    assert bodies(requests)[1] == {"inputs": [{"id": 0}, {"id": 12}]}
    assert outcomes(receipts, sent) == ["accepted"] * 3


def test_nothing_is_sent_if_no_record_is_found() -> None:
    sent = gone("a@x.io")
    requests, receipts = talk(api(**ARCHIVE), sent, reply(200, {"results": []}))
    assert len(requests) == 1
    assert outcomes(receipts, sent) == ["accepted"]


def test_a_row_that_names_several_records_is_rejected() -> None:
    sent = gone("a@x.io", "b@x.io")
    entries = [{"hs_id": number, "email": email} for number, email in [(1, "a@x.io"), (2, "a@x.io"), (3, "b@x.io")]]
    requests, receipts = talk(api(**ARCHIVE), sent, reply(200, {"results": entries}), reply(204))
    assert bodies(requests)[1] == {"inputs": [{"id": 3}]}
    assert outcomes(receipts, sent) == ["rejected", "accepted"]
    assert receipts.of("k1").code == "ambiguous"


def test_a_look_up_may_say_that_it_found_nothing_by_its_status() -> None:
    sent = gone("a@x.io", "b@x.io")
    silent = {"message": "none of the records was found"}
    with pytest.raises(ConfigurationError):
        talk(api(**ARCHIVE), sent, reply(404, silent))
    options = deepcopy(ARCHIVE)
    options["operations"]["delete"]["find"]["statuses"] = {404: "skip"}
    requests, receipts = talk(api(**options), sent, reply(404, silent))
    assert len(requests) == 1
    assert outcomes(receipts, sent) == ["accepted", "accepted"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_look_up_that_fails_has_written_nothing(status: int) -> None:
    sent = gone("a@x.io", "b@x.io")
    requests, receipts = talk(api(**ARCHIVE), sent, reply(status))
    assert len(requests) == 1
    assert outcomes(receipts, sent) == ["retryable", "retryable"]


@pytest.mark.parametrize("answer", [None, {"error": "busy"}, [], "text"], ids=str)
def test_a_look_up_whose_reply_cannot_be_read_does_not_count_as_empty(answer: Any) -> None:
    sent = gone("a@x.io")
    _, receipts = talk(api(**ARCHIVE), sent, reply(200, answer))
    assert outcomes(receipts, sent) == ["retryable"]
    assert receipts.stop is not None


@pytest.mark.parametrize("missing", [reply(404), reply(200, [])], ids=["404", "empty"])
def test_a_row_without_a_record_is_inserted_and_one_with_a_record_updated(missing: Any) -> None:
    destination = api(**ARCHIVE)
    requests, receipts = talk(destination, batch({"id": "a"}), reply(200, {"hs_id": 5}), reply(200))
    assert [(request.method, request.url) for request in requests] == [("GET", "/find?email=a"), ("PUT", "/people/5")]
    sent = batch({"id": "b"})
    requests, receipts = talk(destination, sent, missing, reply(201))
    assert [(request.method, request.url) for request in requests] == [("GET", "/find?email=b"), ("POST", "/people")]
    assert outcomes(receipts, sent) == ["accepted"]


def test_a_look_up_may_take_fewer_rows_than_the_request_that_follows() -> None:
    find = {"path": "/find", "records": "ids", "list": "found", "key": {"id": "id"}, "max_batch_rows": 2}
    destination = api(match_on="id", path="/update", max_batch_rows=10, find=find)
    sent = batch({"id": "1"}, {"id": "2"}, {"id": "3"})
    found = reply(200, {"found": [{"id": "1"}, {"id": "2"}, {"id": "3"}]})
    requests, receipts = talk(destination, sent, found, found, reply(200))
    assert [request.url for request in requests] == ["/find", "/find", "/update"]
    assert [len(json.loads(request.body)["ids"]) for request in requests[:2]] == [2, 1]
    assert outcomes(receipts, sent) == ["accepted"] * 3


def test_an_upsert_that_creates_what_its_look_up_does_not_find_is_sent_twice_only_if_the_options_say_so() -> None:
    """A search that lags does not show what was just created."""
    creates = {**ARCHIVE, "operations": {**ARCHIVE["operations"], "insert": {"path": "/people", "find": None}}}
    assert not api(**creates).capabilities.operations[Operation.UPSERT].idempotent
    assert api(**creates, idempotent=["upsert"]).capabilities.operations[Operation.UPSERT].idempotent
    assert api(**creates, idempotency_header="Key").capabilities.operations[Operation.UPSERT].idempotent


# -- further requests --------------------------------------------------------------------------------------------------

LINKS: dict[str, Any] = {
    "match_on": "id",
    "path": "/upsert",
    "records": "inputs",
    "ids": {"list": "results", "key": {"trace": "id"}},
    "results": {"list": "errors", "rows": "failed", "key": {"trace": "id"}},
    "then": [
        {
            "path": "/links",
            "records": "inputs",
            "when": "{{ row.company }}",
            "item": {"from": "{{ id }}", "to": "{{ row.company }}"},
            "results": {"list": "errors", "rows": "failed", "key": {"from": "from"}},
        }
    ],
    "operations": {"insert": {"then": []}},
}
PEOPLE = [{"id": "a", "company": 7}, {"id": "b", "company": None}, {"id": "c", "company": 9}]
WRITTEN = {
    "results": [{"trace": "a", "id": "r1"}, {"trace": "b", "id": "r2"}, {"trace": "c", "id": "r3"}],
    "errors": [],
}


def test_further_requests_carry_the_ids_of_the_rows_that_were_written() -> None:
    sent = batch(*PEOPLE)
    requests, receipts = talk(api(**LINKS), sent, reply(200, WRITTEN), reply(201, {"errors": []}))
    assert bodies(requests)[1] == {"inputs": [{"from": "r1", "to": 7}, {"from": "r3", "to": 9}]}
    assert outcomes(receipts, sent) == ["accepted"] * 3


def test_a_row_that_fails_in_a_further_request_is_rejected() -> None:
    sent = batch(*PEOPLE)
    failed = {"errors": [{"from": "r3", "code": "NO_COMPANY", "message": "company not found"}]}
    _, receipts = talk(api(**LINKS), sent, reply(200, WRITTEN), reply(207, failed))
    assert outcomes(receipts, sent) == ["accepted", "accepted", "rejected"]
    assert receipts.of("k3").code == "NO_COMPANY"


def test_only_written_rows_get_further_requests() -> None:
    sent = batch(*PEOPLE)
    written = {"results": WRITTEN["results"][1:], "errors": [{"trace": "a", "code": "BAD"}]}
    requests, receipts = talk(api(**LINKS), sent, reply(207, written), reply(201, {"errors": []}))
    assert bodies(requests)[1] == {"inputs": [{"from": "r3", "to": 9}]}
    assert outcomes(receipts, sent) == ["rejected", "accepted", "accepted"]


def test_a_further_request_that_is_refused_whole_lets_the_engine_split_its_rows() -> None:
    sent = batch(*PEOPLE)
    _, receipts = talk(api(**LINKS), sent, reply(200, WRITTEN), reply(400, {"message": "no"}))
    assert receipts.refused_whole
    assert receipts.of("k2").outcome is Outcome.ACCEPTED
    assert {receipts.of(key).outcome for key in ("k1", "k3")} == {Outcome.REJECTED}


def test_a_row_whose_condition_cannot_be_evaluated_is_rejected_alone() -> None:
    sent = batch({"id": "a", "company": 7}, {"id": "b"})
    requests, receipts = talk(api(**LINKS), sent, reply(200, WRITTEN), reply(201, {"errors": []}))
    assert bodies(requests)[1] == {"inputs": [{"from": "r1", "to": 7}]}
    assert outcomes(receipts, sent) == ["accepted", "rejected"]
    assert receipts.of("k2").code == "bad_value"


def test_an_operation_with_further_requests_must_be_idempotent() -> None:
    with pytest.raises(ValueError, match="must be idempotent"):
        Endpoint(
            path="/",
            support=Support(idempotent=False, answers="row", max_rows=1),
            then=lambda *_: iter(()),  # type: ignore[arg-type,return-value]
        )
    spec = {"type": "http", "connection": "crm", **LINKS, "operations": {}}
    assert any("'then' needs an operation that `idempotent` lists" in message for _, message in check_options(spec))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"find": {"records": "x"}}, "find: 'path' is required"),
        ({"find": {"path": "/find"}}, "find: 'key' is required with rows: batch"),
        ({"body": "form"}, "body: form with rows: batch needs 'records'"),
        ({"item": {"id": "{{ row.id"}}, "not a valid template"),
        ({"path": "/{{ id }}"}, "the variable 'id' needs rows: single"),
    ],
)
def test_options_that_do_not_fit_together_are_a_problem(options: dict[str, Any], problem: str) -> None:
    found = check_options({"type": "http", "connection": "crm", "path": "/rows", **options})
    assert any(problem in message for _, message in found), found


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_refused_insert_may_have_written_rows_unless_the_api_is_atomic() -> None:
    sent = batch({"id": "1"}, {"id": "2"}, operation=Operation.INSERT)
    _, receipts = talk(api(mode="insert"), sent, reply(422, {"message": "no"}))
    assert (receipts.refused_whole, receipts.default.outcome) == (True, Outcome.UNKNOWN)
    assert "set `atomic: true`" in receipts.default.message
    _, receipts = talk(api(mode="insert", atomic=True), sent, reply(422, {"message": "no"}))
    assert (receipts.refused_whole, receipts.default.outcome) == (True, Outcome.REJECTED)
    alone = sent.only([0])
    _, receipts = talk(api(mode="insert"), alone, reply(422, {"message": "no"}))
    assert receipts.default.outcome is Outcome.REJECTED


def test_rows_that_a_refused_insert_does_not_name_are_not_sent_again_in_silence() -> None:
    results = {"list": "errors", "rows": "failed", "key": {"id": "id"}}
    sent = batch({"id": "1"}, {"id": "2"}, operation=Operation.INSERT)
    requests, receipts = talk(api(mode="insert", results=results), sent, reply(422, {"errors": [{"id": "2"}]}))
    assert len(requests) == 1
    assert outcomes(receipts, sent) == ["unknown", "rejected"]
