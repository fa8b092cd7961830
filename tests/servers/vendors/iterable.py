"""Iterable's calls for users, as https://api.iterable.com/api/docs describes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo
from tests.servers.credentials import ApiKey
from tests.servers.limits import Limit
from tests.servers.messages import Reply, Request
from tests.servers.openapi import Contract
from tests.servers.server import Server

KEY = "0123456789abcdef"
FIELDS = {"email": "string", "userId": "string", "plan": "string", "signedUp": "date", "address.city": "string"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+00:00")


class Iterable(Server):
    """A project. A user is kept under the email address in lower case, or under the user id.

    :param fields: types of the project's fields, by name.
    :param forgotten: users whom the project must not know any more.
    """

    contract = Contract.of("iterable")

    def __init__(
        self, *, fields: Mapping[str, str] = FIELDS, forgotten: Collection[str] = (), per_second: int = 5, **more: Any
    ) -> None:
        bad_key = _answered("BadApiKey", "Invalid API key", 401)
        too_many = _answered("RateLimitExceeded", "Too many requests", 429)
        limit = Limit(per_second, 1, only="/api/users/bulkUpdate", refusal=too_many)
        super().__init__(rules=[ApiKey("Api-Key", KEY, refusal=bad_key), limit], **more)
        self._fields = fields
        self.forgotten = forgotten

    def connection(self, conn_id: str = "server", **fields: Any) -> ConnectionInfo:
        return ConnectionInfo(conn_id, "iterable", host=f"{self.url}/api", **fields)

    def answer(self, request: Request) -> Reply:
        match request.method, request.segments[1:]:
            case "POST", ["users", "bulkUpdate"]:
                return self._update(request.json, len(request.body))
            case "DELETE", ["users", "byUserId", user_id]:
                return self._delete(user_id, "UnknownUserIdError")
            case "DELETE", ["users", email]:
                return self._delete(email.lower(), "UnknownEmailError")
            case "GET", ["users", "getFields"]:
                return Reply.of({"fields": dict(self._fields)})
            case "GET", ["lists"]:
                return Reply.of({"lists": []})
        return _answered("NotFound", "no such path", 404)

    def _delete(self, key: str, code: str) -> Reply:
        if not self.records.write(Operation.DELETE, key):
            return _answered(code, "user does not exist", 400)
        return _answered("Success", "deleted", 200)

    def _update(self, asked: Mapping[str, Any], size: int) -> Reply:
        users = asked["users"]
        if len(users) > 1000 or size > 4_000_000:
            return _answered("BatchTooLarge", "the batch is too large", 413)
        if wrong := next((name for user in users for name in self._mismatched(user["dataFields"])), None):
            text = f"Field '{wrong}' already exists for type 'user' and has another data type"
            return _answered("RequestFieldsTypesMismatched", text, 400)
        failed: dict[str, list[str]] = {}
        dropped: set[str] = set()
        for user in users:
            identifier = "userId" if "userId" in user else "email"
            if kind := self._problem(user, identifier):
                failed.setdefault(f"{kind}{identifier[0].upper()}{identifier[1:]}s", []).append(user[identifier])
                continue
            dropped |= self._write(user, identifier)
        count = sum(map(len, failed.values()))
        reply = {"successCount": len(users) - count, "failCount": count, "filteredOutFields": sorted(dropped)}
        return Reply.of({**reply, "createdFields": [], "failedUpdates": failed} if failed else reply)

    def _problem(self, user: Mapping[str, Any], identifier: str) -> str:
        if user[identifier].lower() in self.forgotten:
            return "forgotten"
        if identifier == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+", user["email"]):
            return "invalid"
        if identifier == "userId" and not (user.get("preferUserId") or user["userId"] in self.records.held):
            return "notFound"
        return ""

    def _write(self, user: Mapping[str, Any], identifier: str) -> set[str]:
        """Write the fields that the project has, and return the names of the others."""
        known = {name.partition(".")[0] for name in self._fields}
        fields = {name: value for name, value in user["dataFields"].items() if name in known}
        key = user["userId"] if identifier == "userId" else user["email"].lower()
        before = self.records.held.get(key, {})
        if user.get("mergeNestedObjects"):
            objects = {name: value for name, value in fields.items() if isinstance(value, dict)}
            fields |= {name: {**(before.get(name) or {}), **value} for name, value in objects.items()}
        self.records.write(Operation.UPSERT, key, {identifier: user[identifier], **fields})
        return user["dataFields"].keys() - known

    def _mismatched(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the fields whose values have another type than theirs."""
        dates = (name for name, type_ in self._fields.items() if type_ == "date")
        return [name for name in dates if fields.get(name) and not _DATE.fullmatch(str(fields[name]))]


def _answered(code: str, text: str, status: int) -> Reply:
    return Reply.of({"code": code, "msg": text}, status)
