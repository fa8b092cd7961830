"""Random small projects: models as trees of sqlglot, from which each dialect's text is made, and a sync of the last."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from random import Random

import sqlglot
from sqlglot import exp

#: The tables that the models read: columns with their types.
SOURCES: Mapping[str, Mapping[str, str]] = {
    "people": {
        "id": "INT",
        "email": "VARCHAR",
        "plan": "VARCHAR",
        "active": "BOOLEAN",
        "score": "INT",
        "created_on": "DATE",
        "created_at": "TIMESTAMP",
        "manager_id": "INT",
    },
    "orders": {"id": "INT", "person_id": "INT", "amount": "INT", "status": "VARCHAR", "ordered_on": "DATE"},
}
LAST = "customers"


@dataclass(frozen=True)
class Noise:
    """Something put into a model's text that means nothing: a comment, or white space.

    :param at: how far into the text, from 0 to 1.
    """

    text: str
    at: float


@dataclass(frozen=True)
class Model:
    """A model: its query, and its place."""

    name: str
    tree: exp.Query
    folder: str = "models"
    schema: str = "main"
    noise: tuple[Noise, ...] = ()
    lower: bool = False  # keywords in lower case


@dataclass(frozen=True)
class Read:
    """One value that a sync reads: a column by its name, or in an expression, which may quote the name."""

    name: str
    in_sql: bool = False
    quoted: bool = False


@dataclass(frozen=True)
class SyncTree:
    """A sync of the last model.

    :param form: it names the model, its table, or reads it by a query.
    :param reads: field of the destination → value.
    :param every: it maps every column, too.
    """

    form: str
    key: str
    reads: Mapping[str, Read] = field(default_factory=dict)
    cursor: str | None = None
    every: bool = False
    query: exp.Query | None = None


@dataclass(frozen=True)
class Project:
    """Models by name, each after those that it reads."""

    models: Mapping[str, Model]
    sync: SyncTree

    def replaced(self, *models: Model) -> Project:
        return replace(self, models={**self.models, **{model.name: model for model in models}})

    def copied(self) -> Project:
        return Project({name: replace(m, tree=m.tree.copy()) for name, m in self.models.items()}, deepcopy(self.sync))


def parsed(sql: str) -> exp.Query:
    tree = sqlglot.parse_one(sql)
    assert isinstance(tree, exp.Query)
    return tree


def reads(model: Model) -> list[str]:
    """Return the names of the tables that a model reads, without those of its CTEs."""
    ctes = {cte.alias.lower() for cte in model.tree.find_all(exp.CTE)}
    names = [table.name for table in model.tree.find_all(exp.Table)]
    return list(dict.fromkeys(name for name in names if name.lower() not in ctes))


def needed(project: Project) -> list[Model]:
    """Return the last model and all that it reads, each after those that it reads."""
    names = {LAST}
    for model in reversed(project.models.values()):
        if model.name in names:
            names.update(reads(model))
    return [model for model in project.models.values() if model.name in names]


# -- text --------------------------------------------------------------------------------------------------------------


def relation(name: str, schema: str, dialect: str) -> str:
    """Return a table's name as dbt's adapter writes it."""
    if dialect == "snowflake":
        return f"db.{schema}.{name}"
    mark = "`" if dialect == "bigquery" else '"'
    return ".".join(f"{mark}{part}{mark}" for part in ("db", schema, name))


def text(model: Model, project: Project, dialect: str, *, compiled: bool, prefix: str = "") -> str:
    """Return a model's SQL in a dialect: with Jinja, or as dbt compiles it.

    :param prefix: what the names of the project's models begin with, in Jinja.
    """
    tree = model.tree.copy()
    names = reads(model)
    for table in tree.find_all(exp.Table):
        if table.name in names:
            table.set("this", exp.to_identifier(f"jinja_{table.name}_jinja"))
    sql = tree.sql(dialect)
    for name in names:
        sql = sql.replace(f"jinja_{name}_jinja", _reference(name, project, dialect, compiled=compiled, prefix=prefix))
    if model.lower:
        sql = re.sub(r"\b(SELECT|FROM|WHERE|AS|AND|OR|ON|JOIN|CASE|WHEN|THEN|END|WITH|BY|OVER)\b", _lowered, sql)
    for noise in model.noise:
        sql = _noisy(sql, noise)
    return sql


def _lowered(found: re.Match[str]) -> str:
    return found[0].lower()


def _reference(name: str, project: Project, dialect: str, *, compiled: bool, prefix: str) -> str:
    if name in SOURCES:
        return relation(name, "raw", dialect) if compiled else f"{{{{ source('raw', '{name}') }}}}"
    known = project.models.get(name)
    schema = known.schema if known else "main"
    return relation(name, schema, dialect) if compiled else f"{{{{ ref('{prefix}{name}') }}}}"


def _noisy(sql: str, noise: Noise) -> str:
    """Put noise where there is a space, outside quotes and Jinja."""
    spans = [found.span() for found in re.finditer(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\{\{.*?\}\}|--[^\n]*|/\*.*?\*/", sql)]
    free = [at for at, letter in enumerate(sql) if letter == " " and not any(a <= at < b for a, b in spans)]
    at = free[int(noise.at * (len(free) - 1))] if free else len(sql)
    return f"{sql[:at]} {noise.text}{sql[at:]}"


# -- random projects ---------------------------------------------------------------------------------------------------

_PEOPLE: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "email": (
        "email",
        "LOWER(email) AS email",
        "TRIM(email) AS email",
        "COALESCE(email, 'none') AS email",
        "CAST(email AS VARCHAR) AS email",
    ),
    "plan": (
        "plan",
        "UPPER(plan) AS plan",
        "CASE WHEN plan = 'free' THEN 'F' WHEN plan IS NULL THEN 'none' ELSE plan END AS plan",
        "plan || '!' AS plan",
    ),
    "active": (
        "active",
        "COALESCE(active, FALSE) AS active",
        "score > 3 AS active",
        "CAST(active AS BOOLEAN) AS active",
    ),
    "score": (
        "score",
        "CAST(score AS INT) AS score",
        "COALESCE(score, 0) AS score",
        "score + 1 AS score",
        "LENGTH(email) AS score",
    ),
    "created_on": (
        "created_on",
        "CAST(created_at AS DATE) AS created_on",
        "DATE_TRUNC('MONTH', created_on) AS created_on",
    ),
    "created_at": ("created_at", "CAST(created_at AS TIMESTAMP) AS created_at"),
    "manager_id": ("manager_id", "CAST(manager_id AS INT) AS manager_id"),
}
_ORDERS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "person_id": ("person_id", "CAST(person_id AS INT) AS person_id"),
    "amount": ("amount", "COALESCE(amount, 0) AS amount", "amount * 2 AS amount", "CAST(amount AS DOUBLE) AS amount"),
    "status": ("status", "LOWER(status) AS status", "COALESCE(status, 'open') AS status"),
    "ordered_on": ("ordered_on", "CAST(ordered_on AS DATE) AS ordered_on"),
}
_CONDITIONS = (
    "{t}active",
    "{t}score > 3",
    "{t}score BETWEEN 2 AND 6",
    "{t}plan = 'free'",
    "{t}plan <> 'Free' AND {t}id > 20",
    "{t}email IS NOT NULL",
    "{t}plan IN ('free', 'pro', 'Ä')",
    "{t}created_on >= CAST('2024-02-29' AS DATE)",
    "NOT {t}active OR {t}score = 5",
    "{t}score > 1 AND {t}email <> 'a' AND {t}active",
    "COALESCE({t}plan, '') <> ''",
)
_ORDER_CONDITIONS = ("{t}status = 'open'", "{t}amount > 5", "{t}amount IS NOT NULL AND {t}status <> 'void'")
_WINDOWS = (
    "ROW_NUMBER() OVER (PARTITION BY id ORDER BY created_at DESC, email, plan, score, active, created_on, manager_id)",
    "ROW_NUMBER() OVER (PARTITION BY email ORDER BY score DESC, id, created_at)",
    "RANK() OVER (PARTITION BY plan, active ORDER BY created_on)",
    "DENSE_RANK() OVER (PARTITION BY plan ORDER BY score DESC)",
)


class Generator:
    """A generator of one random project.

    :param seed: the same seed makes the same project.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.people = "stg_people"

    def project(self) -> Project:
        models = {
            "stg_people": Model("stg_people", self._staging("people", _PEOPLE, _CONDITIONS)),
            "stg_orders": Model("stg_orders", self._staging("orders", _ORDERS, _ORDER_CONDITIONS)),
        }
        if self.random.random() < 0.5:
            models["people_clean"] = Model("people_clean", parsed(self._between()))
            self.people = "people_clean"
        make = self.random.choice(self._SHAPES)
        models[LAST] = Model(LAST, parsed(make(self)))
        return Project(models, self._sync(models[LAST]))

    def _staging(self, name: str, columns: Mapping[str, tuple[str, ...]], conditions: tuple[str, ...]) -> exp.Query:
        items = [self.random.choice(forms) for forms in columns.values()]
        return parsed(f"SELECT {', '.join(items)} FROM {name}{self._where(conditions)}")

    def _where(self, conditions: tuple[str, ...] = _CONDITIONS, table: str = "", word: str = "WHERE") -> str:
        if self.random.random() < 0.4:
            return ""
        return f" {word} {self.random.choice(conditions).format(t=table)}"

    def _some(self, columns: Iterator[str] | list[str], *, table: str = "") -> str:
        """Return some columns, as they are or computed."""
        found = []
        for name in columns:
            if name == "id" or self.random.random() < 0.7:
                form = self.random.choice((*_PEOPLE[name], name, name)) if not table else name
                found.append(f"{table}{form}" if table else form)
        return ", ".join(found)

    def _between(self) -> str:
        """Return a model of people whose columns are those of the staging model."""
        everything = ", ".join(_PEOPLE)
        window = self.random.choice(_WINDOWS)
        rank = f"WITH numbered AS (SELECT *, {window} AS rn FROM stg_people)"
        return self.random.choice(
            (
                f"SELECT * FROM stg_people{self._where()}",
                f"SELECT {everything} FROM stg_people{self._where()}",
                f"SELECT DISTINCT {everything} FROM stg_people",
                f"{rank} SELECT {everything} FROM numbered WHERE rn = 1",
                "SELECT * FROM stg_people WHERE active UNION ALL SELECT * FROM stg_people WHERE score > 3",
                f"WITH base AS (SELECT * FROM stg_people{self._where()}) SELECT * FROM base",
                f"SELECT * FROM stg_people QUALIFY {window} = 1",
            )
        )

    def _plain(self) -> str:
        return f"SELECT {self._some(list(_PEOPLE))} FROM {self.people}{self._where()}"

    def _star(self) -> str:
        return f"WITH base AS (SELECT * FROM {self.people}{self._where()}) SELECT * FROM base{self._where()}"

    def _dedup(self) -> str:
        window = self.random.choice(_WINDOWS)
        numbered = f"SELECT *, {window} AS rn FROM {self.people}{self._where()}"
        return f"WITH numbered AS ({numbered}) SELECT {self._some(list(_PEOPLE))} FROM numbered WHERE rn = 1"

    def _joined(self) -> str:
        kind = self.random.choice(("LEFT JOIN", "JOIN"))
        items = self._some(list(_PEOPLE), table="p.")
        on = "o.person_id = p.id" + self._where(_ORDER_CONDITIONS, "o.", "AND")
        where = self._where(_CONDITIONS, "p.")
        return f"SELECT {items}, o.amount, o.status FROM {self.people} AS p {kind} stg_orders AS o ON {on}{where}"

    def _totals(self) -> str:
        having = self.random.choice(("", " HAVING COUNT(*) > 1", " HAVING SUM(amount) > 10"))
        totals = (
            "SELECT person_id, COUNT(*) AS n, SUM(amount) AS total, MAX(ordered_on) AS last_on FROM stg_orders"
            f"{self._where(_ORDER_CONDITIONS)} GROUP BY person_id{having}"
        )
        items = f"{self._some(list(_PEOPLE), table='p.')}, COALESCE(t.n, 0) AS n, t.total, t.last_on"
        on = "t.person_id = p.id"
        return f"WITH totals AS ({totals}) SELECT {items} FROM {self.people} AS p LEFT JOIN totals AS t ON {on}"

    def _grouped(self) -> str:
        by = self.random.choice(("plan", "plan, active", "active, created_on"))
        position = ", ".join(str(at + 1) for at in range(by.count(",") + 1))
        group = self.random.choice((by, position))
        values = "COUNT(*) AS n, MAX(email) AS email, SUM(score) AS total, MIN(id) AS id, COUNT(DISTINCT plan) AS plans"
        having = self.random.choice(("", " HAVING COUNT(*) > 2"))
        return f"SELECT {by}, {values} FROM {self.people}{self._where()} GROUP BY {group}{having}"

    def _union(self) -> str:
        word = self.random.choice(("UNION ALL", "UNION ALL", "UNION"))
        first = f"SELECT id, email, plan, score FROM {self.people}{self._where()}"
        second = "SELECT person_id AS id, status AS email, 'order' AS plan, amount AS score FROM stg_orders"
        return f"{first} {word} {second}{self._where(_ORDER_CONDITIONS)}"

    def _in_query(self) -> str:
        inner = f"SELECT person_id FROM stg_orders{self._where(_ORDER_CONDITIONS)}"
        word = self.random.choice(("IN", "IN"))
        return f"SELECT {self._some(list(_PEOPLE))} FROM {self.people} WHERE id {word} ({inner})"

    def _exists(self) -> str:
        more = self._where(_ORDER_CONDITIONS, "o.", "AND")
        word = self.random.choice(("EXISTS", "NOT EXISTS"))
        inner = f"SELECT 1 FROM stg_orders AS o WHERE o.person_id = p.id{more}"
        return f"SELECT {self._some(list(_PEOPLE), table='p.')} FROM {self.people} AS p WHERE {word} ({inner})"

    def _distinct(self) -> str:
        return f"SELECT DISTINCT {self._some(list(_PEOPLE))} FROM {self.people}{self._where()}"

    def _limited(self) -> str:
        direction = self.random.choice(("", " DESC"))
        order = f"score{direction}, id, email, plan, active, created_on, created_at, manager_id"
        return f"SELECT {self._some(list(_PEOPLE))} FROM {self.people} ORDER BY {order} LIMIT 100"

    def _self_joined(self) -> str:
        on = "m.id = p.manager_id"
        items = f"{self._some(list(_PEOPLE), table='p.')}, m.email AS boss, m.score AS boss_score"
        tables = f"{self.people} AS p LEFT JOIN {self.people} AS m ON {on}"
        return f"SELECT {items} FROM {tables}{self._where(_CONDITIONS, 'p.')}"

    def _nested(self) -> str:
        inner = f"SELECT * FROM {self.people}{self._where()}"
        return f"SELECT {self._some(list(_PEOPLE), table='s.')} FROM ({inner}) AS s{self._where(_CONDITIONS, 's.')}"

    def _scalar(self) -> str:
        best = "(SELECT MAX(o.amount) FROM stg_orders AS o WHERE o.person_id = p.id) AS best"
        return f"SELECT {self._some(list(_PEOPLE), table='p.')}, {best} FROM {self.people} AS p"

    def _windows(self) -> str:
        items = (
            "SUM(score) OVER (PARTITION BY plan) AS total, COUNT(*) OVER (PARTITION BY active) AS n, "
            "LAG(score) OVER (PARTITION BY email ORDER BY id, created_at, score, plan) AS before"
        )
        return f"SELECT {self._some(list(_PEOPLE))}, {items} FROM {self.people}{self._where()}"

    _SHAPES = (
        _plain,
        _star,
        _dedup,
        _joined,
        _totals,
        _grouped,
        _union,
        _in_query,
        _exists,
        _distinct,
        _limited,
        _self_joined,
        _nested,
        _scalar,
        _windows,
    )

    def _sync(self, model: Model) -> SyncTree:
        names = [name for name in (item.alias_or_name for item in model.tree.selects) if name != "*"] or list(_PEOPLE)
        key = "id" if "id" in names else names[0]
        form = self.random.choice(("model", "model", "model", "table", "query"))
        chosen = [name for name in names if self.random.random() < 0.6] or names[:2]
        if form == "query":
            columns = ", ".join(dict.fromkeys([key, *chosen]))
            query = parsed(f"SELECT {columns} FROM {LAST} WHERE NOT {key} IS NULL")
            return SyncTree(form, key, {f"f_{name}": Read(name) for name in chosen}, query=query)
        fields = {f"f_{name}": self._read(name) for name in chosen}
        dated = [name for name in names if name in ("created_at", "created_on", "last_on", "score")]
        cursor = self.random.choice(dated) if dated and self.random.random() < 0.3 else None
        return SyncTree(form, key, fields, cursor, every=self.random.random() < 0.15)

    def _read(self, name: str) -> Read:
        kind = self.random.choice(("name", "name", "name", "NAME", "sql", "quoted"))
        spelled = name.upper() if kind == "NAME" else name
        return Read(spelled, in_sql=kind in ("sql", "quoted"), quoted=kind == "quoted")
