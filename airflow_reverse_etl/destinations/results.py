"""Results per row in the replies of a JSON API: the options that describe them, and the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.reply_signs import lists_of
from airflow_reverse_etl.destinations.row_matching import RowMatcher
from airflow_reverse_etl.http.messages import value_at
from airflow_reverse_etl.http.status_table import Action
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt

#: Consequences of an entry in a reply for its row.
RowAction = Literal["accept", "reject", "conflict", "retry", "throttle", "skip", "unknown", "configuration"]
_OUTCOMES: dict[str, Outcome] = {
    Action.ACCEPT: Outcome.ACCEPTED,
    Action.REJECT: Outcome.REJECTED,
    Action.CONFLICT: Outcome.CONFLICT,
    Action.RETRY: Outcome.RETRYABLE,
    Action.THROTTLE: Outcome.RETRYABLE,
    Action.SKIP: Outcome.SKIPPED,
    Action.UNKNOWN: Outcome.UNKNOWN,
    Action.CONFIGURATION: Outcome.RETRYABLE,
}
NO_RESULT = Receipt(Outcome.UNKNOWN, "no_result", "the reply does not mention this row")


def is_no_result(receipt: Receipt) -> bool:
    """Return whether the reply did not mention the row."""
    return receipt.code == NO_RESULT.code and receipt.outcome is Outcome.UNKNOWN


def _text_of_number(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _list_of_text(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


#: An error code: text, or a number in YAML.
Code = Annotated[str, BeforeValidator(_text_of_number)]
#: One dotted path, or a list of them.
Paths = Annotated[
    tuple[str, ...],
    BeforeValidator(_list_of_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Results(Strict):
    """Place and format of the entries per row in a reply. Paths are dotted; a number is a position in a list."""

    list: Annotated[
        Paths,
        Field(
            description="path of the list in the reply, or of an object whose fields are lists, one for each kind of "
            "failure; several paths if failures are in several lists; empty if the reply itself is the list"
        ),
    ] = ()
    rows: Annotated[
        Literal["all", "failed"], Field(description="rows that the list contains: all, or only failed ones")
    ] = "all"
    index: Annotated[
        str | None,
        Field(
            description="path in an entry of the row's position (counted from 0), or of a JSON pointer, path or "
            "message that contains it; empty if the entry itself is the position"
        ),
    ] = None
    key: Annotated[
        dict[str, str],
        Field(
            max_length=1,
            description="path in an entry, and the field of the record that has the same value; the path is empty if "
            "the entry itself is the value",
        ),
    ] = Field(default_factory=dict)
    ok: Annotated[
        dict[str, Any],
        Field(
            description="path in an entry, and the value, or list of values, that means that the row was written",
        ),
    ] = Field(default_factory=dict)
    error: Annotated[str | None, Field(description="path in an entry that has a value only if the row failed")] = None
    code: Annotated[
        str,
        Field(
            description="path of the error code in an entry; the code of an entry without one is the name of its list, "
            "if there are several lists"
        ),
    ] = "code"
    message: Annotated[str, Field(description="path of the error message in an entry")] = "message"
    codes: Annotated[
        dict[Code, RowAction],
        Field(description="error codes of rows, and their meaning; default: reject"),
    ] = Field(default_factory=dict)
    accepted: Annotated[
        str | None,
        Field(
            description="path of the number of written rows, or of their list; a row that no entry names is accepted "
            "only if the number is right"
        ),
    ] = None
    failed: Annotated[
        str | None,
        Field(
            description="path of the number of failed rows, or of their list, which may be missing if none failed; a "
            "row that no entry names is accepted only if the number is right"
        ),
    ] = None

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.index is not None and self.key:
            raise ValueError("'index' and 'key' exclude each other")
        if self.rows == "failed" and self.index is None and not self.key:
            raise ValueError("rows: failed needs 'index' or 'key', which match an entry with its row")
        if self.rows == "all" and not self.ok and self.error is None:
            raise ValueError("rows: all needs 'ok' or 'error', which show the rows that were written")
        if self.rows == "all" and len(self.list) > 1:
            raise ValueError("several paths in 'list' need rows: failed")
        if self.rows == "all" and (self.accepted is not None or self.failed is not None):
            raise ValueError("'accepted' and 'failed' need rows: failed, as a list of all rows needs no count")
        return self


class ErrorPaths(Strict):
    """Paths of the code and message in a reply with an error status; by default, the usual ones are tried."""

    code: Annotated[str | None, Field(description="dotted path of the error's code")] = None
    message: Annotated[str | None, Field(description="dotted path of the error's message")] = None


class Success(Strict):
    """Verdict of a reply on all rows of its request."""

    path: Annotated[str, Field(min_length=1, description="dotted path in the reply")]
    value: Annotated[
        Any,
        Field(
            description="value, or list of values, that means that the rows were written; any other value refuses them"
        ),
    ]


class Entry(NamedTuple):
    """An entry of a reply.

    :param kind: name of its list, if the reply has several.
    :param place: position in its list.
    """

    value: Any
    kind: str
    place: int


@dataclass(frozen=True, slots=True)
class RowResults:
    """Outcome of the rows of a batch, as the entries of a reply give it.

    :param exceptions: receipts of rows by key; every other row was written.
    :param unmatched: receipts of failed entries that name no row of the batch.
    :param failed: number of failed entries.
    :param failed_rows: number of rows that failed entries name.
    :param throttled: the code of an entry asks to wait.
    :param stop: receipt of a row whose code ends the load.
    """

    exceptions: dict[str, Receipt] = field(default_factory=dict)
    unmatched: list[Receipt] = field(default_factory=list)
    failed: int = 0
    failed_rows: int = 0
    throttled: bool = False
    stop: Receipt | None = None

    @property
    def named(self) -> dict[str, Receipt]:
        """The receipts of rows that the reply mentions."""
        return {key: receipt for key, receipt in self.exceptions.items() if not is_no_result(receipt)}


class ResultReader:
    """Reads the entries in the replies of one endpoint.

    :param clean: function that redacts a message of the remote.
    :param records: place of the records in the request's body, a dotted path.
    """

    def __init__(self, results: Results, clean: Callable[[str, Batch], str], *, records: str = "") -> None:
        self.paths = results.list or ("",)
        self.lists_all_rows = results.rows == "all"
        self._results = results
        self._clean = clean
        self._records = _path(records)
        self._ok = [(_path(path), value) for path, value in results.ok.items()]
        self._error = _path(results.error) if results.error is not None else None
        self._code = _path(results.code)
        self._message = _path(results.message)
        self._index = _path(results.index) if results.index is not None else None
        self._key = next(((_path(entry), _path(field)) for entry, field in results.key.items()), None)

    @property
    def place(self) -> str:
        """The place of the lists, for a message."""
        return " or ".join(repr(path or "(the reply)") for path in self.paths)

    def entries(self, answer: Any) -> Sequence[Entry] | None:
        """Return the entries of a reply, or None if it has none of the lists."""
        lists = [found for path in self.paths for found in self._lists(answer, path)]
        if not lists:
            return None
        return [Entry(value, kind, place) for kind, values in lists for place, value in enumerate(values)]

    def _lists(self, answer: Any, path: str) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the lists at a path with their kinds."""
        found = value_at(answer, _path(path))
        kind = path.rpartition(".")[2] if len(self.paths) > 1 else ""
        if isinstance(found, list):
            yield kind, found
            return
        if not path or not isinstance(found, Mapping) or self.lists_all_rows:
            return
        # An object with anything else than lists may hide failures.
        if all(isinstance(values, list) for values in found.values()):
            yield kind, ()
            for name, values in found.items():
                yield f"{kind}.{name}".lstrip("."), values

    def without_lists(self, answer: Any) -> Any:
        """Return a reply without the lists, for what it says about all rows."""
        for path in self.paths:
            answer = _without(answer, _path(path))
        return answer

    def failures_elsewhere(self, answer: Any) -> bool:
        """Return whether another list of the reply has entries with the code or message of an error."""
        for path in lists_of(answer):
            entries = value_at(answer, path.split("."))
            if not isinstance(entries, list):
                continue
            if any(value_at(entry, self._code) or value_at(entry, self._message) for entry in entries):
                return True
        return False

    def count(self, answer: Any, name: Literal["accepted", "failed"]) -> int | None:
        """Return a number of rows that a reply gives, or None if it is not configured, or missing in the reply."""
        path = getattr(self._results, name)
        found = value_at(answer, _path(path)) if path is not None else None
        if isinstance(found, list):
            return len(found)
        return found if type(found) is int else None

    def some_written(self, answer: Any) -> bool:
        """Return whether a reply says that some rows were written, by their number or by the entries of all rows."""
        if self.count(answer, "accepted"):
            return True
        if not self._ok or not self.lists_all_rows:
            return False
        written = {self._written(entry.value) for entry in self.entries(answer) or ()}
        return written == {True, False}

    def missing_count(self, answer: Any, *, some_failed: bool) -> str | None:
        """Return the name of the option whose number the reply lacks, or None."""
        if self._results.accepted is not None and self.count(answer, "accepted") is None:
            return "accepted"
        if self._results.failed is not None and some_failed and self.count(answer, "failed") is None:
            return "failed"
        return None

    def counts_agree(self, answer: Any, found: RowResults, rows: int) -> bool:
        """Return whether the numbers in a reply agree with the entries: all other rows were written.

        :param rows: number of rows of the batch.
        """
        accepted = self.count(answer, "accepted")
        failed = self.count(answer, "failed")
        if accepted is not None and accepted != rows - found.failed_rows:
            return False
        # An entry may name several rows.
        return failed is None or failed in (found.failed, found.failed_rows)

    def read(self, entries: Sequence[Entry], batch: Batch, *, host: str = "", status: int | None = None) -> RowResults:
        """Match the entries of a reply with the rows of a batch.

        With ``rows: all`` a row is written if an entry names it and reports it as written. Without ``index`` and
        ``key`` an entry belongs to the row at its place, and a list of another length than the batch names no row.

        :param host: remote that answered, for the receipts.
        :param status: status of the reply, for the receipts.
        """
        failed = [entry for entry in entries if not self._written(entry.value)]
        if not failed and not self.lists_all_rows:
            return RowResults()
        no_result = replace(NO_RESULT, host=host, status=status)
        by_place = self._index is None and self._key is None
        if self.lists_all_rows and by_place and len(entries) != len(batch):
            return RowResults(dict.fromkeys(batch.keys, no_result))
        if not failed and by_place:
            return RowResults()
        receipts: dict[str, Receipt] = {}
        matcher = RowMatcher(batch, key=self._key, index=self._index, records=self._records)
        # Rows that no entry names have no result.
        if self.lists_all_rows:
            receipts = dict.fromkeys(batch.keys, no_result)
            for entry in entries:
                for position in matcher.positions(entry.place, entry.value):
                    receipts.pop(batch.keys[position], None)
        # A failed entry decides its rows, whatever another entry reports.
        unmatched: list[Receipt] = []
        failed_rows: set[int] = set()
        throttled = False
        stop: Receipt | None = None
        for entry in failed:
            action, receipt = self._receipt(entry, batch)
            receipt = replace(receipt, host=host, status=status)
            throttled = throttled or action == Action.THROTTLE
            if action == Action.CONFIGURATION:
                stop = stop or receipt
            positions = matcher.positions(entry.place, entry.value)
            failed_rows.update(positions)
            if not positions:
                unmatched.append(receipt)
            for position in positions:
                # Another entry of the same row may say that it was not written.
                if receipt.outcome is not Outcome.ACCEPTED:
                    receipts[batch.keys[position]] = receipt
                else:
                    receipts.setdefault(batch.keys[position], receipt)
        return RowResults(receipts, unmatched, len(failed), len(failed_rows), throttled, stop)

    def _written(self, entry: Any) -> bool:
        if self._error is not None and value_at(entry, self._error) not in (None, "", [], {}, False):
            return False
        if not self._ok:
            return self.lists_all_rows
        for path, expected in self._ok:
            allowed = expected if isinstance(expected, list) else [expected]
            if value_at(entry, path) not in allowed:
                return False
        return True

    def _receipt(self, entry: Entry, batch: Batch) -> tuple[str, Receipt]:
        """Return the action and the receipt of a failed entry."""
        code: Any = value_at(entry.value, self._code)
        if not isinstance(code, str | int) or code == "":
            code = entry.kind
        action = self._results.codes.get(str(code), "reject")
        # Some APIs list plain messages.
        is_key = self._key is not None and not self._key[0]
        message = value_at(entry.value, self._message)
        if isinstance(entry.value, str) and not is_key:
            message = entry.value
        text = self._clean(message, batch) if isinstance(message, str) else ""
        # Some APIs put a sentence with the row's values into the code.
        return action, Receipt(_OUTCOMES[action], self._clean(str(code), batch) or "rejected", text)


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _without(value: Any, path: tuple[str, ...]) -> Any:
    """Return a copy of a value without what is at a path."""
    if not path:
        return None
    if not isinstance(value, Mapping) or path[0] not in value:
        return value
    others = {name: inner for name, inner in value.items() if name != path[0]}
    rest = _without(value[path[0]], path[1:])
    return others if rest is None else {**others, path[0]: rest}
