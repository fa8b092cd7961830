"""Jobs of Salesforce's Bulk API 2.0, for many rows of one operation.

Source, read in November 2026: developer.salesforce.com, guide of Bulk API 2.0 (ingest jobs, limits, results).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from airflow_reverse_etl.destinations import salesforce_csv
from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.batch_api import BatchApi, Find, too_large
from airflow_reverse_etl.destinations.http import Action, NotAnsweredError, Reply, Request
from airflow_reverse_etl.destinations.http_jobs import HttpJobs, Results, Submission
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.row_matching import RowMatcher
from airflow_reverse_etl.destinations.salesforce_codes import ROWS
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import ACCEPTED, Batch, JobRef, JobState, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import ConnectionInfo, JobTerms

#: Most bytes of an upload: 150 MB after Salesforce has converted it to base64.
MOST_BYTES = 100_000_000
#: Promises about the rows of every operation. The size of the rows in the change set is an estimate.
_TERMS = JobTerms("on_close", max_rows=100_000, max_bytes=MOST_BYTES // 2, max_jobs=4)
_STATES = {
    "Open": JobState.OPEN,
    "JobComplete": JobState.FINISHED,
    "Failed": JobState.FINISHED,
    "Aborted": JobState.FINISHED,
}
#: Beginnings of a failed job's message that no other try would change.
_REFUSED = ("InvalidBatch", "ClientInputError")
_OUTCOMES = {"accept": Outcome.ACCEPTED, "skip": Outcome.SKIPPED, "retry": Outcome.RETRYABLE}
_OUTCOMES["throttle"] = Outcome.RETRYABLE
#: Ids in one query, whose URL may have 16,384 bytes.
_QUERIED_IDS = 400
_CSV = {"Accept": "text/csv"}


class BulkJobs(HttpJobs, BatchApi):
    """Jobs of an object's records, one CSV file each. Nothing is at work before the upload is closed."""

    poll_seconds = 15.0
    #: A result has the uploaded columns, and three of its own.
    max_reply_bytes: ClassVar[int] = 3 * MOST_BYTES

    @classmethod
    def for_jobs(cls, connection: ConnectionInfo) -> Self:
        """Create a destination that asks for jobs. What it asks for is in their references."""
        destination = {"type": "salesforce", "connection": connection.conn_id, "object": "any", "match_on": "Id"}
        sync = Sync.load(
            {
                "name": "jobs",
                "model": "jobs",
                "source": "jobs",
                "mode": "update",
                "mapping": {"Id": "id"},
                "destination": destination,
            }
        )
        return cls(Setup(sync, cls.Options.model_validate(destination), connection))

    def job_terms(self, operation: Operation, rows: int) -> JobTerms | None:  # noqa: ARG002 - the same for all
        """Return the terms of jobs, if there are enough rows, and results can be matched with them."""
        options = self.options
        if options.bulk_from_rows is None or rows < options.bulk_from_rows or options.allow_duplicates:
            return None
        # The rows of events may have one identifier, and some inserts have none.
        if self.sync.mode == "append" or not self.sync.destination.match_on:
            return None
        return _TERMS

    # -- handing over --------------------------------------------------------------------------------------------------

    def submission(self, batch: Batch) -> Submission:
        """Create a job, upload its rows, and close it."""
        try:
            return (yield from self._submission(batch))
        except NotAnsweredError as lost:
            return Receipts(replace(lost.receipt, outcome=Outcome.RETRYABLE))  # nothing is at work before the close

    def _submission(self, batch: Batch) -> Submission:
        # Deletes and updates take the records' own ids.
        ids: Mapping[str, Any] = {}
        if find := self.find_of(batch.operation):
            found = yield from self.look_up(find, batch)
            if found.refusal:
                return found.refusal
            if found.decided:
                return _without(found.decided)
            ids = found.ids
        content, problems = salesforce_csv.table(list(_uploaded(batch, ids)))
        if problems:
            receipts = {batch.keys[at]: Receipt(Outcome.REJECTED, "bad_value", why) for at, why in problems.items()}
            return _without(receipts)
        if len(content) > MOST_BYTES:
            return too_large(batch, MOST_BYTES)

        # Create. What is wrong here is wrong with all rows.
        job: dict[str, Any] = {"object": self.options.object, "operation": batch.operation.value}
        if batch.operation is Operation.UPSERT:
            job["externalIdFieldName"] = self.sync.destination.match_on[0]
        job |= {"contentType": "CSV", "lineEnding": "LF"}
        reply = yield Request("POST", self._jobs(), dumps(job))
        if reply.status >= 300:
            actions = {} if self.code_of(reply) else {400: Action.CONFIGURATION}
            return _nothing_done(self.answer(batch, reply, actions))
        id_ = str(reply.json()["id"])
        yield id_

        # Upload, and close. Whether a close arrived is asked with the state.
        path = self._jobs(id_)
        reply = yield Request("PUT", f"{path}/batches", content, {"Content-Type": "text/csv"})
        if reply.status >= 300:
            return _nothing_done(self.answer(batch, reply))
        with contextlib.suppress(NotAnsweredError):
            yield Request("PATCH", path, dumps({"state": "UploadComplete"}))
        return None

    # -- asking --------------------------------------------------------------------------------------------------------

    def state(self, ref: JobRef) -> Generator[Request, Reply, JobState]:
        """Ask for the state of a job."""
        reply = yield Request("GET", self._jobs(ref.job))
        if reply.status == 404:
            return JobState.GONE
        return _STATES.get(self.checked(reply)["state"], JobState.RUNNING)

    def ending(self, ref: JobRef) -> Generator[Request, Reply, None]:
        """Abort a job."""
        self.checked((yield Request("PATCH", self._jobs(ref.job), dumps({"state": "Aborted"}))))

    # -- results -------------------------------------------------------------------------------------------------------

    def results(self, ref: JobRef, batch: Batch) -> Results:
        """Read the rows that failed, those that were not processed, and those that were written.

        Their order is not that of the upload, so they are matched by the identifier, which the upload has.
        """
        job = self.checked((yield Request("GET", self._jobs(ref.job))))
        field = ref.match_on[0][0] if ref.match_on else next(iter(batch.records[0]))
        matcher = RowMatcher(_identified(batch, field), key=((field,), (field,)))
        by_lookup = ref.operation is Operation.DELETE and field != "Id"  # such an upload has ids only
        lists = ["failedResults", "unprocessedrecords"]
        if not by_lookup:
            lists.append("successfulResults")
        named: set[str] = set()
        for name in lists:
            path: str | None = f"{self._jobs(ref.job)}/{name}"
            while path:
                reply = yield Request("GET", path, headers=_CSV)
                if reply.status >= 300:
                    self.checked(reply)
                entries = salesforce_csv.read(reply.body)
                if by_lookup:
                    yield from self._look_up_keys(ref, field, entries)
                page: dict[str, Receipt] = {}
                for entry in entries:
                    receipt = self._receipt(ref, job, name, entry)
                    page |= {batch.keys[at]: receipt for at in matcher.positions(0, entry)}
                named |= page.keys()
                yield page
                path = _next(path, reply)
        if by_lookup and job["state"] == "JobComplete":
            yield dict.fromkeys(set(batch.keys) - named, ACCEPTED)  # every id was processed, and did not fail

    def _look_up_keys(self, ref: JobRef, field: str, entries: Sequence[dict[str, str]]) -> Generator[Request, Reply]:
        """Add the identifiers of records that were not deleted to the entries with their ids."""
        for start in range(0, len(entries), _QUERIED_IDS):
            part = {entry["Id"]: entry for entry in entries[start : start + _QUERIED_IDS]}
            answer = self.checked((yield Request("GET", self.query_path(ref.object, field, "Id", part))))
            for record in answer["records"]:
                part[record["Id"]][field] = salesforce_csv.cell(record[field])

    def _receipt(self, ref: JobRef, job: Mapping[str, Any], list_: str, entry: Mapping[str, str]) -> Receipt:
        """Return the receipt of a line of a result."""
        host = self.server.host
        if list_ == "successfulResults":
            wanted = self.sync.write_ids and ref.operation is not Operation.DELETE
            return replace(ACCEPTED, id=entry["sf__Id"]) if wanted else ACCEPTED
        values = {name: value for name, value in entry.items() if not name.startswith("sf__")}
        if list_ == "failedResults":
            code, _, text = entry["sf__Error"].partition(":")
            action = ROWS[ref.operation].get(code, "reject")
            message = self.clean(text.rpartition(":")[0] or text, Batch(ref.operation, [], [], [values]))
            return Receipt(_OUTCOMES.get(action, Outcome.REJECTED), code, message, host)
        problem = str(job.get("errorMessage") or "")
        message = self.clean(problem or "the job did not process the row", Batch(ref.operation, [], [], [values]))
        refused = job["state"] == "Failed" and problem.startswith(_REFUSED)
        return Receipt(Outcome.REJECTED if refused else Outcome.RETRYABLE, "unprocessed", message, host)

    def _jobs(self, id_: str = "") -> str:
        return self.path_of("/jobs/ingest" + (f"/{id_}" if id_ else ""))

    # -- what the destination adds -------------------------------------------------------------------------------------

    def find_of(self, operation: Operation) -> Find | None:
        """Return the look-up of the ids that an operation takes; None if it takes none, or rows have them."""
        raise NotImplementedError

    def path_of(self, path: str) -> str:
        """Return the path of a resource of the API."""
        raise NotImplementedError

    def query_path(self, object_: str, field: str, by: str, values: Iterable[Any]) -> str:
        """Return the path of a query for the ids of records, and a field, by values of a field."""
        raise NotImplementedError


