"""The command ``reverse-etl models``: the models of a dbt project that a sync can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.options import (
    Dbt,
    Env,
    ProjectPath,
    Syncs,
    Target,
    Values,
    project_loader,
    syncs_in_files,
)
from airflow_reverse_etl.cli.output import Table

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.dbt.catalog import Model


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="one model, with its columns; default: list all models")
    ] = None,
    project: Annotated[
        str, typer.Option(metavar="PATH", help="a manifest.json, a folder, or a Git ref; default: the current folder")
    ] = ".",
    syncs: Syncs = None,
    rows: Annotated[
        int, typer.Option(min=0, metavar="N", help="first rows of the model to show; needs --connection")
    ] = 0,
    connection: Annotated[
        str | None, typer.Option(metavar="ID", help="Airflow connection of the warehouse that has the model")
    ] = None,
    values: Values = False,
    project_path: ProjectPath = ".",
    dbt: Dbt = "dbt",
    target: Target = None,
    env: Env = None,
) -> Answer:
    """List the models of a dbt project, or describe one of them."""
    from airflow_reverse_etl.check.privacy.marking import Marking, with_marks

    version = project_loader(project_path, dbt, target, env).load(project)
    users = _users(version, syncs)
    if name is None:
        return _list(with_marks(version.catalog, version).models, users)
    model = version.catalog.find(name)
    model = replace(model, marks=Marking(version).of(model.unique_id))
    data = _described(model, users.get(model.unique_id, []))
    shown: list[str | Table] = [_facts(data), _columns(data)]
    if rows:
        data["rows"] = _first_rows(model, rows, connection, allowed=values)
        shown.append(_rows(data["rows"]))
    return Answer(data, shown)


def _users(version: ProjectVersion, paths: Sequence[str] | None) -> dict[str, list[str]]:
    """Return the names of the syncs that read each model, by the model's id."""
    from airflow_reverse_etl.check.exposures import syncs_in_meta
    from airflow_reverse_etl.cli.airflow import environment

    in_meta, _ = syncs_in_meta(version.catalog, environment=environment())
    in_files, _ = syncs_in_files(paths)
    found: dict[str, list[str]] = {}
    for source in (*in_meta, *in_files):
        for model in version.models_of(source.sync.model):
            found.setdefault(model.unique_id, []).append(source.sync.name)
    return found


def _list(found: Iterable[Model], users: Mapping[str, list[str]]) -> Answer:
    data = [_described(model, users.get(model.unique_id, [])) for model in found]
    if not data:
        return Answer(data, ["no models found"])
    rows = []
    for model in data:
        marks = {name for names in model["marks"].values() for name in names}
        row = (
            model["name"],
            model["materialized"],
            ", ".join(model["primary_key"]) or "-",
            model["key_known_from"] or "-",
            ", ".join(model["syncs"]) or "-",
            ", ".join(sorted(marks)) or "-",
        )
        rows.append(row)
    return Answer(data, [Table(("model", "materialized", "key", "known from", "syncs", "marks"), rows)])


def _described(model: Model, syncs: list[str]) -> dict[str, Any]:
    return {
        "name": f"{model.name}.v{model.version}" if model.version else model.name,
        "unique_id": model.unique_id,
        "relation": model.relation,
        "materialized": model.materialized,
        "description": model.description,
        "primary_key": list(model.primary_key),
        "key_known_from": _known_from(model),
        "tests": list(model.data_tests),
        "columns": [
            {"name": column.name, "type": column.data_type, "description": column.description}
            for column in model.columns
        ],
        "marks": model.marks.names() if model.marks else {},
        "syncs": sorted(syncs),
    }


def _known_from(model: Model) -> str:
    """Return where dbt knows the primary key from; empty without a key."""
    if not model.primary_key:
        return ""
    if any(constraint.startswith("primary_key(") for constraint in model.constraints):
        return "constraint"
    return "tests"


def _facts(data: Mapping[str, Any]) -> str:
    key = ", ".join(data["primary_key"]) or "not known"
    if data["key_known_from"]:
        key += f" (known from: {data['key_known_from']})"
    facts = {
        "model": data["name"],
        "relation": data["relation"] or "none: the model is ephemeral",
        "primary key": key,
        "tests": ", ".join(data["tests"]) or "none",
        "read by": ", ".join(data["syncs"]) or "no sync",
    }
    return "\n".join(f"{name}: {fact}" for name, fact in facts.items())


def _columns(data: Mapping[str, Any]) -> str | Table:
    if not data["columns"]:
        return "The project declares no columns. --rows shows those of the warehouse."
    rows = []
    known = data["marks"]
    for column in data["columns"]:
        marks = ", ".join(known.get(column["name"].lower(), known.get("*", ()))) or "-"
        rows.append((column["name"], column["type"] or "-", marks, " ".join(column["description"].split()) or "-"))
    return Table(("column", "type", "marks", "description"), rows)


def _first_rows(model: Model, count: int, connection: str | None, *, allowed: bool) -> list[dict[str, Any]]:
    """Read the first rows of a model from the warehouse.

    :raises ConfigurationError: no connection is named, the model is ephemeral, or no person reads the output.
    """
    from airflow_reverse_etl.cli.airflow import wiring
    from airflow_reverse_etl.cli.session import check_values
    from airflow_reverse_etl.errors import ConfigurationError

    check_values(allowed=allowed)
    if connection is None or model.relation is None:
        raise ConfigurationError(
            "the rows of the model cannot be read: no connection is named, or the model is ephemeral",
            todo="pass the warehouse's connection as --connection",
            model=model.name,
        )
    warehouse = wiring().open_warehouse(connection)
    try:
        found: list[dict[str, Any]] = []
        query = f"SELECT * FROM {model.relation} LIMIT {count}"  # noqa: S608 - the relation is dbt's own text
        for batch in warehouse.read(query):
            found += batch.to_pylist()
        return found
    finally:
        warehouse.close()


def _rows(found: Sequence[Mapping[str, Any]]) -> str | Table:
    if not found:
        return "The model has no rows."
    return Table(tuple(found[0]), [tuple(map(_text, row.values())) for row in found])


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
