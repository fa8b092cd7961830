"""Where a JSON API says what became of each row, as options, and reading it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.reply_signs import lists_of
from airflow_reverse_etl.http.messages import at
from airflow_reverse_etl.http.status_table import Action
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt

#: What may become of one row of an answered request.
RowAction = Literal["accept", "reject", "retry", "skip", "unknown"]
_OUTCOMES: dict[str, Outcome] = {
    Action.ACCEPT: Outcome.ACCEPTED,
    Action.REJECT: Outcome.REJECTED,
    Action.RETRY: Outcome.RETRYABLE,
    Action.SKIP: Outcome.SKIPPED,
    Action.UNKNOWN: Outcome.UNKNOWN,
}
NO_RESULT = Receipt(Outcome.UNKNOWN, "no_result", "the reply says nothing about this row")
_INDEX = re.compile(r"(?:^|[/.\[])(\d+)(?=$|[/.\]])")


def is_no_result(receipt: Receipt) -> bool:
    """Return whether the reply did not mention the row."""
    return receipt.code == NO_RESULT.code and receipt.outcome is Outcome.UNKNOWN


class Results(Strict):
    """Where the reply has an entry per row. Paths are dotted; a number is a position in a list."""

    list: Annotated[str, Field(description="path of the list in the reply; empty: the reply is the list")] = ""
    rows: Annotated[
        Literal["all", "failed"], Field(description="the list has every row, or only those that failed")
    ] = "all"
    index: Annotated[
        str | None,
        Field(description="path in an entry of the row's position, counted from 0, or of a JSON pointer with it"),
    ] = None
    key: Annotated[
        dict[str, str],
        Field(
            default_factory=dict, max_length=1, description="path in an entry: field of the record, with the same value"
        ),
    ]
    ok: Annotated[
        dict[str, Any], Field(default_factory=dict, description="path in an entry: value that says the row was written")
    ]
    error: Annotated[str | None, Field(description="path in an entry that is there only if the row failed")] = None
    code: Annotated[str, Field(description="path of the error code in an entry")] = "code"
    message: Annotated[str, Field(description="path of the error message in an entry")] = "message"
    codes: Annotated[
        dict[str, RowAction], Field(default_factory=dict, description="error code: what it means; default: reject")
    ]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.index is not None and self.key:
            raise ValueError("give 'index' or 'key', not both")
        if self.rows == "failed" and self.index is None and not self.key:
            raise ValueError("with rows: failed, 'index' or 'key' must say which row an entry is about")
        if self.rows == "all" and not self.ok and self.error is None:
            raise ValueError("with rows: all, 'ok' or 'error' must say which rows were written")
        return self


class ResultReader:
    """Reads the entries of one endpoint's replies. Made once."""

    def __init__(self, results: Results, clean: Callable[[str, Batch], str]) -> None:
        self.path = results.list
        self.everything = results.rows == "all"
        self._results = results
        self._clean = clean
        self._list = _path(results.list)
        self._ok = [(_path(path), value) for path, value in results.ok.items()]
        self._error = _path(results.error) if results.error is not None else None
        self._code, self._message = _path(results.code), _path(results.message)
        self._index = _path(results.index) if results.index is not None else None
        self._key = next(((_path(entry), _path(field)) for entry, field in results.key.items()), None)

    def entries(self, answer: Any) -> Sequence[Any] | None:
        """The list of entries, or None where the reply has none."""
        found = at(answer, self._list)
        return found if isinstance(found, list) else None

    def failures_elsewhere(self, answer: Any) -> bool:
        """Return whether another list of the reply has entries with the code or message of an error."""
        for path in lists_of(answer):
            entries = at(answer, path.split("."))
            if not isinstance(entries, list):
                continue
            if any(at(entry, self._code) or at(entry, self._message) for entry in entries):
                return True
        return False

    def read(
        self, entries: Sequence[Any], batch: Batch, *, host: str = "", status: int | None = None
    ) -> tuple[dict[str, Receipt], list[Receipt]]:
        """Return the receipts of rows that were not written, by key, and those of failed entries that name no row.

        With ``rows: all`` a row is written when an entry names it and says so. Where rows are named by their place
        alone, a list of another length than the batch names none of them.

        :param host: that answered, for the receipts; likewise ``status``.
        """
        failed = [(place, entry) for place, entry in enumerate(entries) if not self._written(entry)]
        if not failed and not self.everything:
            return {}, []
        no_result = replace(NO_RESULT, host=host, status=status)
        by_place = self._index is None and self._key is None
        if self.everything and by_place and len(entries) != len(batch):
            return dict.fromkeys(batch.keys, no_result), []
        if not failed and by_place:
            return {}, []
        receipts: dict[str, Receipt] = {}
        lost: list[Receipt] = []
        find = self._finder(batch)
        if self.everything:
            receipts = dict.fromkeys(batch.keys, no_result)
            for place, entry in enumerate(entries):
                for position in find(place, entry):
                    receipts.pop(batch.keys[position], None)
        for place, entry in failed:
            receipt = replace(self._receipt(entry, batch), host=host, status=status)
            positions = list(find(place, entry))
            if not positions:
                lost.append(receipt)
            elif receipt.outcome is not Outcome.ACCEPTED:
                receipts.update((batch.keys[position], receipt) for position in positions)
        return receipts, lost

    def _written(self, entry: Any) -> bool:
        if self._error is not None and at(entry, self._error) not in (None, "", [], {}, False):
            return False
        if not self._ok:
            return self._results.rows == "all"
        return all(
            found in value if isinstance(value, list) else found == value
            for found, value in ((at(entry, path), value) for path, value in self._ok)
        )

    def _receipt(self, entry: Any, batch: Batch) -> Receipt:
        if isinstance(entry, str):  # some APIs list bare messages
            return Receipt(Outcome.REJECTED, "rejected", self._clean(entry, batch))
        code, message = at(entry, self._code), at(entry, self._message)
        code = str(code) if isinstance(code, str | int) else ""
        outcome = _OUTCOMES[self._results.codes.get(code, "reject")]
        return Receipt(
            outcome,
            self._clean(code, batch) or "rejected",  # some APIs put a sentence there, with the row's values
            self._clean(message, batch) if isinstance(message, str) else "",
        )

    def _finder(self, batch: Batch) -> Callable[[int, Any], Iterator[int]]:
        """Which positions of the batch an entry is about."""
        index, key = self._index, self._key
        if key is None:

            def find(place: int, entry: Any) -> Iterator[int]:
                for found in [place] if index is None else _all(at(entry, index)):
                    match = _INDEX.search(str(found))
                    if match and int(match[1]) < len(batch):
                        yield int(match[1])

            return find

        positions: dict[str, list[int]] = {}
        for position, record in enumerate(batch.records):
            positions.setdefault(str(at(record, key[1])), []).append(position)

        def find_by_key(_: int, entry: Any) -> Iterator[int]:
            for found in _all(at(entry, key[0])):
                yield from positions.get(str(found), ())

        return find_by_key


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _all(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
