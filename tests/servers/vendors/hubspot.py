"""HubSpot's batch calls of CRM objects, as https://developers.hubspot.com/docs describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.credentials import OAuth2, bearer
from tests.servers.limits import DAY, Limit, Usage
from tests.servers.messages import Reply, Request
from tests.servers.openapi import Contract
from tests.servers.server import Server

TOKEN = "pat-eu1-token"
WRITTEN = "2026-01-01T00:00:00Z"
#: Id of the association without a label.
UNLABELED = 279
_COMPLETE = {"status": "COMPLETE", "startedAt": WRITTEN, "completedAt": WRITTEN}
OPERATIONS = {"upsert": Operation.UPSERT, "create": Operation.INSERT, "update": Operation.UPDATE}


class HubSpot(Server):
    """An account. A record is kept under the value of its unique property, after its object unless that is contacts.

    :param per_ten_seconds: requests that the account has.
    :param invalid: returns why a record's properties are not valid, or None.
    :param properties: what the account says of its properties, by object.
    :param required: properties that a new record needs, by object; without it, the token may not read schemas.
    :param tokens: tokens of an app; default: the token of a private app.
    """

    contract = Contract.of("hubspot")
    portal = 62515
    #: Scopes of the token.
    scopes: tuple[str, ...] = ("oauth", "crm.objects.contacts.read", "crm.objects.contacts.write")

    def __init__(
        self,
        *,
        per_ten_seconds: int = 100,
        per_day: int = 250_000,
        invalid: Callable[[Mapping[str, Any]], str | None] = lambda properties: None,
        properties: Mapping[str, list[dict[str, Any]]] | None = None,
        required: Mapping[str, list[str]] | None = None,
        tokens: OAuth2 | None = None,
        **more: Any,
    ) -> None:
        limits = [
            _limit(per_ten_seconds, 10, "TEN_SECONDLY_ROLLING", _ten_seconds),
            _limit(per_day, DAY, "DAILY", _daily),
        ]
        super().__init__(rules=[tokens or bearer(TOKEN), *limits], **more)
        self._invalid = invalid
        self._properties = properties or {}
        self._required = required
        self._ids: dict[str, str] = {}
        #: (from, to, type), all of record ids, of associations.
        self.associations: set[tuple[str, str, int]] = set()

    def answer(self, request: Request) -> Reply:
        match request.method, request.segments:
            case "POST", ["crm", "v3", "objects", of, "batch", "upsert" | "create" | "update" as call]:
                return self._write(OPERATIONS[call], of, request.json["inputs"])
            case "POST", ["crm", "v3", "objects", of, "batch", "read"]:
                return self._read(of, request.json)
            case "POST", ["crm", "v3", "objects", of, "batch", "archive"]:
                for entry in request.json["inputs"]:
                    self.records.write(Operation.DELETE, self._key_of(entry["id"], of) or "")
                return Reply(204)
            case "GET", ["crm", "v3", "properties", of]:
                return Reply.of({"results": self._properties.get(of, [])})
            case "GET", ["crm", "v3", "schemas", of] if self._required is not None:
                return Reply.of({"name": of, "requiredProperties": self._required.get(of, [])})
            case "GET", ["crm", "v3", "schemas", of]:
                return _error(403, "MISSING_SCOPES", f"This token needs one of: crm.schemas.{of}.read")
            case "POST", ["oauth", "v2", "private-apps", "get", "access-token-info"]:
                return Reply.of({"userId": 1, "hubId": self.portal, "appId": 1, "scopes": self.scopes})
            case "GET", ["account-info", "v3", "details"]:
                return Reply.of({"portalId": self.portal, "timeZone": "Europe/Berlin", "accountType": "STANDARD"})
            case "POST", ["crm", "v4", "associations", _, _, "batch", *call]:
                return self._associate("/".join(call), request.json["inputs"])
        return _error(404, "OBJECT_NOT_FOUND", "no such path")

    def id_of(self, key: str) -> str:
        """Return the record id of a key, which is given to it when it is first asked for."""
        return self._ids.setdefault(key, str(1001 + len(self._ids)))

    def _key_of(self, id_: str, of: str) -> str | None:
        keys = (key for key, found in self._ids.items() if found == id_ and key in self.records.held)
        return next((key for key in keys if key.startswith(f"{of}:") or (of == "contacts" and ":" not in key)), None)

    def _write(self, operation: Operation, of: str, inputs: list[dict[str, Any]]) -> Reply:
        if len(inputs) > 100:
            return _error(400, "VALIDATION_ERROR", "The number of inputs must be between 1 and 100")
        if max(Counter(str(entry.get("id")) for entry in inputs if "id" in entry).values(), default=1) > 1:
            return _error(400, "VALIDATION_ERROR", "Duplicate IDs found in batch input")
        problems = [self._problem(operation, of, entry) for entry in inputs]
        errors = [(entry, problem) for entry, problem in zip(inputs, problems, strict=True) if problem]
        # Without an id of their own in each input, errors cannot be attributed: nothing is written.
        if errors and not all("objectWriteTraceId" in entry for entry in inputs):
            return _error(400, "VALIDATION_ERROR", errors[0][1])
        results = [
            self._written(operation, of, entry) for entry, problem in zip(inputs, problems, strict=True) if not problem
        ]
        reply = {**_COMPLETE, "results": results}
        if not errors:
            return Reply.of(reply, 201 if operation is Operation.INSERT else 200)
        listed = [_listed(entry, problem) for entry, problem in errors]
        return Reply.of({**reply, "numErrors": len(errors), "errors": listed}, 207)

    def _key(self, operation: Operation, of: str, entry: Mapping[str, Any]) -> str | None:
        """Return the key of the record that an entry names; None if an update names none."""
        if operation is Operation.UPDATE and "idProperty" not in entry:
            return self._key_of(entry["id"], of)
        key = str(entry.get("id") or entry["properties"]["email"]).lower()
        return key if of == "contacts" else f"{of}:{key}"

    def _problem(self, operation: Operation, of: str, entry: Mapping[str, Any]) -> str:
        held = self._key(operation, of, entry) in self.records.held
        if operation is Operation.UPDATE and not held:
            return "OBJECT_NOT_FOUND"
        if operation is Operation.INSERT and held:
            return "CONFLICT"
        return self._invalid(entry["properties"]) or ""

    def _written(self, operation: Operation, of: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        key = self._key(operation, of, entry)
        assert key is not None
        new = key not in self.records.held
        self.records.write(operation, key, entry["properties"])
        # The answer repeats the id of the entry.
        result = {**self._shown(key), **{name: entry[name] for name in ("objectWriteTraceId",) if name in entry}}
        return {**result, "new": new} if operation is Operation.UPSERT else result

    def _shown(self, key: str) -> dict[str, Any]:
        properties = dict(self.records.held[key])
        if "email" in properties:
            properties["email"] = properties["email"].lower()
        return {"id": self.id_of(key), "properties": properties, "createdAt": WRITTEN, "updatedAt": WRITTEN}

    def _read(self, of: str, asked: Mapping[str, Any]) -> Reply:
        """Find records by a unique property, or by their ids."""
        found: list[dict[str, Any]] = []
        missing: list[str] = []
        for entry in asked["inputs"]:
            key: str | None = str(entry["id"]).lower()
            if "idProperty" not in asked:
                key = self._key_of(entry["id"], of)
            elif of != "contacts":
                key = f"{of}:{key}"
            if key and self.records.seen(key) is not None:
                found.append(self._shown(key))
            else:
                missing.append(entry["id"])
        if not found:
            return _error(404, "OBJECT_NOT_FOUND", "Could not get some objects, they may be deleted or not exist.")
        reply = {**_COMPLETE, "results": found}
        if not missing:
            return Reply.of(reply)
        problem = {"status": "error", "category": "OBJECT_NOT_FOUND", "message": "x", "context": {"ids": missing}}
        return Reply.of({**reply, "numErrors": 1, "errors": [problem]}, 207)

    def _associate(self, call: str, inputs: list[dict[str, Any]]) -> Reply:
        match call:
            case "read":
                results = [self._associated(entry["id"]) for entry in inputs]
                return Reply.of({"status": "COMPLETE", "results": [one for one in results if one["to"]]})
            case "archive":
                pairs = {(entry["from"]["id"], to["id"]) for entry in inputs for to in entry["to"]}
                self.associations = {one for one in self.associations if one[:2] not in pairs}
                return Reply(204)
            case "labels/archive":
                self.associations -= {one for entry in inputs for one in _triples(entry)}
                return Reply(204)
        added = [one for entry in inputs for one in _triples(entry)]
        self.associations |= set(added)
        if call == "create":
            labels = [
                {
                    "fromObjectId": start,
                    "fromObjectTypeId": "0-1",
                    "toObjectId": end,
                    "toObjectTypeId": "0-2",
                    "labels": [],
                }
                for start, end, _ in added
            ]
            return Reply.of({**_COMPLETE, "results": labels}, 201)
        default = [
            {
                "from": {"id": start},
                "to": {"id": end},
                "associationSpec": {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": number},
            }
            for start, end, number in added
        ]
        return Reply.of({**_COMPLETE, "results": default})

    def _associated(self, start: str) -> dict[str, Any]:
        types: dict[str, list[dict[str, Any]]] = {}
        for one, end, number in sorted(self.associations):
            if one == start:
                types.setdefault(end, []).append({"category": "HUBSPOT_DEFINED", "typeId": number, "label": None})
        to = [{"toObjectId": int(end), "associationTypes": found} for end, found in types.items()]
        return {"from": {"id": start}, "to": to}


def _triples(entry: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    types = entry.get("types") or [{"associationTypeId": UNLABELED}]
    return [(entry["from"]["id"], entry["to"]["id"], one["associationTypeId"]) for one in types]


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
