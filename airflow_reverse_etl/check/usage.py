"""The model and the columns that a sync uses, derived from its specification alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import Place, SyncSource
from airflow_reverse_etl.spec.model import EveryColumn, SqlField, SqlModel, Sync, TemplateField, column_of
from airflow_reverse_etl.spec.templates import template_columns

if TYPE_CHECKING:
    from sqlglot import exp


#: Names of the fields that lead to a value inside a column.
FieldPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """The columns that a sync reads.

    :param columns: name as the sync writes it → place where it does. Compare names case-insensitively.
    :param spellings: name as the sync writes it → name as the warehouse must spell it, for names that it compares
        exactly: those in quotes, and all of a query, where the warehouse distinguishes upper and lower case.
    :param fields: name as the sync writes it → paths of the fields that the sync reads inside that column; an empty
        path for anything but named fields.
    :param mentions: columns named in the query of a ``{sql: …}`` model. Any of the query's tables may have them.
    :param certain: the mentions that the query's only table must have.
    :param star: the query of a ``{sql: …}`` model selects ``*``, so any of its tables may have the ``columns`` too.
    :param unread: places that cannot be read, with the reason.
    """

    source: SyncSource
    columns: Mapping[str, Place]
    spellings: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, frozenset[FieldPath]] = field(default_factory=dict)
    mentions: Mapping[str, Place] = field(default_factory=dict)
    certain: frozenset[str] = frozenset()
    star: bool = False
    unread: tuple[tuple[Place, str], ...] = ()

    @property
    def excluded(self) -> frozenset[str] | None:
        """The columns, in lower case, that the mapping's ``"*"`` leaves out; None if it has none of this model's.

        A query without ``*`` names its columns itself.
        """
        sync = self.source.sync
        every = sync.mapping.get(sync.star or "")
        if not isinstance(every, EveryColumn) or (isinstance(sync.model, SqlModel) and not self.star):
            return None
        return frozenset(name.lower() for name in every.exclude)

    def query_columns(self) -> dict[str, Place]:
        """Return the columns that the tables of a ``{sql: …}`` model may have to provide."""
        columns = dict(self.columns) if self.star else {}
        columns.update(self.mentions)
        return columns


def usage(source: SyncSource, *, dialect: str | None) -> Usage:
    """Return the columns that the sync reads: in its mapping, by its explicit primary key, and as its cursor.

    :param dialect: sqlglot's name of the warehouse's SQL.
    """
    found: dict[str, Place] = {}
    reads = _Reads(dialect)
    unread: list[tuple[Place, str]] = []
    sync = source.sync
    for name in sync.primary_key or ():
        found.setdefault(name, source.place("primary_key"))
    if sync.cursor:
        found.setdefault(sync.cursor, source.place("track", "cursor"))
    # match_on names fields of the mapping.
    for target in sync.mapping:
        place = source.place("mapping", target)
        names, problem = _field_columns(sync, target, reads)
        if problem:
            unread.append((place, problem))
        for name in names:
            found.setdefault(name, place)
    if not isinstance(sync.model, SqlModel):
        return Usage(source, found, reads.spellings, reads.fields, unread=tuple(unread))
    query = parse(sync.model.sql, dialect)
    if query is None:
        unread.append((source.place("model"), "its query cannot be read"))
        return Usage(source, found, unread=tuple(unread))
    place = source.place("model", "sql")
    reads = _Reads(dialect, query)
    mentions = dict.fromkeys(reads.of(query), place)
    return Usage(
        source,
        found,
        reads.spellings,
        reads.fields,
        mentions,
        certain=_of_only_table(query, mentions),
        star=query.is_star,
        unread=tuple(unread),
    )


def field_columns(sync: Sync, target: str, dialect: str | None) -> tuple[Iterable[str], str]:
    """Return the columns that one field of the mapping reads, and why they cannot be read, if they cannot.

    :param target: name of the field. One that stands for every column reads none.
    """
    return _field_columns(sync, target, _Reads(dialect))


def _field_columns(sync: Sync, target: str, reads: _Reads) -> tuple[Iterable[str], str]:
    value = sync.mapping[target]
    if column := column_of(value):
        return (column,), ""
    if isinstance(value, SqlField):
        tree = _expression(value.sql, reads.dialect)
        return ((), "its SQL expression cannot be read") if tree is None else (reads.of(tree), "")
    if isinstance(value, TemplateField):
        try:
            return template_columns(sync.model_copy(update={"mapping": {target: value}})), ""
        except SpecError as error:
            return (), "; ".join(error.problems)
    return (), ""


def _of_only_table(query: exp.Expr, mentions: Iterable[str]) -> frozenset[str]:
    """Return the columns that a query mentions and that can only be those of its table, if it has one table."""
    from sqlglot import exp

    sources = list(query.find_all(exp.Table, exp.Subquery, exp.CTE, exp.UDTF, exp.Lateral, exp.SetOperation))
    if not isinstance(query, exp.Select) or len(sources) != 1:
        return frozenset()
    aliases = {item.alias.lower() for item in query.selects if item.alias}
    return frozenset(name for name in mentions if name.lower() not in aliases)


class _Reads:
    """Collector of the columns that SQL reads, with their spellings and fields.

    :param query: the whole query; None for an expression over one model, where ``address.city`` is a field of the
        column ``address``.
    """

    def __init__(self, dialect: str | None, query: exp.Expr | None = None) -> None:
        from sqlglot import exp

        self.spellings: dict[str, str] = {}
        self.fields: dict[str, frozenset[FieldPath]] = {}
        self.dialect = dialect
        self._is_query = query is not None
        sources = query.find_all(exp.Table, exp.Subquery, exp.CTE, exp.UDTF, exp.Lateral) if query else ()
        self._tables = {source.alias_or_name.lower() for source in sources}

    def of(self, tree: exp.Expr) -> list[str]:
        """Return the name of every column that a tree mentions."""
        from sqlglot import exp

        found: list[str] = []
        for column in tree.find_all(exp.Column):
            parts = list(column.parts)
            # The name of the table comes first, perhaps after those of its schema and database.
            tables = [at for at, part in enumerate(parts[:-1]) if part.name.lower() in self._tables]
            if tables:
                parts = parts[tables[0] + 1 :]
            first, *rest = parts
            if isinstance(first, exp.Star):
                continue
            found.append(first.name)
            self._note(column, first, [part.name.lower() for part in rest])
        return found

    def _note(self, column: exp.Column, first: exp.Identifier, path: list[str]) -> None:
        from sqlglot import exp

        spelling = physical_name(first.name, self.dialect, quoted=bool(first.quoted))
        if compares_case(self.dialect) and (first.quoted or self._is_query):
            self.spellings[first.name] = spelling
        parent: exp.Expr | None = column.parent
        while isinstance(parent, exp.Dot):
            path.append(parent.expression.name.lower())
            parent = parent.parent
        paths = {tuple(path)} if path else set()
        if isinstance(parent, (exp.Bracket, exp.Func, exp.Binary)) and not path:
            paths.add(())  # if its type has fields, which only the rule knows
        if paths:
            self.fields[first.name] = self.fields.get(first.name, frozenset()) | paths


def physical_name(name: str, dialect: str | None, *, quoted: bool) -> str:
    """Return a column's name as the warehouse stores it: Snowflake and Oracle in upper case unless it is quoted."""
    from sqlglot import exp
    from sqlglot.dialects import Dialect

    if quoted or not name or not compares_case(dialect):
        return name
    return str(Dialect.get_or_raise(dialect).normalize_identifier(exp.to_identifier(name)).name)


@cache
def compares_case(dialect: str | None) -> bool:
    """Return True if names that differ in case alone are different columns, as in Snowflake and Postgres."""
    from sqlglot.dialects.dialect import Dialect, NormalizationStrategy

    strategy = Dialect.get_or_raise(dialect).normalization_strategy
    exact = (NormalizationStrategy.LOWERCASE, NormalizationStrategy.UPPERCASE, NormalizationStrategy.CASE_SENSITIVE)
    return bool(dialect) and strategy in exact


def parse(sql: str, dialect: str | None) -> exp.Expr | None:
    """Parse a statement. Returns None if sqlglot cannot read it."""
    import sqlglot

    try:
        return sqlglot.parse_one(sql, dialect=dialect)
    except Exception:  # noqa: BLE001 - an unexpected error of the parser must not stop the other statements
        return None


def _expression(sql: str, dialect: str | None) -> exp.Expr | None:
    """Parse an expression over one model. Returns None if its columns cannot be determined."""
    from sqlglot import exp

    tree = parse(sql, dialect)
    return None if tree is None or tree.find(exp.Star) or tree.find(exp.Query) else tree
