"""Short hashes of a row's mapped values, which show the fields that changed.

With ``track: {fields: true}``, a store keeps one text for each delivered row: eight digits of the mapping's shape,
then four digits for each value of the fingerprint, in the fingerprint's order. The four are the first digits of the MD5
of the row's ``key_hi``, a colon and the value's text form; for NULL they are ``null``. So equal values of different
rows have different hashes, and planners of all dialects agree on them. One of 65,536 changed values keeps its hash by
chance, and its field is then not named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from airflow_reverse_etl.spec.model import Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import template_reads
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.quoting import literal

#: Digits of the mapping's shape, and of each value.
_SHAPE = 8
_VALUE = 4


def fixed(field: object) -> bool:
    """Return whether the plan has no value of a field for each row: constants and templates."""
    return isinstance(field, ValueField | TemplateField)


def shape(sync: Sync) -> str:
    """Return a digest of the parts of the mapping that are equal for every row: names, constants and templates."""
    shapes = {name: _shape_of(field) for name, field in sync.mapping.items()}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def values(sync: Sync) -> dict[str, tuple[str, ...]]:
    """Map each value of the fingerprint, in order, to the destination fields that use it.

    First the mapped values ``f…``, by name of the field; then the columns ``r…`` that templates read.
    """
    own = sorted((name, f"f{at}") for at, (name, field) in enumerate(sync.mapping.items()) if not fixed(field))
    read = enumerate(template_reads(sync).values())
    return {value: (name,) for name, value in own} | {f"r{at}": fields for at, fields in read}


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
        parts.append(f"COALESCE(SUBSTR({digest}, 1, {_VALUE}), 'null')")
    return " || ".join(parts)


def changed(sync: Sync, before: str | None, now: str | None) -> tuple[str, ...] | None:
    """Return the destination fields whose values differ, sorted, or None if they are unknown.

    They are unknown if hashes were not stored, if the mapping has changed since, or if the row is sent for another
    reason than a changed value: for example, because it was in doubt.
    """
    if not before or not now or before[:_SHAPE] != now[:_SHAPE] or len(before) != len(now):
        return None
    starts = range(_SHAPE, len(now), _VALUE)
    differing: set[str] = set()
    for start, fields in zip(starts, values(sync).values(), strict=True):
        end = start + _VALUE
        if before[start:end] != now[start:end]:
            differing.update(fields)
    return tuple(sorted(differing)) or None


def _shape_of(field: object) -> Any:
    if isinstance(field, ValueField):
        return {"value": field.value}
    if isinstance(field, TemplateField):
        return {"template": field.template}
    return None
