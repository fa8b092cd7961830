"""Short hashes of a row's mapped values, which show the fields that changed.

With ``track: {fields: true}``, a store keeps one text for each delivered row: eight digits of the mapping's shape,
then four digits for each value of the fingerprint, in the fingerprint's order. The four are the first digits of the MD5
of the row's ``key_hi``, a colon and the value's text form; for NULL they are ``null``. So equal values of different
rows have different hashes, and planners of all dialects agree on them. One of 65,536 changed values keeps its hash by
chance, and its field is then not named. With ``send: changed``, where such a value would not be sent, a value has
sixteen digits, 64 bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from airflow_reverse_etl.spec.model import ChangeField, Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import template_reads
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.quoting import literal

#: Digits of the mapping's shape, and of each value that is only named.
_SHAPE = 8
_NAMED = 4
#: Digits of each value if they decide what is sent.
_SENT = 16


def fixed(field: object) -> bool:
    """Return whether the plan has no value of a field for each row: constants and templates."""
    return isinstance(field, ValueField | ChangeField | TemplateField)


def shape(sync: Sync, columns: Collection[str] | None = None) -> str:
    """Return a digest of the parts of the mapping that are equal for every row: names, constants and templates.

    :param columns: fields instead of those that the mapping's ``"*"`` gives now.
    """
    shapes = {name: _shape_of(sync.mapping.get(name)) for name in _names(sync, columns)}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def values(sync: Sync) -> dict[str, tuple[str, ...]]:
    """Map each value of the fingerprint, in order, to the destination fields that use it.

    First the mapped values ``f…``, by name of the field; then the columns ``r…`` that templates read.
    """
    own = sorted((name, f"f{at}") for at, (name, field) in enumerate(sync.mapping.items()) if not fixed(field))
    read = enumerate(template_reads(sync).values())
    return {value: (name,) for name, value in own} | {f"r{at}": fields for at, fields in read}


def values_before(sync: Sync, columns: Collection[str]) -> list[str | None]:
    """Return the values of a fingerprint in which ``"*"`` gave other fields; None for a column that is gone.

    :param columns: the fields that it gave.
    """
    positions = {name: f"f{at}" for at, name in enumerate(sync.mapping)}
    own = [positions.get(name) for name in sorted(_names(sync, columns)) if not fixed(sync.mapping.get(name))]
    return [*own, *(f"r{at}" for at in range(len(template_reads(sync))))]


def hashes(sync: Sync, dialect: PlannerDialect, types: Mapping[str, str], *, model: str) -> str:
    """Return SQL for the hashes of a row.

    :param types: type of each value, in the dialect's own words.
    :param model: relation of the row.
    """
    salt = f"CAST({model}.key_hi AS {dialect.string}) || ':' || "
    parts = [literal(shape(sync)[:_SHAPE], dialect.name)]
    for value in values(sync):
        text = dialect.text(f"{model}.{value}", types[value])
        digest = dialect.hex_digest(salt + text)
        parts.append(f"COALESCE(SUBSTR({digest}, 1, {_width(sync)}), '{'null'.ljust(_width(sync), '-')}')")
    return " || ".join(parts)


def changed(sync: Sync, before: str | None, now: str | None) -> tuple[str, ...] | None:
    """Return the destination fields whose values differ, sorted, or None if they are unknown.

    They are unknown if hashes were not stored, if the mapping has changed since, or if the row is sent for another
    reason than a changed value: for example, because it was in doubt.
    """
    if not before or not now or before[:_SHAPE] != now[:_SHAPE] or len(before) != len(now):
        return None
    fields_of = values(sync).values()
    width = _width(sync)
    if len(now) != _SHAPE + width * len(fields_of):
        return None
    starts = range(_SHAPE, len(now), width)
    differing: set[str] = set()
    for start, fields in zip(starts, fields_of, strict=True):
        end = start + width
        if before[start:end] != now[start:end]:
            differing.update(fields)
    return tuple(sorted(differing)) or None


def _width(sync: Sync) -> int:
    return _SENT if sync.sends_changed else _NAMED


def _names(sync: Sync, columns: Collection[str] | None) -> Collection[str]:
    if columns is None:
        return sync.mapping
    return {*sync.mapping} - {*sync.every_column} | {*columns}


def _shape_of(field: object) -> Any:
    if isinstance(field, ChangeField):
        return field.model_dump()
    if isinstance(field, ValueField):
        return {"value": field.value}
    if isinstance(field, TemplateField):
        return {"template": field.template}
    return None
