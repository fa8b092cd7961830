"""Rows of a model as the state store in memory compares them: in Python, without hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.comparison import Bound, Comparison, Kind
from airflow_reverse_etl.spec.field_types import BLANKS, is_blank
from airflow_reverse_etl.spec.model import ChangeField, Sync, TemplateField, ValueField, column_of
from airflow_reverse_etl.spec.templates import template_reads
from airflow_reverse_etl.sql.statements.plan import PlanStatement, plan_statement
from airflow_reverse_etl.sync.ports import PlanRequest, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Row of a model.

    :param at: position of the row in the model's values.
    :param key: primary key as text; None if a part of it is null.
    :param record: name of the record at the destination: ``match_on`` as the destination compares it, or the primary
        key. None if a part of it is null or blank.
    :param fingerprint: everything that decides what is sent, as text.
    :param identifiers: values that a delete sends, as JSON; None if the mode does not delete removed rows.
    :param fingerprint_before: the same with the columns that ``"*"`` gave before; None if they are those of now.
    :param cursor: value of the cursor, if there is one.
    :param unnamed: a column that ``match_on`` names is null or blank.
    """

    at: int
    key: str | None
    record: str | None
    fingerprint: str
    identifiers: str | None
    cursor: Any
    unnamed: bool = False
    fingerprint_before: str | None = None


def read_rows(
    request: PlanRequest, comparison: Comparison, warehouse: Warehouse, connection: Any
) -> tuple[list[ModelRow], pa.Table]:
    """Read the rows of a model. DuckDB evaluates the mapping's expressions, and nothing else.

    :param connection: of DuckDB; it is closed.
    :returns: the rows, and a table of the values that the change set holds.
    :raises SpecError: an identifier has a type that a delete could not send.
    :raises ConfigurationError: the cursor's column has a type that cannot be a cursor's.
    """
    statement = plan_statement(
        request.sync,
        query=request.query,
        primary_key=request.primary_key,
        columns=warehouse.columns(request.query),
        source=warehouse.dialect,
        planner="duckdb",
        comparison=comparison,
    )
    table = _evaluated(statement, warehouse, connection)
    builder = _RowBuilder(request, statement, comparison.columns_before)
    rows = [builder.build(at, values) for at, values in enumerate(table.to_pylist())]
    return rows, table.select(list(statement.values))


def _evaluated(statement: PlanStatement, warehouse: Warehouse, connection: Any) -> pa.Table:
    """Return the mapped columns of the model, each with a column ``text_…`` in addition."""
    connection.register("extracted", warehouse.read(statement.extract).read_all())
    types = {name: kind for name, kind, *_ in connection.sql(f"DESCRIBE {statement.mapped}").fetchall()}
    statement.model(types)  # raises an error for identifiers of a wrong type
    if statement.cursor:
        statement.cursor_kind(types)
    texts = "".join(f", CAST({name} AS VARCHAR) AS text_{name}" for name in types)
    table = connection.sql(f"SELECT *{texts} FROM ({statement.mapped}) AS mapped").to_arrow_table()  # noqa: S608
    connection.close()
    return table


class _RowBuilder:
    """Builder of a model's rows from the mapped columns of one row."""

    def __init__(self, request: PlanRequest, statement: PlanStatement, columns_before: Sequence[str] | None) -> None:
        self._request = request
        self._sync = request.sync
        self._keys = statement.keys
        self._columns_before = columns_before
        self._columns = {name: f"f{at}" for at, name in enumerate(self._sync.mapping)}
        self._read = [name for name in statement.values if name.startswith("r")]
        self._shape = {
            name: source.model_dump()
            for name, source in self._sync.mapping.items()
            if isinstance(source, ValueField | ChangeField | TemplateField)
        }

    def build(self, at: int, values: Mapping[str, Any]) -> ModelRow:
        key = self._key(values)
        record = key
        if self._sync.identified_by:
            record = self._record(values)
        identifiers = self._identifiers(values) if self._sync.mode == "mirror" else None
        return ModelRow(
            at,
            key,
            record,
            self._fingerprint(values, self._columns),
            identifiers,
            values.get("w"),
            unnamed=self._is_unnamed(values),
            fingerprint_before=self._fingerprint_before(values),
        )

    def _key(self, values: Mapping[str, Any]) -> str | None:
        parts = [values[f"text_{name}"] for name in self._keys]
        if not parts or None in parts:
            return None
        if len(parts) == 1:
            return str(parts[0])
        return json.dumps(parts, separators=(",", ":"), ensure_ascii=False)

    def _record(self, values: Mapping[str, Any]) -> str | None:
        columns = [self._columns[name] for name in self._sync.identified_by]
        if any(is_blank(values[column]) for column in columns):
            return None
        return json.dumps([self._normalised(values[column], values[f"text_{column}"]) for column in columns])

    def _is_unnamed(self, values: Mapping[str, Any]) -> bool:
        """Return whether a column that match_on names is null or blank. Constants and templates have no column."""
        for name in self._sync.destination.match_on:
            fixed = isinstance(self._sync.mapping[name], ValueField | TemplateField)
            if not fixed and is_blank(values[self._columns[name]]):
                return True
        return False

    def _normalised(self, value: Any, text: str) -> str:
        """Return a part of the identifier in the form in which the destination compares it."""
        if not isinstance(value, str):
            return text
        trimmed = value.strip(BLANKS)
        return trimmed.lower() if self._request.ignore_case else trimmed

    def _fingerprint_before(self, values: Mapping[str, Any]) -> str | None:
        if self._columns_before is None:
            return None
        written = {name: column for name, column in self._columns.items() if name not in self._sync.every_column}
        return self._fingerprint(values, written | {name: self._columns.get(name) for name in self._columns_before})

    def _fingerprint(self, values: Mapping[str, Any], columns: Mapping[str, str | None]) -> str:
        fields = sorted((name, repr(values[column] if column else None)) for name, column in columns.items())
        read = [repr(values[name]) for name in self._read]
        return json.dumps([fields, read, self._shape], default=str, sort_keys=True)

    def _identifiers(self, values: Mapping[str, Any]) -> str:
        """Return the values that a delete sends: ``match_on`` and fields that map or hash the key, or else the key."""
        keys = {name.lower() for name in self._request.primary_key}
        found: dict[str, Any] = {}
        for name, source in self._sync.mapping.items():
            maps_key = (column_of(source) or "").lower() in keys
            if name not in self._sync.destination.match_on and not maps_key:
                continue
            # Dots in a field's name nest.
            *parents, leaf = name.split(".")
            level = found
            for parent in parents:
                level = level.setdefault(parent, {})
            level[leaf] = source.value if isinstance(source, ValueField) else values[self._columns[name]]
        if not found:
            found = {name: values[f"k{at}"] for at, name in enumerate(self._request.primary_key)}
        return json.dumps(found, default=str, ensure_ascii=False)


