"""manifest.json of a dbt project, reduced to what a sync needs to know about its models.

Reads manifest versions 10 to 12, which dbt 1.6 and later and Fusion write; the catalog is the same whichever engine
wrote it. Only JSON is read: dbt is never imported.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError, ModelNotFoundError, ProjectError, StateError

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

FORMAT = 1
MANIFEST_VERSIONS = (10, 11, 12)


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


@dataclass(frozen=True, slots=True)
class Catalog:
    """The models of one dbt project at one commit, sorted by ``unique_id``.

    :param adapter: dbt's adapter type: ``snowflake``, ``postgres``, ``duckdb`` ...
    """

    project: str
    commit: str | None
    adapter: str
    models: tuple[Model, ...]

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
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Catalog:
        """The catalog that ``to_json`` wrote. Raises StateError when it is damaged or from a newer version."""
        try:
            stored = json.loads(data)
            if stored.pop("format") != FORMAT:
                raise StateError(
                    "the stored catalog has another format", todo="use the version of this package that wrote it"
                )
            models = tuple(Model(**_restored(model)) for model in stored.pop("models"))
            return cls(**stored, models=models)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError("the stored catalog is damaged", todo="delete it and run the model sync again") from error

    @classmethod
    def from_manifest(
        cls, manifest: Mapping[str, Any], *, commit: str | None = None, unknown_database: str | None = None
    ) -> Catalog:
        """The catalog of a manifest.

        :param unknown_database: a placeholder, to be left out of relations: the reader's connection has its own.
        :raises ProjectError: a manifest version that is not known here.
        """
        metadata = manifest.get("metadata", {})
        version = re.search(r"/manifest/v(\d+)\.json", str(metadata.get("dbt_schema_version", "")))
        if not version or int(version[1]) not in MANIFEST_VERSIONS:
            raise ProjectError(
                f"manifest of an unknown version: {metadata.get('dbt_schema_version')}",
                todo="use dbt 1.6 or newer, or Fusion; known versions: "
                + ", ".join(f"v{number}" for number in MANIFEST_VERSIONS),
            )
        fusion = str(metadata.get("dbt_version", "")).startswith("2.")
        tests = _tests_by_model(manifest)
        nodes = (node for _, node in sorted(manifest["nodes"].items()) if node["resource_type"] == "model")
        found = (_model(node, tests.get(node["unique_id"], []), fusion=fusion) for node in nodes)
        models = tuple(_without_database(model, unknown_database) for model in found)
        return cls(metadata["project_name"], commit, metadata["adapter_type"], models)


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


def infer_primary_key(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The key in dbt's own order of inference, for manifests of engines that do not write ``primary_key``.

    Constraint on the model; on a column; columns with unique and not_null tests; with an enabled unique test (or
    unique_combination_of_columns); with a disabled one. Source: ``ModelNode.infer_primary_key`` in dbt-core 1.9.
    """
    for constraint in node.get("constraints") or []:
        if constraint["type"] == "primary_key":
            return tuple(constraint["columns"])
    for name, column in node["columns"].items():
        if any(constraint["type"] == "primary_key" for constraint in column.get("constraints") or []):
            return (name,)
    enabled: set[str] = set()
    disabled: set[str] = set()
    not_null: set[str] = set()
    for test in tests:
        columns = _tested_columns(test["test_metadata"]["kwargs"])
        name = test["test_metadata"]["name"]
        if name in ("unique", "unique_combination_of_columns"):
            (enabled if test["config"].get("enabled", True) else disabled).update(columns)
        elif name == "not_null":
            not_null.update(columns)
    declared = {name: n for n, name in enumerate(node["columns"])}
    key = not_null & (enabled | disabled) or enabled or disabled
    return tuple(sorted(key, key=lambda name: (declared.get(name, len(declared)), name)))


def _tested_columns(kwargs: Mapping[str, Any]) -> list[str]:
    if isinstance(kwargs.get("column_name"), str):
        return [kwargs["column_name"]]
    combination = kwargs.get("combination_of_columns")
    return [name for name in combination if isinstance(name, str)] if isinstance(combination, list) else []


