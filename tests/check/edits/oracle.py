"""The oracle: it builds both versions of a project in DuckDB, and extracts what the sync would read.

Names and types come from the dialect's table of rules (:mod:`.rules`), rows from DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from random import Random
from typing import Any

import duckdb
from sqlglot import exp

from tests.check.edits.rules import Broken, Family, Rules, Undecided, written
from tests.check.edits.trees import LAST, SOURCES, Project, Read, needed
from tests.check.edits.types import Columns, Typer

SHUFFLES = 3
ROWS = 1_000

_TEXTS = ("free", "pro", "Free", "FREE", "free ", " free", "", "a", "A", "ä", "Ä", "ß", "-- x", "o'hara", "none", "z")
_EMAILS = ("a", "A", "b@example.com", "B@example.com", " b@example.com", "", "none", "é@example.com")
_STATUSES = ("open", "Open", "void", "paid", "", "OPEN ")
_DAYS = (
    *(date(2024, 2, 29), date(2024, 3, 1), date(2023, 12, 31), date(2024, 1, 1), date(1970, 1, 1), date(1969, 12, 31)),
    *(date(1900, 2, 28), date(2000, 2, 29), date(2262, 4, 12), date(1, 1, 1), date(9999, 12, 31)),
)
_CLOCKS = ((0, 0, 0, 0), (23, 59, 59, 999_999), (12, 0, 0, 0), (12, 0, 0, 1))


def _people(random: Random) -> Iterator[tuple[Any, ...]]:
    for at in range(ROWS):
        # Ids repeat, and some are missing.
        number = None if at % 41 == 0 else at % 900
        email = random.choice((*_EMAILS, f"p{at}@example.com", f"p{at}@example.com", None))
        created = random.choice((*_DAYS, None))
        yield (
            number,
            email,
            random.choice((*_TEXTS, "free", "pro", None)),
            random.choice((True, False, None)),
            random.choice((*range(-1, 10), None)),
            created,
            datetime(*random.choice(_DAYS).timetuple()[:3], *random.choice(_CLOCKS)) if at % 11 else None,  # noqa: DTZ001
            random.choice((random.randrange(900), None)),
        )


def _orders(random: Random) -> Iterator[tuple[Any, ...]]:
    for at in range(ROWS):
        yield (
            at,
            random.choice((random.randrange(900), random.randrange(900), None)),
            random.choice((*range(-2, 12), None)),
            random.choice((*_STATUSES, "open", None)),
            random.choice((*_DAYS, None)),
        )


@dataclass(frozen=True)
class Built:
    """What a sync reads of one version.

    :param families: families of types by field.
    :param rows: a hash of the rows, whatever their order.
    :param risks: casts that may fail, depending on the values. DuckDB's TRY_CAST makes NULL of such a value.
    """

    families: Mapping[str, Family]
    rows: str
    risks: int


class Oracle:
    """A DuckDB with the sources' rows, in several orders."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"threads": 1})
        random = Random("rows")
        for name, rows in (("people", [*_people(random)]), ("orders", [*_orders(random)])):
            columns = SOURCES[name]
            declared = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE given (place INT, {declared})")
            values = ", ".join(_row((at, *row)) for at, row in enumerate(rows))
            self._connection.execute(f"INSERT INTO given VALUES {values}")
            for shuffle in range(SHUFFLES):
                self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS s{shuffle}")
                self._connection.execute(f"CREATE TABLE s{shuffle}.{name} ({declared})")
                self._connection.execute(
                    f"INSERT INTO s{shuffle}.{name} SELECT * EXCLUDE (place) FROM given ORDER BY hash(place, {shuffle})"
                )

    def close(self) -> None:
        self._connection.close()

    def build(self, project: Project, rules: Rules) -> Built | None:
        """Build a version and read it as the sync does.

        :returns: None if the rows depend on the order of the sources' rows.
        :raises Broken: the sync cannot run.
        :raises Undecided: the warehouse might do this or that.
        """
        tables: dict[str, Columns] = {name: _families(columns) for name, columns in SOURCES.items()}
        risks = 0
        for model in needed(project):
            typer = Typer(rules, tables)
            tables[model.name] = typer.columns(model.tree)
            risks += typer.risks
        if LAST not in tables:
            raise Broken("no model")
        if project.models[LAST].schema != "main":
            raise Broken("the table moves")
        fields = _fields(project, rules, tables)
        statements = {model.name: duck(model.tree, rules) for model in needed(project)}
        query = project.sync.query
        read = _read_statement(fields, f"({duck(query, rules)})" if query is not None else LAST)
        hashes = {self._rows(statements, read, shuffle) for shuffle in range(SHUFFLES)}
        families = {name: family for name, (_, family) in fields.items()}
        return Built(families, hashes.pop(), risks) if len(hashes) == 1 else None

    def _rows(self, statements: Mapping[str, str], read: str, shuffle: int) -> str:
        self._connection.execute(f"USE s{shuffle}")
        built: list[str] = []
        try:
            for name, statement in statements.items():
                self._connection.execute(f"CREATE TEMP TABLE {name} AS {statement}")
                built.append(name)
            found = self._connection.execute(read).fetchone()
        except (duckdb.BinderException, duckdb.ConversionException) as error:
            # Names were resolved by the rules before; what remains is DuckDB's own opinion, or depends on values.
            raise Undecided(f"DuckDB: {error}") from error
        finally:
            for name in built:
                self._connection.execute(f"DROP TABLE temp.{name}")
        return str(found)


