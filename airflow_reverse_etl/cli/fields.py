"""The command ``reverse-etl fields``: the fields of a sync's destination, as the destination describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import Project, SyncFile
from airflow_reverse_etl.cli.output import Table

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema

#: Most choices of a field in the table. JSON has all of them.
_MAX_CHOICES = 5


def fields(sync: SyncFile, project: Project = None) -> Answer:
    """List the fields of the destination's object, and the column that the sync maps to each.

    :raises ConfigurationError: the destination does not describe its fields.
    """
    from airflow_reverse_etl.cli.session import Session, open_destination, open_sync, wait_for
    from airflow_reverse_etl.errors import ConfigurationError

    async def describe(session: Session) -> ObjectSchema | None:
        async with open_destination(session) as schema:
            return schema

    with open_sync(sync, project) as session:
        schema = wait_for(describe(session))
        name = session.sync.destination.type
        if schema is None:
            raise ConfigurationError(
                f"destinations of type {name!r} do not describe their fields",
                todo="see the documentation of the destination for its fields",
                sync=session.sync.name,
            )
        data = [_described(field, session.sync) for field in schema.fields]
    head = ("field", "type", "required", "writable", "unique", "choices", "mapped from")
    shown: list[str | Table] = [Table(head, [_cells(field) for field in data])]
    if schema.open:
        shown.append("The object takes other fields, too.")
    return Answer({"fields": data, "open": schema.open}, shown)


def _described(field: ObjectField, sync: Sync) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": field.type,
        "required": field.required,
        "writable": field.writable,
        "unique": field.unique,
        "choices": list(field.choices),
        "mapped_from": _source(sync, field.name),
    }


def _source(sync: Sync, name: str) -> str | None:
    """Return what the sync maps to a field: a column, or the kind of another source; None if it maps nothing."""
    source = sync.mapping.get(name)
    if source is None:
        return "parts of it" if any(field.startswith(f"{name}.") for field in sync.mapping) else None
    if isinstance(source, str):
        return source
    return f"{{{next(iter(source.model_dump()))}: …}}"


def _cells(field: dict[str, Any]) -> tuple[str, ...]:
    choices = field["choices"]
    listed = ", ".join(choices[:_MAX_CHOICES]) + (", …" if len(choices) > _MAX_CHOICES else "")
    flags = [{True: "yes", False: "no", None: "-"}[field[name]] for name in ("required", "writable", "unique")]
    return (field["name"], field["type"], *flags, listed or "-", field["mapped_from"] or "-")
