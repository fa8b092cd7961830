"""The columns of a model without a warehouse: names, types and lineage, as far as the artifacts reveal them.

Sources, in this order: the manifest, if a contract makes dbt enforce it; catalog.json, if it describes this very model;
the file of a seed; the SQL of the model and everything upstream, analysed on top of sqlglot's qualify and scopes.
Documented columns are the last resort, because nothing keeps documentation true.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from airflow_reverse_etl.check.canonical import canonical
from airflow_reverse_etl.check.project.version import ProjectVersion, table_name
from airflow_reverse_etl.check.scopes import branches, is_plain, repeated, source_of, table_text
from airflow_reverse_etl.check.usage import FieldPath, compares_case, physical_name
from airflow_reverse_etl.spec.columns import Column

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

#: Where the columns of a node come from.
Origin = Literal["contract", "catalog", "file", "sql", "documentation"]

_MISSING = re.compile(r"\0([^\0]+)\0")  # marks a missing input inside a lineage id
# Columns that dbt adds to a snapshot.
_SNAPSHOT_COLUMNS = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to")
# Dialects in which DATE_TRUNC always returns a timestamp, which sqlglot does not know.
_TRUNCATES_TO_TIMESTAMP = ("postgres", "redshift")
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
    _read_from: dict[str, frozenset[str]] = field(default_factory=dict)
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

    def read_from(self, unique_id: str) -> frozenset[str]:
        """Return the columns of a node that any node of the project names."""
        if unique_id not in self._read_from:
            found: set[str] = set()
            for child in self.project.nodes:
                if unique_id in self.project.parents(child):
                    for statement in self.statements(child):
                        found |= statement.reads_of(unique_id)
            self._read_from[unique_id] = frozenset(found)
        return self._read_from[unique_id]

    def _analyse(self, unique_id: str) -> tuple[ColumnLineage, ...]:
        # Columns of a catalog.json may differ between the versions although the SQL is the same.
        other = self.other
        reusable = other and not (self.project.has_catalog_file or other.project.has_catalog_file)
        if other and reusable and other.project.has_same(unique_id, self.project):
            return other.statements(unique_id)
        parents = {table_name(parent): parent for parent in self.project.parents(unique_id)}
        schema = _schema(self, parents)
        types = _types(self, parents)
        # Equal SQL over parents of equal columns has equal scopes.
        shared = other or self
        key = (unique_id, repr(self.project.definition(unique_id)), repr(sorted(schema)), repr(sorted(types.items())))
        scopes = shared._scopes.get(key)
        if scopes is None:
            statements = self.project.statements(unique_id) or ()
            scopes = tuple(_scope(statement, schema, types, self.project.dialect) for statement in statements)
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
    _ids: dict[tuple[int, str, int | None], str] = field(default_factory=dict)
    _marks: dict[int, Mapping[str, str]] = field(default_factory=dict)
    _missing_inputs: frozenset[str] | None = None

    @classmethod
    def of(cls, scope: Scope, parents: Mapping[str, str], resolver: ColumnResolver) -> ColumnLineage:
        """Build the lineage of an analysed statement, with no columns if it does not reveal the names of all."""
        from sqlglot import exp

        tree = scope.expression
        columns: dict[str, Column] = {}
        if isinstance(tree, exp.Query) and not tree.is_star and _all_named(tree):
            for select in tree.selects:
                name = select.alias_or_name
                columns[name.lower()] = Column(name, type_of(select, resolver.project.dialect))
        return cls(resolver, parents, scope, columns)

    def lineage_id(self, name: str) -> str:
        """Return the lineage id of a column, or an empty string for an unknown column."""
        column = self.columns.get(name.lower())
        return self.column_id(self.scope, column.name) if column else ""

    def column_id(self, scope: Scope, name: str, position: int | None = None) -> str:
        """Return the lineage id of a scope's column: a digest of its expression, with inputs named by their ids.

        A column that is only passed on has the id of its input.

        :param position: place of the column, from 0, where its name does not tell: in a branch of a set operation.
        """
        key = (id(scope), self._compared(name), position)
        if key not in self._ids:
            self._ids[key] = f"{self._compared(name)} of itself"  # for a recursive CTE, which reads its own column
            self._ids[key] = self._find_id(scope, name, position)
        return self._ids[key]

    def _find_id(self, scope: Scope, name: str, position: int | None) -> str:
        from sqlglot import exp

        inner = branches(scope)
        if inner:
            if position is None:
                position = self._position(scope, name)
            parts = [self._id_in_branch(branch, name, position) for branch in inner]
            # UNION has no order.
            text = " union ".join(sorted(parts) if isinstance(scope.expression, exp.Union) else parts)
            return _short(text)
        select = self._select(scope, name) if position is None else getattr(scope.expression, "selects", ())[position]
        if select is not None:
            return self._text_or_input(scope, select.unalias())
        if lists_all(scope):
            return _missing("a query", name)
        return self._unqualified_id(scope, name)

    def _position(self, scope: Scope, name: str) -> int | None:
        """Return the place of a column of a set operation, whose first branch names the columns."""
        tree = scope.expression
        names = [self._compared(known) for known in getattr(tree, "named_selects", ())]
        if tree.args.get("by_name") or self._compared(name) not in names:
            return None
        return names.index(self._compared(name))

    def _id_in_branch(self, branch: Scope, name: str, position: int | None) -> str:
        """Return the lineage id that a column of a set operation has in a branch."""
        names = list(getattr(branch.expression, "named_selects", ()))
        if position is None or position >= len(names) or branch.expression.is_star:
            return self.column_id(branch, name)
        return self.column_id(branch, str(names[position]), position)

    def selects(self, scope: Scope, name: str) -> bool:
        """Return True if a query names a column of its result so."""
        names = getattr(scope.expression, "named_selects", ())
        return self._compared(name) in map(self._compared, names)

    def _select(self, scope: Scope, name: str) -> exp.Expr | None:
        for item in getattr(scope.expression, "selects", ()):
            if self._compared(item.alias_or_name) == self._compared(name):
                return item  # type: ignore[no-any-return]
        return None

    def _compared(self, name: str) -> str:
        """Return a name in the form in which the warehouse compares it."""
        return name if compares_case(self.resolver.project.dialect) else name.lower()

    def missing_inputs(self) -> frozenset[str]:
        """Return the inputs, ``table.column``, that any part of the statement reads and that its parents lack."""
        if self._missing_inputs is None:
            found: set[str] = set()
            for scope, column in self._reads():
                if not self._is_of_result(scope, column):
                    found.update(_MISSING.findall(self.input_id(scope, column)))
            self._missing_inputs = frozenset(found)
        return self._missing_inputs

    def _is_of_result(self, scope: Scope, column: exp.Column) -> bool:
        """Return True if a clause may name a column of the query's own result so."""
        from sqlglot import exp

        clause = column.find_ancestor(exp.Order, exp.Group, exp.Having, exp.Qualify, exp.Query)
        is_late = clause is not None and not isinstance(clause, exp.Query) and not isinstance(clause.parent, exp.Window)
        return is_late and not column.table and self.selects(scope, column.name)

    def unproven_inputs(self) -> set[tuple[str, str]]:
        """Return id and column of what the statement reads of a parent of which not all columns are known."""
        found: set[tuple[str, str]] = set()
        for scope, column in self._reads():
            parent = self._parent_of(scope, column)
            if parent:
                columns = self.resolver.columns(parent)
                if not columns.complete and not self._has(columns, column.name):
                    found.add((parent, self._compared(column.name)))
        return found

    def unknown_tables(self) -> set[str]:
        """Return the columns, ``table.column``, that the statement reads of a table that their query does not have."""
        reads = [(scope, column) for scope, column in self._reads() if column.table]
        unknown = [column for scope, column in reads if source_of(scope, column.table) is None]
        return {f"{column.table}.{self._compared(column.name)}" for column in unknown}

    def duplicates(self) -> set[str]:
        """Return the names that several columns of the statement have. Few warehouses build a table of them."""
        names = Counter(self._compared(name) for name in getattr(self.scope.expression, "named_selects", ()))
        return {name for name, times in names.items() if times > 1 and name != "*"}

    def reads_of(self, parent: str) -> set[str]:
        """Return the columns of a parent that the statement names."""
        found: set[str] = set()
        for scope, column in self._reads():
            if self._parent_of(scope, column) == parent:
                found.add(self._compared(column.name))
        return found

    def _parent_of(self, scope: Scope, column: exp.Column) -> str | None:
        """Return the id of the parent whose column this is, if it is one's."""
        from sqlglot import exp

        alias = column.table
        if not alias and len(scope.selected_sources) == 1:
            (alias,) = scope.selected_sources
        source = source_of(scope, alias) if alias else None
        return self.parents.get(source.name.lower()) if isinstance(source, exp.Table) else None

    def _reads(self) -> Iterator[tuple[Scope, exp.Column]]:
        from sqlglot import exp

        for scope in self.scope.traverse():
            # sqlglot leaves out the names in HAVING and QUALIFY that it could not give a table.
            late = [column for column in _late_columns(scope.expression) if not column.table]
            for column in (*scope.columns, *late):
                if not isinstance(column.this, exp.Star):
                    yield scope, column

    def _text_or_input(self, scope: Scope, expression: exp.Expr) -> str:
        from sqlglot import exp

        bare = expression.unnest()
        return self.input_id(scope, bare) if isinstance(bare, exp.Column) else _short(self.text(scope, bare))

    def text(self, scope: Scope, expression: exp.Expr) -> str:
        """Return an expression of a scope as a text, with columns named by their lineage ids."""
        from sqlglot import exp

        tree = exp.Paren(this=expression.copy())
        inner = inner_scopes(scope)
        for column in list(tree.find_all(exp.Column)):
            # A column of a subquery in the expression is one of that query's, or of this one.
            owner = next((one for one in inner if column.table in one.selected_sources), scope)
            column.replace(exp.to_identifier(self.input_id(owner, column), quoted=True))
        return canonical(tree, self.resolver.project.dialect)

    def input_id(self, scope: Scope, column: exp.Column) -> str:
        """Return the lineage id of a column that an expression reads."""
        if not column.table:
            return self._unqualified_id(scope, column.name)
        source = source_of(scope, column.table)
        if source is None:
            return f"{column.table}.{self._compared(column.name)}"
        # Two readings of a table in one query are different rows.
        if id(scope) not in self._marks:
            self._marks[id(scope)] = repeated(scope)
        place = self._marks[id(scope)].get(column.table, "")
        found = scope.selected_sources.get(column.table)
        if found and not is_plain(found[0]) and not isinstance(source, type(found[0])):
            return f"{self._compared(column.name)} of {self.text(scope, found[0])}{place}"
        return f"{self._source_id(source, column.name)}{place}"

    def _unqualified_id(self, scope: Scope, name: str) -> str:
        """Return the lineage id of a column that any of the scope's sources may have."""
        sources = {alias: source for alias, (_, source) in scope.selected_sources.items()}
        candidates = [source for source in sources.values() if not self._lacks(source, name)]
        if sources and not candidates:
            return _missing(next(iter(sources)), name)
        ids = [self._source_id(source, name) for source in candidates]
        return " or ".join(ids) or f"{self._compared(name)} of {scope.expression.sql()}"

    def _source_id(self, source: exp.Table | Scope, name: str) -> str:
        """Return the lineage id of a column of a table, a CTE or a subquery."""
        from sqlglot import exp

        if not isinstance(source, exp.Table):
            return self.column_id(source, name)
        parent = self.parents.get(source.name.lower())
        name = self._compared(name)
        if not parent:
            return f"{name} of {table_text(source)}"
        columns = self.resolver.columns(parent)
        if columns.complete and not self._has(columns, name) and not source.args.get("pivots"):
            return _missing(parent.split(".")[-1], name)
        lineage_id = columns.lineage_id(name)
        if lineage_id:
            return lineage_id
        # A value in a seed's file changes rows, which is reported as such.
        if columns.origin == "file" or name.lower() in self.resolver.snapshot_columns(parent):
            return f"{name} of {parent}"
        # A column without a lineage of its own changes with the whole parent.
        return f"{name} of {parent} {self.resolver.project.digest(parent)}"

    def _has(self, columns: Columns, name: str) -> bool:
        spelling = name if compares_case(self.resolver.project.dialect) else None
        return columns.get(name, spelling=spelling) is not None

    def _lacks(self, source: exp.Table | Scope, name: str) -> bool:
        """Return True if a source certainly has no such column."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            parent = self.parents.get(source.name.lower())
            columns = self.resolver.columns(parent) if parent and not source.args.get("pivots") else None
            return columns is not None and columns.complete and not self._has(columns, name)
        return lists_all(source) and not self.selects(source, name)


def _short(text: str) -> str:
    """Return a digest of a text, or what it says to be missing."""
    missing = _MISSING.search(text)
    return missing[0] if missing else sha256(text.encode()).hexdigest()[:16]


def lists_all(scope: Scope) -> bool:
    """Return True if a query spells out the names of all its columns."""
    from sqlglot import exp

    query = scope.expression
    return isinstance(query, exp.Query) and not query.is_star and _all_named(query)


def _late_columns(tree: exp.Expr) -> Iterator[exp.Column]:
    from sqlglot import exp
    from sqlglot.optimizer.scope import find_all_in_scope

    for name in ("having", "qualify"):
        clause = tree.args.get(name)
        if clause:
            yield from find_all_in_scope(clause, exp.Column)


def inner_scopes(scope: Scope) -> list[Scope]:
    """Return the subqueries in a scope's expressions, those inside these included."""
    found: list[Scope] = []
    for inner in scope.subquery_scopes:
        found += [inner, *inner_scopes(inner)]
    return found


