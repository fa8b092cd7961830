"""The columns of a model without a warehouse: names, types and lineage, as far as the artifacts reveal them.

Sources, in this order: the manifest, if a contract makes dbt enforce it; catalog.json, if it describes this very model;
the file of a seed; the SQL of the model and everything upstream, analysed on top of sqlglot's qualify and scopes.
Documented columns are the last resort, because nothing keeps documentation true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from airflow_reverse_etl.check.project.version import ProjectVersion, table_name
from airflow_reverse_etl.check.usage import FieldPath, physical_name
from airflow_reverse_etl.spec.columns import Column

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

#: Where the columns of a node come from.
Origin = Literal["contract", "catalog", "file", "sql", "documentation"]

_MISSING = re.compile(r"\0([^\0]+)\0")  # marks a missing input inside a lineage id
# Columns that dbt adds to a snapshot.
_SNAPSHOT_COLUMNS = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to")
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
        ``Column.name`` is the warehouse's own spelling.
    :param lineages: lineage by each of the node's statements; empty if one of them is unknown.
    """

    by_name: Mapping[str, Column]
    origin: Origin
    lineages: tuple[ColumnLineage, ...] = ()

    @property
    def complete(self) -> bool:
        """Return True if no other columns exist."""
        return self.origin != "documentation"

    def get(self, name: str, *, spelling: str | None = None) -> Column | None:
        """Return a column by its name, compared case-insensitively.

        :param spelling: the name as the warehouse must spell it, for names that it compares exactly.
        """
        found = self.by_name.get(name.lower())
        return None if found and spelling and found.name != spelling else found

    def lineage_id(self, name: str) -> str:
        """Return an id that is equal for columns with the same lineage, or an empty string if it is unknown."""
        ids = [lineage.lineage_id(name) for lineage in self.lineages]
        return " or ".join(dict.fromkeys(ids)) if all(ids) else ""

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


def _field_types(data_type: str, dialect: str | None) -> dict[tuple[str, ...], str] | None:
    """Return the types of the fields inside a type by their paths in lower case.

    :returns: None if the type does not name its fields.
    """
    from sqlglot import exp

    try:
        parsed = exp.DataType.build(data_type, dialect=dialect)
    except Exception:  # noqa: BLE001 - a type that sqlglot cannot parse names no fields
        return None
    found: dict[tuple[str, ...], str] = {}
    _collect_fields(parsed, (), found, dialect)
    return found or None


def _collect_fields(
    data_type: exp.DataType, path: tuple[str, ...], found: dict[tuple[str, ...], str], dialect: str | None
) -> None:
    from sqlglot import exp

    for part in data_type.expressions:
        # A list of structs has their fields.
        if isinstance(part, exp.DataType):
            _collect_fields(part, path, found, dialect)
        elif isinstance(part, exp.ColumnDef) and isinstance(part.kind, exp.DataType):
            inner = (*path, part.name.lower())
            found[inner] = part.kind.sql(dialect)
            _collect_fields(part.kind, inner, found, dialect)


class FieldTypes:
    """The fields inside a column, before and after a change, as its type names them."""

    def __init__(self, before: Column, after: Column, dialect: str | None) -> None:
        self._before = _field_types(before.data_type, dialect)
        self._after = _field_types(after.data_type, dialect)
        self._nested = family(after.data_type) in ("json", "struct", "array", None)

    def lost(self, paths: Iterable[FieldPath]) -> str:
        """Return what happened to the first of the used fields that is missing or has another type, if any."""
        for path in sorted(paths):
            if not path or self._after is None:
                continue
            name = ".".join(path)
            if path not in self._after:
                return f"has no field {name}"
            old = (self._before or {}).get(path, "")
            new = self._after[path]
            if family(old) and family(new) and family(old) != family(new):
                return f"has a field {name} that changes from {old} to {new}"
        return ""

    def unknown(self, paths: Iterable[FieldPath]) -> bool:
        """Return True if the sync reads inside the column, and the type does not name what is there."""
        return self._nested and any(not path or self._after is None for path in paths)


