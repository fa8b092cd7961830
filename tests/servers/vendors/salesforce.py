"""Salesforce's sObject Collections and Bulk API 2.0, as https://developer.salesforce.com describes them (62.0)."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass
class Job:
    """An ingest job. Its results have another order than its upload."""

    id: str
    object: str
    operation: Operation
    state: str = "Open"
    error: str = ""
    polls: int = 0
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] | None = None
    successfulResults: list[dict[str, str]] = field(default_factory=list)  # noqa: N815 - Salesforce's name
    failedResults: list[dict[str, str]] = field(default_factory=list)  # noqa: N815
    unprocessedrecords: list[dict[str, str]] = field(default_factory=list)

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = {"id": self.id, "object": self.object, "operation": self.operation.value}
        found |= {"state": self.state, "numberRecordsProcessed": len(self.successfulResults + self.failedResults)}
        return found | {"numberRecordsFailed": len(self.failedResults), "errorMessage": self.error}


class Salesforce(Server):
    """Accounts of an organization. A record is kept under its external id.

    :param polls: questions to which a closed job answers that it is at work, before it is done.
    :param page: lines on a page of a job's results.
    :param unprocessed: returns whether a job leaves a record alone.
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
        polls: int = 0,
        page: int = 1000,
        unprocessed: Callable[[Mapping[str, Any]], bool] = lambda record: False,
        **more: Any,
    ) -> None:
        expired = _errors(401, "INVALID_SESSION_ID", "Session expired or invalid")
        self.tokens = OAuth2(path="/services/oauth2/token", lifetime=lifetime, refusal=expired)
        super().__init__(rules=[self.tokens], **more)
        self._key = key
        self._invalid = invalid
        self._fields = fields or []
        self._ids: dict[str, str] = {}
        self._polls = polls
        self._page = page
        self._unprocessed = unprocessed
        self.jobs: dict[str, Job] = {}
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
            case "POST", ["jobs", "ingest"]:
                return self._create(request.json)
            case method, ["jobs", "ingest", str(id_), *rest]:
                job = self.jobs.get(id_)
                if job is None:
                    return _errors(404, "NOT_FOUND", "The requested resource does not exist")
                return self._of_job(method, rest, job, request)
            case "GET", ["limits"]:
                return Reply.of({"DailyApiRequests": {"Max": 100_000, "Remaining": 99_000}})
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
        return Reply.of([self._upserted(record, twice=times[str(record[key]).lower()] > 1) for record in records])

    def _upserted(self, record: dict[str, Any], *, twice: bool = False) -> dict[str, Any]:
        name = str(record[self._key]).lower()
        if twice:
            return failed("DUPLICATE_VALUE", "Duplicate external id specified", self._key)
        if problem := self._invalid(record):
            return problem
        created = name not in self.records.held
        self.records.write(Operation.UPSERT, name, _fields_of(record))
        return {"id": self.id_of(name), "success": True, "created": created, "errors": []}

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

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _create(self, wanted: Mapping[str, Any]) -> Reply:
        if wanted["operation"] == "upsert" and wanted.get("externalIdFieldName") != self._key:
            return _errors(400, "INVALIDJOB", "Field name provided does not match an External ID")
        job = Job(f"750{len(self.jobs):012}", wanted["object"], Operation(wanted["operation"]))
        self.jobs[job.id] = job
        return Reply.of(job.info())

    def _of_job(self, method: str, rest: list[str], job: Job, request: Request) -> Reply:
        match method, rest:
            case "PUT", ["batches"] if job.state == "Open" and job.rows is None:
                lines = csv.DictReader(io.StringIO(request.body.decode(), newline=""))
                job.rows = list(lines)
                job.columns = list(lines.fieldnames or ())
                return Reply(201)
            case "PATCH", [] if request.json["state"] == "Aborted" and job.state == "Open":
                job.state = "Aborted"
                return Reply.of(job.info())
            case "PATCH", [] if request.json["state"] == "UploadComplete" and job.state == "Open":
                job.state = "UploadComplete"
                self._work(job)
                return Reply.of(job.info())
            case "GET", []:
                job.polls += 1
                if job.state in ("UploadComplete", "InProgress"):
                    job.state = "InProgress" if job.polls <= self._polls else "Failed" if job.error else "JobComplete"
                return Reply.of(job.info())
            case "GET", ["successfulResults" | "failedResults" | "unprocessedrecords" as name]:
                return self._result(job, name, int(request.query.get("locator", 0)))
        return _errors(400, "INVALIDJOBSTATE", f"Invalid job state: {job.state}")

    def _result(self, job: Job, name: str, start: int) -> Reply:
        own = {"successfulResults": ["sf__Id", "sf__Created"], "failedResults": ["sf__Id", "sf__Error"]}
        lines = getattr(job, name)
        text = io.StringIO()
        writer = csv.DictWriter(text, [*own.get(name, ()), *job.columns], quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[start : start + self._page])
        following = start + self._page
        locator = str(following) if following < len(lines) else "null"
        return Reply(200, text.getvalue().encode(), {"Content-Type": "text/csv", "Sforce-Locator": locator})

    def _work(self, job: Job) -> None:
        """Do the work of a job at once; only its state tells that later."""
        for row in reversed(job.rows or []):
            record = dict(_record_of(row.items()))
            if job.error or self._unprocessed(record):
                job.unprocessedrecords.append(row)
                continue
            result = self._carry_out_row(job.operation, record)
            own = {"sf__Id": str(result.get("id", ""))}
            if result["success"]:
                job.successfulResults.append({**own, "sf__Created": str(result.get("created", "false")).lower(), **row})
            else:
                error = result["errors"][0]
                text = f"{error['statusCode']}:{error['message']}:{','.join(error['fields'])} --"
                job.failedResults.append({**own, "sf__Error": text, **row})

    def _carry_out_row(self, operation: Operation, record: dict[str, Any]) -> dict[str, Any]:
        if operation is Operation.DELETE:
            return self._delete(record["Id"])
        if operation is Operation.UPDATE:
            return self._update({"id": record.pop("Id"), **record})
        if operation is Operation.INSERT:
            return self._insert(record)
        return self._upserted(record)

    def _query(self, query: str) -> Reply:
        if "FROM Organization" in query:
            found: list[dict[str, Any]] = [{"Id": self.organization}]
        else:
            values = [value.replace("\\'", "'").replace("\\\\", "\\") for value in _VALUES.findall(query)]
            if " WHERE Id IN " in query:
                names = [key for value in values if (key := self._held(value))]
            else:
                names = [value.lower() for value in values if value.lower() in self.records.held]
            found = [{"Id": self.id_of(name), self._key: self.records.held[name][self._key]} for name in names]
        records = [{"attributes": {"type": "x"}, **one} for one in found]
        return Reply.of({"totalSize": len(records), "done": True, "records": records})


_VALUES = re.compile(r"'((?:[^'\\]|\\.)*)'")


def _record_of(cells: Iterable[tuple[str, str]]) -> Iterable[tuple[str, Any]]:
    """Yield the fields of a line: an empty cell is none, ``#N/A`` is null, a dot names a parent's external id."""
    for name, text in cells:
        parent, _, inner = name.partition(".")
        value = None if text == "#N/A" else text
        if text != "":
            yield parent, ({inner: value} if inner else value)


def _fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("attributes", "id")}


def _errors(status: int, code: str, message: str) -> Reply:
    return Reply.of([{"errorCode": code, "message": message}], status)
