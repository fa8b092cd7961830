"""A dbt project at one commit, read from its artifacts: one of the two that a check compares.

SQL comes from the manifest: compiled by dbt, or else rendered here if it calls nothing but ``ref``, ``source``,
``config``, ``this`` and ``is_incremental``. Any other SQL is unknown and reported as such.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.rendering import render
from airflow_reverse_etl.check.usage import parse
from airflow_reverse_etl.dbt.catalog import Catalog, Model, names
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.spec.model import ModelRef, SqlModel
from airflow_reverse_etl.sql.dialects.registry import dialect_of, writable_dialect

if TYPE_CHECKING:
    from sqlglot import exp

Relation = tuple[str, ...]

_PART = re.compile(r'"((?:[^"]|"")*)"|`([^`]*)`|\[([^\]]*)\]|([^.]+)')


class ProjectVersion:
    """The project at one commit.

    :param manifest: manifest.json.
    :param catalog: the catalog of that manifest, if the caller has it already.
    :param catalog_file: catalog.json, with the columns that the warehouse had.
    :param built: catalog.json describes these very models, as they are deployed. Detected if one run of dbt wrote
        both files.
    :param variables: ``vars`` of dbt_project.yml, if available.
    :param label: the name of this version in reports.
    :param folder: the dbt project's folder in its repository, for the places of models.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        *,
        catalog: Catalog | None = None,
        catalog_file: Mapping[str, Any] | None = None,
        built: bool = False,
        variables: object = None,
        label: str = "",
        folder: str = "",
    ) -> None:
        self.catalog = catalog or read_manifest(manifest)
        self.label = label
        self.folder = folder
        self.nodes: Mapping[str, Mapping[str, Any]] = {**manifest["nodes"], **(manifest.get("sources") or {})}
        self.macros: Mapping[str, Mapping[str, Any]] = manifest.get("macros") or {}
        self.disabled = frozenset(manifest.get("disabled") or ())
        self.models: Mapping[str, Model] = {model.unique_id: model for model in self.catalog.models}
        dialect = writable_dialect(self.catalog.adapter)
        # None is sqlglot's generic SQL.
        self.dialect = dialect.name if dialect else None
        self.use_compiled = True
        self._variables = repr(variables)
        catalog_json = catalog_file or {}
        self._warehouse = {**(catalog_json.get("nodes") or {}), **(catalog_json.get("sources") or {})}
        self._built = built or _invocation(catalog_json) == _invocation(manifest) != ""
        self._digests: dict[str, str] = {}
        self._statements: dict[str, exp.Query | None] = {}

    @cached_property
    def _by_name(self) -> Mapping[str, tuple[Model, ...]]:
        found: dict[str, tuple[Model, ...]] = {}
        for model in self.catalog.models:
            for name in names(model):
                found[name] = (*found.get(name, ()), model)
        return found

    @cached_property
    def by_relation(self) -> Mapping[Relation, str]:
        """Map each relation, and the last two parts of its name, to the id of its node."""
        found: dict[Relation, str] = {}
        for unique_id, node in self.nodes.items():
            if node.get("relation_name") and node["resource_type"] in ("model", "seed", "snapshot", "source"):
                parts = self.relation(node["relation_name"])
                found[parts] = unique_id
                found.setdefault(parts[-2:], unique_id)
        return found

    def find(self, ref: str) -> Model | None:
        """Find the model that a sync's ``model`` names. Models of this project precede those of other packages."""
        found = self._by_name.get(ref, ())
        own = [model for model in found if model.package == self.catalog.project]
        return next(iter(own or found), None)

    def find_relation(self, table: str) -> Model | None:
        """Find the model that builds a table, by the table's full name or by schema and name."""
        parts = self.relation(table)
        unique_id = self.by_relation.get(parts) or self.by_relation.get(parts[-2:])
        return self.models.get(unique_id or "")

    def models_of(self, model: ModelRef) -> list[Model]:
        """Return the models that a sync reads: the one that it names, or those that build the tables it reads."""
        if isinstance(model, SqlModel):
            found: dict[str, Model] = {}
            for name in self._tables(model.sql):
                known = self.find_relation(name)
                if known:
                    found[known.unique_id] = known
            return list(found.values())
        known = self.find(model) if isinstance(model, str) else self.find_relation(model.table)
        return [known] if known else []

    def _tables(self, sql: str) -> Iterator[str]:
        """Yield the names of a query's tables, except those without a schema, such as CTEs."""
        from sqlglot import exp

        query = parse(sql, self.dialect)
        for table in query.find_all(exp.Table) if query else ():
            if len(table.parts) > 1:
                yield ".".join(part.sql(self.dialect) for part in table.parts)

    def relation(self, text: str) -> Relation:
        """Split a relation's name into its parts, as the warehouse compares them."""
        return tuple(self._part(match) for match in _PART.finditer(text.strip()))

    def _part(self, match: re.Match[str]) -> str:
        text = next(group for group in match.groups() if group is not None)
        return dialect_of(self.catalog.adapter).compared_name(text, is_quoted=match[4] is None)

    def warehouse_columns(self, unique_id: str) -> Mapping[str, str] | None:
        """Return the columns of catalog.json with their types.

        :returns: None if catalog.json lacks the node, or describes another version of the model.
        """
        entry = self._warehouse.get(unique_id)
        if not entry or (unique_id.startswith("model.") and not self._built):
            return None
        columns = sorted(entry["columns"].values(), key=lambda column: column.get("index") or 0)
        return {column["name"]: column.get("type") or "" for column in columns}

    def parents(self, unique_id: str) -> tuple[str, ...]:
        """Return the ids of the nodes that a node reads."""
        node = self.nodes.get(unique_id, {})
        names = (node.get("depends_on") or {}).get("nodes") or ()
        return tuple(name for name in names if name in self.nodes and name != unique_id)

    def ancestors(self, unique_id: str) -> Iterator[str]:
        """Yield the ids of all nodes upstream, each once, nearest first."""
        seen = {unique_id}
        queue = [unique_id]
        while queue:
            for parent in self.parents(queue.pop(0)):
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
                    yield parent

    def code(self, unique_id: str) -> str:
        """Return the SQL of a node as it is compared: compiled, or else raw with its Jinja."""
        node = self.nodes[unique_id]
        compiled = node.get("compiled_code") if self.use_compiled else None
        if not compiled:
            return (node.get("raw_code") or "").strip()
        # A parent in another schema does not make a different query.
        for parent in self.parents(unique_id):
            compiled = compiled.replace(self.nodes[parent].get("relation_name") or "\0", table_name(parent))
        return str(compiled).strip()

    def own_digest(self, unique_id: str) -> str:
        """Return a digest of the node's own SQL and of the macros that it calls."""
        node = self.nodes[unique_id]
        parts = [self.code(unique_id)]
        # Macros and variables are part of compiled SQL already.
        if not (self.use_compiled and node.get("compiled_code")):
            parts += self._macro_texts((node.get("depends_on") or {}).get("macros") or ())
            if any(re.search(r"\bvar\s*\(", part) for part in parts):
                parts.append(self._variables)
        if node["resource_type"] == "seed":
            parts.append(str((node.get("checksum") or {}).get("checksum")))
        if (node.get("contract") or {}).get("enforced"):
            parts += [f"{c['name']} {c.get('data_type')}" for c in node["columns"].values()]
        parts.append(repr(self.warehouse_columns(unique_id)) if node["resource_type"] == "source" else "")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def digest(self, unique_id: str) -> str:
        """Return a digest of the node and everything upstream. Nodes with equal digests have equal columns and rows."""
        if unique_id not in self._digests:
            self._digests[unique_id] = ""  # dbt rejects cycles; a broken manifest must not cause endless recursion
            upstream = sorted(f"{parent} {self.digest(parent)}" for parent in self.parents(unique_id))
            text = "\n".join([self.own_digest(unique_id), *upstream])
            self._digests[unique_id] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[unique_id]

    def has_same(self, unique_id: str, other: ProjectVersion) -> bool:
        """Return True if a node of the other version, and everything upstream, is the same in this version."""
        return unique_id in self.nodes and self.digest(unique_id) == other.digest(unique_id)

    @property
    def has_catalog_file(self) -> bool:
        """Return True if a catalog.json with columns is available."""
        return bool(self._warehouse)

    def _macro_texts(self, called: Any) -> list[str]:
        """Return the texts of the project's macros that are called, directly or through other macros."""
        seen: set[str] = set()
        queue = list(called)
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += (self.macros.get(name, {}).get("depends_on") or {}).get("macros") or ()
        # Macros of dbt itself change with dbt's version, not with the project.
        dbt_packages = ("dbt", f"dbt_{self.catalog.adapter}", "dbt_postgres")
        project = sorted(name for name in seen if name.split(".")[1] not in dbt_packages)
        return [str(self.macros.get(name, {}).get("macro_sql")) for name in project]

    def statement(self, unique_id: str) -> exp.Query | None:
        """Return the node's query, with tables named by the ids of their nodes (:func:`table_name`).

        :returns: None if the query is unknown.
        """
        if unique_id not in self._statements:
            self._statements[unique_id] = self._parse(unique_id)
        return self._statements[unique_id]

    def _parse(self, unique_id: str) -> exp.Query | None:
        from sqlglot import exp

        node = self.nodes[unique_id]
        if node["resource_type"] != "model" or node.get("language", "sql") != "sql":
            return None
        is_compiled = self.use_compiled and node.get("compiled_code")
        sql = node["compiled_code"] if is_compiled else self._render(node)
        tree = parse(sql, self.dialect) if sql else None
        if not isinstance(tree, exp.Query):
            return None
        ids = {table_name(name): name for name in (unique_id, *self.parents(unique_id))}
        for table in list(tree.find_all(exp.Table)):
            self._rename(table, ids)
        return tree

    def _rename(self, table: exp.Table, ids: Mapping[str, str]) -> None:
        """Name a table of a query by the id of its node, if it has one.

        :param ids: table name in rendered SQL → id.
        """
        from sqlglot import exp

        parts = self.relation(".".join(part.sql(self.dialect) for part in table.parts))
        unique_id = ids.get(table.name) or self.by_relation.get(parts)
        if not unique_id and len(parts) > 1:
            unique_id = self.by_relation.get(parts[-2:])
        if unique_id:
            node = self.nodes[unique_id]
            alias = table.alias or node.get("alias") or node.get("identifier") or node["name"]
            table.set("db", None)
            table.set("catalog", None)
            table.set("this", exp.to_identifier(table_name(unique_id)))
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))

    def _render(self, node: Mapping[str, Any]) -> str | None:
        """Render the SQL of a model that dbt only parsed."""
        return render(
            node.get("raw_code") or "",
            ref=lambda *names, **version: table_name(self._ref(node, names, version)),
            source=lambda *names: table_name(self._parent(node, f".{'.'.join(names)}")),
            config=lambda *_, **__: "",
            this=table_name(node["unique_id"]),
            is_incremental=lambda: False,
        )

    def _ref(self, node: Mapping[str, Any], names: tuple[str, ...], version: Mapping[str, Any]) -> str:
        """Return the id of the model, seed or snapshot that a call of ``ref`` names."""
        pinned = version.get("v", version.get("version"))
        path = list(names)
        if pinned is not None:
            path.append(f"v{pinned}")
        model = self.find(".".join(path))
        return model.unique_id if model else self._parent(node, f".{names[-1]}")

    def _parent(self, node: Mapping[str, Any], suffix: str) -> str:
        """Return the id of the only parent whose id ends with a suffix.

        :raises LookupError: no parent has the suffix, or several have it.
        """
        found = [parent for parent in self.parents(node["unique_id"]) if parent.endswith(suffix)]
        if len(found) != 1:
            raise LookupError(suffix)
        return found[0]


def table_name(unique_id: str) -> str:
    """Turn a node's id into a plain SQL name."""
    return re.sub(r"\W", "__", unique_id).lower()


def _invocation(artifact: Mapping[str, Any]) -> str:
    return str((artifact.get("metadata") or {}).get("invocation_id") or "")
