"""Marks of all columns of a dbt project: those that dbt declares, and those that come from upstream by lineage.

What a column declares itself is the last word. Otherwise a column carries the marks of all its inputs, and those of its
model. A model whose SQL cannot be analysed has unknown marks, unless nothing upstream has any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.check.lineage import ColumnResolver
from airflow_reverse_etl.check.privacy.inputs import OTHERS, Tracer
from airflow_reverse_etl.check.project.mark_lines import mark_lines
from airflow_reverse_etl.check.project.version import ProjectVersion, table_name
from airflow_reverse_etl.dbt.catalog import Catalog
from airflow_reverse_etl.dbt.manifest import tags_and_meta
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.privacy.marks import ColumnMarks, Mark, ModelMarks, declared_marks

if TYPE_CHECKING:
    from airflow_reverse_etl.check.lineage import ColumnLineage

#: Column that stands for a whole model.
WHOLE = "*"
_NONE = ColumnMarks()


def with_marks(catalog: Catalog, project: ProjectVersion) -> Catalog:
    """Return a catalog whose models have the marks of their columns.

    :param project: the version of the project that the catalog was made from.
    """
    marking = Marking(project)
    models = [replace(model, marks=marking.of(model.unique_id)) for model in catalog.models]
    return replace(catalog, models=tuple(models))


def marked(catalog: Catalog, manifest: Mapping[str, Any], *, folder: str = "", project: Path | None = None) -> Catalog:
    """Return the catalog of a manifest, with the marks of its models' columns.

    :param folder: the dbt project's folder in its repository, for the places of marks.
    :param project: the checked-out folder of the project; None if only the manifest is there.
    """
    lines = mark_lines(manifest, project) if project else None
    return with_marks(catalog, ProjectVersion(manifest, catalog=catalog, mark_lines=lines, folder=folder))


def marks_of(sync: Sync, project: ProjectVersion | None) -> ModelMarks | None:
    """Return the marks of a sync's model; None if it is not a model of the project."""
    model = project.find(sync.model) if project and isinstance(sync.model, str) else None
    return Marking(project).of(model.unique_id) if project and model else None


@dataclass(slots=True)
class Marking:
    """A cache of the marks of one version of a project."""

    project: ProjectVersion
    resolver: ColumnResolver | None = None
    _declared: dict[str, _Declared] = field(default_factory=dict)
    _found: dict[str, ModelMarks] = field(default_factory=dict)
    _nodes: dict[str, str] = field(default_factory=dict)
    _is_empty: bool = True

    def __post_init__(self) -> None:
        self.resolver = self.resolver or ColumnResolver(self.project)
        for unique_id, node in self.project.nodes.items():
            if node.get("columns") or node.get("tags") or node.get("meta") or node.get("config"):
                self._declared[unique_id] = _declared(unique_id, node, self.project)
                self._is_empty &= not self._declared[unique_id].is_marked
        self._nodes = {table_name(unique_id): unique_id for unique_id in self.project.nodes}

    def of(self, unique_id: str) -> ModelMarks:
        """Return the marks of a node's columns."""
        if unique_id not in self._found:
            self._found[unique_id] = ModelMarks()  # dbt rejects cycles; a broken manifest must end, too
            # Nothing to find, and nothing to analyse, in a project without marks.
            if not self._is_empty:
                self._found[unique_id] = self._find(unique_id)
        return self._found[unique_id]

    def _find(self, unique_id: str) -> ModelMarks:
        declared = self._declared.get(unique_id, _Declared())
        tracers = self._tracers(unique_id)
        names = set(declared.columns)
        for tracer in tracers or ():
            names |= tracer.names()
        if tracers and any(tracer.stars() for tracer in tracers):
            # What a "*" passes on.
            for node in self._read_by(unique_id):
                names |= set(self.of(node).columns)
        others = self._of_column(unique_id, OTHERS, declared, tracers)
        columns = {name: self._of_column(unique_id, name, declared, tracers) for name in sorted(names)}
        differing = {name: marks for name, marks in columns.items() if marks != others or name in declared.columns}
        model = self.project.models.get(unique_id)
        return ModelMarks(differing, others, self.project.dialect, model.primary_key if model else ())

    def _tracers(self, unique_id: str) -> list[Tracer] | None:
        """Return a tracer for each of a node's statements; None if one of them cannot be analysed."""
        assert self.resolver is not None
        statements: Iterable[ColumnLineage] = self.resolver.statements(unique_id)
        return [Tracer(statement.scope, self._nodes) for statement in statements] or None

    def _read_by(self, unique_id: str) -> set[str]:
        """Return the nodes that a node's statements read, whether dbt knows that or not."""
        from sqlglot import exp

        found = set(self.project.parents(unique_id))
        for statement in self.project.statements(unique_id) or ():
            for table in statement.find_all(exp.Table):
                if table.name.lower() in self._nodes:
                    found.add(self._nodes[table.name.lower()])
        return found - {unique_id}

    def _of_column(self, unique_id: str, name: str, declared: _Declared, tracers: list[Tracer] | None) -> ColumnMarks:
        own = declared.columns.get(name)
        if own is not None:
            return ColumnMarks(own)
        if declared.whole == ():
            return _NONE
        found = ColumnMarks(declared.whole or ())
        if tracers is None:
            return found | self._of_unread(unique_id)
        for tracer in tracers:
            found |= self._of_inputs(unique_id, tracer, name)
        return found

    def _of_unread(self, unique_id: str) -> ColumnMarks:
        """Return the marks of a node without an analysed statement: a source, a seed, or SQL that cannot be read."""
        for parent in self.project.parents(unique_id):
            if _carries(self.of(parent)):
                return ColumnMarks(unknown=f"the SQL of {self._name(unique_id)} cannot be analysed")
        return _NONE

    def _of_inputs(self, unique_id: str, tracer: Tracer, name: str) -> ColumnMarks:
        inputs = tracer.inputs_of(name)
        unknown = min(inputs.unknown, default="")
        found = ColumnMarks(unknown=f"{self._name(unique_id)}: {unknown}" if unknown else "")
        for node, column in sorted(inputs.columns):
            # An incremental model that reads itself adds nothing.
            if node != unique_id:
                found |= self.of(node).of(column)
        for node in sorted(inputs.nodes - {unique_id}):
            marks = self.of(node)
            for one in (*marks.columns.values(), marks.others):
                found |= one
        return found

    def _name(self, unique_id: str) -> str:
        return str(self.project.nodes[unique_id]["name"])