def _tests_by_model(manifest: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    disabled = (node for nodes in (manifest.get("disabled") or {}).values() for node in nodes)
    tests: dict[str, list[Mapping[str, Any]]] = {}
    for node in [*manifest["nodes"].values(), *disabled]:
        if node.get("test_metadata") and node.get("attached_node"):
            tests.setdefault(node["attached_node"], []).append(node)
    return tests


def _model(node: Mapping[str, Any], tests: Iterable[Mapping[str, Any]], *, fusion: bool) -> Model:
    config = node["config"]
    tags, meta = _tags_and_meta(node)
    inherited = (tags, meta) if fusion else ((), {})
    version, latest = node.get("version"), node.get("latest_version")
    return Model(
        unique_id=node["unique_id"],
        name=node["name"],
        package=node["package_name"],
        version=None if version is None else str(version),
        latest=version == latest,
        relation=node.get("relation_name") or None,
        database=node.get("database") or None,
        schema=node["schema"],
        alias=node.get("alias") or node["name"],
        materialized=config["materialized"],
        access=config.get("access") or node.get("access") or "protected",
        description=(node.get("description") or "").strip(),
        columns=tuple(_column(column, *inherited) for column in node["columns"].values()),
        primary_key=tuple(node.get("primary_key") or infer_primary_key(node, tests)),
        tags=tags,
        meta=meta,
        path=node["original_file_path"],
        depends_on=tuple(sorted(node.get("depends_on", {}).get("nodes") or ())),
        checksum=hashlib.sha256(
            (node.get("raw_code") or "").strip().encode()
        ).hexdigest(),  # dbt's own varies by version
        tests=_key_tests(tests),
        contract=bool((node.get("contract") or config.get("contract") or {}).get("enforced")),
        constraints=_constraints(node),
        deprecation_date=(node.get("deprecation_date") or "")[:10] or None,
    )


def _key_tests(tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    found = set()
    for test in tests:
        name = test["test_metadata"]["name"].removesuffix("_combination_of_columns")
        columns = _tested_columns(test["test_metadata"]["kwargs"])
        if name in ("unique", "not_null") and columns and test["config"].get("enabled", True):
            found.add(f"{name}({', '.join(columns)})")
    return tuple(sorted(found))


def _constraints(node: Mapping[str, Any]) -> tuple[str, ...]:
    """By type and columns only: engines differ in what else they write."""
    own = [(c["type"], c.get("columns") or ()) for c in node.get("constraints") or ()]
    own += [(c["type"], (n,)) for n, column in node["columns"].items() for c in column.get("constraints") or ()]
    return tuple(sorted({f"{kind}({', '.join(columns)})" for kind, columns in own}))


def _without_database(model: Model, database: str | None) -> Model:
    if not database or model.database != database:
        return model
    relation = model.relation and re.sub(rf"^.?{re.escape(database)}.?\.", "", model.relation)
    return replace(model, database=None, relation=relation)


def _column(column: Mapping[str, Any], model_tags: tuple[str, ...], model_meta: Mapping[str, Any]) -> CatalogColumn:
    """Fusion writes the model's tags and meta into every column: what a column merely inherits is left out."""
    tags, meta = _tags_and_meta(column)
    return CatalogColumn(
        name=column["name"],
        data_type=column.get("data_type") or "",
        description=(column.get("description") or "").strip(),
        tags=tuple(tag for tag in tags if tag not in model_tags),
        meta={key: value for key, value in meta.items() if key not in model_meta or model_meta[key] != value},
    )


def _tags_and_meta(node: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    config = node.get("config") or {}
    both = (node.get("tags") or (), config.get("tags") or ())
    tags = {tag for some in both for tag in ([some] if isinstance(some, str) else some)}
    return tuple(sorted(tags)), {**(node.get("meta") or {}), **(config.get("meta") or {})}


def names(model: Model) -> set[str]:
    """Everything that a sync may call the model."""
    short = {f"{model.name}.v{model.version}"} if model.version else set()
    if model.latest:
        short.add(model.name)
    return short | {f"{model.package}.{name}" for name in short} | {model.unique_id}


def _restored(model: dict[str, Any]) -> dict[str, Any]:
    columns = tuple(CatalogColumn(**{**column, "tags": tuple(column["tags"])}) for column in model["columns"])
    tuples = {name: tuple(value) for name, value in model.items() if isinstance(value, list)}
    return {**model, **tuples, "columns": columns}
