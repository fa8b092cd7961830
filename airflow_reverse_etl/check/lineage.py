"""The columns of a model without a warehouse: names, types and lineage, as far as the artifacts reveal them.

Sources, in this order: the manifest, if a contract makes dbt enforce it; catalog.json, if it describes this very model;
the SQL of the model and everything upstream, analysed on top of sqlglot's qualify and scopes. Documented columns are
the last resort, because nothing keeps documentation true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from airflow_reverse_etl.check.project_version import ProjectVersion, table_name
from airflow_reverse_etl.spec.columns import Column

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

#: Where the columns of a node come from.
Origin = Literal["contract", "catalog", "sql", "documentation"]

_MISSING = re.compile(r"\0([^\0]+)\0")  # marks a missing input inside a lineage id
_FAMILIES = (
    ("boolean", r"bool"),
    ("timestamp", r"timestamp|datetime|smalldatetime"),
    ("date", r"date$"),
    ("time", r"time"),
    ("interval", r"interval"),
    ("json", r"json|variant|super|object$"),
    ("array", r"array|list|.*\[\]$"),
    ("struct", r"struct|record|row\b|map|object\("),
    ("binary", r"bytea|bytes|binary|varbinary|blob|image"),
    ("number", r"u?(tiny|small|medium|big|huge)?int|byteint|long|short|(small|big)?serial|number|numeric|bignumeric"),
    ("number", r"dec|decimal|bigdecimal|float|double|real|money"),
    ("text", r"n?(var)?char|character|string|n?text|citext|uuid|uniqueidentifier|enum|clob|name$"),
    ("geography", r"geo"),
)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one node.

    :param by_name: column by its name in lower case; all columns of the node, unless ``origin`` is ``documentation``.
    """

    by_name: Mapping[str, Column]
    origin: Origin
    lineage: ColumnLineage | None = None

    @property
    def complete(self) -> bool:
        """Return True if no other columns exist."""
        return self.origin != "documentation"

    def get(self, name: str) -> Column | None:
        """Return a column by its name, compared case-insensitively."""
        return self.by_name.get(name.lower())

    def lineage_id(self, name: str) -> str:
        """Return an id that is equal for columns with the same lineage, or an empty string if it is unknown."""
        return self.lineage.lineage_id(name) if self.lineage else ""

    def missing_input(self, name: str) -> str | None:
        """Return the missing input, ``table.column``, that a column is computed from, if any."""
        found = _MISSING.search(self.lineage_id(name))
        return found[1] if found else None


def family(data_type: str) -> str | None:
    """Return the family of a type, such as ``number`` or ``text``, or None for an unknown type.

    Destinations distinguish families, not types.
    """
    text = data_type.strip().lower()
    for name, pattern in _FAMILIES:
        if re.match(pattern, text):
            return name
    return None


@dataclass(slots=True)
class ColumnResolver:
    """A cache of the columns of one project version.

    :param other: the resolver of the other version, whose lineage is reused for nodes that are the same in both.
    """

    project: ProjectVersion
    other: ColumnResolver | None = None
    _columns: dict[str, Columns] = field(default_factory=dict)
    _lineages: dict[str, ColumnLineage | None] = field(default_factory=dict)

    def columns(self, unique_id: str) -> Columns:
        """Return the columns of a node."""
        if unique_id not in self._columns:
            self._columns[unique_id] = Columns({}, "documentation")  # ends a recursion, should parents form a cycle
            self._columns[unique_id] = self._resolve(unique_id)
        return self._columns[unique_id]

    def _resolve(self, unique_id: str) -> Columns:
        node = self.project.nodes[unique_id]
        declared: dict[str, Column] = {}
        for entry in node["columns"].values():
            declared[entry["name"].lower()] = Column(entry["name"], entry.get("data_type") or "")
        warehouse = self.project.warehouse_columns(unique_id)
        lineage = self.lineage(unique_id)
        selected = lineage.columns if lineage else {}
        if (node.get("contract") or {}).get("enforced"):
            return Columns(_with_types(declared, selected), "contract", lineage)
        if warehouse is not None:
            reported = {name.lower(): Column(name, data_type) for name, data_type in warehouse.items()}
            return Columns(reported, "catalog", lineage)
        if selected:
            return Columns(_with_types(selected, declared), "sql", lineage)
        return Columns(declared, "documentation")

    def lineage(self, unique_id: str) -> ColumnLineage | None:
        """Return the lineage of a node's columns, or None if its SQL does not reveal all of them."""
        if unique_id not in self._lineages:
            self._lineages[unique_id] = self._analyse(unique_id)
        return self._lineages[unique_id]

    def _analyse(self, unique_id: str) -> ColumnLineage | None:
        # Columns of a catalog.json may differ between the versions although the SQL is the same.
        other = self.other
        reusable = other and not (self.project.has_catalog_file or other.project.has_catalog_file)
        if other and reusable and other.project.has_same(unique_id, self.project):
            return other.lineage(unique_id)
        statement = self.project.statement(unique_id)
        return ColumnLineage.of(statement, unique_id, self) if statement else None


