"""Each type with jobs makes the requests, and reads the replies, that its API's published contract shows.

A case is a file ``jobs/<type>/<case>.json``, as in ``wire``, with texts as bodies. It hands rows over or collects.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.destinations.http import Reply, Request
from airflow_reverse_etl.destinations.http_jobs import HttpJobs
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import JobRef, Receipt
from tests.destinations.cases import made, read
from tests.destinations.json_api import batch

CASES = sorted((Path(__file__).parent / "jobs").glob("*/*.json"))


def talk(flow: Any, replies: list[dict[str, Any]]) -> tuple[list[Request], list[Any], Any]:
    """Drive a flow; returns its requests, what else it yields, and its result."""
    requests: list[Request] = []
    others: list[Any] = []
    answers = [Reply(one["status"], one.get("body", "").encode(), one.get("headers", {})) for one in replies]
    try:
        step = next(flow)
        while True:
            if isinstance(step, Request):
                requests.append(step)
                step = flow.send(answers.pop(0))
            else:
                others.append(step)
                step = next(flow)
    except StopIteration as end:
        assert not answers
        return requests, others, end.value


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_type_follows_its_published_contract(case: Path) -> None:
    wire = read(case)
    assert wire["source"], "each case names the page that it was made from"
    destination = made(case.parent.name, wire)
    assert isinstance(destination, HttpJobs)
    operation = Operation(wire["operation"])
    sent = batch(*wire["records"], operation=operation)
    receipts: dict[str, Receipt] = {}
    if wire.get("collects"):
        now = datetime.now(UTC)
        match_on = ((wire["destination"]["match_on"], 0),)
        ref = JobRef("salesforce", "", "Contact", operation, "7505e000001", RangeSet(), now, now, match_on)
        requests, pages, _ = talk(destination.results(ref, sent), wire["replies"])
        for page in pages:
            receipts |= page
    else:
        requests, ids, result = talk(destination.submission(sent), wire["replies"])
        assert ids == ([wire["job"]] if "job" in wire else [])
        receipts = {key: result.of(key) for key in sent.keys} if result else {}
    for request, expected in zip(requests, wire.get("requests", requests), strict=True):
        if isinstance(expected, dict):
            body = (request.body or b"").decode()
            assert (request.method, request.url, body) == (
                expected["method"],
                expected["path"],
                expected.get("body", ""),
            )
    found = [receipts[key] for key in sent.keys if key in receipts]
    assert [[one.outcome.value, one.code, one.message] for one in found] == wire.get("receipts", [])
