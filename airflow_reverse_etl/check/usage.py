"""Which model, and which of its columns, a sync uses: from its specification alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.model import SqlField, SqlModel, Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import template_columns
from airflow_reverse_etl.spec.yaml_file import Lines, line_of

if TYPE_CHECKING:
    from sqlglot import exp

_SAME = {"sqlserver": "tsql", "fabric": "tsql", "synapse": "tsql", "glue": "spark"}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A file, and a line in it where one is known."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class SyncSource:
    """A sync and where it is written. ``lines`` is empty where it is not a YAML file."""

    sync: Sync
    file: str
    lines: Lines = field(default_factory=dict)

    def place(self, *where: str) -> Place:
        return Place(self.file, line_of(self.lines, where))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sync reads.

    :param columns: name as the sync writes it → where it does. Compare names without regard to case.
    :param mentions: columns named in the query of a ``{sql: …}`` model. They belong to any of its tables.
    :param star: the query of a ``{sql: …}`` model has a ``*``: ``columns`` may belong to any of its tables as well.
    :param unread: places that cannot be understood, with the reason.
    """

    source: SyncSource
    columns: Mapping[str, Place]
    mentions: Mapping[str, Place] = field(default_factory=dict)
    star: bool = False
    unread: tuple[tuple[Place, str], ...] = ()


def sqlglot_dialect(adapter: str) -> str | None:
    """sqlglot's name for a dbt adapter's SQL; None, its common SQL, for one it does not know."""
    from sqlglot.dialects import Dialect

    name = _SAME.get(adapter, adapter)
    return name if Dialect.get(name) else None


def read_syncs(folder: Path) -> tuple[list[SyncSource], list[SpecError]]:
    """Every sync in a folder's YAML files, subfolders included, or in one file; and what is wrong with the others.

    :raises ConfigurationError: there is no such folder or file.
    """
    if not folder.exists():
        raise ConfigurationError("there is no such folder or file of syncs", todo="check the path", file=folder)
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".yml"))
    sources, errors = [], []
    for path in files:
        try:
            sync, lines = Sync.load_file(path)
            sources.append(SyncSource(sync, path.as_posix(), lines))
        except SpecError as error:
            errors.append(error)
    return sources, errors


def usage(source: SyncSource, *, dialect: str | None) -> Usage:
    """What the sync reads, its explicit primary key included.

    :param dialect: sqlglot's name of the warehouse's SQL.
    """
    found: dict[str, Place] = {}
    unread: list[tuple[Place, str]] = []
    sync = source.sync
    for name in sync.primary_key or ():
        found.setdefault(name, source.place("primary_key"))
    for target, value in sync.mapping.items():
        place = source.place("mapping", target)
        if isinstance(value, str):
            found.setdefault(value, place)
        elif isinstance(value, SqlField):
            names = _columns_in(value.sql, dialect)
            if names is None:
                unread.append((place, "its SQL expression cannot be read"))
            for name in names or ():
                found.setdefault(name, place)
        elif isinstance(value, TemplateField):
            try:
                names = template_columns(sync.model_copy(update={"mapping": {target: value}}))
            except SpecError as error:
                names = ()
                unread.append((place, "; ".join(error.problems)))
            for name in names:
                found.setdefault(name, place)
        else:
            assert isinstance(value, ValueField)
    if not isinstance(sync.model, SqlModel):
        return Usage(source, found, unread=tuple(unread))
    query = parse(sync.model.sql, dialect)
    if query is None:
        return Usage(source, found, unread=(*unread, (source.place("model"), "its query cannot be read")))
    place = source.place("model", "sql")
    mentions = dict.fromkeys(column_names(query), place)
    return Usage(source, found, mentions, star=query.is_star, unread=tuple(unread))


def parse(sql: str, dialect: str | None) -> exp.Expr | None:
    """The statement, or None when it cannot be read."""
    import sqlglot

    try:
        return sqlglot.parse_one(sql, dialect=dialect)
    except Exception:  # noqa: BLE001 - a parser stumbling over one statement must not stop the others
        return None


def column_names(tree: exp.Expr) -> Iterator[str]:
    """Every column name mentioned."""
    from sqlglot import exp

    return (column.name for column in tree.find_all(exp.Column) if not isinstance(column.this, exp.Star))


def _columns_in(expression: str, dialect: str | None) -> Iterable[str] | None:
    """In an expression over one model, ``address.city`` is a part of the column ``address``."""
    from sqlglot import exp

    tree = parse(expression, dialect)
    if tree is None or tree.find(exp.Star) or tree.find(exp.Query):
        return None
    return [column.parts[0].name for column in tree.find_all(exp.Column)]
