"""Destination type ``http``: any JSON API, described by options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from airflow_reverse_etl.destinations.encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.destinations.http import ALL_ACCEPTED, Flow, HttpDestination, HttpOptions
from airflow_reverse_etl.destinations.json_options import EndpointOptions, JsonApiOptions, wrapping
from airflow_reverse_etl.destinations.messages import ACTIONS, Action, NotAnsweredError, Reply, Request, action_of, at
from airflow_reverse_etl.destinations.registry import Setup
from airflow_reverse_etl.destinations.results import NO_RESULT, ResultReader
from airflow_reverse_etl.destinations.templates import BadValueError, Template, header_value, path_value
from airflow_reverse_etl.sync.ports import Capabilities
from airflow_reverse_etl.sync.receipts import Batch, Operation, Outcome, Receipt, Receipts

_DEFAULT_BATCH = 100
#: A row that is not there, where the path names the row.
_NO_SUCH_ROW: Mapping[Operation, Mapping[int, Action]] = {
    Operation.UPDATE: {404: Action.SKIP, 410: Action.SKIP},
    Operation.DELETE: {404: Action.ACCEPT, 410: Action.ACCEPT},
}


class JsonApi(HttpDestination):
    """Sends rows to a JSON API and reads its answer per row, as the options say.

    Does not authenticate by more than headers, and does not page, poll or upload: an API that needs these wants a
    destination of its own.
    """

    Options: ClassVar[type[HttpOptions]] = JsonApiOptions

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options: JsonApiOptions = setup.options
        endpoints = options.endpoints()
        self._endpoints = {operation: _Endpoint(self, operation, found) for operation, found in endpoints.items()}
        used = [endpoints[operation] for operation in setup.operations if operation in endpoints]
        single = bool(used) and all(endpoint.rows == "single" for endpoint in used)
        rows = options.max_batch_rows or setup.sync.rate.batch_size or _DEFAULT_BATCH
        self.capabilities = Capabilities(
            operations=frozenset(endpoints),
            idempotent=frozenset(Operation if options.idempotency_header else map(Operation, options.idempotent)),
            max_batch_rows=1 if single else rows,
            max_batch_bytes=options.max_batch_bytes,
        )

    def flow(self, batch: Batch) -> Flow:
        """One request, and another one without the bad rows when the API names them and refuses all for them."""
        endpoint = self._endpoints[batch.operation]
        if endpoint.single and len(batch) > 1:
            return (yield from self._one_by_one(endpoint, batch))
        rejected: dict[str, Receipt] = {}
        while True:
            request, problems = endpoint.request(batch)
            if problems:
                rejected |= {batch.keys[position]: receipt for position, receipt in problems.items()}
                batch = batch.only(position for position in range(len(batch)) if position not in problems)
            if request is None:
                return Receipts(exceptions=rejected, requests=0)
            if request.body and len(request.body) > (self.options.max_batch_bytes or len(request.body)):
                return _with(rejected, _too_large(batch))
            receipts, named = endpoint.read((yield request), batch)
            if not named or len(named) == len(batch):
                return _with(rejected, receipts)
            rejected |= named
            batch = batch.only(position for position, key in enumerate(batch.keys) if key not in named)

    def words(self, batch: Batch, reply: Reply) -> tuple[str, str]:
        """As ``error`` says, where it does."""
        code, message = super().words(batch, reply)
        options, answer = self._endpoints[batch.operation].error, reply.json()
        found = [at(answer, path.split(".")) if path else None for path in (options.code, options.message)]
        return str(found[0] or code), str(found[1] or message)

    def _one_by_one(self, endpoint: _Endpoint, batch: Batch) -> Flow:
        """An endpoint for single rows, in a batch that is larger because another operation's endpoint takes many."""
        exceptions: dict[str, Receipt] = {}
        wait: float | None = None
        for position, key in enumerate(batch.keys):
            row = batch.only([position])
            if wait is not None:
                exceptions[key] = Receipt(Outcome.RETRYABLE, "not_sent", "an earlier row was told to wait")
                continue
            request, problems = endpoint.request(row)
            if request is None:
                exceptions[key] = problems[0]
                continue
            try:
                receipts, named = endpoint.read((yield request), row)
            except NotAnsweredError as lost:
                exceptions[key] = lost.receipt
                continue
            wait = receipts.retry_after
            if (receipt := named.get(key) or receipts.of(key)).outcome is not Outcome.ACCEPTED:
                exceptions[key] = receipt
        return Receipts(exceptions=exceptions, retry_after=wait)