@dataclass(slots=True)
class ColumnResolver:
    """A cache of the columns of one project version.

    :param other: the resolver of the other version, whose analysis of equal statements is reused.
    """

    project: ProjectVersion
    other: ColumnResolver | None = None
    _columns: dict[str, Columns] = field(default_factory=dict)
    _lineages: dict[str, tuple[ColumnLineage, ...]] = field(default_factory=dict)
    _scopes: dict[tuple[object, ...], tuple[Scope | None, ...]] = field(default_factory=dict)

    def columns(self, unique_id: str) -> Columns:
        """Return the columns of a node."""
        if unique_id not in self._columns:
            self._columns[unique_id] = Columns({}, "documentation")  # ends a recursion, should parents form a cycle
            self._columns[unique_id] = self._resolve(unique_id)
        return self._columns[unique_id]

    def _resolve(self, unique_id: str) -> Columns:
        node = self.project.nodes[unique_id]
        declared: dict[str, Column] = {}
        for entry in (node.get("columns") or {}).values():
            name = physical_name(entry["name"], self.project.dialect, quoted=bool(entry.get("quote")))
            declared[entry["name"].lower()] = Column(name, entry.get("data_type") or "")
        warehouse = self.project.warehouse_columns(unique_id)
        lineages = self.lineages(unique_id)
        selected = _in_every_branch(lineages)
        if selected and node["resource_type"] == "snapshot":
            selected |= {name: Column(name) for name in self.snapshot_columns(unique_id)}
        if (node.get("contract") or {}).get("enforced"):
            return Columns(_with_types(declared, selected), "contract", lineages)
        if warehouse is not None:
            reported = {name.lower(): Column(name, data_type) for name, data_type in warehouse.items()}
            return Columns(reported, "catalog", lineages)
        seed = self.project.seeds.get(unique_id)
        if seed:
            return Columns(_with_types(self._of_file(seed.columns, node), declared), "file")
        if selected:
            return Columns(_with_types(selected, declared), "sql", lineages)
        return Columns(declared, "documentation")

    def certain_names(self, unique_id: str) -> frozenset[str] | None:
        """Return the names of a node's columns in lower case if its own statement spells them out; cheap."""
        statements = self.project.statements(unique_id) or ()
        if not statements or any(tree.is_star or not _all_named(tree) for tree in statements):
            return None
        common = _lowered(statements[0]).intersection(*map(_lowered, statements))
        return common.union(self.snapshot_columns(unique_id))

    def _of_file(self, columns: tuple[Column, ...], node: Mapping[str, Any]) -> dict[str, Column]:
        config = node.get("config") or {}
        types = {name.lower(): data_type for name, data_type in (config.get("column_types") or {}).items()}
        found: dict[str, Column] = {}
        for column in columns:
            name = physical_name(column.name, self.project.dialect, quoted=bool(config.get("quote_columns")))
            found[column.name.lower()] = Column(name, types.get(column.name.lower()) or column.data_type)
        return found

    def snapshot_columns(self, unique_id: str) -> tuple[str, ...]:
        """Return the columns that dbt adds to a snapshot, in lower case; none for other nodes."""
        node = self.project.nodes[unique_id]
        if node["resource_type"] != "snapshot":
            return ()
        config = node.get("config") or {}
        names = [*_SNAPSHOT_COLUMNS]
        if config.get("hard_deletes") == "new_record":
            names.append("dbt_is_deleted")
        renamed = config.get("snapshot_meta_column_names") or {}
        return tuple(str(renamed.get(name) or name).lower() for name in names)

    def lineages(self, unique_id: str) -> tuple[ColumnLineage, ...]:
        """Return the lineage of a node's columns by each of its statements; empty if they do not reveal all columns."""
        found = self.statements(unique_id)
        return found if all(lineage.columns for lineage in found) else ()

    def statements(self, unique_id: str) -> tuple[ColumnLineage, ...]:
        """Return the analysis of each of a node's statements; empty if one of them cannot be analysed."""
        if unique_id not in self._lineages:
            self._lineages[unique_id] = self._analyse(unique_id)
        return self._lineages[unique_id]

    def _analyse(self, unique_id: str) -> tuple[ColumnLineage, ...]:
        # Columns of a catalog.json may differ between the versions although the SQL is the same.
        other = self.other
        reusable = other and not (self.project.has_catalog_file or other.project.has_catalog_file)
        if other and reusable and other.project.has_same(unique_id, self.project):
            return other.statements(unique_id)
        parents = {table_name(parent): parent for parent in self.project.parents(unique_id)}
        schema = _schema(self, parents)
        # Equal SQL over parents of equal columns has equal scopes.
        shared = other or self
        known = tuple((table, tuple(columns.items())) for table, columns in sorted(schema.items()))
        key = (unique_id, repr(self.project.definition(unique_id)), known)
        scopes = shared._scopes.get(key)
        if scopes is None:
            statements = self.project.statements(unique_id) or ()
            scopes = tuple(_scope(statement, schema, self.project.dialect) for statement in statements)
            shared._scopes[key] = scopes
        analysed = [ColumnLineage.of(scope, parents, self) for scope in scopes if scope]
        return tuple(analysed) if len(analysed) == len(scopes) else ()


