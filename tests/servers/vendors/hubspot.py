"""HubSpot's batch calls of CRM objects, as https://developers.hubspot.com/docs describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.credentials import bearer
from tests.servers.limits import DAY, Limit, Usage
from tests.servers.messages import Reply, Request
from tests.servers.openapi import Contract
from tests.servers.server import Server

TOKEN = "pat-eu1-token"
WRITTEN = "2026-01-01T00:00:00Z"
OPERATIONS = {"upsert": Operation.UPSERT, "create": Operation.INSERT, "update": Operation.UPDATE}


class HubSpot(Server):
    """One type of object. Records are kept by the value of their unique property.

    :param per_ten_seconds: requests that the account has.
    :param invalid: returns why a record's properties are not valid, or None.
    """

    contract = Contract.of("hubspot")

    def __init__(
        self,
        *,
        per_ten_seconds: int = 100,
        per_day: int = 250_000,
        invalid: Callable[[Mapping[str, Any]], str | None] = lambda properties: None,
        **more: Any,
    ) -> None:
        limits = [
            _limit(per_ten_seconds, 10, "TEN_SECONDLY_ROLLING", _ten_seconds),
            _limit(per_day, DAY, "DAILY", _daily),
        ]
        super().__init__(rules=[bearer(TOKEN), *limits], **more)
        self._invalid = invalid

    def answer(self, request: Request) -> Reply:
        match request.method, request.segments:
            case "POST", ["crm", "v3", "objects", _, "batch", "upsert" | "create" | "update" as call]:
                return self._write(OPERATIONS[call], request.json["inputs"])
            case "POST", ["crm", "v3", "objects", _, "batch", "archive"]:
                for entry in request.json["inputs"]:
                    self.records.write(Operation.DELETE, entry["id"])
                return Reply(204)
        return _error(404, "OBJECT_NOT_FOUND", "no such path")

    def _write(self, operation: Operation, inputs: list[dict[str, Any]]) -> Reply:
        if len(inputs) > 100:
            return _error(400, "VALIDATION_ERROR", "The number of inputs must be between 1 and 100")
        if max(Counter(map(_key, inputs)).values(), default=1) > 1:
            return _error(400, "VALIDATION_ERROR", "Duplicate IDs found in batch input")
        problems = {_key(entry): self._problem(operation, entry) for entry in inputs}
        errors = [entry for entry in inputs if problems[_key(entry)]]
        # Without an id of their own in each input, errors cannot be attributed: nothing is written.
        if errors and not all("objectWriteTraceId" in entry for entry in inputs):
            return _error(400, "VALIDATION_ERROR", problems[_key(errors[0])] or "")
        good = [entry for entry in inputs if not problems[_key(entry)]]
        results = [self._written(operation, entry) for entry in good]
        reply = {"status": "COMPLETE", "startedAt": WRITTEN, "completedAt": WRITTEN, "results": results}
        if not errors:
            return Reply.of(reply, 201 if operation is Operation.INSERT else 200)
        listed = [_listed(entry, problems[_key(entry)] or "") for entry in errors]
        return Reply.of({**reply, "numErrors": len(errors), "errors": listed}, 207)

    def _problem(self, operation: Operation, entry: Mapping[str, Any]) -> str | None:
        held = _key(entry) in self.records.held
        if operation is Operation.UPDATE and not held:
            return "OBJECT_NOT_FOUND"
        if operation is Operation.INSERT and held:
            return "CONFLICT"
        return self._invalid(entry["properties"])

    def _written(self, operation: Operation, entry: Mapping[str, Any]) -> dict[str, Any]:
        key = _key(entry)
        new = key not in self.records.held
        self.records.write(operation, key, entry["properties"])
        result = {"id": key, "properties": self.records.held[key], "createdAt": WRITTEN, "updatedAt": WRITTEN}
        return {**result, "new": new} if operation is Operation.UPSERT else result


def _key(entry: Mapping[str, Any]) -> str:
    return str(entry.get("id") or entry["properties"]["email"])


def _listed(entry: Mapping[str, Any], problem: str) -> dict[str, Any]:
    category = problem if problem.isupper() else "VALIDATION_ERROR"
    context = {"objectWriteTraceId": [entry["objectWriteTraceId"]]}
    return {"status": "error", "category": category, "message": problem, "context": context}


def _error(status: int, category: str, message: str, **more: str) -> Reply:
    return Reply.of({"status": "error", "category": category, "message": message, **more}, status)


def _limit(requests: int, seconds: float, policy: str, hint: Callable[[Usage], Mapping[str, str]]) -> Limit:
    refusal = _error(429, "RATE_LIMITS", "You have reached your limit.", policyName=policy)
    return Limit(requests, seconds, rolling=seconds < DAY, hints=[hint], refusal=refusal)


def _ten_seconds(usage: Usage) -> Mapping[str, str]:
    """It has no time to wait: a client has to know that ten seconds are enough."""
    return {
        "X-HubSpot-RateLimit-Max": str(usage.requests),
        "X-HubSpot-RateLimit-Remaining": str(usage.left),
        "X-HubSpot-RateLimit-Interval-Milliseconds": str(int(usage.seconds * 1000)),
    }


def _daily(usage: Usage) -> Mapping[str, str]:
    return {
        "X-HubSpot-RateLimit-Daily": str(usage.requests),
        "X-HubSpot-RateLimit-Daily-Remaining": str(usage.left),
    }
