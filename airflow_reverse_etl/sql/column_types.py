"""Types of columns: the text form that their values have, and whether they can identify a record."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from airflow_reverse_etl.spec.columns import JSON

if TYPE_CHECKING:
    from sqlglot import exp

    from airflow_reverse_etl.spec.columns import JsonPlaces

Form = Literal["float", "instant", "binary", "nested", "json", "boolean", "time", "date", "timestamp", "decimal"]


def is_text(data_type: str, dialect: str) -> bool:
    """Return whether a type holds text, as far as it is known."""
    from sqlglot import exp

    kind = _kind(data_type, dialect)
    return kind is None or kind.this in exp.DataType.TEXT_TYPES


def is_identifier(data_type: str, dialect: str, *, free_scale: bool) -> bool:
    """Return whether values of a type are written alike in a record and in the JSON of its identifiers.

    :param free_scale: see :func:`form_of`.
    """
    from sqlglot import exp

    kinds = exp.DataType.Type
    found = _kind(data_type, dialect)
    if found is None:
        return False
    kind = found.this
    if kind in {kinds.DECIMAL, kinds.BIGDECIMAL}:
        return not _has_fraction(found, free_scale=free_scale)
    return (
        kind in exp.DataType.TEXT_TYPES
        or kind in exp.DataType.INTEGER_TYPES
        or kind in {kinds.BOOLEAN, kinds.DATE, kinds.UUID, kinds.ENUM}
    )


@lru_cache(maxsize=1024)
def form_of(data_type: str, dialect: str, *, free_scale: bool) -> Form | None:
    """Return the text form of a type's values, or None if a cast makes it, as for an unknown type.

    :param data_type: in the dialect's own words.
    :param free_scale: a decimal without precision has any number of digits after the point. Elsewhere it has none.
    """
    from sqlglot import exp

    kinds = exp.DataType.Type
    parsed = _kind(data_type, dialect)
    if parsed is None:
        return None
    kind = parsed.this
    if kind in exp.DataType.FLOAT_TYPES:
        return "float"
    if kind in {kinds.TIMESTAMPTZ, kinds.TIMESTAMPLTZ}:
        return "instant"
    if kind in {kinds.BINARY, kinds.VARBINARY, kinds.BLOB}:
        return "binary"
    nested = {*exp.DataType.STRUCT_TYPES, *exp.DataType.ARRAY_TYPES, kinds.MAP, kinds.VARIANT, kinds.SUPER}
    if kind in nested:
        return "nested"
    if kind == kinds.JSON:
        return "json"
    if kind == kinds.BOOLEAN:
        return "boolean"
    if kind == kinds.TIME:
        return "time"
    if kind == kinds.DATE:
        return "date"
    if kind in {kinds.TIMESTAMP, kinds.TIMESTAMPNTZ, kinds.DATETIME}:
        return "timestamp"
    if kind in {kinds.DECIMAL, kinds.BIGDECIMAL} and _has_fraction(parsed, free_scale=free_scale):
        return "decimal"
    return None


def json_places(data_type: str, dialect: str) -> JsonPlaces:
    """Return where values of a type have JSON."""
    # Parsing a type is slow, and most have none.
    if "JSON" not in data_type.upper():
        return None
    found = _kind(data_type, dialect)
    return None if found is None else _json_places(found)


def _json_places(kind: exp.DataType) -> JsonPlaces:
    from sqlglot import exp

    kinds = exp.DataType.Type
    if kind.this == kinds.JSON:
        return JSON
    if kind.this in {*exp.DataType.ARRAY_TYPES, kinds.MAP}:
        places = _json_places(kind.expressions[-1])
        return None if places is None else [places]
    if kind.this in exp.DataType.STRUCT_TYPES:
        fields = {field.name: _json_places(field.args["kind"]) for field in kind.expressions}
        return {name: places for name, places in fields.items() if places is not None} or None
    return None


def _kind(data_type: str, dialect: str) -> exp.DataType | None:
    """Parse a type; return None if sqlglot does not know it."""
    from sqlglot import ParseError, exp
    from sqlglot.errors import TokenError

    try:
        return exp.DataType.build(data_type, dialect=dialect)
    except (ParseError, TokenError, ValueError):
        return None


def _has_fraction(decimal: exp.DataType, *, free_scale: bool) -> bool:
    """Return whether a decimal may have digits after the point."""
    declared = decimal.expressions
    if len(declared) > 1:
        return int(declared[1].name) != 0
    return not declared and free_scale