def _in_every_branch(lineages: tuple[ColumnLineage, ...]) -> dict[str, Column]:
    """Return the columns that all statements of a node have, without a type where these differ."""
    found = dict(lineages[0].columns) if lineages else {}
    for other in lineages[1:]:
        for name, column in list(found.items()):
            branch = other.columns.get(name)
            if branch is None:
                del found[name]
            elif branch.data_type != column.data_type:
                found[name] = replace(column, data_type="")
    return found


def _lowered(tree: exp.Query) -> frozenset[str]:
    return frozenset(name.lower() for name in tree.named_selects)


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
    def of(cls, scope: Scope, parents: Mapping[str, str], resolver: ColumnResolver) -> ColumnLineage:
        """Build the lineage of an analysed statement, with no columns if it does not reveal the names of all."""
        from sqlglot import exp

        tree = scope.expression
        columns: dict[str, Column] = {}
        if isinstance(tree, exp.Query) and not tree.is_star and _all_named(tree):
            for select in tree.selects:
                name = select.alias_or_name
                columns[name.lower()] = Column(name, _type(select, resolver.project.dialect))
        return cls(resolver, parents, scope, columns)

    def lineage_id(self, name: str) -> str:
        """Return the lineage id of a column, or an empty string for an unknown column."""
        return self._column_id(self.scope, name) if name.lower() in self.columns else ""

    def _column_id(self, scope: Scope, name: str) -> str:
        """Return the lineage id of a scope's column: a digest of its expression, with inputs named by their ids."""
        key = (id(scope), name.lower())
        if key not in self._ids:
            self._ids[key] = f"{name.lower()} of itself"  # for a recursive CTE, which reads its own column
            parts = [self._column_id(branch, self._name_in_branch(scope, branch, name)) for branch in branches(scope)]
            text = " union ".join(parts) if parts else self._expression(scope, name)
            missing = _MISSING.search(text)
            self._ids[key] = missing[0] if missing else sha256(text.encode()).hexdigest()[:16]
        return self._ids[key]

    def missing_inputs(self) -> set[str]:
        """Return the inputs, ``table.column``, that any part of the statement reads and that its parents lack."""
        from sqlglot import exp

        found: set[str] = set()
        for scope in self.scope.traverse():
            sources = _sources(scope)
            for column in scope.columns:
                if not isinstance(column.this, exp.Star):
                    found.update(_MISSING.findall(self.input_id(scope, column, sources)))
        return found

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

        selects = getattr(scope.expression, "selects", [])
        select = next((item for item in selects if item.alias_or_name.lower() == name.lower()), None)
        if select is None:
            return self._unqualified_id(scope, name)
        return self.text(scope, select.unalias())

    def text(self, scope: Scope, expression: exp.Expr) -> str:
        """Return an expression of a scope as SQL, with columns named by their lineage ids."""
        from sqlglot import exp

        if isinstance(expression, exp.Column):
            return f"column {exp.to_identifier(self.input_id(scope, expression))}"
        sources = _sources(scope)
        tree = expression.copy()
        for column in list(tree.find_all(exp.Column)):
            input_id = exp.to_identifier(self.input_id(scope, column, sources))
            column.replace(exp.column(input_id))
        return str(tree.sql(dialect=self.resolver.project.dialect, comments=False, normalize=True))

    def input_id(self, scope: Scope, column: exp.Column, sources: Mapping[str, exp.Table | Scope] | None = None) -> str:
        """Return the lineage id of a column that an expression reads.

        :param sources: sources of the scope and its subqueries by alias; default: those of the scope.
        """
        if not column.table:
            return self._unqualified_id(scope, column.name)
        source = (scope.sources if sources is None else sources).get(column.table)
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
        lineage_id = columns.lineage_id(name)
        if lineage_id:
            return lineage_id
        # A value in a seed's file changes rows, which is reported as such.
        if columns.origin == "file" or name.lower() in self.resolver.snapshot_columns(parent):
            return f"{name.lower()} of {parent}"
        # A column without a lineage of its own changes with the whole parent.
        return f"{name.lower()} of {parent} {self.resolver.project.digest(parent)}"

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


