"""Catalog of a dbt project: what syncs need to know about its models."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, StateError
from airflow_reverse_etl.spec.privacy.marks import ModelMarks

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

FORMAT = 4


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column that the project declares. dbt knows no others. ``data_type`` is empty if the project declares none."""

    name: str
    data_type: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model.

    :param latest: whether the name without a version refers to this version.
    :param relation: table or view, quoted as dbt quotes it for the warehouse; None for an ephemeral model.
    :param primary_key: columns of the key that dbt infers, in the order of the declared columns; empty without a key.
    :param path: path of the model's file, relative to its package.
    :param depends_on: ids of the nodes and sources that the SQL refers to.
    :param checksum: checksum of the SQL in the model's file.
    :param tests: enabled tests of keys: ``not_null(id)``, ``unique(id)``, ``unique(a, b)``.
    :param contract: whether dbt enforces the declared columns.
    :param constraints: constraints of the model and its columns, such as ``primary_key(id)`` or ``not_null(id)``.
    :param deprecation_date: date such as ``2027-01-31``.
    :param owner: owner of the model's group, or ``owner`` of its meta, such as ``Ada <ada@example.com>``.
    :param data_tests: names of all enabled tests of the model.
    :param sources: ids of all sources upstream of the model.
    :param marks: marks of personal data that its columns carry; None if they were not looked for.
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
    marks: ModelMarks | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A source: a table that dbt reads and does not build.

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
        """Return the model that ``name``, ``package.name``, ``name.v2`` or ``package.name.v2`` refers to.

        :raises ModelNotFoundError: no model, or models of several packages have the name; names similar ones.
        """
        found = [model for model in self.models if ref in names(model)]
        # The project's own model wins over those of installed packages.
        candidates = [model for model in found if model.package == self.project] or found
        if len(candidates) == 1:
            return candidates[0]
        if found:
            qualified = sorted(f"{model.package}.{model.name}" for model in found)
            todo = f"write one of: {', '.join(qualified)}"
            raise ModelNotFoundError("several packages have this model", todo=todo, model=ref, project=self.project)
        known = {name for model in self.models for name in names(model)}
        similar = difflib.get_close_matches(ref, known, n=3, cutoff=0.5)
        todo = "check the name, and that the model is enabled"
        if similar:
            todo = f"did you mean {' or '.join(similar)}?"
        raise ModelNotFoundError(
            "the model was not found in the dbt project",
            todo=todo,
            model=ref,
            project=self.project,
            commit=self.commit,
        )

    def upstream(self, ref: str, *, steps: int = 2) -> dict[str, Any]:
        """Return a model with what it is made from, for a picture.

        :param steps: greatest number of steps upstream.
        :returns: ``nodes``, each with ``id``, ``name``, ``kind`` (``model`` or ``source``), ``step``, ``tests`` (their
            number), ``freshness`` (age from which dbt warns or fails) and ``path`` (of its file in the project; None
            if it is not the project's own); and ``edges``, pairs of ids.
        """
        known: dict[str, Model | Source] = {model.unique_id: model for model in self.models}
        known |= {source.unique_id: source for source in self.sources}
        found: dict[str, dict[str, Any]] = {}
        edges: list[list[str]] = []
        level = [self.find(ref).unique_id]
        for step in range(steps + 1):
            above: list[str] = []
            for unique_id in level:
                thing = known[unique_id]
                found[unique_id] = _node(thing, step, self.project)
                parents = thing.depends_on if isinstance(thing, Model) and step < steps else ()
                edges += [[parent, unique_id] for parent in parents if parent in known]
                above += [parent for parent in parents if parent in known]
            level = [unique_id for unique_id in dict.fromkeys(above) if unique_id not in found]
        return {"nodes": list(found.values()), "edges": edges}

    def to_json(self) -> bytes:
        whole = {"format": FORMAT, **_fields(self)}
        return json.dumps(whole, default=_fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Catalog:
        """Read a catalog that ``to_json`` wrote.

        :raises StateError: the catalog is damaged, or another version of this package wrote it.
        """
        try:
            stored = json.loads(data)
            if stored.pop("format") != FORMAT:
                raise StateError(
                    "the stored catalog has another format",
                    todo="use the version of this package that wrote the catalog",
                )
            shared: dict[tuple[str, str, str], CatalogColumn] = {}
            models = tuple(Model(**_restore_model(model, shared)) for model in stored.pop("models"))
            sources = tuple(Source(**source) for source in stored.pop("sources"))
            return cls(**stored, models=models, sources=sources)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise StateError(
                "the stored catalog is damaged", todo="delete the catalog and run the model sync again"
            ) from error


def load_catalog(files: StateFiles, output: Mapping[str, Any]) -> Catalog:
    """Load the catalog that the output of a DbtModelSyncOperator names.

    :raises ConfigurationError: the catalog is not under this state URL.
    """
    data = files.read(output["catalog"])
    if data is None:
        raise ConfigurationError(
            "the catalog was not found under the state URL",
            todo="run the model sync again, with the same [reverse_etl] state_url on every worker",
            file=files.child(output["catalog"]),
        )
    return Catalog.from_json(data)


def names(model: Model) -> set[str]:
    """Return all names by which a sync may refer to the model."""
    short = {f"{model.name}.v{model.version}"} if model.version else set()
    if model.latest:
        short.add(model.name)
    return short | {f"{model.package}.{name}" for name in short} | {model.unique_id}


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass. ``asdict`` also copies them, which takes longer than everything else."""
    return {name: getattr(value, name) for name in value.__slots__}


def _restore_model(model: dict[str, Any], shared: dict[tuple[str, str, str], CatalogColumn]) -> dict[str, Any]:
    columns = tuple(_restore_column(column, shared) for column in model.pop("columns"))
    tuples = {name: tuple(value) for name, value in model.items() if isinstance(value, list)}
    marks = model.pop("marks")
    return {**model, **tuples, "columns": columns, "marks": marks and ModelMarks.from_json(marks)}


def _restore_column(column: dict[str, Any], shared: dict[tuple[str, str, str], CatalogColumn]) -> CatalogColumn:
    """Return one shared object for columns of equal name, type and description, of which a project has many."""
    key = column["name"], column["data_type"], column["description"]
    if column["tags"] or column["meta"]:
        return CatalogColumn(*key, tuple(column["tags"]), column["meta"])
    return shared.get(key) or shared.setdefault(key, CatalogColumn(*key))


def _node(thing: Model | Source, step: int, project: str) -> dict[str, Any]:
    return {
        "id": thing.unique_id,
        "name": thing.name,
        "kind": "model" if isinstance(thing, Model) else "source",
        "step": step,
        "tests": len(thing.data_tests) if isinstance(thing, Model) else 0,
        "path": thing.path if isinstance(thing, Model) and thing.package == project else None,
        "freshness": None if isinstance(thing, Model) else thing.error_after or thing.warn_after,
    }
