"""The command ``reverse-etl init``: a sync, its DAG, and a list of what to set up, from a dbt model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airflow_reverse_etl.cli.fields import describe_object
from airflow_reverse_etl.cli.frame import Answer
from airflow_reverse_etl.cli.init_files import MatchedFields, dag_text, identifier, match, match_on, sync_text
from airflow_reverse_etl.cli.options import ProjectPath, project_loader
from airflow_reverse_etl.cli.output import Table, console
from airflow_reverse_etl.errors import ConfigurationError, ReverseEtlError

if TYPE_CHECKING:
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.dbt.catalog import Model

#: Extra of this package for each adapter of dbt. Another adapter needs its own Airflow provider.
_EXTRAS = frozenset({"bigquery", "databricks", "duckdb", "mysql", "postgres", "redshift", "snowflake"})


@dataclass(frozen=True, slots=True)
class _Wish:
    """Everything that a person said about the sync to write."""

    destination: dict[str, Any]
    source: str
    git: str
    ref: str
    schedule: str
    folder: Path

    @property
    def type(self) -> str:
        return str(self.destination["type"])


def init(
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="dbt model whose rows are to be sent")] = None,
    destination: Annotated[
        str | None, typer.Option(metavar="TYPE", help="type of the destination, such as hubspot")
    ] = None,
    connection: Annotated[
        str | None, typer.Option(metavar="ID", help="Airflow connection of the destination; default: the type's name")
    ] = None,
    object_: Annotated[
        str | None, typer.Option("--object", metavar="OBJECT", help="object or table of the destination")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--match-on", metavar="FIELD", help="field by which it recognises a record")
    ] = None,
    primary_key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="primary key of the model, if dbt does not know it")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="another key of the destination, such as path=/v1/contacts; repeatable"),
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="ID", help="Airflow connection of the warehouse")
    ] = "warehouse",
    git: Annotated[
        str, typer.Option("--git", metavar="ID", help="Airflow connection of the dbt project's Git repository")
    ] = "git_dbt",
    ref: Annotated[str, typer.Option(metavar="REF", help="branch or tag of the dbt project")] = "main",
    schedule: Annotated[str, typer.Option(metavar="CRON", help="schedule of the DAG")] = "@hourly",
    project: Annotated[
        str, typer.Option(metavar="PATH", help="a manifest.json, a folder, or a Git ref; default: the current folder")
    ] = ".",
    project_path: ProjectPath = ".",
    dags: Annotated[str, typer.Option(metavar="FOLDER", help="folder of the DAG file")] = "dags",
    force: Annotated[bool, typer.Option("--force", help="overwrite files that exist")] = False,
) -> Answer:
    """Write a sync and its DAG for a dbt model, and list what to set up. On a terminal, ask for what is not given.

    :raises ConfigurationError: something is not given and nobody can be asked, or a file exists already.
    :raises ModelNotFoundError: the model is not in the project.
    :raises SpecError: the sync would not be valid; nothing is written.
    """
    version = project_loader(project_path).load(project)
    from airflow_reverse_etl.destinations.registry import check_options
    from airflow_reverse_etl.spec.model import Sync

    model, place = _ask(version, model, destination, connection, object_, _options(option))
    wish = _Wish(place, source, git, ref, schedule, Path(dags))
    found = version.catalog.find(model)
    columns, notes = _columns(version, found, source)

    matched, unique = _match(wish, columns, notes)
    key = key or unique or _asked_key(wish, matched, notes)
    if key:
        wish.destination["match_on"] = key
    spec = _spec(wish, found, model, matched, primary_key or _primary_key(found, columns))
    Sync.load(spec, check=check_options)

    name = spec["name"]
    files = {
        wish.folder / "syncs" / f"{name}.yaml": sync_text(spec, matched),
        wish.folder / f"{name}.py": dag_text(_values(wish, name, model, _in_repository(project, project_path))),
    }
    _write(files, force=force)
    return _answer(wish, version.catalog.adapter, files, notes, matched)


def _options(given: Sequence[str] | None) -> dict[str, Any]:
    """Return further keys of the destination, with values as YAML reads them."""
    import yaml

    found: dict[str, Any] = {}
    for text in given or ():
        name, is_pair, value = text.partition("=")
        if not is_pair:
            raise ConfigurationError(f"--option {text!r} has no value", todo="write it as --option KEY=VALUE")
        found[name] = yaml.safe_load(value)
    return found


def _ask(
    version: ProjectVersion,
    model: str | None,
    type_: str | None,
    connection: str | None,
    object_: str | None,
    options: dict[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return the model and the destination; ask for what is not given.

    :raises ConfigurationError: nobody can be asked; lists all that is missing.
    """
    from airflow_reverse_etl.destinations.registry import destination_class, known_types

    if not _is_asked():
        missing = [name for name, value in (("--model", model), ("--destination", type_)) if value is None]
        if type_ is not None:
            missing += [f"--{name}" for name in _required(type_) if name == "object" and object_ is None]
            others = [name for name in _required(type_) if name not in ("connection", "object", *options)]
            missing += [f"--option {name}=…" for name in others]
        if missing:
            raise ConfigurationError(
                f"not given: {', '.join(missing)}", todo="pass them, or run the command on a terminal, where it asks"
            )
    if model is None:
        own = [one for one in version.catalog.models if one.package == version.catalog.project]
        model = _asked("Model", [f"{one.name}.v{one.version}" if one.version else one.name for one in own])
    if type_ is None:
        type_ = _asked("Type of the destination", known_types())
    destination_class(type_)
    place: dict[str, Any] = {"type": type_}
    required = _required(type_)
    if connection is None and "connection" in required:
        connection = _asked("Airflow connection of the destination", default=type_) if _is_asked() else type_
    if object_ is None and "object" in required:
        object_ = _asked("Object or table of the destination")
    given = {"connection": connection, "object": object_, **options}
    place.update({name: value for name, value in given.items() if value is not None})
    place.update({name: _asked(f"Value of {name}") for name in required if name not in place})
    return model, place


