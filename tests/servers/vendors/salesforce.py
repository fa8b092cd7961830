"""Salesforce's sObject Collections, as https://developer.salesforce.com describes them (REST API 62.0)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo
from tests.servers.credentials import OAuth2
from tests.servers.messages import Reply, Request
from tests.servers.openapi import Contract
from tests.servers.server import Server

ORGANIZATION = "00D000000000001"


def failed(code: str, message: str, *fields: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"statusCode": code, "message": message, "fields": list(fields)}]}


class Salesforce(Server):
    """Accounts of an organization. A record is kept under its external id.

    :param invalid: returns the result of a record that is not written, or None.
    :param fields: what ``describe`` says of the fields.
    """

    contract = Contract.of("salesforce")

    def __init__(
        self,
        *,
        key: str = "Key__c",
        invalid: Callable[[Mapping[str, Any]], dict[str, Any] | None] = lambda record: None,
        fields: list[dict[str, Any]] | None = None,
        lifetime: float = 3600.0,
        **more: Any,
    ) -> None:
        expired = _errors(401, "INVALID_SESSION_ID", "Session expired or invalid")
        self.tokens = OAuth2(path="/services/oauth2/token", lifetime=lifetime, refusal=expired)
        super().__init__(rules=[self.tokens], **more)
        self._key = key
        self._invalid = invalid
        self._fields = fields or []
        self._ids: dict[str, str] = {}
        self.organization = ORGANIZATION

    def connection(self, conn_id: str = "server", **fields: Any) -> ConnectionInfo:
        """Return a connection as Airflow's provider of Salesforce has it."""
        self.tokens.more = {"instance_url": self.url}
        extra = {"consumer_key": "client", "consumer_secret": "s3cret", "instance_url": self.url}
        return ConnectionInfo(conn_id, "salesforce", extra={**extra, **fields.get("extra", {})})

    def answer(self, request: Request) -> Reply:
        match request.method, request.segments[3:]:
            case "PATCH", ["composite", "sobjects", _, str(key)]:
                return self._upsert(key, request.json["records"])
            case "POST", ["composite", "sobjects"]:
                return Reply.of([self._insert(record) for record in request.json["records"]])
            case "PATCH", ["composite", "sobjects"]:
                return Reply.of([self._update(record) for record in request.json["records"]])
            case "DELETE", ["composite", "sobjects"]:
                return Reply.of([self._delete(id_) for id_ in request.query["ids"].split(",")])
            case "GET", ["query"]:
                return self._query(request.query["q"])
            case "GET", ["sobjects", _, "describe"]:
                return Reply.of({"name": "Account", "fields": self._fields})
        return _errors(404, "NOT_FOUND", "The requested resource does not exist")

    def id_of(self, key: str) -> str:
        return self._ids.setdefault(key, f"001{len(self._ids):012}")

    def _held(self, id_: str) -> str | None:
        return next((key for key, found in self._ids.items() if found == id_ and key in self.records.held), None)

    def _upsert(self, key: str, records: list[dict[str, Any]]) -> Reply:
        if key != self._key:
            return _errors(404, "NOT_FOUND", f"Provided external ID field does not exist or is not accessible: {key}")
        times = Counter(str(record[key]).lower() for record in records)
        results = []
        for record in records:
            name = str(record[key]).lower()
            if times[name] > 1:
                results.append(failed("DUPLICATE_VALUE", "Duplicate external id specified", key))
            elif problem := self._invalid(record):
                results.append(problem)
            else:
                created = name not in self.records.held
                self.records.write(Operation.UPSERT, name, _fields_of(record))
                results.append({"id": self.id_of(name), "success": True, "created": created, "errors": []})
        return Reply.of(results)

    def _insert(self, record: dict[str, Any]) -> dict[str, Any]:
        if problem := self._invalid(record):
            return problem
        name = str(record[self._key]).lower()
        self.records.write(Operation.INSERT, name, _fields_of(record))
        return {"id": self.id_of(name), "success": True, "errors": []}

    def _update(self, record: dict[str, Any]) -> dict[str, Any]:
        key = self._held(record["id"])
        if key is None:
            return failed("ENTITY_IS_DELETED", "entity is deleted")
        if problem := self._invalid(record):
            return problem
        self.records.write(Operation.UPDATE, key, _fields_of(record))
        return {"id": record["id"], "success": True, "errors": []}

    def _delete(self, id_: str) -> dict[str, Any]:
        key = self._held(id_)
        if key is None:
            return {"id": id_, **failed("ENTITY_IS_DELETED", "entity is deleted")}
        self.records.write(Operation.DELETE, key)
        return {"id": id_, "success": True, "errors": []}

    def _query(self, query: str) -> Reply:
        if "FROM Organization" in query:
            found: list[dict[str, Any]] = [{"Id": self.organization}]
        else:
            values = [value.replace("\\'", "'").replace("\\\\", "\\") for value in _VALUES.findall(query)]
            names = [value.lower() for value in values if value.lower() in self.records.held]
            found = [{"Id": self.id_of(name), self._key: self.records.held[name][self._key]} for name in names]
        records = [{"attributes": {"type": "x"}, **one} for one in found]
        return Reply.of({"totalSize": len(records), "done": True, "records": records})


_VALUES = re.compile(r"'((?:[^'\\]|\\.)*)'")


def _fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("attributes", "id")}


def _errors(status: int, code: str, message: str) -> Reply:
    return Reply.of([{"errorCode": code, "message": message}], status)
