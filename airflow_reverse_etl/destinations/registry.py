"""Which destination types there are, and making one for a sync.

Third parties register a class under the entry point group ``airflow_reverse_etl.destinations``; its name is the
``type`` in ``destination:``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from airflow_reverse_etl.destinations.base import DestinationClass, Setup
from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import DestinationSpec, Sync
from airflow_reverse_etl.spec.problems import nearest
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination

#: Entry point group of destination classes.
ENTRY_POINT_GROUP = "airflow_reverse_etl.destinations"
_BUILT_IN = {
    "file": "airflow_reverse_etl.destinations.file:FileDestination",
    "http": "airflow_reverse_etl.destinations.json_api:JsonApi",
    "table": "airflow_reverse_etl.destinations.table:TableDestination",
}


def known_types() -> list[str]:
    """Names of the destination types that are installed, sorted."""
    return sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})


def destination_class(type_: str) -> DestinationClass:
    """The class of a destination type.

    :raises ConfigurationError: for a type that is unknown, naming the nearest known one, or that cannot be imported.
    """
    if type_ in _BUILT_IN:
        module, _, name = _BUILT_IN[type_].partition(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    found: Sequence[EntryPoint] = tuple(entry_points(group=ENTRY_POINT_GROUP, name=type_))
    if not found:
        raise ConfigurationError(
            f"there is no destination type {type_!r}{nearest(type_, known_types())}",
            todo="correct the type, or install the package that provides it where Airflow runs",
        )
    try:
        return found[0].load()  # type: ignore[no-any-return]
    except Exception as error:  # whatever the package's import raises, it is the package that must be repaired
        raise ConfigurationError(
            f"destination type {type_!r} cannot be loaded: {type(error).__name__}: {error}",
            todo="repair or reinstall the package that provides it",
            entry_point=found[0].value,
        ) from error


def check_options(spec: Mapping[str, Any]) -> Sequence[tuple[tuple[str, ...], str]]:
    """Problems of what stands under ``destination:``, as (path, message); imports no driver, opens nothing."""
    type_ = spec.get("type")
    if not isinstance(type_, str):
        return []  # the sync's own validation says so
    try:
        cls = destination_class(type_)
    except ConfigurationError as error:
        return [(("type",), error.what)]
    try:
        cls.Options.model_validate(spec)
    except ValidationError as error:
        common = _places(DestinationSpec, spec)
        return [problem for problem in _problems(cls.Options, error) if problem[0] not in common]
    return []


def create(sync: Sync, *, connection: ConnectionInfo | None, connect: Callable[[], Any] | None = None) -> Destination:
    """The destination of a sync, not opened yet.

    :raises ConfigurationError: the type is unknown.
    :raises SpecError: the options are invalid, or the sync asks what the destination cannot do; all problems at once.
    """
    cls = destination_class(sync.destination.type)
    spec = sync.destination.model_dump(exclude_unset=True)
    problems = [f"destination.{'.'.join(where)}: {message}" for where, message in check_options(spec)]
    destination = None
    if not problems:
        setup = Setup(sync, cls.Options.model_validate(spec), connection, connect)
        destination = cls(setup)
        problems = _impossible(cls, setup, destination)
    if problems or destination is None:
        raise SpecError(
            f"destination type {sync.destination.type!r} cannot do what the sync asks",
            problems=tuple(problems),
            todo="correct the values below",
            sync=sync.name,
        )
    return destination


def _impossible(cls: DestinationClass, setup: Setup, destination: Destination) -> list[str]:
    sync, capabilities = setup.sync, destination.capabilities
    problems = []
    missing = sorted(setup.operations - capabilities.operations)
    if missing:
        problems.append(
            f"mode: {sync.mode} needs {' and '.join(missing)}; this destination can only "
            f"{', '.join(sorted(capabilities.operations)) or 'do nothing'}"
        )
    needing = sorted(setup.operations & cls.needs_match_on)
    if needing and not sync.destination.match_on:
        problems.append(f"destination.match_on: is required to {' and '.join(needing)}")
    if (sync.rate.batch_size or 0) > capabilities.max_batch_rows:
        problems.append(
            f"rate.batch_size: {sync.rate.batch_size} is more than the {capabilities.max_batch_rows} rows "
            "that this destination takes at once"
        )
    return problems


def _places(model: type[BaseModel], spec: Mapping[str, Any]) -> set[tuple[str, ...]]:
    try:
        model.model_validate(spec)
    except ValidationError as error:
        return {where for where, _ in _problems(model, error)}
    return set()


def _problems(model: type[BaseModel], error: ValidationError) -> list[tuple[tuple[str, ...], str]]:
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
