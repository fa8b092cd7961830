"""Reading a reply of a JSON API: from its status, codes, verdict and entries to a receipt for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.destinations.http import ALL_ACCEPTED
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.reply_signs import lists_of, signs_of_failure
from airflow_reverse_etl.destinations.results import Entry, ResultReader, RowResults, is_no_result
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.http.messages import Reply, value_at
from airflow_reverse_etl.http.rate_headers import retry_after
from airflow_reverse_etl.http.status_table import ACTIONS, Action, action_of
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ, Batch, Outcome, Receipt, Receipts

if TYPE_CHECKING:
    from airflow_reverse_etl.destinations.batch_api import BatchApi, Endpoint

#: Statuses that mean that the row does not exist, if the path names the row.
_MISSING_ROW: Mapping[Operation, Mapping[int, Action]] = {
    Operation.UPDATE: {404: Action.SKIP, 410: Action.SKIP},
    Operation.DELETE: {404: Action.ACCEPT, 410: Action.ACCEPT},
}


class ReplyReader:
    """Reads the replies of one endpoint, as it describes them.

    :param path_names_row: the request's path contains the row.
    """

    def __init__(self, destination: BatchApi, operation: Operation, options: Endpoint, *, path_names_row: bool) -> None:
        self._destination = destination
        self._options = options
        self._host = destination.server.host
        self._idempotent = options.support.idempotent
        self._codes = {**destination.codes, **options.codes}
        self._actions: dict[int, Action] = dict(options.statuses)
        if path_names_row:
            self._actions = {**_MISSING_ROW.get(operation, {}), **self._actions}
        self._results = None
        if options.results:
            self._results = ResultReader(options.results, destination.clean, records=options.records or "")

    def read(self, reply: Reply, batch: Batch) -> tuple[Receipts, Mapping[str, Receipt]]:
        """Read the reply to a request.

        :returns: the receipts; and, if nothing was written, the receipts of the rows that the API named as the cause.
        """
        answer = reply.json()
        by_code = self._action_of_code(reply, answer, batch)
        action = by_code or action_of(reply.status, self._actions, self._destination.actions, ACTIONS)

        # A refusal that means `accept` or `skip` speaks of one row, which is alone after some splits.
        refused = 400 <= reply.status < 500 and not self._entries(answer)
        denied = self._verdict(answer) is False
        if action in (Action.ACCEPT, Action.SKIP) and (refused or denied) and len(batch) > 1:
            action = Action.REFUSE
        believed = (refused and not denied) or (by_code is not None and (denied or self._results is None))
        if action is Action.ACCEPT and believed and len(batch) == 1:
            return ALL_ACCEPTED, {}

        # A reply that names or counts written rows refuses only the others.
        if action is Action.REFUSE and self._results and self._results.some_written(answer):
            action = Action.PARTIAL

        if action is Action.ACCEPT:
            receipts = self._accepted(reply, answer, batch)
            return (replace(receipts, taken=True) if reply.status == 202 else receipts), {}
        if action is Action.PARTIAL:
            return self._partly_written(reply, answer, batch), {}
        if action in (Action.REFUSE, Action.CONFLICT):
            return self._refused(action, reply, answer, batch)
        return self._answer(batch, reply, action), {}

    def _refused(
        self, action: Action, reply: Reply, answer: Any, batch: Batch
    ) -> tuple[Receipts, Mapping[str, Receipt]]:
        """Return the receipts of a refused request, and those of the rows that the API named as the cause.

        If the request may have written some of its rows, those that are not named are unknown. The engine may split
        them only if they may be sent twice.
        """
        named = self._named(reply, answer, batch)
        if named is None:
            return self._refused_whole(action, reply, batch), {}
        if action is Action.CONFLICT:
            named = replace(named, exceptions=_as_conflicts(named.exceptions))
        if self._nothing_written(reply, batch):
            return named, named.exceptions
        return replace(named, default=replace(named.default, outcome=Outcome.UNKNOWN)), {}

    def _refused_whole(self, action: Action, reply: Reply, batch: Batch) -> Receipts:
        """Return the receipts of a refused request that names no row."""
        receipts = self._answer(batch, reply, action)
        if self._nothing_written(reply, batch):
            return receipts
        return replace(receipts, default=_perhaps_written(receipts.default))

    def _nothing_written(self, reply: Reply, batch: Batch) -> bool:
        """Return whether a refused request has written nothing, or nothing that may not be written again."""
        too_large = reply.status == 413  # no API reads such a request
        return self._idempotent or self._options.atomic or len(batch) == 1 or too_large

    def _answer(self, batch: Batch, reply: Reply, action: Action) -> Receipts:
        """Return the receipts of an action that concerns all rows."""
        return self._destination.answer(batch, reply, {reply.status: action}, self._words(batch, reply))

    def _words(self, batch: Batch, reply: Reply) -> tuple[str, str]:
        """Return an error's code and message from the paths of the endpoint's ``error``, else from the usual places."""
        code, message = self._destination.error_text(batch, reply)
        paths = self._options.error
        if paths.code or paths.message:
            answer = reply.json()
            code = str((paths.code and value_at(answer, paths.code.split("."))) or code)
            message = str((paths.message and value_at(answer, paths.message.split("."))) or message)
        return code, message

    def _entries(self, answer: Any) -> Sequence[Entry]:
        """Return the entries of a reply, if the options read them."""
        return (self._results and self._results.entries(answer)) or ()

    def _named(self, reply: Reply, answer: Any, batch: Batch) -> Receipts | None:
        """Return the receipts of the rows that a refused request names as the cause; None without one."""
        entries = self._entries(answer)
        if self._results is None or not entries:
            return None
        found = self._results.read(entries, batch, host=self._host, status=reply.status)
        if not found.named:
            return None
        text = "nothing was written because of other rows"
        others = Receipt(Outcome.RETRYABLE, "not_written", text, self._host, reply.status)
        return self._with_actions(Receipts(others, found.named), found, reply)

    def _action_of_code(self, reply: Reply, answer: Any, batch: Batch) -> Action | None:
        """Return the meaning of the reply's code by ``codes``, or None without one."""
        if not self._codes:
            return None
        # In a reply with a 2xx status, entries have the codes of single rows.
        if self._results and reply.status < 300:
            reply = replace(reply, body=dumps(self._results.without_lists(answer)))
        code, _ = self._words(batch, reply)
        return self._codes.get(code)

    def _verdict(self, answer: Any) -> bool | None:
        """Return whether the option ``success`` finds success in a reply; None without a value, or the option."""
        success = self._options.success
        found = value_at(answer, success.path.split(".")) if success else None
        if success is None or found is None:
            return None
        return found in (success.value if isinstance(success.value, list) else [success.value])

    def _accepted(self, reply: Reply, answer: Any, batch: Batch) -> Receipts:
        """Return the receipts of a reply whose status means that the rows were written.

        The load stops if the body contradicts the status or cannot be read. Otherwise failures would count as
        successes.
        """
        success = self._options.success
        if self._options.reply == "text":
            return ALL_ACCEPTED
        if self._results is None and success is None and self._is_believed(reply):
            return ALL_ACCEPTED
        if answer is None and reply.body.strip() not in (b"", b"null"):
            return self._not_json(reply, batch)
        if success is not None and answer is not None:
            verdict = self._verdict(answer)
            if verdict is None:
                return self._stop_without(success.path, "success", reply, batch)
            if not verdict:
                return self._refused_whole(Action.REFUSE, reply, batch)
        if self._results is not None:
            return self._by_row(self._results, answer, reply, batch)
        if reply.status == 207 or signs_of_failure(answer):
            return self._stop_unread(reply, batch, answer)
        return ALL_ACCEPTED

    def _is_believed(self, reply: Reply) -> bool:
        """Return whether the sync's ``statuses`` makes every reply with this status a success."""
        return self._options.statuses.get(reply.status) is Action.ACCEPT

    def _not_json(self, reply: Reply, batch: Batch) -> Receipts:
        problem = "the reply is not JSON"
        if content_type := reply.headers.get("Content-Type", "").partition(";")[0].strip():
            problem += f" but {content_type}"
        todo = (
            "set `reply: text` in the destination if this API answers with plain text; "
            "otherwise check the API and its proxies"
        )
        if self._idempotent:
            receipt = Receipt(Outcome.UNKNOWN, "reply_not_json", f"{problem}; {todo}", self._host, reply.status)
            return Receipts(receipt)
        return self._stop(reply, batch, problem, todo=todo)

    def _partly_written(self, reply: Reply, answer: Any, batch: Batch) -> Receipts:
        """Return the receipts of a reply after part of the rows was written.

        A reply without entries does not say which part. Its rows are sent again only if that is safe.
        """
        if self._results and self._entries(answer):
            return self._by_row(self._results, answer, reply, batch)
        return self._answer(batch, reply, Action.REFUSE if self._idempotent else Action.UNKNOWN)

    def _by_row(self, results: ResultReader, answer: Any, reply: Reply, batch: Batch) -> Receipts:
        """Return the receipts that the entries of the reply give."""
        entries = results.entries(answer)
        if entries is None:
            return self._no_list(results, answer, reply, batch)
        found = results.read(entries, batch, host=self._host, status=reply.status)
        if self._reports_more(results, answer, reply, some_failed=bool(found.exceptions or found.unmatched)):
            return self._stop_unread(reply, batch, answer)
        exceptions = found.exceptions
        named_none = len(exceptions) == len(batch) and all(map(is_no_result, exceptions.values()))
        if named_none and (entries or not self._idempotent) and not found.unmatched:
            return self._stop_unmatched(results, reply, batch)
        if found.unmatched:
            stop = self._stop_unmatched(results, reply, batch)
            return self._not_named(found.unmatched[0], found, stop, batch)
        return self._by_counts(results, answer, reply, batch, found)

    def _by_counts(self, results: ResultReader, answer: Any, reply: Reply, batch: Batch, found: RowResults) -> Receipts:
        """Return the receipts of a reply, if the numbers of rows that it gives agree with its entries."""
        if missing := results.missing_count(answer, some_failed=found.failed > 0):
            path = getattr(self._options.results, missing)
            stop = self._stop_without(path, f"results.{missing}", reply, batch)
            return replace(stop, exceptions=found.exceptions)
        alone = len(batch) == 1
        if results.counts_agree(answer, found, len(batch)) or (alone and found.exceptions):
            return self._with_actions(Receipts(exceptions=found.exceptions), found, reply)
        problem = (
            f"its numbers of rows do not agree with its entries, which name {found.failed_rows} of {len(batch)} rows"
        )
        todo = "correct `results.accepted` and `results.failed` in the destination"
        stop = self._stop(reply, batch, problem, todo=todo)
        if alone and results.count(answer, "accepted") != 0 and not results.count(answer, "failed"):
            return stop
        text = "the reply counts a failed row that it does not name"
        failure = Receipt(Outcome.REJECTED, "not_named", text, self._host, reply.status)
        return self._not_named(failure, found, stop, batch)

    def _not_named(self, failure: Receipt, found: RowResults, stop: Receipts, batch: Batch) -> Receipts:
        """Return the receipts of a batch of which some row failed that the API did not name.

        :param failure: receipt of that row.
        :param stop: receipts that end the load.
        """
        if len(batch) == 1:
            return Receipts(failure)
        if self._idempotent:
            return Receipts(failure, refused_whole=True)  # splitting repeats rows already written, which is safe
        return replace(stop, exceptions=found.exceptions)

    def _with_actions(self, receipts: Receipts, found: RowResults, reply: Reply) -> Receipts:
        """Add to the receipts of rows what their codes mean for the load: a wait, or its end."""
        if found.throttled:
            receipts = replace(receipts, throttled=True, retry_after=retry_after(reply))
        if found.stop is None:
            return receipts
        what = f"the destination refused a row with code {found.stop.code}: {found.stop.message}".rstrip(": ")
        return replace(receipts, stop=self._error(what, "correct what the destination's message names"))

    def _no_list(self, results: ResultReader, answer: Any, reply: Reply, batch: Batch) -> Receipts:
        """Decide on a reply without the list that ``results`` names.

        An API that lists failed rows may leave the list out where none failed, but not where it reports some elsewhere.
        """
        optional = not results.lists_all_rows and (answer is None or isinstance(answer, Mapping))
        reports = reply.status == 207 or signs_of_failure(answer) or results.failures_elsewhere(answer)
        if optional and (self._is_believed(reply) or not reports):
            return self._by_counts(results, answer, reply, batch, RowResults())
        problem = f"the reply has no list at {results.place}, the path of `results`"
        todo = "correct `results.list`, or set `results: null` for an operation whose replies have no such list"
        return self._stop(reply, batch, problem + self._lists(answer), todo=todo)

    def _reports_more(self, results: ResultReader, answer: Any, reply: Reply, *, some_failed: bool) -> bool:
        """Return whether a reply that lists failed rows reports failures in another place, too."""
        if results.lists_all_rows or self._is_believed(reply):
            return False
        signs = [path for path in signs_of_failure(answer) if path not in results.paths]
        if some_failed:  # a count or a verdict may speak of the same rows, another list does not
            signs = [path for path in signs if isinstance(value_at(answer, path.split(".")), list)]
        return bool(signs)

    def _stop_unmatched(self, results: ResultReader, reply: Reply, batch: Batch) -> Receipts:
        """Stop at a reply whose entries match no row of the batch."""
        problem = f"entries of {results.place} match no row of the request"
        todo = "set `results.key` or `results.index` to the path that identifies the row in an entry"
        return self._stop(reply, batch, problem, todo=todo)

    def _stop_without(self, path: str, option: str, reply: Reply, batch: Batch) -> Receipts:
        """Stop at a reply without the value that an option names."""
        problem = f"the reply has no value at {path!r}, the path of `{option}`"
        return self._stop(reply, batch, problem, todo=f"correct `{option}` in the destination")

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
        error = self._error(f"the destination answered {reply.status}, but {problem}", todo)
        return Receipts(Receipt(Outcome.UNKNOWN, REPLY_NOT_READ, problem, self._host, reply.status), stop=error)

    def _error(self, what: str, todo: str) -> ConfigurationError:
        return ConfigurationError(what, todo=todo, **self._destination.where)


def _perhaps_written(receipt: Receipt) -> Receipt:
    """Return the receipt of a row of a refused request that may have written some of its rows."""
    text = f"{receipt.message}; set `atomic: true` if a refused request of this API writes none of its rows"
    return replace(receipt, outcome=Outcome.UNKNOWN, message=text)


def _as_conflicts(exceptions: Mapping[str, Receipt]) -> dict[str, Receipt]:
    """Return the receipts of a refusal because of a unique conflict: its rejected rows are the conflicting ones."""
    conflicts = {}
    for key, receipt in exceptions.items():
        is_rejected = receipt.outcome is Outcome.REJECTED
        conflicts[key] = replace(receipt, outcome=Outcome.CONFLICT) if is_rejected else receipt
    return conflicts
