"""Registry of destination types, and creating a sync's destination.

Third parties register a class under the entry point group ``airflow_reverse_etl.destinations``; its name is the
``type`` in ``destination:``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from airflow_reverse_etl.destinations.base import DestinationClass, Setup
from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import DestinationSpec, Sync
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.problems import nearest
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination, LoadsInJobs, ReplacesObject

#: Entry point group of destination classes.
ENTRY_POINT_GROUP = "airflow_reverse_etl.destinations"
#: Class of each built-in type, imported when it is needed.
BUILT_IN = {
    "file": "airflow_reverse_etl.destinations.file:FileDestination",
    "http": "airflow_reverse_etl.destinations.json_api:JsonApi",
    "hubspot": "airflow_reverse_etl.destinations.hubspot:HubSpot",
    "salesforce": "airflow_reverse_etl.destinations.salesforce:Salesforce",
    "table": "airflow_reverse_etl.destinations.table:TableDestination",
}
#: Classes of :func:`registered`, by type.
_registered: dict[str, DestinationClass] = {}


@contextmanager
def registered(type_: str, cls: DestinationClass) -> Iterator[None]:
    """Make a class the destination type of this name until the block ends, in this process. For tests.

    It takes the place of a class that has the name already. Blocks may be nested.
    """
    before = dict(_registered)
    _registered[type_] = cls
    try:
        yield
    finally:
        _registered.clear()
        _registered.update(before)


def known_types() -> list[str]:
    """Return the names of the installed destination types, sorted."""
    return sorted({*_registered, *BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})


def destination_class(type_: str) -> DestinationClass:
    """Return the class of a destination type.

    :raises ConfigurationError: the type is unknown (the message names the nearest known one), or cannot be imported.
    """
    if type_ in _registered:
        return _registered[type_]
    if type_ in BUILT_IN:
        module, _, name = BUILT_IN[type_].partition(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    found: Sequence[EntryPoint] = tuple(entry_points(group=ENTRY_POINT_GROUP, name=type_))
    if not found:
        raise ConfigurationError(
            f"destination type {type_!r} not found{nearest(type_, known_types())}",
            todo="correct the type, or install the package that provides it where Airflow runs",
        )
    try:
        return found[0].load()  # type: ignore[no-any-return]
    except Exception as error:  # an import may raise anything
        raise ConfigurationError(
            f"destination type {type_!r} cannot be loaded: {type(error).__name__}: {error}",
            todo="repair or reinstall the package that provides it",
            entry_point=found[0].value,
        ) from error


def sync_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a sync file, for editors.

    ``destination`` has the keys of its type. A type that is not installed here may have any keys.
    """
    schema = Sync.json_schema()
    definitions = schema["$defs"]
    common = definitions["DestinationSpec"]
    branches = []
    for type_ in known_types():
        try:
            cls = destination_class(type_)
        except ConfigurationError:  # its own package is broken
            continue
        # Models of two types that have one name are different.
        options = cls.Options.model_json_schema(ref_template=f"#/$defs/{type_}.{{model}}")
        for name, definition in options.pop("$defs", {}).items():
            definitions[f"{type_}.{name}"] = definition
        options["properties"]["type"] = {**options["properties"]["type"], "const": type_}
        definitions[type_] = {**options, "title": type_}
        condition = {"properties": {"type": {"const": type_}}, "required": ["type"]}
        branches.append({"if": condition, "then": {"$ref": f"#/$defs/{type_}"}})
    common["properties"]["type"]["examples"] = known_types()
    definitions["DestinationSpec"] = {**common, "allOf": branches}
    return schema


def check_options(spec: Mapping[str, Any]) -> Sequence[tuple[tuple[str, ...], str]]:
    """Return the problems of the values under ``destination:``, as (path, message).

    Imports no driver and opens no connection.
    """
    type_ = spec.get("type")
    if not isinstance(type_, str):
        return []  # the sync's own validation reports a missing type
    try:
        cls = destination_class(type_)
    except ConfigurationError as error:
        return [(("type",), error.what)]
    try:
        cls.Options.model_validate(spec)
    except ValidationError as error:
        # The sync's own validation reports the problems of the common keys.
        reported = _places(DestinationSpec, spec)
        return [(where, message) for where, message in _problems(cls.Options, error) if where not in reported]
    return []