def _required(type_: str) -> list[str]:
    """Return the keys that a type of destination requires, besides the type."""
    from airflow_reverse_etl.destinations.registry import destination_class

    fields = destination_class(type_).Options.model_fields
    return [name for name, field in fields.items() if field.is_required() and name != "type"]


def _is_asked() -> bool:
    return sys.stdin.isatty()


def _asked(question: str, choices: Sequence[str] | None = None, *, default: str | None = None) -> str:
    """Ask a person on the terminal."""
    from rich.prompt import Prompt

    while True:
        options: dict[str, Any] = {} if default is None else {"default": default}
        listed = list(choices) if choices else None
        answer = Prompt.ask(question, console=console(stderr=True), choices=listed, **options)
        if answer and answer.strip():
            return str(answer).strip()


def _columns(version: ProjectVersion, model: Model, source: str) -> tuple[list[str], list[str]]:
    """Return the model's columns: of dbt's catalog.json, of the warehouse, or those that the project declares.

    :returns: the columns, and what could not be found out.
    :raises ConfigurationError: no column is known.
    """
    in_catalog = version.warehouse_columns(model.unique_id)
    if in_catalog:
        return list(in_catalog), []
    declared = [column.name for column in model.columns]
    try:
        return _warehouse_columns(model, source), []
    except ReverseEtlError as error:
        if declared:
            reason = f"the warehouse has no such model yet, or cannot be asked: {error.what}"
            return declared, [f"columns are those that dbt declares; {reason}"]
        raise ConfigurationError(
            f"the columns of the model are not known: dbt declares none, and the warehouse says: {error.what}",
            todo=f"create the connection {source!r}, run `dbt docs generate`, or declare the columns in dbt",
            model=model.name,
        ) from None


def _warehouse_columns(model: Model, source: str) -> list[str]:
    from airflow_reverse_etl.cli.airflow import wiring

    if model.relation is None:
        raise ConfigurationError("the model is ephemeral", todo="materialize it", model=model.name)
    warehouse = wiring().open_warehouse(source)
    try:
        # The relation is dbt's own text.
        return [column.name for column in warehouse.columns(f"SELECT * FROM {model.relation}")]  # noqa: S608
    finally:
        warehouse.close()


def _match(wish: _Wish, columns: Sequence[str], notes: list[str]) -> tuple[MatchedFields, str | None]:
    """Return which column feeds which field, and the field by which records are recognised, if one is known."""
    try:
        schema = describe_object(wish.destination)
    except ReverseEtlError as error:
        notes.append(
            f"the destination could not be asked for its fields, so they are named like the columns: {error.what}"
        )
        schema = None
    matched = match(columns, schema)
    if schema is not None and not matched.pairs:
        raise ConfigurationError(
            "no column of the model has the name of a field of the destination",
            todo="rename a column in dbt, or begin with `reverse-etl fields`, which prints a sync to fill in",
            fields=[field.name for field in schema.fields if field.writable],
        )
    return matched, match_on(schema.fields, matched.pairs) if schema else None


def _asked_key(wish: _Wish, matched: MatchedFields, notes: Sequence[str]) -> str | None:
    """Ask for the field by which the destination recognises a record, if its type needs one to upsert.

    :raises ConfigurationError: nobody can be asked.
    """
    from airflow_reverse_etl.destinations.registry import destination_class
    from airflow_reverse_etl.spec.operations import Operation

    if Operation.UPSERT not in destination_class(wish.type).needs_match_on:
        return None
    if _is_asked():
        return _asked("Field by which the destination recognises a record", list(matched.pairs))
    problems = ["no mapped field is known to be unique in the destination", *notes]
    raise ConfigurationError(
        "; ".join(problems),
        todo="pass the field by which it recognises a record as --match-on, "
        f"or create the connection {wish.destination.get('connection')!r} first",
    )


