"""Conversion of values to the types of a destination's fields."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_reverse_etl.spec.model import NullRule, NullValue, SqlField, Sync, column_of
from airflow_reverse_etl.sync.ports import FieldType, ObjectField, ObjectSchema

Record = dict[str, Any]


class NotConvertibleError(ValueError):
    """A value does not fit its field. The text never contains the value."""


class Converter:
    """Converts the values of records to the types of a destination's fields."""

    def __init__(self, sync: Sync, schema: ObjectSchema, nulls: Mapping[str, NullRule] | None = None) -> None:
        nulls = nulls or {}
        fields = {field.name: field for field in schema.fields}
        self._steps: list[tuple[Sequence[str], str, Callable[[Any], Any]]] = []
        for name, source in sync.mapping.items():
            field = fields.get(name)
            if field is None or (field.type == "any" and not field.required):
                continue
            where = f"field {name!r}"
            if column := column_of(source):
                where = f"column {column!r}, {where}"
            if isinstance(source, SqlField):
                where = f"expression of {where}"
            self._steps.append((name.split("."), where, _converter(field, nulls.get(name))))

    def convert(self, records: Sequence[Record]) -> Iterator[tuple[int, str]]:
        """Convert the values of records in place; yields the positions of those that do not fit, and why."""
        for parts, where, convert in self._steps:
            *parents, leaf = parts
            for position, record in enumerate(records):
                level = record
                for parent in parents:
                    level = level.get(parent) or {}
                if leaf not in level:
                    continue
                try:
                    level[leaf] = convert(level[leaf])
                except NotConvertibleError as error:
                    yield position, f"{where}: {error}"


def _converter(field: ObjectField, null: NullRule | None) -> Callable[[Any], Any]:
    """Return the function that converts the values of a field. The value that stands for null stays as it is."""
    convert = _CONVERTERS.get(field.type)
    spellings = {choice.casefold(): choice for choice in field.choices}

    def converted(value: Any) -> Any:
        if value is None:
            if field.required:
                raise NotConvertibleError("the destination requires a value")
            return None
        if isinstance(null, NullValue) and value == null.value:
            return value
        if field.type == "choice":
            return _choice(value, field.choices, spellings)
        if field.type == "choices":
            return [_choice(one, field.choices, spellings) for one in (value if isinstance(value, list) else [value])]
        return convert(value) if convert else value

    return converted


def _choice(value: Any, choices: Sequence[str], spellings: dict[str, str]) -> str:
    text = _text(value)
    if text in choices:
        return text
    found = spellings.get(text.strip().casefold())
    if found is None:
        raise NotConvertibleError(f"not one of the field's {len(choices)} choices")
    return found


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return f"{value:f}"
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            raise NotConvertibleError("the field takes text, not bytes")
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _number(value: Any) -> int | float | Decimal:
    if isinstance(value, str):
        try:
            value = Decimal(value.strip())
        except InvalidOperation:
            raise NotConvertibleError("the field takes a number") from None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise NotConvertibleError("the field takes a number")


def _integer(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise NotConvertibleError("the field takes a whole number")
    return int(number)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = {"true": True, "false": False, "1": True, "0": False}.get(str(value).strip().casefold())
    if found is None:
        raise NotConvertibleError("the field takes true or false")
    return found


def _date(value: Any) -> date:
    found = _moment(value, "a date")
    if not isinstance(found, datetime):
        return found
    if found.time() != time():
        raise NotConvertibleError("the field takes a date, not a time")
    return found.date()


def _datetime(value: Any) -> datetime:
    found = _moment(value, "a time")
    return found if isinstance(found, datetime) else datetime.combine(found, time(), UTC)


def _moment(value: Any, what: str) -> date:
    """Return a date or a time; one in ISO 8601 is read."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value.strip())
        except ValueError:
            raise NotConvertibleError(f"the field takes {what}") from None
    if not isinstance(value, date):
        raise NotConvertibleError(f"the field takes {what}")
    return value


_CONVERTERS: dict[FieldType, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
}