def create(
    sync: Sync,
    *,
    connection: ConnectionInfo | None,
    connect: Callable[[], Any] | None = None,
    lookup: Callable[[str], ConnectionInfo] | None = None,
) -> Destination:
    """Create the destination of a sync, without opening it. The parameters are those of :class:`Setup`.

    :raises ConfigurationError: the type is unknown.
    :raises SpecError: the options are invalid, or the destination cannot do what the sync asks; lists all problems.
    """
    cls = destination_class(sync.destination.type)
    spec = sync.destination.model_dump(exclude_unset=True)
    problems = [f"destination.{'.'.join(where)}: {message}" for where, message in check_options(spec)]
    destination = None
    if not problems:
        setup = Setup(sync, cls.Options.model_validate(spec), connection, connect, lookup)
        destination = cls(setup)
        problems = _unsupported(cls, setup, destination)
    if problems or destination is None:
        raise SpecError(
            f"destination type {sync.destination.type!r} cannot do what the sync asks",
            problems=tuple(problems),
            todo="correct the values below",
            sync=sync.name,
        )
    return destination


def create_for_jobs(type_: str, *, connection: ConnectionInfo | None) -> LoadsInJobs:
    """Create a destination that asks for jobs by their references, and reads their results. It has no sync.

    :raises ConfigurationError: the type is unknown, or has no class method ``for_jobs(connection)``.
    """
    make = getattr(destination_class(type_), "for_jobs", None)
    if make is None:
        raise ConfigurationError(
            f"destination type {type_!r} has no jobs",
            todo="install the version of its package that began the job, or define for_jobs() in its class",
        )
    return make(connection)  # type: ignore[no-any-return]


def _unsupported(cls: DestinationClass, setup: Setup, destination: Destination) -> list[str]:
    """Return what the sync asks of a destination that cannot do it."""
    sync = setup.sync
    capabilities = destination.capabilities
    problems = []
    missing = sorted(setup.operations - capabilities.operations.keys())
    if missing:
        supported = ", ".join(sorted(capabilities.operations)) or "do nothing"
        problems.append(f"mode: {sync.mode} needs {' and '.join(missing)}; this destination can only {supported}")
    if sync.mode == "replace" and not isinstance(destination, ReplacesObject):
        problems.append("mode: this destination cannot replace its whole content at once; use mode mirror")
    needing = sorted(setup.operations & cls.needs_match_on)
    if needing and not sync.destination.match_on:
        problems.append(f"destination.match_on: is required to {' and '.join(needing)}")
    unmatched = Operation.INSERT in setup.operations and not sync.destination.match_on
    if unmatched and isinstance(destination, LoadsInJobs) and destination.job_terms(Operation.INSERT, 1):
        problems.append("destination.match_on: is required to insert in jobs, whose results name rows by it")
    if sync.write_ids and not capabilities.gives_ids:
        problems.append("write_ids: the answers of this destination have no ids of records")
    sizes = [capabilities.operations[operation].max_rows for operation in setup.operations - set(missing)]
    if sizes and (sync.rate.batch_size or 0) > max(sizes):
        problems.append(
            f"rate.batch_size: {sync.rate.batch_size} is more than this destination's maximum of {max(sizes)} rows"
        )
    return problems


def _places(model: type[BaseModel], spec: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return the paths of the values that a model refuses."""
    try:
        model.model_validate(spec)
    except ValidationError as error:
        return {where for where, _ in _problems(model, error)}
    return set()


def _problems(model: type[BaseModel], error: ValidationError) -> list[tuple[tuple[str, ...], str]]:
    """Return what pydantic found, as (path, message), in our words."""
    found = []
    for item in error.errors(include_url=False):
        where = tuple(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = sorted(model.model_fields) if len(where) == 1 else []
            message = f"unknown key{nearest(where[-1], known)}"
        elif item["type"] == "missing":
            message = "is required"
        found.append((where, message))
    return found