def branches(scope: Scope) -> list[Scope]:
    """Return the scopes of a set operation's queries; empty for any other query."""
    # Before sqlglot 30 the attribute was named union_scopes.
    return getattr(scope, "set_operation_scopes", None) or getattr(scope, "union_scopes", None) or []


def _sources(scope: Scope) -> dict[str, exp.Table | Scope]:
    """Return the sources of a scope and of the subqueries in its expressions, by alias."""
    found: dict[str, exp.Table | Scope] = {}
    for inner in scope.subquery_scopes:
        found.update(_sources(inner))
    found.update(scope.sources)
    return found


def _scope(statement: exp.Query, schema: Mapping[str, Mapping[str, str]], dialect: str | None) -> Scope | None:
    """Analyse a statement. Returns None if sqlglot cannot."""
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope
    from sqlglot.schema import MappingSchema

    # sqlglot rejects a query that names a missing column of a known table: then try again with unknown tables.
    for known in (schema, {}):
        try:
            # Names are the warehouse's own already.
            tables = MappingSchema(dict(known), dialect=dialect, normalize=False)
            tree = qualify(
                statement.copy(),
                schema=tables,
                dialect=dialect,
                validate_qualify_columns=False,
                quote_identifiers=False,
                identify=False,
            )
            return build_scope(annotate_types(tree, schema=tables, dialect=dialect))
        except Exception:  # noqa: BLE001, S112 - the columns of a query that sqlglot cannot analyse are unknown
            continue
    return None


def _missing(table: str, column: str) -> str:
    return f"\0{table}.{column.lower()}\0"


def _all_named(tree: exp.Query) -> bool:
    """Return True if every column has an explicit name. Warehouses name unaliased expressions differently."""
    from sqlglot import exp

    names = tree.named_selects
    by_name = any(operation.args.get("by_name") for operation in tree.find_all(exp.SetOperation))
    return bool(names) and not by_name and not any(re.fullmatch(r"(?i)|_col_\d+", name) for name in names)


def _schema(resolver: ColumnResolver, parents: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the parents whose columns are all known. sqlglot expands ``*`` for these tables only."""
    found: dict[str, dict[str, str]] = {}
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