def _with_types(columns: Mapping[str, Column], other: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns, with the types of another source for those that have none."""
    typed: dict[str, Column] = {}
    for name, column in columns.items():
        if not column.data_type and name in other:
            column = replace(column, data_type=other[name].data_type)
        typed[name] = column
    return typed


@dataclass(slots=True)
class ColumnLineage:
    """The columns of one statement, and the lineage of each up to the project's sources.

    :param parents: table name in the statement → id of its node.
    """

    resolver: ColumnResolver
    parents: Mapping[str, str]
    scope: Scope
    columns: Mapping[str, Column]
    _ids: dict[tuple[int, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, statement: exp.Query, unique_id: str, resolver: ColumnResolver) -> ColumnLineage | None:
        """Analyse a statement. Returns None if it does not reveal the names of all its columns."""
        from sqlglot.optimizer.annotate_types import annotate_types
        from sqlglot.optimizer.qualify import qualify
        from sqlglot.optimizer.scope import build_scope

        dialect = resolver.project.dialect
        parents = {table_name(parent): parent for parent in resolver.project.parents(unique_id)}
        scope = None
        # sqlglot rejects a query that names a missing column of a known table: then try again with unknown tables.
        for schema in (_schema(resolver, parents), {}):
            try:
                tree = qualify(
                    statement.copy(),
                    schema=schema,
                    dialect=dialect,
                    validate_qualify_columns=False,
                    quote_identifiers=False,
                    identify=False,
                )
                tree = annotate_types(tree, schema=schema, dialect=dialect)
                scope = build_scope(tree)
                break
            except Exception:  # noqa: BLE001, S112 - the columns of a query that sqlglot cannot analyse are unknown
                continue
        if scope is None or tree.is_star or not _all_named(tree):
            return None
        columns: dict[str, Column] = {}
        for select in tree.selects:
            name = select.alias_or_name
            columns[name.lower()] = Column(name, _type(select, dialect))
        return cls(resolver, parents, scope, columns)

    def lineage_id(self, name: str) -> str:
        """Return the lineage id of a column, or an empty string for an unknown column."""
        return self._column_id(self.scope, name) if name.lower() in self.columns else ""

    def _column_id(self, scope: Scope, name: str) -> str:
        """Return the lineage id of a scope's column: a digest of its expression, with inputs named by their ids."""
        key = (id(scope), name.lower())
        if key not in self._ids:
            self._ids[key] = f"{name.lower()} of itself"  # for a recursive CTE, which reads its own column
            # Before sqlglot 30 the attribute was named union_scopes.
            branches = getattr(scope, "set_operation_scopes", None) or getattr(scope, "union_scopes", [])
            parts = [self._column_id(branch, self._name_in_branch(scope, branch, name)) for branch in branches]
            text = " union ".join(parts) if parts else self._expression(scope, name)
            missing = _MISSING.search(text)
            self._ids[key] = missing[0] if missing else sha256(text.encode()).hexdigest()[:16]
        return self._ids[key]

    @staticmethod
    def _name_in_branch(scope: Scope, branch: Scope, name: str) -> str:
        """Return the name that a column of a set operation has in a branch.

        The first branch names the columns, and columns of the same position belong together.
        """
        names = [known.lower() for known in getattr(scope.expression, "named_selects", ())]
        branch_names = list(getattr(branch.expression, "named_selects", ()))
        if name.lower() not in names:
            return name
        position = names.index(name.lower())
        return str(branch_names[position]) if position < len(branch_names) else name

    def _expression(self, scope: Scope, name: str) -> str:
        """Return the expression of a scope's column, with inputs named by their lineage ids."""
        from sqlglot import exp

        selects = getattr(scope.expression, "selects", [])
        select = next((item for item in selects if item.alias_or_name.lower() == name.lower()), None)
        if select is None:
            return self._unqualified_id(scope, name)
        tree = select.unalias().copy()
        if isinstance(tree, exp.Column):
            return f"column {exp.to_identifier(self._input_id(scope, tree))}"
        for column in list(tree.find_all(exp.Column)):
            input_id = exp.to_identifier(self._input_id(scope, column))
            column.replace(exp.column(input_id))
        return str(tree.sql(dialect=self.resolver.project.dialect, comments=False, normalize=True))

    def _input_id(self, scope: Scope, column: exp.Column) -> str:
        """Return the lineage id of a column that an expression reads."""
        if not column.table:
            return self._unqualified_id(scope, column.name)
        source = scope.sources.get(column.table)
        return self._source_id(source, column.name) if source else f"{column.table}.{column.name.lower()}"

    def _unqualified_id(self, scope: Scope, name: str) -> str:
        """Return the lineage id of a column that any of the scope's sources may have."""
        candidates = [source for source in scope.sources.values() if not self._lacks(source, name)]
        if scope.sources and not candidates:
            return _missing(next(iter(scope.sources)), name)
        ids = [self._source_id(source, name) for source in candidates]
        return " or ".join(ids) or f"{name.lower()} of {scope.expression.sql()}"

    def _source_id(self, source: exp.Table | Scope, name: str) -> str:
        """Return the lineage id of a column of a table, a CTE or a subquery."""
        from sqlglot import exp

        if not isinstance(source, exp.Table):
            return self._column_id(source, name)
        parent = self.parents.get(source.name.lower())
        if not parent:
            return f"{name.lower()} of {source.sql()}"
        columns = self.resolver.columns(parent)
        if columns.complete and not columns.get(name) and not source.args.get("pivots"):
            return _missing(parent.split(".")[-1], name)
        # A column without a lineage of its own changes with the whole parent.
        return columns.lineage_id(name) or f"{name.lower()} of {source.sql()} {self.resolver.project.digest(parent)}"

    def _lacks(self, source: exp.Table | Scope, name: str) -> bool:
        """Return True if a source certainly has no such column."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            parent = self.parents.get(source.name.lower())
            columns = self.resolver.columns(parent) if parent and not source.args.get("pivots") else None
            return columns is not None and columns.complete and not columns.get(name)
        query = source.expression
        if not isinstance(query, exp.Query) or query.is_star:
            return False
        return name.lower() not in (known.lower() for known in query.named_selects)


def _missing(table: str, column: str) -> str:
    return f"\0{table}.{column.lower()}\0"


def _all_named(tree: exp.Query) -> bool:
    """Return True if every column has an explicit name. Warehouses name unaliased expressions differently."""
    from sqlglot import exp

    names = tree.named_selects
    by_name = any(operation.args.get("by_name") for operation in tree.find_all(exp.SetOperation))
    return bool(names) and not by_name and not any(re.fullmatch(r"(?i)|_col_\d+", name) for name in names)


def _schema(resolver: ColumnResolver, parents: Mapping[str, str]) -> dict[str, object]:
    """Return the parents whose columns are all known. sqlglot expands ``*`` for these tables only."""
    found: dict[str, object] = {}
    for table, parent in parents.items():
        columns = resolver.columns(parent)
        if columns.complete:
            found[table] = {c.name: c.data_type or "unknown" for c in columns.by_name.values()}
    return found


def _type(select: exp.Expr, dialect: str | None) -> str:
    from sqlglot import exp

    data_type = select.type
    unknown = (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL)
    if not isinstance(data_type, exp.DataType) or data_type.this in unknown:
        return ""
    return data_type.sql(dialect)
