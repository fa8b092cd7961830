"""Matching of the entries in a reply with the rows of a batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from airflow_reverse_etl.http.messages import value_at
from airflow_reverse_etl.spec.field_types import BLANKS
from airflow_reverse_etl.spec.receipts import Batch

Path = tuple[str, ...]

#: A number that stands alone in a path: ``3``, ``records[3].email``, ``/records/3``.
_NUMBER = re.compile(r"(?:^|[/.\[])(\d+)(?=$|[/.\]])")
#: A name or a number in a path.
_PART = re.compile(r"[^/.\[\]\"']+")


class RowMatcher:
    """Finds the rows of a batch that an entry of a reply names.

    :param key: path in an entry, and path in a record of the same value.
    :param index: path in an entry of the row's position. Without ``key`` and ``index`` an entry belongs to the row at
        its own place in the list.
    :param records: place of the records in the request's body.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        key: tuple[Path, Path] | None = None,
        index: Path | None = None,
        records: Path = (),
    ) -> None:
        self._rows = len(batch)
        self._key = key
        self._index = index
        self._records = records
        self._exact: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        if key is None:
            return
        for position, record in enumerate(batch.records):
            value = value_at(record, key[1])
            if value is not None:
                self._exact.setdefault(str(value), []).append(position)
                self._folded.setdefault(_fold(str(value)), []).append(position)

    def positions(self, place: int, entry: Any) -> list[int]:
        """Return the positions in the batch of the rows that the entry at a place of its list names."""
        if self._key is not None:
            found: list[int] = []
            for value in _as_list(value_at(entry, self._key[0])):
                found += self._with_key(str(value))
            return found
        if self._index is None:
            numbers: list[int | None] = [place]
        else:
            numbers = [position_in(value, self._records) for value in _as_list(value_at(entry, self._index))]
        return [number for number in numbers if number is not None and number < self._rows]

    def _with_key(self, value: str) -> Sequence[int]:
        """Return the rows with a key.

        APIs return e-mail addresses in lower case. A value in other letters names a row only if it can be no other.
        """
        if value in self._exact:
            return self._exact[value]
        alike = self._folded.get(_fold(value), [])
        return alike if len(alike) == 1 else ()


def position_in(value: Any, records: Path = ()) -> int | None:
    """Return the position of a row that an entry has as a number, a path, a JSON pointer, or within a message.

    ``records[3].lines[2]`` has two numbers. The position follows the place of the records in the request's body, or the
    last name of that place. A path that does not contain it begins with the position, or has no other number.

    :param records: place of the records in the request's body.
    :returns: None if the value has no position, or several numbers that may be one.
    """
    if isinstance(value, int):
        return value if value >= 0 and not isinstance(value, bool) else None
    text = str(value)
    words = text.split()
    for names in (records, records[-1:]):
        for word in words:
            if (found := _number_after(names, _PART.findall(word))) is not None:
                return found
    parts = _PART.findall(text)
    if len(words) == 1 and parts and parts[0].isdecimal():
        return int(parts[0])
    numbers = _NUMBER.findall(text)
    return int(numbers[0]) if len(numbers) == 1 else None


def _number_after(names: Path, parts: Sequence[str]) -> int | None:
    """Return the number that follows these names in a path; APIs may write them in snake or camel case."""
    wanted = [_plain(name) for name in names]
    for end in range(len(wanted), len(parts)):
        before = [_plain(part) for part in parts[end - len(wanted) : end]]
        if wanted and before == wanted and parts[end].isdecimal():
            return int(parts[end])
    return None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _fold(text: str) -> str:
    return text.strip(BLANKS).lower()


def _as_list(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
