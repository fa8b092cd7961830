"""Comparison of a model with its snapshot, and the state that is stored for the next plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import ceil
from typing import Any, Literal, cast

from airflow_reverse_etl.errors import StateError
from airflow_reverse_etl.spec.stored import typed

#: Note of a plan, in addition to its counts → its text; ``{rows}`` is the number of records in the snapshot.
NOTES: Mapping[str, str] = {
    "baseline": "first run: the rows of the model are recorded as delivered, nothing is sent",
    "reset": "the rows of the model are recorded as delivered, nothing is sent",
    "full_resync": "every valid row is sent again; removed rows are left for the next run",
    "mapping_resync": "the mapping has changed: every row that differs under the new one is sent again",
    "columns_changed": "the model has other columns than before: rows are compared by the earlier ones and recorded "
    "with the new ones; a new column is sent with a row's next change",
    "mapping_keep": "the mapping has changed: rows that were delivered are recorded under the new one, not sent",
    "key_resync": "records are recognised by other fields than before: every row is sent, none deleted; {rows} records "
    "that were delivered before stay at the destination, with or without a row of the model",
    "key_keep": "records are recognised by other fields than before: every row is recorded as delivered, none sent",
    "records_adopted": "the state of an earlier version knew records by primary key: it now knows them by match_on; "
    "records whose row had left the model stay at the destination",
    "destination_adopted": "the state did not know its destination yet: it takes the present one",
    "destination_resync": "the destination is another place than before: every row is sent there, none deleted; {rows} "
    "records stay at the place before",
    "destination_keep": "the destination is another place than before: the state is kept as it is",
    "snapshot_lost": "the record of what was delivered is lost: every row is sent again, none deleted",
    "snapshot_stale": "runs without a record came in between: every row is sent again, removed ones with the next run",
    "hashed_key": "a column that the destination gets as a hash is the primary key: the state has its text, of "
    "rejected rows, and in mode mirror of every row",
}


_DAY = timedelta(days=1)

#: Kinds of cursors. ``instant`` is a time stamp with a zone, in UTC.
Kind = Literal["number", "date", "timestamp", "instant"]


def cursor_kind(data_type: str, dialect: str) -> Kind | None:
    """Return the kind of a cursor with this type, or None if the type cannot be a cursor's.

    Each database orders text in its own way, and binary fractions change when they are written as text.
    """
    from sqlglot import ParseError, exp
    from sqlglot.errors import TokenError

    kinds = exp.DataType.Type
    try:
        kind = exp.DataType.build(data_type, dialect=dialect).this
    except (ParseError, TokenError, ValueError):
        return None
    wide = {kinds.INT128, kinds.UINT128, kinds.INT256, kinds.UINT256}
    if kind in exp.DataType.INTEGER_TYPES - wide or kind in {kinds.DECIMAL, kinds.BIGDECIMAL}:
        return "number"
    if kind in {kinds.DATE, kinds.DATE32}:
        return "date"
    if kind in {kinds.TIMESTAMPTZ, kinds.TIMESTAMPLTZ}:
        return "instant"
    if kind in exp.DataType.TEMPORAL_TYPES - {kinds.TIME, kinds.TIMETZ}:
        return "timestamp"
    return None


@dataclass(frozen=True, slots=True)
class Bound:
    """A value of the cursor column that can be written in any SQL dialect. Exact, or lower by nanoseconds."""

    kind: Kind
    value: Decimal | date | datetime

    @classmethod
    def of(cls, kind: Kind, text: str) -> Bound:
        """Build a bound from the text form of a value.

        :raises ValueError: Python cannot represent the value: infinity, year 10000, BC.
        """
        if kind == "number":
            value = Decimal(text)
            if not value.is_finite():
                raise ValueError(text)
            return cls(kind, value)
        if kind == "date":
            return cls(kind, date.fromisoformat(text))
        return cls(kind, datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=None))

    @classmethod
    def from_text(cls, text: str) -> Bound:
        """Parse the result of ``str``."""
        kind, _, value = text.partition(" ")
        return cls.of(cast(Kind, kind), value)

    @classmethod
    def latest(cls, kind: Kind, now: datetime) -> Bound | None:
        """Return the highest value that counts, or None if every value does.

        A time in the future does not count: rows may still change before it.
        """
        at = now.astimezone(UTC).replace(tzinfo=None)
        if kind == "number":
            return None
        if kind == "date":
            return cls(kind, at.date())
        return cls(kind, at)

    def minus(self, lag: timedelta) -> Bound | None:
        """Return the value that is earlier by a time; None before the first date.

        :raises ValueError: the cursor is a number.
        """
        if isinstance(self.value, Decimal):
            raise ValueError(self.kind)
        if not isinstance(self.value, datetime):  # a date is earlier by whole days
            lag = timedelta(ceil(lag / _DAY))
        try:
            return Bound(self.kind, self.value - lag)
        except OverflowError:
            return None

    def __str__(self) -> str:
        return f"{self.kind} {self._text}"

    @property
    def _text(self) -> str:
        return self.value.isoformat(" ") if isinstance(self.value, datetime) else str(self.value)

    def literal(self, dialect: str) -> str:
        """Return the value as SQL, cut to whole seconds: some databases would round it up."""
        from sqlglot import exp

        if isinstance(self.value, Decimal):
            return format(self.value, "f")
        kinds = {"date": "date", "timestamp": "timestampntz", "instant": "timestamptz"}
        text = self._text.partition(".")[0]
        if self.kind == "instant":
            text += "+00:00"
        return exp.cast(exp.Literal.string(text), kinds[self.kind]).sql(dialect)


#: Format of the state that this version stores. Format 1 knows records by primary key, even if there is ``match_on``.
FORMAT = 2


def note_text(note: str, *, snapshot_rows: int) -> str:
    """Return the text of a plan's note."""
    return NOTES[note].format(rows=f"{snapshot_rows:,}")