def _primary_key(model: Model, columns: Sequence[str]) -> str | None:
    """Ask for the primary key that dbt infers from no constraint and no test ``unique``; None if dbt knows it.

    :raises ConfigurationError: nobody can be asked.
    """
    if model.primary_key:
        return None
    if _is_asked():
        return _asked("Primary key of the model", columns)
    raise ConfigurationError(
        "dbt does not know the primary key of the model",
        todo="add the tests unique and not_null to its column in dbt, or pass --primary-key",
        model=model.name,
    )


def _spec(wish: _Wish, found: Model, model: str, matched: MatchedFields, primary_key: str | None) -> dict[str, Any]:
    name = f"{identifier(str(wish.destination.get('object') or found.name))}_to_{identifier(wish.type)}"
    spec: dict[str, Any] = {"name": name, "model": model, "source": wish.source}
    if primary_key:
        spec["primary_key"] = primary_key
    spec["mode"] = "upsert"
    spec["destination"] = wish.destination
    spec["mapping"] = matched.pairs
    return spec


def _values(wish: _Wish, name: str, model: str, project_path: str) -> dict[str, str]:
    return {
        "name": name,
        "model": model,
        "place": wish.type,
        "schedule": wish.schedule,
        "git": wish.git,
        "ref": wish.ref,
        "project_path": project_path,
        "source": wish.source,
        # With what the model is made from.
        "select": f"+{model}",
        "sync": f"syncs/{name}.yaml",
    }


def _in_repository(project: str, project_path: str) -> str:
    """Return the folder of the dbt project in its Git repository, as far as it can be found out here."""
    folder = Path(project)
    if folder.is_file():  # target/manifest.json
        folder = folder.parent.parent
    elif (folder / project_path).is_dir():
        folder /= project_path
    if not (folder / "dbt_project.yml").is_file():
        return project_path
    command = ["git", "-C", str(folder), "rev-parse", "--show-prefix"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().rstrip("/") or "." if done.returncode == 0 else project_path


def _write(files: dict[Path, str], *, force: bool) -> None:
    """Write the files, or none of them.

    :raises ConfigurationError: one exists, and may not be overwritten.
    """
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise ConfigurationError(
            f"files exist already: {', '.join(there)}", todo="pass --force to overwrite them, or choose other --dags"
        )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _answer(wish: _Wish, adapter: str, files: dict[Path, str], notes: list[str], matched: MatchedFields) -> Answer:
    sync, dag = files
    connections = _connections(wish, adapter)
    steps = [
        f"Install where Airflow runs: pip install {_requirement(adapter)}",
        "Create the connections above, under Admin, Connections.",
        "Set [reverse_etl] state_url to a bucket, or to a folder that every worker sees.",
        f"Test them: reverse-etl connections test {' '.join(row[0] for row in connections)}",
        f"Check the sync, in the dbt project: reverse-etl validate {sync} --project .",
        f"Make {wish.folder} the folder of your DAGs, or copy its content there, and unpause {dag.stem}.",
    ]
    if matched.required_left:
        steps.insert(0, f"Map the fields that a new record needs: {', '.join(matched.required_left)}")
    data = {
        "files": [str(path) for path in files],
        "mapping": matched.pairs,
        "columns_left": list(matched.columns_left),
        "notes": notes,
        "connections": [dict(zip(_HEAD, row, strict=True)) for row in connections],
        "steps": steps,
    }
    shown: list[str | Table] = [f"wrote {path}" for path in files]
    shown += [f"note: {note}" for note in notes]
    shown.append(Table(_HEAD, connections))
    shown += [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    return Answer(data, shown)


_HEAD = ("connection", "type", "what to enter")


def _requirement(adapter: str) -> str:
    """Return what pip installs: this package with its extras, and the adapter of dbt."""
    extras = sorted({"dbt", *({adapter} & _EXTRAS)})
    return f'"airflow-provider-reverse-etl[{",".join(extras)}]" dbt-{adapter}'


def _connections(wish: _Wish, adapter: str) -> list[tuple[str, str, str]]:
    """Return the Airflow connections that the DAG needs: id, type, and what to enter."""
    from airflow_reverse_etl.destinations.info import ConnectionForm
    from airflow_reverse_etl.destinations.registry import destination_class
    from airflow_reverse_etl.provider import GIT_CONNECTION

    git = GIT_CONNECTION["ui-field-behaviour"]
    rows = [
        (wish.git, GIT_CONNECTION["hook-name"], _entries(git["relabeling"], git["placeholders"])),
        (wish.source, adapter, "the warehouse that dbt builds in: host, user, password, database"),
    ]
    if conn_id := wish.destination.get("connection"):
        form = destination_class(wish.type).info.connection
        if isinstance(form, ConnectionForm):
            rows.append((conn_id, form.name, _entries(form.labels, form.placeholders)))
        else:
            rows.append((conn_id, "see what to enter", form))
    return rows


def _entries(labels: Any, placeholders: Any) -> str:
    """Return what to enter into the usual fields of a form."""
    return ". ".join(f"{labels.get(name, name)}: {text}" for name, text in placeholders.items() if name != "extra")