def differing_fields(sync: Sync, before: str, now: str) -> tuple[str, ...] | None:
    """Return the fields that differ between two fingerprints, sorted; None if their mappings differ, or no field."""
    old_fields, old_read, old_shape = json.loads(before)
    fields, read, shape = json.loads(now)
    if old_shape != shape or [name for name, _ in old_fields] != [name for name, _ in fields]:
        return None
    found = {name for (name, value), (_, old) in zip(fields, old_fields, strict=True) if value != old}
    for names, value, old in zip(template_reads(sync).values(), read, old_read, strict=True):
        if value != old:
            found.update(names)
    return tuple(sorted(found)) or None


def hash_text(sync: Sync, fingerprint: str) -> str:
    """Return the hashes of a row's fields in the form that ``StateStore.changes`` promises for ``send: changed``."""
    fields, read, shape = json.loads(fingerprint)
    fixed = (ValueField, ChangeField, TemplateField)
    own = [value for name, value in fields if not isinstance(sync.mapping.get(name), fixed)]
    names = [[name for name, _ in fields], shape]
    return _hex(names, 8) + "".join(_hex(value, 16) for value in (*own, *read))


def name_of_record(record: str) -> str:
    """Return the name that the other stores give to a record.

    :param record: text of its identifier; a JSON array of texts if it has several parts, or one with ``match_on``.
    """
    try:
        parts = json.loads(record)
    except ValueError:
        parts = record
    if not isinstance(parts, list):
        parts = [record]
    code = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.md5(code.encode(), usedforsecurity=False).hexdigest()
    return f"0{digest[:15]}0{digest[16:31]}"


def _hex(value: Any, digits: int) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def with_bounds(comparison: Comparison, rows: Sequence[ModelRow], repeated: Iterable[Any], now: datetime) -> Comparison:
    """Add the highest cursor that is not in the future, and the lowest of rows that others may make valid again.

    :param repeated: cursors of rows that share their key or their record with others.
    """
    cursors = [row.cursor for row in rows if row.cursor is not None]
    if not cursors:
        return comparison
    kind = _kind(cursors[0])
    latest = Bound.latest(kind, now)
    past = [cursor for cursor in cursors if latest is None or _without_zone(cursor) <= latest.value]
    high = _text(max(past)) if past else None
    return comparison.seen(kind, high, lowest(repeated))


def lowest(cursors: Iterable[Any]) -> str | None:
    """Return the lowest of some cursors as text; None without any."""
    found = [cursor for cursor in cursors if cursor is not None]
    return _text(min(found)) if found else None


def _kind(cursor: Any) -> Kind:
    if isinstance(cursor, datetime):
        return "instant" if cursor.tzinfo else "timestamp"
    return "date" if isinstance(cursor, date) else "number"


def _without_zone(cursor: Any) -> Any:
    if isinstance(cursor, datetime) and cursor.tzinfo:
        return cursor.astimezone(UTC).replace(tzinfo=None)
    return cursor


def _text(cursor: Any) -> str:
    cursor = _without_zone(cursor)
    return cursor.isoformat(" ") if isinstance(cursor, datetime) else str(cursor)
