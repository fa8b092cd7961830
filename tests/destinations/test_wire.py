"""Each destination type makes the requests, and reads the replies, that its API's published contract shows.

A case is a file ``wire/<type>/<case>.json``: options of the destination, an operation, records, the expected requests,
the API's replies, and the expected receipts or error. ``source`` names the page that the case was made from.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_reverse_etl import errors
from airflow_reverse_etl.destinations.http import HttpDestination
from airflow_reverse_etl.destinations.registry import BUILT_IN, destination_class
from airflow_reverse_etl.spec.operations import Operation
from tests.destinations.cases import CASES, WIRE, made, read
from tests.destinations.json_api import batch, reply, talk

HTTP_TYPES = [type_ for type_ in BUILT_IN if issubclass(destination_class(type_), HttpDestination)]


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_type_follows_its_published_contract(case: Path) -> None:
    wire = read(case)
    assert wire["source"], "each case names the page that it was made from"
    destination = made(case.parent.name, wire)
    sent = batch(*wire["records"], operation=Operation(wire["operation"]))
    replies = [reply(item["status"], item.get("body"), **item.get("headers", {})) for item in wire["replies"]]
    if error := wire.get("error"):
        with pytest.raises(getattr(errors, error["class"])) as caught:
            talk(destination, sent, *replies)
        assert error["message"] in str(caught.value)
        return
    requests, receipts = talk(destination, sent, *replies)
    for request, expected in zip(requests, wire.get("requests", requests), strict=True):
        if isinstance(expected, dict):
            assert json.loads(request.body) == expected["body"]
            assert request.method == expected.get("method", request.method)
            assert request.url == expected.get("path", request.url)
            assert expected.get("headers", {}).items() <= dict(request.headers or {}).items()
    found = [receipts.of(key) for key in sent.keys]
    assert [[receipt.outcome.value, receipt.code, receipt.message] for receipt in found] == wire["receipts"]
    assert receipts.retry_after == wire.get("retry_after")


@pytest.mark.parametrize("type_", HTTP_TYPES)
def test_the_cases_of_a_type_show_every_kind_of_answer(type_: str) -> None:
    kinds = set()
    for case in (WIRE / type_).glob("*.json"):
        wire = read(case)
        outcomes = {receipt[0] for receipt in wire.get("receipts", ())}
        kinds |= {"success"} if outcomes == {"accepted"} else set()
        kinds |= {"partial failure"} if {"accepted", "rejected"} <= outcomes else set()
        kinds |= {"throttled"} if wire["replies"][0]["status"] == 429 else set()
        kinds |= {"credentials"} if wire.get("error", {}).get("class") == "CredentialsError" else set()
        kinds |= {wire["shows"]} if "shows" in wire else set()
    assert kinds == {"success", "partial failure", "throttled", "credentials", "unknown field"}


def test_every_case_is_of_a_type() -> None:
    assert {case.parent.name for case in CASES} <= set(BUILT_IN)