def _carries(marks: ModelMarks) -> bool:
    """Return True if a column of a model has a mark, or may have one."""
    return any(one.marks or one.unknown for one in (*marks.columns.values(), marks.others))


@dataclass(frozen=True, slots=True)
class _Declared:
    """Marks that dbt declares of a node.

    :param columns: column in lower case → its marks, for columns that say something of personal data.
    :param whole: marks of the node itself; None if it says nothing.
    """

    columns: Mapping[str, tuple[Mark, ...]] = field(default_factory=dict)
    whole: tuple[Mark, ...] | None = None

    @property
    def is_marked(self) -> bool:
        """Return True if dbt marks the node, or a column of it."""
        return bool(self.whole) or any(self.columns.values())


def _declared(unique_id: str, node: Mapping[str, Any], project: ProjectVersion) -> _Declared:
    lines = project.mark_lines.get(unique_id, {})
    file = _file(node, project)

    def marks(of: Mapping[str, Any], column: str) -> tuple[Mark, ...] | None:
        names = declared_marks(*tags_and_meta(of))
        if names is None:
            return None
        line = lines.get(column.lower())
        place = f"{file}:{line}" if line else file
        model = f"{node['source_name']}.{node['name']}" if node.get("source_name") else str(node["name"])
        return tuple(Mark(name, column, model, place) for name in names)

    whole = marks(node, WHOLE)
    columns: dict[str, tuple[Mark, ...]] = {}
    for entry in (node.get("columns") or {}).values():
        own = marks(entry, entry["name"])
        # Fusion writes the model's marks into every column.
        if own is not None and _names(own) != _names(whole):
            columns[entry["name"].lower()] = own
    return _Declared(columns, whole)


def _names(marks: tuple[Mark, ...] | None) -> list[str] | None:
    return None if marks is None else [mark.name for mark in marks]


def _file(node: Mapping[str, Any], project: ProjectVersion) -> str:
    """Return the file that has the properties of a node, relative to the repository."""
    path = str(node.get("patch_path") or node.get("original_file_path") or "").partition("://")
    return (PurePosixPath(project.folder) / (path[2] or path[0])).as_posix()
