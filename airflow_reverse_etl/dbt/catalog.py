"""The models of a dbt project, as a sync needs to know them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, StateError

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

FORMAT = 2


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column as the project declares it; dbt knows no others. ``data_type`` is empty where none is declared."""

    name: str
    data_type: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """One model, in one version.

    :param relation: its table or view, quoted as dbt quotes it for the warehouse; None for an ephemeral model.
    :param primary_key: as dbt infers it, in the order of the declared columns; empty when nothing declares one.
    :param latest: whether a name without version means this one.
    :param path: the model's file, relative to its package.
    :param depends_on: ids of what its SQL refers to.
    :param checksum: of its SQL as it is in the file.
    :param tests: enabled ones that say something about a key: ``not_null(id)``, ``unique(id)``, ``unique(a, b)``.
    :param contract: whether dbt enforces the declared columns.
    :param constraints: of the model and its columns: ``primary_key(id)``, ``not_null(id)`` ...
    :param deprecation_date: ``2027-01-31``.
    :param owner: of its group, or its meta's ``owner``: ``Ada <ada@example.com>``.
    :param data_tests: names of all enabled tests on it.
    :param sources: ids of the sources that it is built from, directly or not.
    """

    unique_id: str
    name: str
    package: str
    version: str | None
    latest: bool
    relation: str | None
    database: str | None
    schema: str
    alias: str
    materialized: str
    access: str
    description: str
    columns: tuple[CatalogColumn, ...]
    primary_key: tuple[str, ...]
    tags: tuple[str, ...]
    meta: dict[str, Any]
    path: str
    depends_on: tuple[str, ...] = ()
    checksum: str = ""
    tests: tuple[str, ...] = ()
    contract: bool = False
    constraints: tuple[str, ...] = ()
    deprecation_date: str | None = None
    owner: str = ""
    data_tests: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A table that dbt reads and does not build.

    :param name: ``source.table``.
    :param warn_after: age from which dbt warns, such as ``12 hour``.
    :param error_after: age from which dbt fails.
    """

    unique_id: str
    name: str
    relation: str | None
    description: str = ""
    loaded_at_field: str | None = None
    warn_after: str | None = None
    error_after: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """The models of one dbt project at one commit, sorted by ``unique_id``.

    :param adapter: dbt's adapter type: ``snowflake``, ``postgres``, ``duckdb`` ...
    """

    project: str
    commit: str | None
    adapter: str
    models: tuple[Model, ...]
    sources: tuple[Source, ...] = ()

    def find(self, ref: str) -> Model:
        """The model that ``name``, ``package.name``, ``name.v2`` or ``package.name.v2`` means.

        :raises ModelNotFoundError: none, or several packages have it; names the nearest.
        """
        found = [model for model in self.models if ref in names(model)]
        own = [model for model in found if model.package == self.project]
        if len(own or found) == 1:
            return (own or found)[0]
        if found:
            todo = f"write one of: {', '.join(sorted(f'{m.package}.{m.name}' for m in found))}"
            raise ModelNotFoundError("several packages have this model", todo=todo, model=ref, project=self.project)
        known = {name for model in self.models for name in names(model)}
        near = difflib.get_close_matches(ref, known, n=3, cutoff=0.5)
        raise ModelNotFoundError(
            "the dbt project has no such model",
            todo=f"did you mean {' or '.join(near)}?" if near else "check the name, and that the model is enabled",
            model=ref,
            project=self.project,
            commit=self.commit,
        )

    def to_json(self) -> bytes:
        whole = {"format": FORMAT, **_fields(self)}
        return json.dumps(whole, default=_fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Catalog:
        """The catalog that ``to_json`` wrote. Raises StateError when it is damaged or from a newer version."""
        try:
            stored = json.loads(data)
            if stored.pop("format") != FORMAT:
                raise StateError(
                    "the stored catalog has another format", todo="use the version of this package that wrote it"
                )
            alike: dict[tuple[str, str, str], CatalogColumn] = {}
            models = tuple(Model(**_restored(model, alike)) for model in stored.pop("models"))
            sources = tuple(Source(**source) for source in stored.pop("sources"))
            return cls(**stored, models=models, sources=sources)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError("the stored catalog is damaged", todo="delete it and run the model sync again") from error


def load_catalog(files: StateFiles, output: Mapping[str, Any]) -> Catalog:
    """The catalog behind the output of a DbtModelSyncOperator.

    :raises ConfigurationError: it is not under this state URL (any more).
    """
    data = files.read(output["catalog"])
    if data is None:
        raise ConfigurationError(
            "the catalog is not under the state URL",
            todo="run the model sync again; every worker must have the same [reverse_etl] state_url",
            file=files.child(output["catalog"]),
        )
    return Catalog.from_json(data)


def names(model: Model) -> set[str]:
    """Everything that a sync may call the model."""
    short = {f"{model.name}.v{model.version}"} if model.version else set()
    if model.latest:
        short.add(model.name)
    return short | {f"{model.package}.{name}" for name in short} | {model.unique_id}


def _fields(value: Any) -> dict[str, Any]:
    """``asdict`` without its copies, which take longer than all the rest."""
    return {name: getattr(value, name) for name in value.__slots__}


def _restored(model: dict[str, Any], alike: dict[tuple[str, str, str], CatalogColumn]) -> dict[str, Any]:
    columns = tuple(_restored_column(column, alike) for column in model.pop("columns"))
    tuples = {name: tuple(value) for name, value in model.items() if isinstance(value, list)}
    return {**model, **tuples, "columns": columns}


def _restored_column(column: dict[str, Any], alike: dict[tuple[str, str, str], CatalogColumn]) -> CatalogColumn:
    """One object for all columns of the same name, type and description: a project has many."""
    key = column["name"], column["data_type"], column["description"]
    if column["tags"] or column["meta"]:
        return CatalogColumn(*key, tuple(column["tags"]), column["meta"])
    return alike.get(key) or alike.setdefault(key, CatalogColumn(*key))
