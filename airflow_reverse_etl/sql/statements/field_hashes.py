"""Which fields of a changed row changed: told from a short hash of each of its mapped values. Pure.

With ``track: {fields: true}`` a store keeps, for each row that the destination has, one text: eight digits of the
mapping's shape, then four for each value that a fingerprint takes, in its order. Each four are the first digits of the
MD5 of the row's ``key_hi``, a colon and the value's text form, or ``null``: equal values of different rows have
different hashes, and planners of all dialects agree on them. Of 65,536 changed values one has the hash that it had
before, and goes unnamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from airflow_reverse_etl.spec.model import Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import template_reads
from airflow_reverse_etl.sql.text_forms import Dialect, literal

_SHAPE, _VALUE = 8, 4


def fixed(field: object) -> bool:
    """Whether a mapped field has no value of its own for each row: constants and templates."""
    return isinstance(field, ValueField | TemplateField)


def shape(sync: Sync) -> str:
    """Digest of what of the mapping is the same for every row."""
    shapes = {name: _shape_of(field) for name, field in sync.mapping.items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def values(sync: Sync) -> dict[str, tuple[str, ...]]:
    """The values that a fingerprint is made of, in order, each with the destination fields that it is for.

    ``f…`` by name of the field, then ``r…``, what templates read.
    """
    own = sorted((name, f"f{at}") for at, (name, field) in enumerate(sync.mapping.items()) if not fixed(field))
    read = enumerate(template_reads(sync).values())
    return {value: (name,) for name, value in own} | {f"r{at}": fields for at, fields in read}


def hashes(sync: Sync, dialect: Dialect, types: Mapping[str, str], *, model: str) -> str:
    """SQL for the hashes of a row of the relation ``model``. ``types``: of its values, in the dialect's own words."""
    salt = f"CAST({model}.key_hi AS {dialect.string}) || ':' || "
    parts = [
        f"COALESCE(SUBSTR({dialect.hex_digest(salt + dialect.text(f'{model}.{value}', types[value]))}, 1, {_VALUE}),"
        " 'null')"
        for value in values(sync)
    ]
    return " || ".join([literal(shape(sync)[:_SHAPE], dialect.name), *parts])


def changed(sync: Sync, before: str | None, now: str | None) -> tuple[str, ...] | None:
    """The destination fields whose values differ, sorted; None where it is not known.

    It is not where hashes were not kept, where the mapping has changed since, and where the row was sent for another
    reason than a value: it was in doubt, say.
    """
    if not before or not now or before[:_SHAPE] != now[:_SHAPE] or len(before) != len(now):
        return None
    starts = range(_SHAPE, len(now), _VALUE)
    differ = (
        names
        for at, names in zip(starts, values(sync).values(), strict=True)
        if before[at : at + _VALUE] != now[at : at + _VALUE]
    )
    return tuple(sorted({name for names in differ for name in names})) or None


def _shape_of(field: object) -> Any:
    if isinstance(field, ValueField):
        return {"value": field.value}
    return {"template": field.template} if isinstance(field, TemplateField) else None
