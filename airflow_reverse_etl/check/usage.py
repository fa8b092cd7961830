"""The model and the columns that a sync uses, derived from its specification alone."""

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


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A file, and a line in it if known."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class SyncSource:
    """A sync and the file that defines it. ``lines`` is empty unless that is a YAML file."""

    sync: Sync
    file: str
    lines: Lines = field(default_factory=dict)

    def place(self, *keys: str) -> Place:
        """Return the place of a key of the sync, given as the path of keys that lead to it."""
        return Place(self.file, line_of(self.lines, keys))


@dataclass(frozen=True, slots=True)
class Usage:
    """The columns that a sync reads.

    :param columns: name as the sync writes it → place where it does. Compare names case-insensitively.
    :param mentions: columns named in the query of a ``{sql: …}`` model. Any of the query's tables may have them.
    :param star: the query of a ``{sql: …}`` model selects ``*``, so any of its tables may have the ``columns`` too.
    :param unread: places that cannot be read, with the reason.
    """

    source: SyncSource
    columns: Mapping[str, Place]
    mentions: Mapping[str, Place] = field(default_factory=dict)
    star: bool = False
    unread: tuple[tuple[Place, str], ...] = ()

    def query_columns(self) -> dict[str, Place]:
        """Return the columns that the tables of a ``{sql: …}`` model may have to provide."""
        columns = dict(self.columns) if self.star else {}
        columns.update(self.mentions)
        return columns


def read_syncs(folder: Path) -> tuple[list[SyncSource], list[SpecError]]:
    """Read every sync in one YAML file, or in those of a folder and its subfolders.

    :returns: the valid syncs, and an error for each invalid one.
    :raises ConfigurationError: folder or file not found.
    """
    if not folder.exists():
        raise ConfigurationError("folder or file of syncs not found", todo="check the path", file=folder)
    if folder.is_file():
        files = [folder]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    sources: list[SyncSource] = []
    errors: list[SpecError] = []
    for path in files:
        try:
            sync, lines = Sync.load_file(path)
            sources.append(SyncSource(sync, path.as_posix(), lines))
        except SpecError as error:
            errors.append(error)
    return sources, errors


def usage(source: SyncSource, *, dialect: str | None) -> Usage:
    """Return the columns that the sync reads, including its explicit primary key.

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
                names = ()
                unread.append((place, "its SQL expression cannot be read"))
            for name in names:
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
        unread.append((source.place("model"), "its query cannot be read"))
        return Usage(source, found, unread=tuple(unread))
    place = source.place("model", "sql")
    mentions = dict.fromkeys(column_names(query), place)
    return Usage(source, found, mentions, star=query.is_star, unread=tuple(unread))


def parse(sql: str, dialect: str | None) -> exp.Expr | None:
    """Parse a statement. Returns None if sqlglot cannot read it."""
    import sqlglot

    try:
        return sqlglot.parse_one(sql, dialect=dialect)
    except Exception:  # noqa: BLE001 - an unexpected error of the parser must not stop the other statements
        return None


def column_names(tree: exp.Expr) -> Iterator[str]:
    """Yield the name of every column that a statement mentions."""
    from sqlglot import exp

    return (column.name for column in tree.find_all(exp.Column) if not isinstance(column.this, exp.Star))


def _columns_in(expression: str, dialect: str | None) -> Iterable[str] | None:
    """Return the columns of an expression over one model, or None if they cannot be determined.

    ``address.city`` is a part of the column ``address`` there.
    """
    from sqlglot import exp

    tree = parse(expression, dialect)
    if tree is None or tree.find(exp.Star) or tree.find(exp.Query):
        return None
    return [column.parts[0].name for column in tree.find_all(exp.Column)]