@dataclass(frozen=True, slots=True)
class State:
    """The state that the last committed run stored.

    :param rows: number of rows in the snapshot after that run.
    :param mapping: digest of the mapping's shape.
    :param key: digest of the primary key's columns.
    :param identity: digest of everything that decides which record a row names; empty if the primary key does.
    :param scope: digest of everything that a cursor's value depends on.
    :param low: text of the :class:`Bound` from which the next run reads the model.
    :param stale: runs that kept no record came after the snapshot.
    :param destination: digest of the sync's ``destination``.
    :param destination_since: time of the first plan with this ``destination``, if another one came before; UTC.
    :param address: the place that the records are at, as the destination describes it; empty if it does not.
    :param columns: the fields that the mapping's ``"*"`` gave, sorted.
    :param format: :data:`FORMAT` of the version that stored the state.
    """

    rows: int = 0
    mapping: str = ""
    key: str = ""
    identity: str = ""
    scope: str = ""
    low: str = ""
    stale: bool = False
    destination: str = ""
    destination_since: str = ""
    address: str = ""
    columns: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """Read a stored state.

        :raises StateError: a newer version of this package stored it.
        """
        check_format(data.get("format", 1))
        values = {name: data[name] for name in cls.__slots__ if name in data}
        values["columns"] = tuple(values.get("columns", ()))
        # A commit that was interrupted after the snapshot does not know its number of rows.
        values["rows"] = values.get("rows") or 0
        return typed(cls, {"format": 1, **values})


def check_format(number: int) -> None:
    """Refuse what a newer version of this package stored.

    :raises StateError: the format is newer than :data:`FORMAT`.
    """
    if number > FORMAT:
        raise StateError(
            "a newer version of this package stored the state",
            todo="upgrade this worker to the version of the other workers",
        )


#: Key of a stored comparison → the field's name today. The keys are those of the first stored plans.
_RENAMED = dict(anew="drops_snapshot")  # noqa: C408 - keys are names, not words


