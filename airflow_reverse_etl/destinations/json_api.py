"""Destination type ``http``: any JSON API, described by options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from airflow_reverse_etl.destinations.base import Setup
from airflow_reverse_etl.destinations.http import ALL_ACCEPTED, Flow, HttpDestination, HttpOptions
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps, dumps_rows
from airflow_reverse_etl.destinations.json_options import EndpointOptions, JsonApiOptions, Success, wrapping
from airflow_reverse_etl.destinations.reply_signs import lists_of, signs_of_failure
from airflow_reverse_etl.destinations.results import ResultReader, is_no_result
from airflow_reverse_etl.destinations.templates import BadValueError, Template, header_value, path_value
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request, value_at
from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ, Batch, Outcome, Receipt, Receipts, digest
from airflow_reverse_etl.sync.ports import Capabilities, Support

_DEFAULT_BATCH_ROWS = 100
#: Statuses that mean that the row does not exist, if the path names the row.
_MISSING_ROW: Mapping[Operation, Mapping[int, Action]] = {
    Operation.UPDATE: {404: Action.SKIP, 410: Action.SKIP},
    Operation.DELETE: {404: Action.ACCEPT, 410: Action.ACCEPT},
}


class JsonApi(HttpDestination):
    """Sends rows to a JSON API and reads the outcome of each row from the reply, as the options describe.

    Authenticates with headers only, and does not page, poll or upload. An API that needs more needs a destination of
    its own.
    """

    Options: ClassVar[type[HttpOptions]] = JsonApiOptions

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options: JsonApiOptions = setup.options
        endpoints = options.endpoints()
        self._endpoints = {operation: _Endpoint(self, operation, found) for operation, found in endpoints.items()}
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
            receipts, named = endpoint.read((yield request), batch)
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
        wait: float | None = None
        for position, key in enumerate(batch.keys):
            row = batch.only([position])
            if wait is not None:
                exceptions[key] = Receipt(
                    Outcome.RETRYABLE, "not_sent", "the destination asked to wait before this row"
                )
                continue
            request, problems = endpoint.request(row)
            if request is None:
                exceptions[key] = problems[0]
                continue
            try:
                receipts, named = endpoint.read((yield request), row)
            except NotAnsweredError as error:
                exceptions[key] = error.receipt
                continue
            if receipts.stop:
                exceptions[key] = receipts.default
                for unsent in batch.keys[position + 1 :]:
                    exceptions[unsent] = Receipt(Outcome.RETRYABLE, "not_sent", "the load was stopped before this row")
                return Receipts(exceptions=exceptions, stop=receipts.stop)
            wait = receipts.retry_after
            receipt = named.get(key) or receipts.of(key)
            if receipt.outcome is not Outcome.ACCEPTED:
                exceptions[key] = receipt
        return Receipts(exceptions=exceptions, retry_after=wait)


class _Endpoint:
    """Endpoint of one operation, with everything prepared that does not depend on the rows."""

    def __init__(self, destination: JsonApi, operation: Operation, options: EndpointOptions) -> None:
        self._destination = destination
        self._options = options
        self.single = options.rows == "single"
        self._actions = {**options.statuses}
        self._values = {"object": destination.options.object, "operation": operation.value}
        self.error_paths = options.error
        self._host = destination.endpoint.host
        self._path = Template(options.path or "", path_value)
        self._headers = {name: Template(text, header_value) for name, text in options.headers.items()}
        names = self._path.names.union(*(template.names for template in self._headers.values()))
        self._per_row = "row" in names
        if "row" in self._path.names:
            self._actions = {**_MISSING_ROW.get(operation, {}), **self._actions}
        #: Run id, path and headers of the last request; valid for the whole run unless they depend on the row.
        self._prepared: tuple[str, str, dict[str, str] | None] | None = None
        self._idempotency_header: str | None = destination.options.idempotency_header
        body = options.body or ("none" if self.single and options.method == "DELETE" else "json")
        self._encode = {"json": self._json, "ndjson": self._ndjson, "none": self._no_body}[body]
        self._before, self._after = wrapping(options.records, options.envelope)
        self._results = ResultReader(options.results, destination.clean) if options.results else None

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
        return digest(self._destination.endpoint.url, path, *record, content)

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

    def read(self, reply: Reply, batch: Batch) -> tuple[Receipts, dict[str, Receipt]]:
        """Read the reply to a request.

        :returns: the receipts; and, if nothing was written, the receipts of the rows that the API named as the cause.
        """
        action = action_of(reply.status, self._actions, self._destination.actions, ACTIONS)
        if action is Action.ACCEPT:
            return self._accepted(reply, batch), {}
        # An API may name the bad rows of a batch that it refused.
        by_status = self._destination.answer(batch, reply, self._actions)
        if self._results is None or action not in (Action.REFUSE, Action.CONFLICT):
            return by_status, {}
        entries = self._results.entries(reply.json()) or ()
        exceptions, _ = self._results.read(entries, batch, host=self._host, status=reply.status)
        named = {key: receipt for key, receipt in exceptions.items() if not is_no_result(receipt)}
        if action is Action.CONFLICT:
            named = {key: replace(receipt, outcome=Outcome.CONFLICT) for key, receipt in named.items()}
        return (Receipts(exceptions=named), named) if named else (by_status, {})

    def _accepted(self, reply: Reply, batch: Batch) -> Receipts:
        """Return the receipts of a reply whose status means that the rows were written.

        The load stops if the body contradicts the status or cannot be read. Otherwise failures would count as
        successes.
        """
        if self._options.reply == "text":
            return ALL_ACCEPTED
        if self._results is None and self._options.success is None and reply.status in self._options.statuses:
            return ALL_ACCEPTED  # the sync's `statuses` decides
        answer = reply.json()
        if answer is None and reply.body.strip() not in (b"", b"null"):
            return self._not_json(reply, batch)
        if self._options.success is not None and answer is not None:
            refused = self._refused(self._options.success, answer, reply, batch)
            if refused is not None:
                return refused
        if self._results is not None:
            return self._by_row(self._results, answer, reply, batch)
        if reply.status == 207 or signs_of_failure(answer):
            return self._stop_unread(reply, batch, answer)
        return ALL_ACCEPTED

    def _not_json(self, reply: Reply, batch: Batch) -> Receipts:
        problem = "the reply is not JSON"
        if content_type := reply.headers.get("Content-Type", "").partition(";")[0].strip():
            problem += f" but {content_type}"
        todo = (
            "set `reply: text` in the destination if this API answers with plain text; "
            "otherwise check the API and its proxies"
        )
        if self._destination.capabilities.idempotent(batch.operation):
            receipt = Receipt(Outcome.UNKNOWN, "reply_not_json", f"{problem}; {todo}", self._host, reply.status)
            return Receipts(receipt)
        return self._stop(reply, batch, problem, todo=todo)

    def _refused(self, success: Success, answer: Any, reply: Reply, batch: Batch) -> Receipts | None:
        """Return the receipts of a reply whose verdict refuses the batch, or None if the verdict is success."""
        found = value_at(answer, success.path.split("."))
        if found is None:
            problem = f"the reply has no value at {success.path!r}, the path of `success`"
            return self._stop(reply, batch, problem, todo="correct `success.path` in the destination")
        allowed = success.value if isinstance(success.value, list) else [success.value]
        if found in allowed:
            return None
        return self._destination.answer(batch, reply, {reply.status: Action.REFUSE})

    def _by_row(self, results: ResultReader, answer: Any, reply: Reply, batch: Batch) -> Receipts:
        """Return the receipts that the entries of the reply give."""
        entries = results.entries(answer)
        if entries is None:
            return self._no_list(results, answer, reply, batch)
        exceptions, unmatched = results.read(entries, batch, host=self._host, status=reply.status)
        if self._reports_more(results, answer, reply, some_failed=bool(exceptions or unmatched)):
            return self._stop_unread(reply, batch, answer)
        safe = self._destination.capabilities.idempotent(batch.operation)
        named_none = len(exceptions) == len(batch) and all(map(is_no_result, exceptions.values()))
        if named_none and (entries or not safe) and not unmatched:
            return self._stop_unmatched(results, reply, batch)
        if not unmatched:
            return Receipts(exceptions=exceptions) if exceptions else ALL_ACCEPTED
        # Some row failed, and the API did not name it.
        failure = unmatched[0]
        if len(batch) == 1:
            return Receipts(failure)
        if safe:
            return Receipts(failure, refused_whole=True)  # splitting repeats rows already written, which is safe
        return replace(self._stop_unmatched(results, reply, batch), exceptions=exceptions)

    def _no_list(self, results: ResultReader, answer: Any, reply: Reply, batch: Batch) -> Receipts:
        """Decide on a reply without the list that ``results`` names.

        An API that lists failed rows may leave the list out where none failed, but not where it reports some elsewhere.
        """
        optional = not results.lists_all_rows and (answer is None or isinstance(answer, Mapping))
        believed = reply.status in self._options.statuses
        reports = reply.status == 207 or signs_of_failure(answer) or results.failures_elsewhere(answer)
        if optional and (believed or not reports):
            return ALL_ACCEPTED
        problem = f"the reply has no list at {results.path or '(the reply)'!r}, the path of `results`"
        todo = "correct `results.list`, or set `results: null` for an operation whose replies have no such list"
        return self._stop(reply, batch, problem + self._lists(answer), todo=todo)

    def _reports_more(self, results: ResultReader, answer: Any, reply: Reply, *, some_failed: bool) -> bool:
        """Return whether a reply that lists failed rows reports failures in another place, too."""
        if results.lists_all_rows or reply.status in self._options.statuses:
            return False
        signs = [path for path in signs_of_failure(answer) if path != results.path]
        if some_failed:  # a count or a verdict may speak of the same rows, another list does not
            signs = [path for path in signs if isinstance(value_at(answer, path.split(".")), list)]
        return bool(signs)

    def _stop_unmatched(self, results: ResultReader, reply: Reply, batch: Batch) -> Receipts:
        """Stop at a reply whose entries match no row of the batch."""
        problem = f"entries of {results.path or 'the reply'!r} match no row of the request"
        todo = "set `results.key` or `results.index` to the path that identifies the row in an entry"
        return self._stop(reply, batch, problem, todo=todo)

    def _stop_unread(self, reply: Reply, batch: Batch, answer: Any) -> Receipts:
        """Stop at a reply that reports failures that the sync's options do not read."""
        signs = signs_of_failure(answer)
        where = f" at {', '.join(signs)}" if signs else ""
        problem = f"the reply reports per-row results{where}, which the sync does not read"
        todo = (
            "set `results` in the destination, or `success` if the reply has one verdict for all rows; "
            f"to count every such reply as success, set `statuses: {{{reply.status}: accept}}`"
        )
        return self._stop(reply, batch, problem + self._lists(answer), todo=todo)

    def _lists(self, answer: Any) -> str:
        """Return the end of a message that names the lists in a reply."""
        found = lists_of(answer)
        return f"; it has the lists {', '.join(found)}" if found else "; it has no list"

    def _stop(self, reply: Reply, batch: Batch, problem: str, *, todo: str) -> Receipts:
        """Return receipts that leave the rows in doubt and end the load, as no later batch would succeed."""
        problem = self._destination.clean(problem, batch)
        error = ConfigurationError(
            f"the destination answered {reply.status}, but {problem}",
            todo=todo,
            sync=self._destination.sync.name,
            connection=self._destination.options.connection,
            host=self._host,
        )
        return Receipts(Receipt(Outcome.UNKNOWN, REPLY_NOT_READ, problem, self._host, reply.status), stop=error)


def _with_rejected(receipts: Receipts, rejected: Mapping[str, Receipt]) -> Receipts:
    """Return the receipts of the rows that were sent, and those of the rows rejected before."""
    if not rejected:
        return receipts
    return replace(receipts, exceptions={**rejected, **receipts.exceptions})


def _too_large(batch: Batch) -> Receipts:
    receipt = Receipt(Outcome.REJECTED, "too_large", "the row is larger than max_batch_bytes")
    return Receipts(receipt, refused_whole=len(batch) > 1, requests=0)
