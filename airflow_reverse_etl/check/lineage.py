"""The columns of a model, as far as they can be known without a warehouse: names, types, and what each is made of.

Asked in this order: the manifest, where a contract makes dbt enforce what it declares; catalog.json, where it describes
this very model; sqlglot, on the model's SQL and that of everything upstream. Columns that are only documented are the
last resort: nothing keeps documentation true.
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

Known = Literal["contract", "catalog", "sql", "documentation"]

_LOST = re.compile(r"\0([^\0]+)\0")  # inside what a column is made of: an input that is not there
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
    """By name in lower case. Unless ``known`` is ``documentation``, these are all the columns there are."""

    by_name: Mapping[str, Column]
    known: Known
    derivation: ColumnLineage | None = None

    @property
    def complete(self) -> bool:
        return self.known != "documentation"

    def get(self, name: str) -> Column | None:
        return self.by_name.get(name.lower())

    def lineage_id(self, name: str) -> str:
        """Equal for columns that are computed alike from the same inputs; empty where that is not known."""
        return self.derivation.lineage_id(name) if self.derivation else ""

    def missing_input(self, name: str) -> str | None:
        """The input, ``table.column``, that a column is computed from and that is not there."""
        found = _LOST.search(self.lineage_id(name))
        return found[1] if found else None


def family(data_type: str) -> str | None:
    """``number``, ``text``, ``timestamp`` …: what a destination can tell apart. None for a type that is not known."""
    text = data_type.strip().lower()
    return next((name for name, pattern in _FAMILIES if re.match(pattern, text)), None)


@dataclass(slots=True)
class ColumnResolver:
    """What is known of one side's columns; each node is looked at once.

    :param other: the other side, whose derivations serve for what is the same there.
    """

    project: ProjectVersion
    other: ColumnResolver | None = None
    _found: dict[str, Columns] = field(default_factory=dict)
    _derivations: dict[str, ColumnLineage | None] = field(default_factory=dict)

    def columns(self, unique_id: str) -> Columns:
        if unique_id not in self._found:
            self._found[unique_id] = Columns({}, "documentation")  # while its parents are looked at
            self._found[unique_id] = self._columns(unique_id)
        return self._found[unique_id]

    def _columns(self, unique_id: str) -> Columns:
        node = self.project.nodes[unique_id]
        declared = {c["name"].lower(): Column(c["name"], c.get("data_type") or "") for c in node["columns"].values()}
        warehouse = self.project.warehouse_columns(unique_id)
        derivation = self.derivation(unique_id)
        derived = derivation.columns if derivation else {}
        if (node.get("contract") or {}).get("enforced"):
            return Columns(_typed(declared, derived), "contract", derivation)
        if warehouse is not None:
            there = {name.lower(): Column(name, kind) for name, kind in warehouse.items()}
            return Columns(there, "catalog", derivation)
        if derived:
            return Columns(_typed(derived, declared), "sql", derivation)
        return Columns(declared, "documentation")

    def derivation(self, unique_id: str) -> ColumnLineage | None:
        """What sqlglot makes of a model's SQL. None when it cannot tell all columns."""
        if unique_id not in self._derivations:
            same = self.other and not (self.project.measured or self.other.project.measured)
            if same and self.other and self.other.project.same(self.project, unique_id):
                self._derivations[unique_id] = self.other.derivation(unique_id)
            else:
                statement = self.project.statement(unique_id)
                self._derivations[unique_id] = ColumnLineage.of(statement, unique_id, self) if statement else None
        return self._derivations[unique_id]


def _typed(columns: Mapping[str, Column], other: Mapping[str, Column]) -> dict[str, Column]:
    """Columns, with another source's types where these have none."""
    none = Column("")
    return {n: replace(c, data_type=c.data_type or other.get(n, none).data_type) for n, c in columns.items()}


