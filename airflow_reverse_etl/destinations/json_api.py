"""Destination type ``http``: any JSON API, described by options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.http import Flow, HttpDestination, HttpOptions
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.destinations.json_options import EndpointOptions, JsonApiOptions, wrapping
from airflow_reverse_etl.destinations.replies import ReplyReader
from airflow_reverse_etl.destinations.templates import BadValueError, Template, header_value, path_value
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request, value_at
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts, digest
from airflow_reverse_etl.sync.ports import Capabilities, Support

_DEFAULT_BATCH_ROWS = 100


class JsonApi(HttpDestination):
    """Sends rows to a JSON API and reads the outcome of each row from the reply, as the options describe.

    Does not page, poll or upload. An API that needs more needs a destination of its own.
    """

    Options: ClassVar[type[HttpOptions]] = JsonApiOptions

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options: JsonApiOptions = setup.options
        endpoints = options.endpoints()
        # A batch has one row if every endpoint that this sync uses takes one row.
        used = [endpoints[operation] for operation in setup.operations if operation in endpoints]
        max_rows = options.max_batch_rows or setup.sync.rate.batch_size or _DEFAULT_BATCH_ROWS
        if used and all(endpoint.rows == "single" for endpoint in used):
            max_rows = 1
        # With an idempotency key the API recognises repeated requests of every operation.
        idempotent = frozenset(Operation if options.idempotency_header else options.idempotent)
        supported = {
            operation: Support(idempotent=operation in idempotent, answers=endpoint.worth)
            for operation, endpoint in endpoints.items()
        }
        self.capabilities = Capabilities(
            supported,
            max_batch_rows=max_rows,
            max_batch_bytes=options.max_batch_bytes,
            ignore_case=True,
        )
        self._endpoints = {operation: _Endpoint(self, operation, found) for operation, found in endpoints.items()}

    def flow(self, batch: Batch) -> Flow:
        """Send a batch in one request, and again without the rows that an API names when it refuses the whole batch."""
        endpoint = self._endpoints[batch.operation]
        if endpoint.single and len(batch) > 1:
            return (yield from self._one_by_one(endpoint, batch))
        rejected: dict[str, Receipt] = {}
        while True:
            # Leave out the rows that cannot be sent.
            request, problems = endpoint.request(batch)
            if problems:
                rejected |= {batch.keys[position]: receipt for position, receipt in problems.items()}
                batch = batch.only(position for position in range(len(batch)) if position not in problems)
            if request is None:
                return Receipts(exceptions=rejected, requests=0)
            max_bytes = self.options.max_batch_bytes
            if max_bytes and request.body and len(request.body) > max_bytes:
                return _with_rejected(_too_large(batch), rejected)
            receipts, named = endpoint.replies.read((yield request), batch)
            if receipts.stop or not named or len(named) == len(batch):
                return _with_rejected(receipts, rejected)
            # Nothing was written because of the named rows: send the others.
            rejected |= named
            batch = batch.only(position for position, key in enumerate(batch.keys) if key not in named)

    def error_text(self, batch: Batch, reply: Reply) -> tuple[str, str]:
        """Return an error's code and message from the paths of the option ``error``, else from the usual places."""
        code, message = super().error_text(batch, reply)
        paths = self._endpoints[batch.operation].error_paths
        answer = reply.json()
        if paths.code:
            code = str(value_at(answer, paths.code.split(".")) or code)
        if paths.message:
            message = str(value_at(answer, paths.message.split(".")) or message)
        return code, message

    def _one_by_one(self, endpoint: _Endpoint, batch: Batch) -> Flow:
        """Send each row of a batch in a request of its own.

        A batch for such an endpoint has several rows if another operation's endpoint takes many.
        """
        exceptions: dict[str, Receipt] = {}
        last = Receipts()
        taken = False
        for position, key in enumerate(batch.keys):
            row = batch.only([position])
            if last.throttled or last.retry_after is not None:
                exceptions[key] = Receipt(
                    Outcome.RETRYABLE, "not_sent", "the destination asked to wait before this row"
                )
                continue
            request, problems = endpoint.request(row)
            if request is None:
                exceptions[key] = problems[0]
                continue
            try:
                receipts, named = endpoint.replies.read((yield request), row)
            except NotAnsweredError as error:
                exceptions[key] = error.receipt
                continue
            if receipts.stop:
                exceptions[key] = receipts.of(key)
                for unsent in batch.keys[position + 1 :]:
                    exceptions[unsent] = Receipt(Outcome.RETRYABLE, "not_sent", "the load was stopped before this row")
                return Receipts(exceptions=exceptions, taken=taken, stop=receipts.stop)
            last = receipts
            taken = taken or receipts.taken
            receipt = named.get(key) or receipts.of(key)
            if receipt.outcome is not Outcome.ACCEPTED:
                exceptions[key] = receipt
        return Receipts(exceptions=exceptions, retry_after=last.retry_after, throttled=last.throttled, taken=taken)


