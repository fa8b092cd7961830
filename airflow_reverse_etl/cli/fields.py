"""The command ``reverse-etl fields``: the fields of a sync's destination, as the destination describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.init_files import identifier, scalar
from airflow_reverse_etl.cli.options import Project
from airflow_reverse_etl.cli.output import Table

if TYPE_CHECKING:
    from airflow_reverse_etl.errors import ConfigurationError
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.ports import ObjectField, ObjectSchema

#: Most choices of a field in the table. JSON has all of them.
_MAX_CHOICES = 5


SyncOrType = Annotated[
    str,
    typer.Argument(metavar="SYNC", help="YAML file of the sync; or a destination's type, before CONNECTION and OBJECT"),
]
Connection = Annotated[
    str | None, typer.Argument(metavar="CONNECTION", help="Airflow connection of a destination without a sync")
]
Object = Annotated[
    str | None, typer.Argument(metavar="OBJECT", help="its object; a sync to start from is printed, with its fields")
]


def fields(sync: SyncOrType, connection: Connection = None, object_: Object = None, project: Project = None) -> Answer:
    """List the fields of the destination's object, and the column that the sync maps to each.

    Without a sync, print one to start from.

    :raises ConfigurationError: the destination does not describe its fields.
    """
    if connection is None or object_ is None:
        return _fields_of_sync(sync, project)
    return _start(sync, connection, object_)


def _start(type_: str, connection: str, object_: str) -> Answer:
    """Print a sync to start from: fields that a record needs, or is recognised by, and the others as comments."""
    place = {"type": type_, "connection": connection, "object": object_}
    schema = describe_object(place)
    if schema is None:
        raise _not_described(type_)
    found = sorted(
        (field for field in schema.fields if field.writable), key=lambda field: (not field.required, not field.unique)
    )
    text = _sync_text(place, found)
    return Answer({"fields": [_described(field, _only_destination(place)) for field in found], "sync": text}, [text])


def describe_object(place: dict[str, Any]) -> ObjectSchema | None:
    """Ask a destination for the fields of its object.

    :param place: what a sync has under ``destination:``.
    :returns: None if the destination does not describe them.
    :raises ReverseEtlError: the destination, or its connection, cannot be used.
    """
    from airflow_reverse_etl.cli.airflow import wiring
    from airflow_reverse_etl.cli.session import wait_for
    from airflow_reverse_etl.sync.clock import SystemClock
    from airflow_reverse_etl.sync.load.rate_limit import Pace
    from airflow_reverse_etl.sync.ports import DescribesFields

    destination = wiring().destination_of(_only_destination(place))
    if not isinstance(destination, DescribesFields) or not destination.describes_fields:
        return None

    async def describe() -> ObjectSchema:
        await destination.open(Pace(destination.capabilities.requests_per_second, SystemClock()))  # type: ignore[attr-defined]
        try:
            return await destination.describe()
        finally:
            await destination.close()  # type: ignore[attr-defined]

    return wait_for(describe())


def _only_destination(place: dict[str, Any]) -> Sync:
    """Return a sync of which only the destination is used. An insert asks of no type how it recognises records."""
    from airflow_reverse_etl.spec.model import Sync

    return Sync.load(
        {
            "name": "fields",
            "model": "fields",
            "source": "none",
            "primary_key": "id",
            "mode": "insert",
            "mapping": {"id": "id"},
            "destination": place,
        }
    )


def _sync_text(place: dict[str, str], found: list[ObjectField]) -> str:
    """Return the YAML of a sync to start from."""
    unique = next((field.name for field in found if field.unique), None)
    chosen = [field for field in found if field.required or field.unique]
    others = [field for field in found if field not in chosen]
    lines = [
        f"name: {identifier(place['object'])}_to_{identifier(place['type'])}",
        f"model: {identifier(place['object'])}",
        "source: warehouse",
        "primary_key: id",
        f"mode: {'upsert' if unique else 'insert'}",
        "mapping:",
        *(f"  {_line(field)}" for field in chosen),
        *(f"  # {_line(field)}" for field in others),
        "destination:",
        *(f"  {name}: {scalar(value)}" for name, value in place.items()),
    ]
    if unique:
        lines.append(f"  match_on: {scalar(unique)}")
    return "\n".join(lines)


def _line(field: ObjectField) -> str:
    """Return a field of the mapping, from a column of its name."""
    facts = [name for name, is_true in (("required", field.required), ("unique", field.unique)) if is_true]
    facts.append(field.type)
    if field.choices:
        facts.append(
            "one of " + ", ".join(field.choices[:_MAX_CHOICES]) + (" …" if field.choices[_MAX_CHOICES:] else "")
        )
    # A choice with a line break would end the comment.
    comment = " ".join("; ".join(facts).split())
    return f"{scalar(field.name)}: {identifier(field.name)}  # {comment}"


def _not_described(type_: str, **where: str) -> ConfigurationError:
    from airflow_reverse_etl.errors import ConfigurationError

    return ConfigurationError(
        f"destinations of type {type_!r} do not describe their fields",
        todo="see the documentation of the destination for its fields",
        **where,
    )


def _fields_of_sync(sync: str, project: str | None) -> Answer:
    """List the fields of a sync's destination."""
    from airflow_reverse_etl.cli.session import Session, open_destination, open_sync, wait_for

    async def describe(session: Session) -> ObjectSchema | None:
        async with open_destination(session) as schema:
            return schema

    with open_sync(sync, project) as session:
        schema = wait_for(describe(session))
        name = session.sync.destination.type
        if schema is None:
            raise _not_described(name, sync=session.sync.name)
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
    listed = _listed(field["choices"])
    flags = [{True: "yes", False: "no", None: "-"}[field[name]] for name in ("required", "writable", "unique")]
    return (field["name"], field["type"], *flags, listed or "-", field["mapped_from"] or "-")


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(choices[:_MAX_CHOICES]) + (", …" if len(choices) > _MAX_CHOICES else "")