class _Endpoint:
    """One operation's endpoint, with everything prepared that does not depend on the rows."""

    def __init__(self, destination: JsonApi, operation: Operation, options: EndpointOptions) -> None:
        self._destination = destination
        self._options = options
        self.single = options.rows == "single"
        self._actions = {**options.statuses}
        self._values = {"object": destination.options.object, "operation": operation.value}
        self.error = options.error
        self._path = Template(options.path or "", path_value)
        self._headers = {name: Template(text, header_value) for name, text in options.headers.items()}
        names = self._path.names.union(*(template.names for template in self._headers.values()))
        self._per_row = "row" in names
        if "row" in self._path.names:
            self._actions = {**_NO_SUCH_ROW.get(operation, {}), **self._actions}
        self._prepared: tuple[str, str, dict[str, str] | None] | None = None
        self._idempotency_header: str | None = destination.options.idempotency_header
        body = options.body or ("none" if self.single and options.method == "DELETE" else "json")
        self._encode = {"json": self._json, "ndjson": self._ndjson, "none": self._none}[body]
        self._before, self._after = wrapping(options.records, options.envelope)
        self._results = ResultReader(options.results, destination.clean) if options.results else None

    def request(self, batch: Batch) -> tuple[Request | None, dict[int, Receipt]]:
        """The request of a batch, None if no row is left, and the rows that cannot be sent: position → receipt."""
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
            sent = batch.only(n for n in range(len(batch)) if n not in problems) if problems else batch
            headers = {**(headers or {}), self._idempotency_header: sent.idempotency_key}
        return Request(self._options.method, path, body, headers), rejected

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
        if not self.single:
            data, problems = dumps_rows(batch.records)
        else:
            try:
                data, problems = dumps(batch.records[0]), {}
            except NotJsonError as error:
                return None, {0: str(error)}
        return self._before + data + self._after if self._before else data, problems

    def _ndjson(self, batch: Batch) -> tuple[bytes | None, dict[int, str]]:
        lines, problems = [], {}
        for position, record in enumerate(batch.records):
            try:
                lines.append(dumps(record) + b"\n")
            except NotJsonError as error:
                problems[position] = str(error)
        return b"".join(lines), problems

    def _none(self, _: Batch) -> tuple[bytes | None, dict[int, str]]:
        return None, {}

    def read(self, reply: Reply, batch: Batch) -> tuple[Receipts, dict[str, Receipt]]:
        """The receipts; and, of a batch that was refused, those of the rows that the API named: no row was written."""
        by_status = self._destination.answer
        action = action_of(reply.status, self._actions, self._destination.actions, ACTIONS)
        if self._results is None or action not in (Action.ACCEPT, Action.REFUSE):
            return by_status(batch, reply, self._actions), {}
        exceptions, lost = self._results.read(reply.json(), batch)
        if action is Action.REFUSE:
            named = {key: receipt for key, receipt in exceptions.items() if receipt is not NO_RESULT}
            return (Receipts(exceptions=named), named) if named else (by_status(batch, reply, self._actions), {})
        if not lost:
            return (Receipts(exceptions=exceptions) if exceptions else ALL_ACCEPTED), {}
        # Some row failed, and the API did not say which.
        if len(batch) == 1:
            return Receipts(lost[0]), {}
        if batch.operation in self._destination.capabilities.idempotent:
            return Receipts(lost[0], refused_whole=True), {}  # those written already may be sent again: split
        return Receipts(Receipt(Outcome.UNKNOWN, lost[0].code, lost[0].message), exceptions), {}


def _with(rejected: Mapping[str, Receipt], receipts: Receipts) -> Receipts:
    """The receipts of what was sent, and those of rows left out of it before."""
    return replace(receipts, exceptions={**rejected, **receipts.exceptions}) if rejected else receipts


def _too_large(batch: Batch) -> Receipts:
    receipt = Receipt(Outcome.REJECTED, "too_large", "the row is larger than max_batch_bytes")
    return Receipts(receipt, refused_whole=len(batch) > 1, requests=0)