def _row(values: tuple[Any, ...]) -> str:
    return f"({', '.join('NULL' if value is None else _constant(value) for value in values)})"


def _constant(value: Any) -> str:
    if isinstance(value, bool | int):
        return str(value)
    text = str(value).replace("'", "''")
    return f"'{text}'"


def _read_statement(fields: Mapping[str, tuple[str, Family]], source: str) -> str:
    """Return a query for the names of the fields and a hash of their rows."""
    values: list[str] = []
    for column, family in fields.values():
        # Numbers are equal in any type.
        value = f'CAST("{column}" AS DOUBLE)' if family == "number" else f'"{column}"'
        values.append(f"COALESCE(CAST({value} AS VARCHAR), '(null)')")
    row = f"concat_ws('|', {', '.join(values)})"
    names = " ".join(fields).replace("'", "''")
    return f"SELECT '{names}', count(*), md5(string_agg(r, '\n' ORDER BY r)) FROM (SELECT {row} AS r FROM {source})"


def duck(tree: exp.Expr, rules: Rules) -> str:
    """Return a query as DuckDB runs it, with names as the dialect's rules compare them."""
    copy = tree.copy()
    if rules.groups_by_alias:
        for group in copy.find_all(exp.Group):
            _write_positions(group, rules)
    for identifier in copy.find_all(exp.Identifier):
        key = rules.key(identifier.name, quoted=bool(identifier.args.get("quoted")))
        identifier.replace(exp.to_identifier(key, quoted=True))
    for cast in list(copy.find_all(exp.Cast)):
        if type(cast) is exp.Cast:
            cast.replace(exp.TryCast(**cast.args))
    return str(copy.sql("duckdb"))


def _write_positions(group: exp.Group, rules: Rules) -> None:
    """Write positions for names of what SELECT computes: DuckDB prefers columns of tables."""
    assert isinstance(group.parent, exp.Select)
    names = [_alias(item, rules) for item in group.parent.expressions]
    for key in list(group.expressions):
        if isinstance(key, exp.Column) and not key.table:
            name = rules.key(key.name, quoted=bool(key.this.args.get("quoted")))
            if name in names:
                key.replace(exp.Literal.number(names.index(name) + 1))


def _alias(item: exp.Expr, rules: Rules) -> str | None:
    alias = item.args.get("alias")
    return rules.key(alias.name, quoted=bool(alias.args.get("quoted"))) if alias else None


def _families(columns: Mapping[str, str]) -> dict[str, Family]:
    from tests.check.edits.rules import FAMILIES

    return {name: FAMILIES[kind] for name, kind in columns.items()}


def _fields(project: Project, rules: Rules, tables: Mapping[str, Columns]) -> dict[str, tuple[str, Family]]:
    """Return the column and the family of each value that the sync reads."""
    sync = project.sync
    columns = tables[LAST]
    if sync.query is not None:
        columns = Typer(rules, tables).columns(sync.query)
    wanted = {"key": Read(sync.key), **sync.reads}
    if sync.cursor:
        wanted["cursor"] = Read(sync.cursor)
    found = {field: _column(read, rules, columns) for field, read in wanted.items()}
    if sync.every:
        found |= {f"every {written(key)}": (key, family) for key, family in sorted(columns.items())}
    return found


def _column(read: Read, rules: Rules, columns: Columns) -> tuple[str, Family]:
    if read.quoted:
        # Quoted in the spelling of a name without quotes: only that one will do.
        near = [read.name] if read.name in columns else []
    else:
        near = [key for key in columns if written(key) == read.name.lower()]
    if len(near) > 1:
        near = [key for key in near if key == read.name.lower()]
    if len(near) != 1:
        raise Broken(f"no column {read.name}")
    return near[0], columns[near[0]]
