"""Marks of personal data: what dbt declares of a column, and what a model's columns carry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

#: Key in dbt's ``meta``, and the tag, that mark a column.
KEY = "pii"
#: Prefix of the mark of a hashed value.
HASHED = "hashed "
_NOT_PERSONAL = ("false", "no", "none")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A mark of a column.

    :param name: kind of personal data, such as ``email``; ``pii`` if dbt names no kind.
    :param column: column that dbt marks; ``*`` if it marks the whole model.
    :param model: name of that column's model, source or seed.
    :param place: file that marks it, with the line if known.
    """

    name: str
    column: str
    model: str
    place: str

    @property
    def hashed(self) -> Mark:
        """The mark of this column's hash."""
        return self if self.name.startswith(HASHED) else replace(self, name=HASHED + self.name)

    @property
    def origin(self) -> str:
        """The place that marks the column, for messages."""
        column = "every column" if self.column == "*" else f"column {self.column}"
        return f"{column} of {self.model}, {self.place}"


@dataclass(frozen=True, slots=True)
class ColumnMarks:
    """The marks that one column carries.

    :param unknown: reason why the column may carry other marks, too; empty if ``marks`` are all.
    """

    marks: tuple[Mark, ...] = ()
    unknown: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the marks, and ``unknown`` if there may be others."""
        found = sorted({mark.name for mark in self.marks})
        return [*found, "unknown"] if self.unknown else found

    def __or__(self, other: ColumnMarks) -> ColumnMarks:
        marks = {*self.marks, *other.marks}
        return ColumnMarks(tuple(sorted(marks)), self.unknown or other.unknown)


@dataclass(frozen=True, slots=True)
class ModelMarks:
    """The marks that the columns of one model carry.

    :param columns: column in lower case → its marks.
    :param others: the marks of every other column.
    :param dialect: sqlglot's name of the warehouse's SQL; None for its generic SQL.
    :param primary_key: columns of the key that dbt knows.
    """

    columns: Mapping[str, ColumnMarks] = field(default_factory=dict)
    others: ColumnMarks = ColumnMarks()
    dialect: str | None = None
    primary_key: tuple[str, ...] = ()

    def of(self, column: str) -> ColumnMarks:
        """Return the marks of a column, compared case-insensitively."""
        name = column.lower()
        if name not in self.columns and self.dialect == "duckdb":
            # DuckDB gives the second of two columns of one name a number.
            name = re.sub(r"_\d+$", "", name)
        return self.columns.get(name, self.others)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Restore what a catalog stores."""
        columns = {name: _restored(marks) for name, marks in stored["columns"].items()}
        return cls(columns, _restored(stored["others"]), stored["dialect"], tuple(stored["primary_key"]))

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` restores."""
        return asdict(self)

    def names(self) -> dict[str, list[str]]:
        """Return the names of the marks of each column that has some; ``unknown`` for one that may have others.

        ``*`` is every column that is not listed. If that has marks, columns without any are listed, too.
        """
        others = self.others.names
        found = {column: carried.names for column, carried in self.columns.items() if carried.names or others}
        return found | ({"*": others} if others else {})


def _restored(stored: Mapping[str, Any]) -> ColumnMarks:
    return ColumnMarks(tuple(Mark(**mark) for mark in stored["marks"]), stored["unknown"])


def declared_marks(tags: Iterable[str], meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the marks that dbt's tags and meta declare.

    ``meta`` has ``pii: email``, a list of such names, ``pii: true``, or ``pii: false``, for a column without
    personal data. A tag is ``pii`` or ``pii:email``.

    :returns: None if they do not mention personal data; empty for a column without it.
    """
    given: list[Any] = []
    if meta.get(KEY) is not None:
        value = meta[KEY]
        given += value if isinstance(value, list) else [value]
    for tag in tags:
        key, _, name = str(tag).partition(":")
        if key.strip().lower() == KEY:
            given.append(name)
    if not given:
        return None
    names = {_name(value) for value in given}
    return tuple(sorted(name for name in names if name))


def _name(value: Any) -> str:
    """Return the name of a mark; empty for a value that means no personal data."""
    if value is False:
        return ""
    if not isinstance(value, str):
        return KEY
    name = " ".join(value.lower().split())
    return "" if name in _NOT_PERSONAL else name or KEY