@dataclass(slots=True)
class ColumnLineage:
    """One statement's columns, and what each is made of, all the way up to the project's sources."""

    resolver: ColumnResolver
    parents: Mapping[str, str]
    scope: Scope
    columns: Mapping[str, Column]
    _digests: dict[tuple[int, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, statement: exp.Query, unique_id: str, resolver: ColumnResolver) -> ColumnLineage | None:
        from sqlglot.optimizer.annotate_types import annotate_types
        from sqlglot.optimizer.qualify import qualify
        from sqlglot.optimizer.scope import build_scope

        dialect = resolver.project.dialect
        parents = {table_name(parent): parent for parent in resolver.project.parents(unique_id)}
        scope = None
        # Without columns upstream where it will not do with them: it refuses a query that names one that is gone.
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
            except Exception:  # noqa: BLE001, S112 - what sqlglot does not understand, or stumbles over, is not known
                continue
        if scope is None or tree.is_star or not _all_named(tree):
            return None
        names = {select.alias_or_name: _type(select, dialect) for select in tree.selects}
        return cls(resolver, parents, scope, {name.lower(): Column(name, kind) for name, kind in names.items()})

    def lineage_id(self, name: str) -> str:
        return self._digest(self.scope, name) if name.lower() in self.columns else ""

    def _digest(self, scope: Scope, name: str) -> str:
        """What a scope's column is computed from: its expression, with every input replaced by what that is made of."""
        key = (id(scope), name.lower())
        if key not in self._digests:
            self._digests[key] = f"{name.lower()} of itself"  # recursive CTE
            # Their name before sqlglot 30 was union_scopes.
            branches = getattr(scope, "set_operation_scopes", None) or getattr(scope, "union_scopes", [])
            parts = [self._digest(branch, self._same_position(scope, branch, name)) for branch in branches]
            text = " union ".join(parts) if parts else self._expression(scope, name)
            lost = _LOST.search(text)
            self._digests[key] = lost[0] if lost else sha256(text.encode()).hexdigest()[:16]
        return self._digests[key]

    @staticmethod
    def _same_position(scope: Scope, branch: Scope, name: str) -> str:
        """A set operation's columns are named by its first branch."""
        first, own = (list(getattr(s.expression, "named_selects", ())) for s in (scope, branch))
        at = next((n for n, known in enumerate(first) if known.lower() == name.lower()), len(own))
        return str(own[at]) if at < len(own) else name

    def _expression(self, scope: Scope, name: str) -> str:
        from sqlglot import exp

        selects = getattr(scope.expression, "selects", [])
        select = next((s for s in selects if s.alias_or_name.lower() == name.lower()), None)
        if select is None:
            return self._unqualified(scope, name)
        tree = select.unalias().copy()
        for column in [tree] if isinstance(tree, exp.Column) else list(tree.find_all(exp.Column)):
            lineage_id = exp.to_identifier(self._source_digest(scope, column))
            if column is tree:
                return f"column {lineage_id}"
            column.replace(exp.column(lineage_id))
        return str(tree.sql(dialect=self.resolver.project.dialect, comments=False, normalize=True))

    def _source_digest(self, scope: Scope, column: exp.Column) -> str:
        if not column.table:
            return self._unqualified(scope, column.name)
        source = scope.sources.get(column.table)
        return self._from(source, column.name) if source else f"{column.table}.{column.name.lower()}"

    def _unqualified(self, scope: Scope, name: str) -> str:
        """Of a name that any of the scope's sources may have."""
        may = [source for source in scope.sources.values() if not self._lacks(source, name)]
        if scope.sources and not may:
            return _lost(next(iter(scope.sources)), name)
        return " or ".join(self._from(source, name) for source in may) or f"{name.lower()} of {scope.expression.sql()}"

    def _from(self, source: exp.Table | Scope, name: str) -> str:
        from sqlglot import exp

        if not isinstance(source, exp.Table):
            return self._digest(source, name)
        parent = self.parents.get(source.name.lower())
        if not parent:
            return f"{name.lower()} of {source.sql()}"
        columns = self.resolver.columns(parent)
        if columns.complete and not columns.get(name) and not source.args.get("pivots"):
            return _lost(parent.split(".")[-1], name)
        # What is not known in detail is what it is as a whole.
        return columns.lineage_id(name) or f"{name.lower()} of {source.sql()} {self.resolver.project.digest(parent)}"

    def _lacks(self, source: exp.Table | Scope, name: str) -> bool:
        """Whether it is certain that a source has no such column."""
        from sqlglot import exp

        if isinstance(source, exp.Table):
            parent = self.parents.get(source.name.lower())
            columns = self.resolver.columns(parent) if parent and not source.args.get("pivots") else None
            return columns is not None and columns.complete and not columns.get(name)
        query = source.expression
        if not isinstance(query, exp.Query) or query.is_star:
            return False
        return name.lower() not in (known.lower() for known in query.named_selects)


def _lost(table: str, column: str) -> str:
    return f"\0{table}.{column.lower()}\0"


def _all_named(tree: exp.Query) -> bool:
    """Whether every column has a name of its own: what an unnamed expression is called is the warehouse's choice."""
    from sqlglot import exp

    names = tree.named_selects
    by_name = any(operation.args.get("by_name") for operation in tree.find_all(exp.SetOperation))
    return bool(names) and not by_name and not any(re.fullmatch(r"(?i)|_col_\d+", name) for name in names)


def _schema(resolver: ColumnResolver, parents: Mapping[str, str]) -> dict[str, object]:
    """Tables whose columns are all known. sqlglot expands ``*`` only over those."""
    found: dict[str, object] = {}
    for table, parent in parents.items():
        columns = resolver.columns(parent)
        if columns.complete:
            found[table] = {c.name: c.data_type or "unknown" for c in columns.by_name.values()}
    return found


def _type(select: exp.Expr, dialect: str | None) -> str:
    from sqlglot import exp

    kind = select.type
    if not isinstance(kind, exp.DataType) or kind.this in (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL):
        return ""
    return kind.sql(dialect)
