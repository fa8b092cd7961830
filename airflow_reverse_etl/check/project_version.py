"""One side of a comparison: a dbt project before or after a change, as its artifacts tell it.

SQL comes from the manifest: compiled where dbt compiled it, otherwise rendered here, as far as it uses nothing but
``ref``, ``source``, ``config``, ``this`` and ``is_incremental``. Whatever else it calls is unknown, and is said to be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.rendering import render
from airflow_reverse_etl.check.usage import parse, sqlglot_dialect
from airflow_reverse_etl.dbt.catalog import Catalog, Model, names
from airflow_reverse_etl.dbt.manifest import read_manifest
from airflow_reverse_etl.spec.model import ModelRef, SqlModel

if TYPE_CHECKING:
    from sqlglot import exp

Relation = tuple[str, ...]

_PART = re.compile(r'"((?:[^"]|"")*)"|`([^`]*)`|\[([^\]]*)\]|([^.]+)')
_KEPT_CASE = ("bigquery",)
_UPPER = ("snowflake",)


class ProjectVersion:
    """The project at one commit.

    :param manifest: manifest.json.
    :param catalog: of that manifest, where it is at hand.
    :param catalog_file: catalog.json, with the columns that the warehouse had.
    :param built: catalog.json describes these very models, as what is deployed. Known by itself where one run of dbt
        wrote both files.
    :param variables: ``vars`` of dbt_project.yml, where it is at hand.
    :param label: how a report calls this side.
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
        self.dialect = sqlglot_dialect(self.catalog.adapter)
        self.use_compiled = True
        self._variables = repr(variables)
        described = catalog_file or {}
        self._warehouse = {**(described.get("nodes") or {}), **(described.get("sources") or {})}
        self._built = built or _invocation(described) == _invocation(manifest) != ""
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
        """Relation, and its last two parts, → id of the node behind it."""
        found: dict[Relation, str] = {}
        for unique_id, node in self.nodes.items():
            if node.get("relation_name") and node["resource_type"] in ("model", "seed", "snapshot", "source"):
                parts = self.relation(node["relation_name"])
                found[parts] = unique_id
                found.setdefault(parts[-2:], unique_id)
        return found

    def find(self, ref: str) -> Model | None:
        """The model that a sync's ``model`` means, this project's own before another package's."""
        found = self._by_name.get(ref, ())
        own = [model for model in found if model.package == self.catalog.project]
        return next(iter(own or found), None)

    def find_relation(self, table: str) -> Model | None:
        """The model behind a table's name: as written, or by schema and name."""
        parts = self.relation(table)
        unique_id = self.by_relation.get(parts) or self.by_relation.get(parts[-2:])
        return self.models.get(unique_id or "")

    def models_of(self, model: ModelRef) -> list[Model]:
        """The models that a sync reads: the one that it names, or those behind its table or its query's tables."""
        if isinstance(model, SqlModel):
            found = {known.unique_id: known for name in self._tables(model.sql) if (known := self.find_relation(name))}
            return list(found.values())
        known = self.find(model) if isinstance(model, str) else self.find_relation(model.table)
        return [known] if known else []

    def _tables(self, sql: str) -> Iterator[str]:
        from sqlglot import exp

        query = parse(sql, self.dialect)
        for table in query.find_all(exp.Table) if query else ():
            if len(table.parts) > 1:
                yield ".".join(part.sql(self.dialect) for part in table.parts)

    def relation(self, text: str) -> Relation:
        """The parts of a relation's name, as the warehouse compares them."""
        return tuple(self._part(match) for match in _PART.finditer(text.strip()))

    def _part(self, match: re.Match[str]) -> str:
        adapter = self.catalog.adapter
        if match[4] is None:
            text = next(group for group in match.groups() if group is not None)
            return text if adapter in (*_KEPT_CASE, *_UPPER, "postgres", "redshift") else text.lower()
        return match[4] if adapter in _KEPT_CASE else match[4].upper() if adapter in _UPPER else match[4].lower()

    def warehouse_columns(self, unique_id: str) -> Mapping[str, str] | None:
        """Column → type as catalog.json has them; of models only if it describes them as they are here."""
        entry = self._warehouse.get(unique_id)
        if not entry or (unique_id.startswith("model.") and not self._built):
            return None
        columns = sorted(entry["columns"].values(), key=lambda column: column.get("index") or 0)
        return {column["name"]: column.get("type") or "" for column in columns}

    def parents(self, unique_id: str) -> tuple[str, ...]:
        node = self.nodes.get(unique_id, {})
        return tuple(p for p in (node.get("depends_on") or {}).get("nodes") or () if p in self.nodes and p != unique_id)

    def ancestors(self, unique_id: str) -> Iterator[str]:
        """Everything upstream, each once, nearest first."""
        seen = {unique_id}
        queue = [unique_id]
        while queue:
            for parent in self.parents(queue.pop(0)):
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
                    yield parent

    def code(self, unique_id: str) -> str:
        """The node's SQL as this comparison looks at it; raw, with Jinja, where it was not compiled."""
        node = self.nodes[unique_id]
        compiled = node.get("compiled_code") if self.use_compiled else None
        if not compiled:
            return (node.get("raw_code") or "").strip()
        for parent in self.parents(unique_id):  # another schema upstream is no other query
            compiled = compiled.replace(self.nodes[parent].get("relation_name") or "\0", table_name(parent))
        return str(compiled).strip()

    def own_digest(self, unique_id: str) -> str:
        """Changes when the node's own SQL, or a macro that it calls, does."""
        node = self.nodes[unique_id]
        parts = [self.code(unique_id)]
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
        """Changes when the node or anything upstream of it does. Where it is equal, so are columns and rows."""
        if unique_id not in self._digests:
            self._digests[unique_id] = ""  # a cycle cannot be, yet must not hang
            upstream = sorted(f"{parent} {self.digest(parent)}" for parent in self.parents(unique_id))
            text = "\n".join([self.own_digest(unique_id), *upstream])
            self._digests[unique_id] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[unique_id]

    def same(self, other: ProjectVersion, unique_id: str) -> bool:
        """Whether a node and everything upstream of it is the same on another side."""
        return unique_id in self.nodes and self.digest(unique_id) == other.digest(unique_id)

    @property
    def measured(self) -> bool:
        """Whether there is a catalog.json."""
        return bool(self._warehouse)

    def _macro_texts(self, wanted: Any) -> list[str]:
        seen: set[str] = set()
        queue = list(wanted)
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += (self.macros.get(name, {}).get("depends_on") or {}).get("macros") or ()
        # Those of dbt itself change with its version, not with the project.
        engine = ("dbt", f"dbt_{self.catalog.adapter}", "dbt_postgres")
        project = sorted(name for name in seen if name.split(".")[1] not in engine)
        return [str(self.macros.get(name, {}).get("macro_sql")) for name in project]

    def statement(self, unique_id: str) -> exp.Query | None:
        """The node's query, its tables named by their nodes' ids (:func:`table_name`). None when it is not known."""
        if unique_id not in self._statements:
            self._statements[unique_id] = self._parse(unique_id)
        return self._statements[unique_id]

    def _parse(self, unique_id: str) -> exp.Query | None:
        from sqlglot import exp

        node = self.nodes[unique_id]
        if node["resource_type"] != "model" or node.get("language", "sql") != "sql":
            return None
        compiled = self.use_compiled and node.get("compiled_code")
        sql = node["compiled_code"] if compiled else self._render(node)
        tree = parse(sql, self.dialect) if sql else None
        if not isinstance(tree, exp.Query):
            return None
        rendered = {table_name(name): name for name in (unique_id, *self.parents(unique_id))}
        for table in list(tree.find_all(exp.Table)):
            self._rename(table, rendered)
        return tree

    def _rename(self, table: exp.Table, rendered: Mapping[str, str]) -> None:
        from sqlglot import exp

        parts = self.relation(".".join(part.sql(self.dialect) for part in table.parts))
        unique_id = rendered.get(table.name) or self.by_relation.get(parts)
        unique_id = unique_id or (self.by_relation.get(parts[-2:]) if len(parts) > 1 else None)
        if unique_id:
            node = self.nodes[unique_id]
            alias = table.alias or node.get("alias") or node.get("identifier") or node["name"]
            table.set("db", None)
            table.set("catalog", None)
            table.set("this", exp.to_identifier(table_name(unique_id)))
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))

    def _render(self, node: Mapping[str, Any]) -> str | None:
        """The SQL of a model that was only parsed."""
        return render(
            node.get("raw_code") or "",
            ref=lambda *words, **version: table_name(self._ref(node, words, version)),
            source=lambda *words: table_name(self._parent(node, f".{'.'.join(words)}")),
            config=lambda *_, **__: "",
            this=table_name(node["unique_id"]),
            is_incremental=lambda: False,
        )

    def _ref(self, node: Mapping[str, Any], words: tuple[str, ...], version: Mapping[str, Any]) -> str:
        pinned = version.get("v", version.get("version"))
        model = self.find(".".join([*words, *([f"v{pinned}"] if pinned is not None else [])]))
        return model.unique_id if model else self._parent(node, f".{words[-1]}")

    def _parent(self, node: Mapping[str, Any], ends: str) -> str:
        """The parent whose id ends so. Raises LookupError when it is none, or not clear."""
        found = [p for p in self.parents(node["unique_id"]) if p.endswith(ends)]
        if len(found) != 1:
            raise LookupError(ends)
        return found[0]


def table_name(unique_id: str) -> str:
    """A node's id as a plain SQL name."""
    return re.sub(r"\W", "__", unique_id).lower()


def _invocation(artifact: Mapping[str, Any]) -> str:
    return str((artifact.get("metadata") or {}).get("invocation_id") or "")