@dataclass(frozen=True, slots=True)
class Comparison:
    """The way a plan compares the model, and its commit updates the record. The default is the plain comparison."""

    #: The model is compared with the snapshot. If False, every row is ``added``.
    compared: bool = True
    #: The snapshot knows its records by primary key, and the sync by ``match_on``. Rows are compared by primary key,
    #: and all that are delivered are recorded under the records that they name.
    adopted: bool = False
    #: Rows that enter the snapshot without being sent: ``all`` that would be sent; or ``known`` ones, which are in the
    #: snapshot, unless they are in doubt or were rejected before.
    recorded: Literal["", "all", "known"] = ""
    #: The commit drops the snapshot's rows.
    drops_snapshot: bool = False
    #: Rows are sent even if earlier runs had them rejected.
    forgiven: bool = False
    #: Rows that are sent and not accepted no longer count as delivered.
    resent: bool = False
    #: Text of the :class:`Bound` from which the model is read; empty if all of it is.
    low: str = ""
    #: The sync keeps a record.
    tracked: bool = True
    #: Keys of :data:`NOTES`.
    notes: tuple[str, ...] = ()
    #: Digests for the next :class:`State`, which explains them.
    mapping: str = ""
    key: str = ""
    identity: str = ""
    scope: str = ""
    destination: str = ""
    address: str = ""
    #: Time (UTC) of the first plan with the sync's ``destination``, if another one came before. A row that was left out
    #: before that, because the reply about it could not be read, is sent again.
    destination_since: str = ""
    #: The fields that the mapping's ``"*"`` gave, sorted.
    columns: tuple[str, ...] = ()
    #: The same when the snapshot was recorded, if the model has other columns now. Rows are compared by these.
    columns_before: tuple[str, ...] | None = None
    #: Kind of the cursor, if there is one.
    kind: Kind | None = None
    #: Values of the cursor that the model has, see :meth:`seen`.
    high: str | None = None
    floor: str | None = None
    #: Format of the state that the commit leaves: that of the plan.
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        keys = {name: key for key, name in _RENAMED.items()}
        return {keys.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        named = {_RENAMED.get(key, key): value for key, value in data.items()}
        values = {name: named[name] for name in cls.__slots__ if name in named}
        for name in ("notes", "columns", "columns_before"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return typed(cls, {"format": 1, **values})

    @property
    def drops_rejections(self) -> bool:
        """True if the commit drops earlier rejections: they are stored by key, and the key has changed."""
        return self.drops_snapshot and self.forgiven

    def seen(self, kind: Kind, high: str | None, floor: str | None) -> Comparison:
        """Return a copy that has the cursor's values in the model, as their text forms.

        :param high: highest value, up to :meth:`Bound.latest`.
        :param floor: lowest value among rows with a duplicate key: the other row may disappear unnoticed.
        """
        return replace(self, kind=kind, high=high, floor=floor)

    def state_after(self, before: State | None, *, rows: int, open_rows: str | None = None) -> State:
        """Build the state to store once the plan is committed.

        :param before: the state that the last commit stored.
        :param rows: number of rows in the snapshot now.
        :param open_rows: lowest cursor value among the rows that are rejected, not settled or in doubt, as text.
        """
        if not self.tracked:
            return replace(before or State(), stale=True)
        return State(
            rows=rows,
            mapping=self.mapping,
            key=self.key,
            identity=self.identity,
            scope=self.scope,
            low=self._next_low(before.low if before and self.low else self.low, open_rows),
            destination=self.destination,
            destination_since=self.destination_since,
            address=self.address,
            columns=self.columns,
            format=self.format,
        )

    def _next_low(self, low: str, open_rows: str | None) -> str:
        """Return the bound from which the next run reads the model, without the sync's lag; empty to read all of it.

        The next run reads all if the bound cannot be determined exactly.
        """
        if not self.kind:
            return low
        try:
            high = Bound.of(self.kind, self.high) if self.high else Bound.from_text(low)
            held = [Bound.of(self.kind, text) for text in (self.floor, open_rows) if text]
        except (ValueError, ArithmeticError):
            return ""
        return str(min([high, *held], key=lambda bound: bound.value))