def _uploaded(batch: Batch, ids: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a batch as they are uploaded, with their ids if these were looked up."""
    for key, record in zip(batch.keys, batch.records, strict=True):
        if batch.operation is Operation.DELETE:
            yield {"Id": ids.get(key) or record["Id"]}
        else:
            yield {"Id": ids[key], **record} if key in ids else record


def _identified(batch: Batch, field: str) -> Batch:
    """Return the rows with their identifiers as they were uploaded."""
    return replace(batch, records=[{field: salesforce_csv.cell(record[field])} for record in batch.records])


def _without(decided: Mapping[str, Receipt]) -> Receipts:
    """Return receipts that settle some rows, so that the others are sent again without them."""
    return Receipts(Receipt(Outcome.RETRYABLE, "not_sent", "other rows are settled first"), decided)


def _nothing_done(receipts: Receipts) -> Receipts:
    """Return the receipts of a refused request, after which nothing is at work."""
    if receipts.default.outcome is Outcome.UNKNOWN:
        return replace(receipts, default=replace(receipts.default, outcome=Outcome.RETRYABLE))
    return receipts


def _next(path: str, reply: Reply) -> str | None:
    """Return the path of a result's next page."""
    locator = reply.headers.get("Sforce-Locator", "null")
    return None if locator in ("", "null") else f"{path.partition('?')[0]}?locator={locator}"
