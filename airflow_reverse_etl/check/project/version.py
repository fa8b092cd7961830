"""A dbt project at one commit, read from its artifacts: one of the two that a check compares.

SQL comes from the manifest: compiled by dbt, or else rendered here if it calls nothing but ``ref``, ``source``,
``config``, ``this`` and ``is_incremental``. Any other SQL is unknown and reported as such. A model that calls
``is_incremental`` has two statements, one for each answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.project.definition import definition
from airflow_reverse_etl.check.project.macros import Macros
from airflow_reverse_etl.check.project.rendering import render
from airflow_reverse_etl.check.project.seeds import Seed
from airflow_reverse_etl.check.project.selected import selected_names
from airflow_reverse_etl.check.usage import parse
from airflow_reverse_etl.dbt.catalog import Catalog, Model, names
from airflow_reverse_etl.dbt.manifest import read_manifest, read_tables
from airflow_reverse_etl.dbt.profiles import UNKNOWN_DATABASE
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
    :param variables: ``vars`` of every dbt_project.yml, if available.
    :param seeds: content of the seeds' files by the seeds' ids, as far as it is known.
    :param mark_lines: lines of the marks of personal data in the project's files: id of a node → column, or ``*`` for
        the node itself → line.
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
        seeds: Mapping[str, Seed] | None = None,
        mark_lines: Mapping[str, Mapping[str, int]] | None = None,
        label: str = "",
        folder: str = "",
    ) -> None:
        self.catalog = catalog or read_manifest(manifest, unknown_database=UNKNOWN_DATABASE)
        self.label = label
        self.folder = folder
        self.nodes: Mapping[str, Mapping[str, Any]] = {
            **manifest["nodes"],
            **(manifest.get("sources") or {}),
            **(manifest.get("functions") or {}),
        }
        self.macros = Macros(manifest.get("macros") or {}, self.catalog.adapter)
        self.seeds = seeds or {}
        self.mark_lines = mark_lines or {}
        self.disabled = frozenset(manifest.get("disabled") or ())
        self.models: Mapping[str, Model] = {model.unique_id: model for model in self.catalog.models}
        #: Everything that dbt builds as a table or view: models, seeds and snapshots.
        self.tables: Mapping[str, Model] = {**self.models, **read_tables(manifest)}
        dialect = writable_dialect(self.catalog.adapter)
        # None is sqlglot's generic SQL.
        self.dialect = dialect.name if dialect else None
        self.use_compiled = True
        self.other_target = False
        self.variables = self.unknown("variables") if variables is None else repr(variables)
        catalog_json = catalog_file or {}
        self._warehouse = {**(catalog_json.get("nodes") or {}), **(catalog_json.get("sources") or {})}
        self._built = built or _invocation(catalog_json) == _invocation(manifest) != ""
        self._definitions: dict[str, Mapping[str, str]] = {}
        self._digests: dict[str, str] = {}
        self._statements: dict[str, tuple[exp.Query, ...] | None] = {}

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
        return next(iter(self.named(ref)), None)

    def named(self, ref: str) -> list[Model]:
        """Return the models that a sync's ``model`` may name. A run fails if several packages have one."""
        found = self._by_name.get(ref, ())
        own = [model for model in found if model.package == self.catalog.project]
        return own or list(found)

    def built_as(self, table: str) -> list[Model]:
        """Return what builds a table: by its full name, by schema and name, or else by its name alone.

        Manifests are often made for another target, whose schemas have other names.
        """
        parts = self.relation(table)
        unique_id = self.by_relation.get(parts) or (len(parts) > 1 and self.by_relation.get(parts[-2:]))
        if unique_id:
            return [self.tables[unique_id]] if unique_id in self.tables else []
        return list(self._by_alias.get(parts[-1], ())) if parts else []

    @cached_property
    def _by_alias(self) -> Mapping[str, tuple[Model, ...]]:
        found: dict[str, tuple[Model, ...]] = {}
        for model in self.tables.values():
            if model.relation:
                name = self.relation(model.relation)[-1]
                found[name] = (*found.get(name, ()), model)
        return found

    def models_of(self, model: ModelRef) -> list[Model]:
        """Return what a sync reads: the model that it names, or what builds the tables that it reads."""
        if isinstance(model, str):
            known = self.find(model)
            return [known] if known else []
        tables = self._tables(model.sql) if isinstance(model, SqlModel) else [model.table]
        found: dict[str, Model] = {}
        for table in tables:
            found.update({built.unique_id: built for built in self.built_as(table)})
        return list(found.values())

    def _tables(self, sql: str) -> Iterator[str]:
        """Yield the names of a query's tables, except those of its CTEs."""
        from sqlglot import exp

        query = parse(sql, self.dialect)
        if query is None:
            return
        ctes = {cte.alias for cte in query.find_all(exp.CTE)}
        for table in query.find_all(exp.Table):
            if len(table.parts) > 1 or table.name not in ctes:
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

    def compiled(self, unique_id: str) -> str | None:
        """Return the compiled SQL of a node, with its parents' tables named by their ids; None if it is not used."""
        code = self.nodes[unique_id].get("compiled_code") if self.use_compiled else None
        if not code:
            return None
        # A parent in another schema does not make a different query.
        for parent in self.parents(unique_id):
            code = code.replace(self.nodes[parent].get("relation_name") or "\0", table_name(parent))
        return str(code)

    @cached_property
    def build_of_all(self) -> str:
        """Return what takes part in building every node: the project's own hooks, and macros that replace dbt's."""
        hooks = [
            f"{name} {node.get('raw_code')}"
            for name, node in sorted(self.nodes.items())
            if node["resource_type"] == "operation"
        ]
        macros = {**self.macros.named_in(hooks), **self.macros.implicit()}
        return "\n".join([*hooks, *macros.values()])

    def unknown(self, what: str) -> str:
        """Return a text for something that is not known. It differs from that of any other version."""
        return f"unknown {what} {id(self)}"

    def definition(self, unique_id: str) -> Mapping[str, str]:
        """Return what a node itself is made from; see :mod:`.definition`."""
        if unique_id not in self._definitions:
            self._definitions[unique_id] = definition(self, unique_id)
        return self._definitions[unique_id]

    def digest(self, unique_id: str) -> str:
        """Return a digest of the node and everything upstream. Nodes with equal digests have equal columns and rows."""
        if unique_id not in self._digests:
            self._digests[unique_id] = ""  # dbt rejects cycles; a broken manifest must not cause endless recursion
            upstream = sorted(f"{parent} {self.digest(parent)}" for parent in self.parents(unique_id))
            text = "\n".join([repr(self.definition(unique_id)), *upstream])
            self._digests[unique_id] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[unique_id]

    def has_same(self, unique_id: str, other: ProjectVersion) -> bool:
        """Return True if a node of the other version, and everything upstream, is the same in this version."""
        return unique_id in self.nodes and self.digest(unique_id) == other.digest(unique_id)

    @property
    def has_catalog_file(self) -> bool:
        """Return True if a catalog.json with columns is available."""
        return bool(self._warehouse)

    def statements(self, unique_id: str) -> tuple[exp.Query, ...] | None:
        """Return the node's queries, with tables named by the ids of their nodes (:func:`table_name`).

        :returns: one query, or one for each branch of ``is_incremental()``; None if one of them is unknown.
        """
        if unique_id not in self._statements:
            self._statements[unique_id] = self._parse(unique_id)
        return self._statements[unique_id]

    def selects(self, unique_id: str, names: Iterable[str]) -> bool:
        """Return True if the words of the node's SQL show that it selects columns of these names; cheap.

        :param names: in lower case.
        """
        texts = self._texts(unique_id, self.nodes[unique_id])
        return all(sql and selected_names(sql, self.dialect).issuperset(names) for sql in texts)

    def _parse(self, unique_id: str) -> tuple[exp.Query, ...] | None:
        from sqlglot import exp

        node = self.nodes[unique_id]
        if node["resource_type"] not in ("model", "snapshot") or node.get("language", "sql") != "sql":
            return None
        ids = {table_name(name): name for name in (unique_id, *self.parents(unique_id))}
        trees: list[exp.Query] = []
        for sql in self._texts(unique_id, node):
            tree = parse(sql, self.dialect) if sql else None
            if not isinstance(tree, exp.Query):
                return None
            for table in list(tree.find_all(exp.Table)):
                self._rename(table, ids)
            trees.append(tree)
        return tuple(trees)

    def _texts(self, unique_id: str, node: Mapping[str, Any]) -> list[str | None]:
        """Return the node's SQL, for each branch of ``is_incremental()`` if there are two. None: it is unknown."""
        compiled = node.get("compiled_code") if self.use_compiled else None
        if compiled and "SQL" not in self.definition(unique_id):
            return [compiled]
        answers = (False, True) if "is_incremental" in (node.get("raw_code") or "") else (False,)
        branches = [self._render(node, is_incremental=answer) for answer in answers]
        texts = [compiled, *branches] if compiled else branches
        return list(dict.fromkeys(texts))

    def _rename(self, table: exp.Table, ids: Mapping[str, str]) -> None:
        """Name a table of a query by the id of its node, if it has one.

        :param ids: table name in rendered SQL → id.
        """
        from sqlglot import exp

        parts = self.relation(".".join(part.sql(self.dialect) for part in table.parts))
        unique_id = ids.get(table.name) or ids.get(table.name.lower()) or self.by_relation.get(parts)
        if not unique_id and len(parts) > 1:
            unique_id = self.by_relation.get(parts[-2:])
        if unique_id:
            node = self.nodes[unique_id]
            alias = node.get("alias") or node.get("identifier") or node["name"]
            table.set("db", None)
            table.set("catalog", None)
            # Quoted, so that no dialect folds it.
            table.set("this", exp.to_identifier(table_name(unique_id), quoted=True))
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))

    def _render(self, node: Mapping[str, Any], *, is_incremental: bool) -> str | None:
        """Render the SQL of a model that dbt only parsed."""
        return render(
            node.get("raw_code") or "",
            ref=lambda *names, **version: table_name(self._ref(node, names, version)),
            source=lambda *names: table_name(self._parent(node, f".{'.'.join(names)}")),
            config=lambda *_, **__: "",
            this=table_name(node["unique_id"]),
            is_incremental=lambda: is_incremental,
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
