"""How a plan compares the model with the snapshot, and the state that is kept for the next plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, cast

#: What a plan may have to say beside its counts.
NOTES: Mapping[str, str] = {
    "baseline": "first run: the rows of the model are recorded as delivered, nothing is sent",
    "reset": "the rows of the model are recorded as delivered, nothing is sent",
    "full_resync": "every valid row is sent again; removed rows are left for the next run",
    "mapping_resync": "the mapping has changed: every row that differs under the new one is sent again",
    "mapping_keep": "the mapping has changed: rows that were delivered are recorded under the new one, not sent",
    "key_resync": "the primary key has changed: the record of the old one is dropped, every row is sent, none deleted",
    "key_keep": "the primary key has changed: the record of the old one is dropped, every row is recorded as delivered",
    "snapshot_lost": "the record of what was delivered is lost: every row is sent again, none deleted",
    "snapshot_stale": "runs without a record came between: every row is sent again, removed ones with the next run",
}


#: What a cursor may be; ``instant`` is a time stamp with a zone, in UTC.
Kind = Literal["number", "date", "timestamp", "instant"]


def cursor_kind(data_type: str, dialect: str) -> Kind | None:
    """What a cursor of this type is; None for a type that cannot be one.

    Text has an order of its own in each database, and binary fractions do not survive being written down.
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
    return "timestamp" if kind in exp.DataType.TEMPORAL_TYPES and kind not in {kinds.TIME, kinds.TIMETZ} else None


@dataclass(frozen=True, slots=True)
class Bound:
    """A value of the cursor column, in a form that any SQL dialect can be given. Exact, or lower by nanoseconds."""

    kind: Kind
    value: Decimal | date | datetime

    @classmethod
    def of(cls, kind: Kind, text: str) -> Bound:
        """From the text form of a value. Raises ValueError for what no calendar has: infinity, year 10000, BC."""
        if kind == "number":
            if not (value := Decimal(text)).is_finite():
                raise ValueError(text)
            return cls(kind, value)
        if kind == "date":
            return cls(kind, date.fromisoformat(text))
        return cls(kind, datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=None))

    @classmethod
    def from_text(cls, text: str) -> Bound:
        """The inverse of ``str``."""
        kind, _, value = text.partition(" ")
        return cls.of(cast(Kind, kind), value)

    @classmethod
    def latest(cls, kind: Kind, now: datetime) -> Bound | None:
        """The highest value that counts: a time in the future says nothing of the rows that change until then."""
        at = now.astimezone(UTC).replace(tzinfo=None)
        return None if kind == "number" else cls(kind, at.date() if kind == "date" else at)

    def __str__(self) -> str:
        return f"{self.kind} {self._text}"

    @property
    def _text(self) -> str:
        return self.value.isoformat(" ") if isinstance(self.value, datetime) else str(self.value)

    def literal(self, dialect: str) -> str:
        """The value as SQL, of whole seconds: some databases round to them, and up."""
        from sqlglot import exp

        if isinstance(self.value, Decimal):
            return format(self.value, "f")
        kinds = {"date": "date", "timestamp": "timestampntz", "instant": "timestamptz"}
        text = self._text.partition(".")[0] + ("+00:00" if self.kind == "instant" else "")
        return exp.cast(exp.Literal.string(text), kinds[self.kind]).sql(dialect)


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of the last committed run.

    :param rows: of the snapshot after it.
    :param mapping: digest of the mapping's shape.
    :param key: digest of the primary key's columns.
    :param scope: digest of everything that a cursor's value depends on.
    :param low: the model is read from here on, as text of a :class:`Bound`.
    :param stale: runs that kept no record came after the snapshot.
    :param destination: digest of the sync's ``destination``.
    :param destination_since: time of the first plan with this ``destination``, if another one came before; UTC.
    """

    rows: int = 0
    mapping: str = ""
    key: str = ""
    scope: str = ""
    low: str = ""
    stale: bool = False
    destination: str = ""
    destination_since: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a plan compares the model, and what its commit does with the record. The default is the plain comparison.

    :param compared: with the snapshot; if not, every row is ``added``.
    :param recorded: rows that enter the snapshot without being sent: ``all`` that would be; or ``known`` ones, which
        the snapshot has, unless in doubt or rejected before.
    :param anew: the commit drops the snapshot's rows.
    :param forgiven: rejections of earlier runs keep no row from being sent.
    :param resent: what is sent and not accepted is not taken for delivered any more.
    :param low: only rows from this value of the cursor on are read, as text of a :class:`Bound`.
    :param destination_since: time of the first plan with the sync's ``destination``, if another one came before. A row
        that was left out before that, because the reply about it could not be read, is sent again.
    :param tracked: whether there is a record at all.
    :param notes: of :data:`NOTES`.
    :param kind: of the cursor, if there is one; ``high`` and ``floor`` see :meth:`seen`.
    """

    compared: bool = True
    recorded: Literal["", "all", "known"] = ""
    anew: bool = False
    forgiven: bool = False
    resent: bool = False
    low: str = ""
    tracked: bool = True
    notes: tuple[str, ...] = ()
    mapping: str = ""
    key: str = ""
    scope: str = ""
    destination: str = ""
    destination_since: str = ""
    kind: Kind | None = None
    high: str | None = None
    floor: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        values = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**values, "notes": tuple(values.get("notes", ()))})

    @property
    def drops_rejections(self) -> bool:
        """Rejections are known by the key: they go with an old one."""
        return self.anew and self.forgiven

    def seen(self, kind: Kind, high: str | None, floor: str | None) -> Comparison:
        """With what the model had, as text forms of values.

        :param high: highest value of the cursor, up to :meth:`Bound.latest`.
        :param floor: lowest one of the rows that share their key with another: that one may go away, unseen.
        """
        return replace(self, kind=kind, high=high, floor=floor)

    def state_after(self, before: State | None, *, rows: int, open_rows: str | None = None) -> State:
        """What to remember once the plan is committed.

        :param rows: of the snapshot now.
        :param open_rows: the lowest cursor of a row that is rejected, not settled or in doubt, as text.
        """
        if not self.tracked:
            return replace(before or State(), stale=True)
        low = self._low(open_rows)
        return State(
            rows,
            self.mapping,
            self.key,
            self.scope,
            low,
            destination=self.destination,
            destination_since=self.destination_since,
        )

    def _low(self, open_rows: str | None) -> str:
        """Without a bound that can be told exactly, the next run reads everything."""
        if not self.kind:
            return self.low
        try:
            high = Bound.of(self.kind, self.high) if self.high else Bound.from_text(self.low)
            held = [Bound.of(self.kind, text) for text in (self.floor, open_rows) if text]
        except (ValueError, ArithmeticError):
            return ""
        return str(min([high, *held], key=lambda bound: bound.value))
