"""Results per row in the replies of a JSON API: the options that describe them, and the reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.reply_signs import lists_of
from airflow_reverse_etl.http.messages import value_at
from airflow_reverse_etl.http.status_table import Action
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt

#: Consequences of an entry in a reply for its row.
RowAction = Literal["accept", "reject", "conflict", "retry", "skip", "unknown"]
_OUTCOMES: dict[str, Outcome] = {
    Action.ACCEPT: Outcome.ACCEPTED,
    Action.REJECT: Outcome.REJECTED,
    Action.CONFLICT: Outcome.CONFLICT,
    Action.RETRY: Outcome.RETRYABLE,
    Action.SKIP: Outcome.SKIPPED,
    Action.UNKNOWN: Outcome.UNKNOWN,
}
NO_RESULT = Receipt(Outcome.UNKNOWN, "no_result", "the reply does not mention this row")
#: A position in a number, a path or a JSON pointer: ``3``, ``records[3].email``, ``/records/3``.
_POSITION = re.compile(r"(?:^|[/.\[])(\d+)(?=$|[/.\]])")


def is_no_result(receipt: Receipt) -> bool:
    """Return whether the reply did not mention the row."""
    return receipt.code == NO_RESULT.code and receipt.outcome is Outcome.UNKNOWN


class Results(Strict):
    """Place and format of the entries per row in a reply. Paths are dotted; a number is a position in a list."""

    list: Annotated[str, Field(description="path of the list in the reply; empty if the reply itself is the list")] = ""
    rows: Annotated[
        Literal["all", "failed"], Field(description="rows that the list contains: all, or only failed ones")
    ] = "all"
    index: Annotated[
        str | None,
        Field(
            description="path in an entry of the row's position (counted from 0), or of a JSON pointer that contains it"
        ),
    ] = None
    key: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            max_length=1,
            description="path in an entry, and the field of the record that has the same value",
        ),
    ]
    ok: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="path in an entry, and the value, or list of values, that means that the row was written",
        ),
    ]
    error: Annotated[str | None, Field(description="path in an entry that has a value only if the row failed")] = None
    code: Annotated[str, Field(description="path of the error code in an entry")] = "code"
    message: Annotated[str, Field(description="path of the error message in an entry")] = "message"
    codes: Annotated[
        dict[str, RowAction], Field(default_factory=dict, description="error codes, and their meaning; default: reject")
    ]

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.index is not None and self.key:
            raise ValueError("'index' and 'key' exclude each other")
        if self.rows == "failed" and self.index is None and not self.key:
            raise ValueError("rows: failed needs 'index' or 'key', which match an entry with its row")
        if self.rows == "all" and not self.ok and self.error is None:
            raise ValueError("rows: all needs 'ok' or 'error', which show the rows that were written")
        return self


class ResultReader:
    """Reads the entries in the replies of one endpoint.

    :param clean: function that redacts a message of the remote.
    """

    def __init__(self, results: Results, clean: Callable[[str, Batch], str]) -> None:
        self.path = results.list
        self.lists_all_rows = results.rows == "all"
        self._results = results
        self._clean = clean
        self._list = _path(results.list)
        self._ok = [(_path(path), value) for path, value in results.ok.items()]
        self._error = _path(results.error) if results.error is not None else None
        self._code = _path(results.code)
        self._message = _path(results.message)
        self._index = _path(results.index) if results.index is not None else None
        self._key = next(((_path(entry), _path(field)) for entry, field in results.key.items()), None)

    def entries(self, answer: Any) -> Sequence[Any] | None:
        """Return the list of entries, or None if the reply has no such list."""
        found = value_at(answer, self._list)
        return found if isinstance(found, list) else None

    def failures_elsewhere(self, answer: Any) -> bool:
        """Return whether another list of the reply has entries with the code or message of an error."""
        for path in lists_of(answer):
            entries = value_at(answer, path.split("."))
            if not isinstance(entries, list):
                continue
            if any(value_at(entry, self._code) or value_at(entry, self._message) for entry in entries):
                return True
        return False

    def read(
        self, entries: Sequence[Any], batch: Batch, *, host: str = "", status: int | None = None
    ) -> tuple[dict[str, Receipt], list[Receipt]]:
        """Match the entries of a reply with the rows of a batch.

        With ``rows: all`` a row is written if an entry names it and reports it as written. Without ``index`` and
        ``key`` an entry belongs to the row at its place, and a list of another length than the batch names no row.

        :param host: remote that answered, for the receipts.
        :param status: status of the reply, for the receipts.
        :returns: the receipts of the rows that were not written, by key; the receipts of failed entries that name no
            row of the batch.
        """
        failed = [(place, entry) for place, entry in enumerate(entries) if not self._written(entry)]
        if not failed and not self.lists_all_rows:
            return {}, []
        no_result = replace(NO_RESULT, host=host, status=status)
        by_place = self._index is None and self._key is None
        if self.lists_all_rows and by_place and len(entries) != len(batch):
            return dict.fromkeys(batch.keys, no_result), []
        if not failed and by_place:
            return {}, []
        receipts: dict[str, Receipt] = {}
        unmatched: list[Receipt] = []
        positions_of = self._matcher(batch)
        # Rows that no entry names have no result.
        if self.lists_all_rows:
            receipts = dict.fromkeys(batch.keys, no_result)
            for place, entry in enumerate(entries):
                for position in positions_of(place, entry):
                    receipts.pop(batch.keys[position], None)
        # A failed entry decides its rows, whatever another entry reports.
        for place, entry in failed:
            receipt = replace(self._receipt(entry, batch), host=host, status=status)
            positions = list(positions_of(place, entry))
            if not positions:
                unmatched.append(receipt)
            elif receipt.outcome is not Outcome.ACCEPTED:
                receipts.update((batch.keys[position], receipt) for position in positions)
        return receipts, unmatched

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

    def _receipt(self, entry: Any, batch: Batch) -> Receipt:
        if isinstance(entry, str):  # some APIs list plain messages
            return Receipt(Outcome.REJECTED, "rejected", self._clean(entry, batch))
        found = value_at(entry, self._code)
        code = str(found) if isinstance(found, str | int) else ""
        outcome = _OUTCOMES[self._results.codes.get(code, "reject")]
        message = value_at(entry, self._message)
        text = self._clean(message, batch) if isinstance(message, str) else ""
        # Some APIs put a sentence with the row's values into the code.
        return Receipt(outcome, self._clean(code, batch) or "rejected", text)

    def _matcher(self, batch: Batch) -> Callable[[int, Any], Iterator[int]]:
        """Return a function that yields the positions in the batch that an entry at a place of the list names."""
        index = self._index
        key = self._key
        if key is None:

            def match_by_position(place: int, entry: Any) -> Iterator[int]:
                for found in [place] if index is None else _as_list(value_at(entry, index)):
                    match = _POSITION.search(str(found))
                    if match and int(match[1]) < len(batch):
                        yield int(match[1])

            return match_by_position

        path_in_entry, field = key
        positions: dict[str, list[int]] = {}
        for position, record in enumerate(batch.records):
            positions.setdefault(str(value_at(record, field)), []).append(position)

        def match_by_key(_: int, entry: Any) -> Iterator[int]:
            for found in _as_list(value_at(entry, path_in_entry)):
                yield from positions.get(str(found), ())

        return match_by_key


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _as_list(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