class _Endpoint:
    """Endpoint of one operation, with everything prepared that does not depend on the rows."""

    def __init__(self, destination: JsonApi, operation: Operation, options: EndpointOptions) -> None:
        self._destination = destination
        self._options = options
        self.single = options.rows == "single"
        self._values = {"object": destination.options.object, "operation": operation.value}
        self.error_paths = options.error
        self._path = Template(options.path or "", path_value)
        self._headers = {name: Template(text, header_value) for name, text in options.headers.items()}
        names = self._path.names.union(*(template.names for template in self._headers.values()))
        self._per_row = "row" in names
        self.replies = ReplyReader(destination, operation, options, path_names_row="row" in self._path.names)
        #: Run id, path and headers of the last request; valid for the whole run unless they depend on the row.
        self._prepared: tuple[str, str, dict[str, str] | None] | None = None
        self._idempotency_header: str | None = destination.options.idempotency_header
        body = options.body or ("none" if self.single and options.method == "DELETE" else "json")
        self._encode = {"json": self._json, "ndjson": self._ndjson, "none": self._no_body}[body]
        self._before, self._after = wrapping(options.records, options.envelope)

    def request(self, batch: Batch) -> tuple[Request | None, dict[int, Receipt]]:
        """Build the request of a batch.

        :returns: the request, or None if no row can be sent; the receipts of rows that cannot be sent, by position.
        """
        try:
            path, headers = self._address(batch)
        except BadValueError as error:
            receipt = Receipt(Outcome.REJECTED, "bad_value", str(error))
            return None, dict.fromkeys(range(len(batch)), receipt)
        body, problems = self._encode(batch)
        rejected = {position: Receipt(Outcome.REJECTED, "not_json", problem) for position, problem in problems.items()}
        if problems and len(problems) == len(batch):
            return None, rejected
        if self._idempotency_header:
            sent = batch
            if problems:
                sent = batch.only(position for position in range(len(batch)) if position not in problems)
            headers = {**(headers or {}), self._idempotency_header: self._idempotency_key(sent, path, body or b"")}
        return Request(self._options.method, path, body, headers), rejected

    def _idempotency_key(self, batch: Batch, path: str, content: bytes) -> str:
        """Return the key by which the API may recognise a repetition of this request.

        If the sync tracks what it inserted, each record is inserted once, whatever the run, so the key is the same in
        all runs. In all other cases a later plan may send the same content again on purpose, so the key differs.
        """
        sync = self._destination.sync
        if sync.mode != "insert" or not sync.tracked:
            return batch.idempotency_key(content)
        # The content identifies the record if it has the fields of match_on.
        record = () if sync.destination.match_on else batch.keys
        return digest(self._destination.server.url, path, *record, content)

    def _address(self, batch: Batch) -> tuple[str, dict[str, str] | None]:
        if self._prepared is None or self._per_row or self._prepared[0] != batch.run_id:
            values = {**self._values, "run_id": batch.run_id}
            if self._per_row:
                values["row"] = batch.records[0]
            headers = {name: template.render(**values) for name, template in self._headers.items()}
            if self._options.body == "ndjson":
                headers.setdefault("Content-Type", "application/x-ndjson")
            self._prepared = batch.run_id, self._path.render(**values), headers or None
        return self._prepared[1:]

    def _json(self, batch: Batch) -> tuple[bytes | None, dict[int, str]]:
        problems: dict[int, str] = {}
        if not self.single:
            data, problems = dumps_rows(batch.records)
        else:
            try:
                data = dumps(batch.records[0])
            except NotJsonError as error:
                return None, {0: str(error)}
        if self._before:
            data = self._before + data + self._after
        return data, problems

    def _ndjson(self, batch: Batch) -> tuple[bytes | None, dict[int, str]]:
        lines: list[bytes] = []
        problems: dict[int, str] = {}
        for position, record in enumerate(batch.records):
            try:
                lines.append(dumps(record) + b"\n")
            except NotJsonError as error:
                problems[position] = str(error)
        return b"".join(lines), problems

    def _no_body(self, _: Batch) -> tuple[bytes | None, dict[int, str]]:
        return None, {}


def _with_rejected(receipts: Receipts, rejected: Mapping[str, Receipt]) -> Receipts:
    """Return the receipts of the rows that were sent, and those of the rows rejected before."""
    if not rejected:
        return receipts
    return replace(receipts, exceptions={**rejected, **receipts.exceptions})


def _too_large(batch: Batch) -> Receipts:
    receipt = Receipt(Outcome.REJECTED, "too_large", "the row is larger than max_batch_bytes")
    return Receipts(receipt, refused_whole=len(batch) > 1, requests=0)