def _scope(
    statement: exp.Query,
    schema: Mapping[str, Mapping[str, str]],
    types: Mapping[str, Mapping[str, str]],
    dialect: str | None,
) -> Scope | None:
    """Analyse a statement. Returns None if sqlglot cannot.

    :param schema: tables whose columns are all known.
    :param types: these, and tables of which some columns are documented.
    """
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope
    from sqlglot.schema import MappingSchema

    # sqlglot rejects a query that names a missing column of a known table: then try again with unknown tables.
    for known in (schema, {}):
        try:
            # Names are the warehouse's own already.
            tables = MappingSchema(dict(known), dialect=dialect, normalize=False)
            tree = normalize_identifiers(statement.copy(), dialect=dialect)
            _attribute(tree, schema, types)
            tree = qualify(
                tree,
                schema=tables,
                dialect=dialect,
                validate_qualify_columns=False,
                quote_identifiers=False,
                identify=False,
            )
            documented = MappingSchema(dict(types), dialect=dialect, normalize=False)
            return build_scope(annotate_types(tree, schema=documented, dialect=dialect))
        except Exception:  # noqa: BLE001, S112 - the columns of a query that sqlglot cannot analyse are unknown
            continue
    return None


def _attribute(tree: exp.Expr, schema: Mapping[str, Mapping[str, str]], types: Mapping[str, Mapping[str, str]]) -> None:
    """Give the columns of each query that reads a single table, of unknown columns, that table's name.

    sqlglot would take ``amount`` in WHERE for what SELECT names so. Warehouses take the table's column if it exists.
    """
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    for scope in traverse_scope(tree):
        if len(scope.selected_sources) != 1 or not isinstance(scope.expression, exp.Select):
            continue
        ((alias, (_, source)),) = scope.selected_sources.items()
        if not isinstance(source, exp.Table) or source.name in schema:
            continue
        own = types.get(source.name, {}).keys() | _read_under_their_names(scope.expression)
        aliases = set(scope.expression.named_selects) - own
        for column in scope.columns:
            order = column.find_ancestor(exp.Order, exp.Query)
            is_order = isinstance(order, exp.Order) and not isinstance(order.parent, exp.Window)
            names_result = is_order and column.name in scope.expression.named_selects
            is_known = column.table or column.name in aliases or isinstance(column.this, exp.Star)
            if not is_known and not names_result:
                column.set("table", exp.to_identifier(alias))


def _read_under_their_names(query: exp.Select) -> set[str]:
    """Return the columns that a query reads in what it names like them, such as ``COALESCE(amount, 0) AS amount``."""
    from sqlglot import exp

    found: set[str] = set()
    for item in query.expressions:
        names = {column.name for column in item.find_all(exp.Column)}
        found |= names & {item.alias_or_name}
    return found


def _missing(table: str, column: str) -> str:
    return f"\0{table}.{column.lower()}\0"


def _all_named(tree: exp.Query) -> bool:
    """Return True if every column has an explicit name. Warehouses name unaliased expressions differently."""
    names = tree.named_selects
    return bool(names) and not _is_by_name(tree) and not any(re.fullmatch(r"(?i)|_col_\d+", name) for name in names)


def _is_by_name(tree: exp.Expr) -> bool:
    """Return True for a set operation that matches columns by their names, or contains one as a branch."""
    from sqlglot import exp

    tree = tree.unnest()
    is_operation = isinstance(tree, exp.SetOperation)
    return is_operation and (bool(tree.args.get("by_name")) or any(map(_is_by_name, (tree.this, tree.expression))))


def _schema(resolver: ColumnResolver, parents: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the parents whose columns are all known. sqlglot expands ``*`` for these tables only."""
    complete = {table for table, parent in parents.items() if resolver.columns(parent).complete}
    return {table: types for table, types in _types(resolver, parents).items() if table in complete}


def _types(resolver: ColumnResolver, parents: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the columns of all parents, with their types as far as they are known."""
    found: dict[str, dict[str, str]] = {}
    for table, parent in parents.items():
        columns = resolver.columns(parent).by_name.values()
        if columns:
            found[table] = {column.name: column.data_type or "unknown" for column in columns}
    return found


def type_of(select: exp.Expr, dialect: str | None) -> str:
    """Return the type of an analysed expression in the dialect's SQL; empty if it is unknown."""
    from sqlglot import exp

    data_type = select.type
    unknown = (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL)
    if not isinstance(data_type, exp.DataType) or data_type.this in unknown:
        is_truncated = isinstance(select.unalias(), exp.TimestampTrunc | exp.DateTrunc)
        return "TIMESTAMP" if is_truncated and dialect in _TRUNCATES_TO_TIMESTAMP else ""
    return data_type.sql(dialect)
