"""Tests of the check's promise: it calls a change safe only if all that a sync reads is known to be the same.

Each case is a pair of projects with a known verdict: the worst level that the report may have for it, and has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from airflow_reverse_etl.check.check import check_project
from airflow_reverse_etl.check.findings import CheckReport, Level, Policy
from airflow_reverse_etl.check.project.seeds import seed_of
from airflow_reverse_etl.check.project.version import ProjectVersion
from airflow_reverse_etl.spec.folders.reading import SyncSource
from tests.dbt.projects import Node, data_test, keyed, manifest, model, seed, snapshot, source, sync

BREAKING = Level.BREAKING
REVIEW = Level.REVIEW
WARNING = Level.WARNING
NOTHING = None

STG = "select id, email, plan, active, created_at from {{ source('raw', 'people') }}"
SQL = "select id, email, plan, created_at from {{ ref('stg') }} where active"


def project(
    sql: str = SQL,
    *more: Node,
    stg: str = STG,
    tests: list[Node] | None = None,
    people: Node | None = None,
    seeds: dict[str, str] | None = None,
    variables: object = None,
    adapter: str = "duckdb",
    macros: dict[str, str] | None = None,
    customers: dict[str, Any] | None = None,
) -> ProjectVersion:
    """Build source people → stg → customers, with other nodes added.

    :param customers: more about the model customers.
    :param seeds: id of a seed → text of its file.
    """
    about = {"parents": ["stg"], **(customers or {})}
    nodes = [
        people or source("people"),
        model("stg", stg, parents=["source.shop.raw.people"]),
        model("customers", sql, **about),
        *(keyed("customers") if tests is None else tests),
    ]
    files = {name: seed_of(text.encode()) for name, text in (seeds or {}).items()}
    content = manifest(*nodes, *more, adapter=adapter, macros=macros)
    return ProjectVersion(content, variables=variables, seeds=files)


def check(
    base: ProjectVersion, head: ProjectVersion, *syncs: SyncSource, policy: Policy = "breaking", **more: Any
) -> CheckReport:
    return check_project(syncs, base, head, today=date(2026, 7, 1), policy=policy, **more)


def worst(report: CheckReport) -> Level | None:
    return min((finding.level for finding in report.findings), key=lambda level: level.rank, default=None)


@dataclass(frozen=True)
class Case:
    """A pair of projects, the syncs of the head, and the verdict."""

    name: str
    base: ProjectVersion
    head: ProjectVersion
    verdict: Level | None
    syncs: list[SyncSource] = field(default_factory=lambda: [sync()])


def edited(name: str, before: str, after: str, verdict: Level | None, *syncs: SyncSource, **more: Any) -> Case:
    """Build a case in which only the SQL of the model customers differs."""
    return Case(name, project(before, **more), project(after, **more), verdict, list(syncs) or [sync()])


def tracked(**more: Any) -> SyncSource:
    return sync(track={"cursor": "created_at"}, primary_key="id", **more)


def of_sql(expression: str, **more: Any) -> SyncSource:
    return sync(mapping={"x": {"sql": expression}}, primary_key="id", **more)


def every(*excluded: str) -> SyncSource:
    return sync(mapping={"*": {"exclude": excluded}}, primary_key="id")


def over(window: str, *, where: str = "rn = 1", sql: str = "select id, email from numbered") -> str:
    numbered = f"select *, row_number() over ({window}) as rn from {{{{ ref('stg') }}}}"
    return f"with numbered as ({numbered}) {sql} where {where}"


STRUCT = "select id, {{'city': cast(plan as varchar){} }} as address from {{{{ ref('stg') }}}}"
QUOTED = "select id, email as {} from {{{{ ref('stg') }}}}"

WHAT_A_SYNC_READS = [
    edited("a cursor is dropped", SQL, SQL.replace(", created_at", ""), BREAKING, tracked()),
    edited("a cursor is renamed", SQL, SQL.replace("created_at", "created_at as made_at"), BREAKING, tracked()),
    edited(
        "a cursor is retyped",
        SQL.replace("created_at", "cast(created_at as timestamp) as created_at"),
        SQL.replace("created_at", "cast(created_at as varchar) as created_at"),
        BREAKING,
        tracked(),
    ),
    edited("every column: one more", SQL, SQL.replace("plan", "plan, 1 as more"), REVIEW, every()),
    edited("every column: one less", SQL, SQL.replace("plan, ", ""), REVIEW, every()),
    edited(
        "every column: another type",
        SQL.replace("plan,", "cast(plan as varchar) as plan,"),
        SQL.replace("plan,", "cast(plan as int) as plan,"),
        BREAKING,
        every(),
    ),
    edited("every column: another order", SQL, SQL.replace("id, email, plan", "plan, email, id"), NOTHING, every()),
    edited(
        "every column: one more that is excluded", SQL, SQL.replace("plan", "plan, 1 as more"), NOTHING, every("more")
    ),
    edited("every column: an excluded one is dropped", SQL, SQL.replace("plan, ", ""), BREAKING, every("plan")),
    edited("every column: SQL that cannot be read", SQL, "select {{ columns() }} from x", REVIEW, every()),
    edited("a primary key is dropped", SQL, SQL.replace("id, ", ""), BREAKING, sync(primary_key="id")),
    edited(
        "a column of match_on is dropped",
        SQL,
        SQL.replace("email, ", ""),
        BREAKING,
        sync(destination={"type": "http", "match_on": "who"}, mapping={"who": "email"}),
    ),
    edited(
        "a template's column is dropped",
        SQL,
        SQL.replace("plan, ", ""),
        BREAKING,
        sync(mapping={"x": {"template": "{{ row.plan }}"}}),
    ),
    edited(
        "a struct's field is dropped",
        STRUCT.format(", 'zip': cast(email as varchar)"),
        STRUCT.format("").replace("city", "zip"),
        BREAKING,
        of_sql("address.city"),
    ),
    edited(
        "another field of a struct is dropped",
        STRUCT.format(", 'zip': cast(email as varchar)"),
        STRUCT.format(""),
        WARNING,
        of_sql("address.city"),
    ),
    edited(
        "a struct's field is retyped",
        STRUCT.format(""),
        STRUCT.format("").replace("varchar", "integer"),
        BREAKING,
        of_sql("address.city"),
    ),
    edited(
        "a struct that the sync reads into is not known",
        "select id, plan as address from {{ ref('stg') }}",
        "select id, email as address from {{ ref('stg') }}",
        REVIEW,
        of_sql("address.city"),
    ),
    edited(
        "a JSON value that the sync reads into is made differently",
        "select id, cast(plan as json) as payload from {{ ref('stg') }}",
        "select id, cast(email as json) as payload from {{ ref('stg') }}",
        REVIEW,
        of_sql("payload->>'city'"),
    ),
    edited(
        "a struct's field is dropped, which a query reads",
        STRUCT.format(", 'zip': cast(email as varchar)"),
        STRUCT.format("").replace("city", "zip"),
        BREAKING,
        sync(model={"sql": "select c.id, c.address.city as x from main.customers as c"}, mapping={"x": "x"}),
    ),
    edited(
        "Snowflake: a quoted name loses its quotes",
        QUOTED.format('"Email"'),
        QUOTED.format("email"),
        BREAKING,
        of_sql('upper("Email")'),
        adapter="snowflake",
    ),
    edited(
        "Snowflake: quotes that change nothing",
        QUOTED.format('"EMAIL"'),
        QUOTED.format("email"),
        NOTHING,
        of_sql('upper("EMAIL")'),
        adapter="snowflake",
    ),
    edited(
        "Postgres: a quoted name loses its quotes",
        QUOTED.format('"Email"'),
        QUOTED.format("Email"),
        BREAKING,
        of_sql('upper("Email")'),
        adapter="postgres",
    ),
    edited(
        "Postgres: an unquoted name is recased",
        QUOTED.format("email"),
        QUOTED.format("EMAIL"),
        NOTHING,
        of_sql('upper("email")'),
        adapter="postgres",
    ),
    edited(
        "Postgres: a query's name gets quotes in the model",
        QUOTED.format("email"),
        QUOTED.format('"Email"'),
        BREAKING,
        sync(model={"sql": "select id, email from main.customers"}, primary_key="id"),
        adapter="postgres",
    ),
    edited(
        "DuckDB: a quoted name is recased",
        QUOTED.format('"Email"'),
        QUOTED.format('"EMAIL"'),
        NOTHING,
        of_sql('upper("Email")'),
    ),
]


def in_meta(**more: Any) -> dict[str, Any]:
    values = {"name": "in_meta", "source": "w", "destination": {"type": "http"}, "mapping": {"email": "email"}}
    return {"customers": {"parents": ["stg"], "meta": {"reverse_etl": {**values, **more}}}}


RENAMED = SQL.replace("email", "email as mail")

WHOSE_SYNC_COUNTS = [
    Case(
        "a column and its sync are renamed together",
        project(**in_meta()),
        project(RENAMED, **in_meta(mapping={"email": "mail"})),
        NOTHING,
        [],
    ),
    Case("a column is renamed, its sync is not", project(**in_meta()), project(RENAMED, **in_meta()), BREAKING, []),
    Case(
        "the head's sync maps a column that does not exist",
        project(**in_meta()),
        project(**in_meta(mapping={"email": "mail"})),
        BREAKING,
        [],
    ),
    Case("the head's sync is not valid", project(**in_meta()), project(**in_meta(mode="upset")), BREAKING, []),
    Case("the first sync", project(), project(**in_meta()), NOTHING, []),
    Case("the first sync maps a missing column", project(), project(**in_meta(mapping={"a": "mail"})), BREAKING, []),
    Case("a sync is removed", project(**in_meta()), project(), WARNING, []),
    Case(
        "a new sync of a new model",
        project(),
        project(SQL, model("fans", "select id, plan from {{ ref('stg') }}", parents=["stg"])),
        NOTHING,
        [sync(model="fans", mapping={"plan": "plan"}, primary_key="id")],
    ),
    Case(
        "a new sync of a new model that lacks its column",
        project(),
        project(SQL, model("fans", "select id, plan from {{ ref('stg') }}", parents=["stg"])),
        BREAKING,
        [sync(model="fans", primary_key="id")],
    ),
    Case(
        "a new sync of a new model that cannot be read",
        project(),
        project(SQL, model("fans", "select {{ star() }} from {{ ref('stg') }}", parents=["stg"])),
        REVIEW,
        [sync(model="fans", primary_key="id")],
    ),
    *(
        Case(f"a query names {what}", project(), project(), verdict, [sync(model={"sql": sql}, primary_key="id")])
        for what, sql, verdict in (
            ("a column that never existed", "select id, mail as email from main.customers", BREAKING),
            ("a column of another table", "select c.id, o.mail as email from main.customers c, other.o o", NOTHING),
            ("its own alias", "select id, lower(email) as e from main.customers order by e", NOTHING),
        )
    ),
    Case(
        "a column that was missing before, and the sync is the same",
        project(**in_meta(mapping={"email": "mail"})),
        project(SQL + " and id > 5", **in_meta(mapping={"email": "mail"})),
        WARNING,
        [],
    ),
    Case(
        "a column that was missing before, which a sync in a file may have begun to use",
        project(),
        project(SQL + " and id > 5"),
        BREAKING,
        [sync(mapping={"email": "mail"}, primary_key="id")],
    ),
    Case(
        "a column that never existed",
        project(),
        project(),
        BREAKING,
        [sync(mapping={"email": "mail"}, primary_key="id")],
    ),
]


def calling(text: str, *macros: str) -> dict[str, Any]:
    """Return the description of customers made by macros, and what they say."""
    return {"customers": {"parents": ["stg"], "macros": list(macros)}, "macros": {"macro.shop.col": text}}


APPLY = {"macro.shop.apply": "{% macro apply(m) %}{{ m() }}{% endmacro %}"}
NAMES = "select id, {{ apply(col) }} from {{ ref('stg') }}"
WITH_VAR = "select id, plan as {{ var('name') }} from {{ ref('stg') }}"
INCREMENTAL = (
    "{{ config(materialized='incremental') }} {% if is_incremental() %}"
    "select id, EMAIL from {{ ref('stg') }} where created_at > (select max(created_at) from {{ this }})"
    "{% else %}select id, email from {{ ref('stg') }}{% endif %}"
)
CODES = "seed.shop.codes"
FROM_SEED = "select id, cast(email as varchar) as email from {{ ref('codes') }}"
HISTORY = "snapshot.shop.history"


def macro_value(text: str) -> ProjectVersion:
    return project(
        NAMES,
        customers={"parents": ["stg"], "macros": ["macro.shop.apply"]},
        macros={**APPLY, "macro.shop.col": text},
    )


def configured(config: dict[str, Any], sql: str = SQL) -> ProjectVersion:
    whole = {"materialized": "incremental", "meta": {}, "tags": [], **config}
    return project(sql, customers={"parents": ["stg"], "config": whole})


def from_seed(text: str | None, checksum: str = "x", *, sql: str = FROM_SEED, kind: str = "sha256") -> ProjectVersion:
    codes = seed("codes", checksum=checksum, kind=kind)
    return project(sql, codes, customers={"parents": [CODES]}, seeds={CODES: text} if text is not None else {})


def from_snapshot(sql: str, **config: Any) -> ProjectVersion:
    history = snapshot("history", sql, parents=["source.shop.raw.people"], **config)
    typed = "select id, cast(email as varchar) as email from {{ ref('history') }} where dbt_valid_to is null"
    return project(typed, history, customers={"parents": [HISTORY]})


def from_table(name: str, schema: str = "main", **more: Any) -> ProjectVersion:
    people = source("people", identifier=name, relation_name=f'"db"."{schema}"."{name}"')
    return project(people=people, **more)


OPAQUE = "select {{ star('a') }} from {{ ref('stg') }}"

WHAT_A_MODEL_IS_MADE_FROM = [
    Case(
        "a macro passed as a value changes a name",
        macro_value("{% macro col() %}email{% endmacro %}"),
        macro_value("{% macro col() %}mail{% endmacro %}"),
        REVIEW,
    ),
    Case(
        "a dispatched macro changes",
        *(
            project(
                "select {{ named('email') }} from {{ ref('stg') }}",
                macros={"macro.shop.named": "{{ adapter.dispatch('named')() }}", "macro.shop.duckdb__named": text},
                customers={"parents": ["stg"], "macros": ["macro.shop.named"]},
            )
            for text in ("a", "b")
        ),
        REVIEW,
    ),
    Case(
        "a macro of dbt itself is overridden",
        project(macros={"macro.dbt.create_table_as": "create"}),
        project(macros={"macro.dbt.create_table_as": "create", "macro.shop.create_table_as": "create other"}),
        REVIEW,
    ),
    Case(
        "a macro that no model names changes",
        project(macros={"macro.shop.idle": "a"}),
        project(macros={"macro.shop.idle": "b"}),
        NOTHING,
    ),
    Case(
        "a variable of a package renames a column",
        project(WITH_VAR, variables={"shop": {}, "lib": {"name": "email"}}),
        project(WITH_VAR, variables={"shop": {}, "lib": {"name": "mail"}}),
        REVIEW,
    ),
    Case("variables are not known", project(WITH_VAR), project(WITH_VAR), REVIEW),
    Case(
        "the incremental branch loses a used column",
        project(INCREMENTAL.replace("EMAIL", "email")),
        project(INCREMENTAL.replace("EMAIL", "plan")),
        BREAKING,
    ),
    Case(
        "the incremental branch filters differently",
        project(INCREMENTAL),
        project(INCREMENTAL.replace("created_at >", "created_at >=")),
        WARNING,
    ),
    Case(
        "compiled SQL has only one branch of is_incremental()",
        *(
            project(
                "{% if is_incremental() %}select {{ f('" + name + "') }}{% else %}select id, email{% endif %} from x",
                customers={"parents": ["stg"], "compiled": "select 1 as id, 'x' as email"},
            )
            for name in ("a", "b")
        ),
        REVIEW,
    ),
    Case(
        "a big seed changes", from_seed("id,email\n1,a", kind="path"), from_seed("id,mail\n1,a", kind="path"), BREAKING
    ),
    Case("a big seed of unknown content", from_seed(None, kind="path"), from_seed(None, kind="path"), REVIEW),
    Case("a big seed stays", from_seed("id,email\n1,a", kind="path"), from_seed("id,email\n1,a", kind="path"), NOTHING),
    Case("a seed's column is renamed", from_seed("id,email\n1,a"), from_seed("id,mail\n1,a", "y"), BREAKING),
    Case("a seed of unknown content changes", from_seed(None), from_seed(None, "y"), REVIEW),
    Case("a seed gets another row", from_seed("id,email\n1,a"), from_seed("id,email\n1,a\n2,b", "y"), WARNING),
    Case(
        "a seed's column gets another type",
        *(
            from_seed(f"id,email\n1,{value}", value, sql="select id, email from {{ ref('codes') }}")
            for value in ("5", "five")
        ),
        BREAKING,
    ),
    Case(
        "a snapshot loses a column that the model casts",
        from_snapshot("select id, email from {{ source('raw', 'people') }}"),
        from_snapshot("select id, mail from {{ source('raw', 'people') }}"),
        BREAKING,
    ),
    Case(
        "the incremental branch gives a used column another type",
        *(
            project(
                "select id, {% if is_incremental() %}cast(email as " + kind + "){% else %}cast(email as varchar)"
                "{% endif %} as email from {{ ref('stg') }}"
            )
            for kind in ("varchar", "integer")
        ),
        REVIEW,
    ),
    Case(
        "a snapshot no longer marks deleted rows",
        *(
            project(
                SQL,
                snapshot(
                    "history",
                    "select id, email from {{ source('raw', 'people') }}",
                    parents=["source.shop.raw.people"],
                    hard_deletes=deletes,
                ),
            )
            for deletes in ("new_record", "invalidate")
        ),
        BREAKING,
        [sync(model={"table": "main.history"}, mapping={"gone": "dbt_is_deleted"}, primary_key="id")],
    ),
    Case(
        "a snapshot's strategy changes",
        from_snapshot("select id, email from {{ source('raw', 'people') }}", strategy="check"),
        from_snapshot("select id, email from {{ source('raw', 'people') }}", strategy="timestamp"),
        WARNING,
    ),
    Case("a source has another identifier", from_table("people"), from_table("persons"), REVIEW),
    Case("a source has another schema", from_table("people"), from_table("people", "elsewhere"), REVIEW),
    Case("unique_key changes", configured({"unique_key": "id"}), configured({}), WARNING),
    Case(
        "the incremental strategy changes",
        configured({"incremental_strategy": "append"}),
        configured({"incremental_strategy": "merge"}),
        WARNING,
    ),
    Case(
        "a hook changes",
        configured({}),
        configured({"post-hook": [{"sql": "alter table {{ this }} drop column email", "transaction": True}]}),
        REVIEW,
    ),
    Case(
        "tags and meta change", configured({}), configured({"tags": ["a"], "persist_docs": {"columns": True}}), NOTHING
    ),
    Case(
        "a unique test gets a where",
        project(),
        project(
            tests=[data_test("unique", "customers", "id", where="id > 5"), data_test("not_null", "customers", "id")]
        ),
        BREAKING,
    ),
    Case(
        "a second package has a model of the same name",
        project(SQL, model("fans", package="lib")),
        project(SQL, model("fans", package="lib"), model("fans", package="other")),
        BREAKING,
        [sync(model="fans", mapping={"id": "id"}, primary_key="id")],
    ),
    Case(
        "SQL that cannot be read becomes SQL that can, for a column of unknown type",
        project("select {{ f() }}", customers={"parents": ["stg"], "columns": {"id": "", "email": ""}}),
        project(SQL, customers={"parents": ["stg"], "columns": {"id": "", "email": ""}}),
        REVIEW,
    ),
    edited(
        "comments and white space in SQL that cannot be read",
        OPAQUE,
        "-- who, and 'what'\nselect   {{ star('a') }} /* all */\n{# of #} from {{ ref('stg') }}\n",
        NOTHING,
    ),
    edited("a comment that is text", OPAQUE + " where a = '-- x'", OPAQUE + " where a = '-- y'", REVIEW),
    edited(
        "what looks like a comment",
        OPAQUE + r" where a = 'it\'s -- x'",
        OPAQUE + r" where a = 'it\'s -- y'",
        REVIEW,
        adapter="snowflake",
    ),
    edited("a comment that calls a macro", OPAQUE + " -- {{ f('a') }}", OPAQUE + " -- {{ f('b') }}", REVIEW),
]

BY_EMAIL = "partition by email order by created_at desc"
GROUPED = "select id, {} as email, count(*) as n from {{{{ ref('stg') }}}} group by {}"
JOINED = (
    "with a as (select id, {} as k from {{{{ ref('stg') }}}}) "
    "select s.id, cast(s.email as varchar) as email from {{{{ ref('stg') }}}} as s join a on a.k = s.plan"
)
FILTERED = (
    "with a as (select id, cast(email as varchar) as email, {} as ok from {{{{ ref('stg') }}}}) "
    "select id, email from a where ok"
)
LIMITED = "select id, email from {{{{ ref('stg') }}}} order by {} limit 10"

WHICH_ROWS = [
    edited("another order in a window", over(BY_EMAIL), over(BY_EMAIL.replace("created_at", "plan")), WARNING),
    edited("another partition in a window", over(BY_EMAIL), over(BY_EMAIL.replace("email", "plan")), WARNING),
    edited("another row of a window", over(BY_EMAIL), over(BY_EMAIL, where="rn = 2"), WARNING),
    edited(
        "a window that no filter reads",
        over(BY_EMAIL, where="active"),
        over(BY_EMAIL.replace("email", "plan"), where="active"),
        NOTHING,
    ),
    edited(
        "another order in a window of QUALIFY",
        *(
            f"select id, email from {{{{ ref('stg') }}}} qualify row_number() over (partition by id order by {c}) = 1"
            for c in ("plan", "active")
        ),
        WARNING,
    ),
    edited(
        "a filter's column is computed differently", FILTERED.format("active"), FILTERED.format("not active"), WARNING
    ),
    edited("a join's column is computed differently", JOINED.format("plan"), JOINED.format("upper(plan)"), WARNING),
    Case(
        "a filter's column is computed differently upstream",
        project(),
        project(stg=STG.replace("active,", "not active as active,")),
        WARNING,
    ),
    edited(
        "group by all",
        GROUPED.format("email", "all"),
        GROUPED.format("email", "all").replace("id,", "id, plan,"),
        WARNING,
    ),
    edited("group by position", GROUPED.format("email", "1, 2"), GROUPED.format("email", "all"), NOTHING),
    edited("another order with a limit", LIMITED.format("id"), LIMITED.format("id desc"), WARNING),
    edited("another order without a limit", *(f"{SQL} order by {c}" for c in ("id", "plan")), NOTHING),
    edited(
        "a column more in SELECT DISTINCT",
        *(f"select distinct id, email{c} from {{{{ ref('stg') }}}}" for c in ("", ", plan")),
        WARNING,
    ),
    edited(
        "a column more in UNION",
        *(
            f"select id, email{c} from {{{{ ref('stg') }}}} union select id, email{c} from {{{{ ref('stg') }}}}"
            for c in ("", ", plan")
        ),
        WARNING,
    ),
    edited(
        "another column in a subquery of a filter",
        *(f"{SQL} and id in (select {c} from {{{{ ref('stg') }}}})" for c in ("id", "plan")),
        WARNING,
    ),
    edited(
        "another order of conditions",
        *(f"select id, email from {{{{ ref('stg') }}}} where {c}" for c in ("active and id > 5", "id > 5 and active")),
        NOTHING,
    ),
    edited(
        "a subquery becomes a CTE",
        "select id, email from (select * from {{ ref('stg') }} where active) as x",
        "with x as (select * from {{ ref('stg') }} where active) select id, email from x",
        NOTHING,
    ),
    edited(
        "an unused column of a subquery",
        *(f"select id, email from (select *, {c} as extra from {{{{ ref('stg') }}}}) as x" for c in ("1", "2")),
        NOTHING,
    ),
    edited(
        "another alias of a table",
        *(f"select {t}.id, {t}.email from {{{{ ref('stg') }}}} as {t} where {t}.active" for t in ("a", "b")),
        NOTHING,
    ),
    edited(
        "another side of a self join",
        *(
            f"select a.id, a.email from {{{{ ref('stg') }}}} as a left join {{{{ ref('stg') }}}} as b on a.{x} = b.{y}"
            for x, y in (("id", "plan"), ("plan", "id"))
        ),
        WARNING,
    ),
    edited(
        "a filter moves to another subquery",
        *(
            f"with a as (select id, email from {{{{ ref('stg') }}}} {x}), "
            f"b as (select id, email from {{{{ ref('stg') }}}} {y}) "
            "select a.id, a.email from a left join b on a.id = b.id"
            for x, y in (("where active", ""), ("", "where active"))
        ),
        WARNING,
    ),
    edited(
        "a named window changes",
        *(
            "select id, email from (select id, email, row_number() over w as rn from {{ ref('stg') }} "
            f"window w as (partition by {c})) as x where rn = 1"
            for c in ("email", "plan")
        ),
        WARNING,
    ),
    edited(
        "a value of a scalar subquery changes",
        *(
            f"select id, cast((select max(s.{c}) from {{{{ ref('stg') }}}} as s) as varchar) as email "
            "from {{ ref('stg') }}"
            for c in ("plan", "email")
        ),
        WARNING,
    ),
    Case(
        "a filter reads a column that is gone upstream",
        project(),
        project(stg=STG.replace("active, ", "")),
        BREAKING,
    ),
    Case(
        "an unused column reads one that is gone upstream",
        project(SQL.replace("plan,", "upper(plan) as p,")),
        project(SQL.replace("plan,", "upper(plan) as p,"), stg=STG.replace("plan, ", "")),
        BREAKING,
    ),
]


def table(name: str) -> SyncSource:
    return sync(model={"table": name}, primary_key="id")


def with_snapshot(*nodes: Node) -> ProjectVersion:
    return project(SQL, *nodes)


PLAIN_HISTORY = snapshot(
    "history", "select id, email from {{ source('raw', 'people') }}", parents=["source.shop.raw.people"]
)

TABLES = [
    edited("a table without a schema", SQL, SQL.replace("email, ", ""), BREAKING, table("customers")),
    edited(
        "a query without a schema",
        SQL,
        SQL.replace("email, ", ""),
        BREAKING,
        sync(model={"sql": "select id, email from customers"}, primary_key="id"),
    ),
    edited(
        "a table in the schema of another target",
        SQL,
        SQL.replace("email, ", ""),
        BREAKING,
        table("production.customers"),
    ),
    Case(
        "a snapshot's table, deleted", with_snapshot(PLAIN_HISTORY), with_snapshot(), BREAKING, [table("main.history")]
    ),
    Case(
        "a snapshot's table loses a column",
        with_snapshot(PLAIN_HISTORY),
        with_snapshot({**PLAIN_HISTORY, "raw_code": "select id, mail from {{ source('raw', 'people') }}"}),
        BREAKING,
        [table("main.history")],
    ),
    Case(
        "a seed's table loses a column",
        *(project(SQL, seed("codes", checksum=text), seeds={CODES: f"id,{text}\n1,a"}) for text in ("email", "mail")),
        BREAKING,
        [table("codes")],
    ),
    Case("a seed's table, deleted", project(SQL, seed("codes")), project(), BREAKING, [table("main.codes")]),
    Case(
        "several models build tables of that name, and one changes",
        project(SQL, model("others", SQL, parents=["stg"], alias="customers", schema="b")),
        project(SQL.replace("email, ", ""), model("others", SQL, parents=["stg"], alias="customers", schema="b")),
        BREAKING,
        [table("customers")],
    ),
    Case("a table of nobody", project(), project(stg=STG + " where id > 1"), NOTHING, [table("elsewhere.things")]),
]


SELF = "select a.id, b.email as email from {{ ref('stg') }} as a left join {{ ref('stg') }} as b on a.id = b.plan"


def staged(name: str, before: str, after: str, verdict: Level | None, sql: str = SQL, **more: Any) -> Case:
    """Build a case in which only the SQL of the model stg differs."""
    return Case(name, project(sql, stg=before, **more), project(sql, stg=after, **more), verdict, [sync()])


#: Kinds of mistakes that random edits found.
FOUND_BY_EDITS = [
    staged(
        "a column without use gets a type that does not go",
        STG,
        STG.replace("plan,", "cast(id as date) as plan,"),
        REVIEW,
        people=source("people", {"id": "integer"}),
    ),
    staged(
        "a type that a filter downstream does not take",
        STG.replace("plan,", "cast(plan as varchar) as plan,"),
        STG.replace("plan,", "cast(plan as date) as plan,"),
        REVIEW,
        SQL + " and plan like 'f%' and upper(plan) = 'F'",
    ),
    staged("two columns of one name", STG, STG.replace("plan", "plan as active"), BREAKING),
    staged("two columns of one name that nobody uses", STG, STG.replace("plan", "1 as x, 2 as x, plan"), REVIEW),
    staged("a column of a source that nothing shows", STG, STG + " where deleted", REVIEW),
    staged("a column of a source that something shows", STG, STG + " where active", WARNING),
    edited("a column that no input has", SQL, SQL.replace("active", "actif"), REVIEW),
    edited(
        "a column of a CTE that the CTE does not have",
        "with s as (select id, email, plan from {{ ref('stg') }}) select id, email from s where plan = 'a'",
        "with s as (select id, email from {{ ref('stg') }}) select id, email from s where plan = 'a'",
        REVIEW,
    ),
    edited(
        "branches of different numbers of columns",
        "select id, email from {{ ref('stg') }} union all select id, plan from {{ ref('stg') }}",
        "select id, email from {{ ref('stg') }} union all select id, plan, 1 as n from {{ ref('stg') }}",
        REVIEW,
    ),
    edited(
        "Snowflake: a filter quotes a name that is not stored so",
        SQL,
        SQL.replace("active", '"active"'),
        REVIEW,
        adapter="snowflake",
    ),
    edited(
        "Snowflake: a filter quotes a name as it is stored",
        SQL,
        SQL.replace("active", '"ACTIVE"'),
        NOTHING,
        adapter="snowflake",
    ),
    edited(
        "a limit's order is by what SELECT computes",
        *(
            f"select id, email, cast(plan as {kind}) as plan from {{{{ ref('stg') }}}} order by plan limit 9"
            for kind in ("varchar", "date")
        ),
        WARNING,
    ),
    edited(
        "another limit of a union",
        *(f"select id, email from {{{{ ref('stg') }}}} union all select 1, 'a' order by id limit {n}" for n in "12"),
        WARNING,
    ),
    edited(
        "two columns of a branch of a union have one name",
        "select id, email from {{ ref('stg') }} union all select id, plan as email from {{ ref('stg') }}",
        "select id, email from {{ ref('stg') }} union all select id as email, plan as email from {{ ref('stg') }}",
        NOTHING,
    ),
    edited(
        "one of two columns of a branch of a union that have one name",
        *(
            f"select id, email from {{{{ ref('stg') }}}} union all select id as email, {value} as email from "
            "{{ ref('stg') }}"
            for value in ("plan", "upper(plan)")
        ),
        REVIEW,
    ),
    edited("a column of the other side of a self join", SELF, SELF.replace("b.email", "a.email"), REVIEW),
    edited(
        "a join is dropped whose columns are still selected",
        "select s.id, s.email, t.plan from {{ ref('stg') }} s join {{ ref('stg') }} t on s.id = t.id",
        "select s.id, s.email, t.plan from {{ ref('stg') }} s",
        REVIEW,
    ),
    edited(
        "a selected column is no longer grouped by",
        "select id, max(email) as email, plan from {{ ref('stg') }} group by id, plan",
        "select id, max(email) as email, plan from {{ ref('stg') }} group by id",
        REVIEW,
    ),
    edited(
        "a column instead of an aggregate of it",
        "select plan as id, max(email) as email from {{ ref('stg') }} group by 1",
        "select plan as id, email from {{ ref('stg') }} group by 1",
        REVIEW,
    ),
    edited(
        "windows over groups",
        "select id, max(email) as email from {{ ref('stg') }} group by id",
        "select id, max(email) as email, sum(count(*)) over (order by id) as n from {{ ref('stg') }} group by id",
        NOTHING,
    ),
    edited(
        "Snowflake: GROUP BY quotes a name as it is stored",
        "select id, max(email) as email from {{ ref('stg') }} group by id",
        "select id, max(email) as email from {{ ref('stg') }} group by \"ID\"",
        NOTHING,
        adapter="snowflake",
    ),
    edited(
        "Snowflake: QUALIFY quotes a name that is not stored so",
        *(
            f"select * from {{{{ ref('stg') }}}} qualify row_number() over (partition by {name} order by id) = 1"
            for name in ("email", '"Email"')
        ),
        REVIEW,
        adapter="snowflake",
    ),
    edited(
        "HAVING names a column that is not there",
        *(
            f"select id, max(email) as email from {{{{ ref('stg') }}}} group by id having max({name}) > 'a'"
            for name in ("plan", "plans")
        ),
        REVIEW,
    ),
    staged(
        "Postgres: DATE_TRUNC of a date is cast to a boolean",
        *(
            f"select id, email, plan, active, {value} as day from {{{{ source('raw', 'people') }}}}"
            for value in ("date_trunc('month', created_on)", "cast(date_trunc('month', created_on) as boolean)")
        ),
        REVIEW,
        people=source("people", {"created_on": "date"}),
    ),
    staged(
        "a text that is not a date instead of one",
        *(f"{STG} where coalesce(created_on, {value}) > '2000-01-01'" for value in ("'1970-01-01'", "''")),
        REVIEW,
        people=source("people", {"created_on": "date"}),
    ),
    edited("a query is put into a CTE", SQL, f"with final as ({SQL}) select * from final", NOTHING),
    Case(
        "a query is moved to a model of its own",
        project(),
        project(
            "select * from {{ ref('base') }}", model("base", SQL, parents=["stg"]), customers={"parents": ["base"]}
        ),
        NOTHING,
    ),
    Case(
        "a model upstream is renamed",
        *(
            ProjectVersion(
                manifest(
                    source("people"),
                    model(name, STG, parents=["source.shop.raw.people"]),
                    model("customers", SQL.replace("'stg'", f"'{name}'"), parents=[name]),
                    *keyed("customers"),
                )
            )
            for name in ("stg", "stg_people")
        ),
        NOTHING,
    ),
    edited(
        "conditions written differently",
        SQL + " and plan > 'a' and id between 1 and 5 and plan in ('a', 'b')",
        SQL + " and 'a' < plan and (id >= 1 and id <= 5) and (plan = 'b' or plan = 'a')",
        NOTHING,
    ),
    edited(
        "a condition of an inner join in WHERE",
        "select s.id, s.email from {{ ref('stg') }} s join {{ ref('stg') }} t on s.id = t.id and t.active",
        "select s.id, s.email from {{ ref('stg') }} s join {{ ref('stg') }} t on s.id = t.id where t.active",
        NOTHING,
    ),
    edited(
        "a condition of a left join in WHERE",
        "select s.id, s.email from {{ ref('stg') }} s left join {{ ref('stg') }} t on s.id = t.id and t.active",
        "select s.id, s.email from {{ ref('stg') }} s left join {{ ref('stg') }} t on s.id = t.id where t.active",
        WARNING,
    ),
    edited(
        "COALESCE as CASE",
        SQL.replace("plan,", "coalesce(plan, 'a') as plan,"),
        SQL.replace("plan,", "case when plan is null then 'a' else plan end as plan,"),
        NOTHING,
        sync(mapping={"plan": "plan"}, primary_key="id"),
    ),
]


@pytest.mark.parametrize(
    "case",
    [*WHAT_A_SYNC_READS, *WHOSE_SYNC_COUNTS, *WHAT_A_MODEL_IS_MADE_FROM, *WHICH_ROWS, *TABLES, *FOUND_BY_EDITS],
    ids=lambda case: case.name,
)
def test_verdict(case: Case) -> None:
    report = check(case.base, case.head, *case.syncs)
    assert worst(report) == case.verdict, [(str(f.level), f.rule, f.message) for f in report.findings]


@pytest.mark.parametrize("case", [*WHAT_A_SYNC_READS, *WHICH_ROWS, *TABLES], ids=lambda case: case.name)
def test_nothing_is_reported_if_nothing_changes(case: Case) -> None:
    syncs = [source for source in case.syncs if source.sync.mapping]
    report = check(case.base, case.base, *syncs)
    assert report.findings == ()


@pytest.mark.parametrize(
    "head",
    [
        configured({}),
        configured({"unique_key": "id", "post-hook": [{"sql": "grant select"}]}),
        configured({"unique_key": "id", "tags": ["crm"]}),
    ],
)
def test_any_change_of_a_model_fails_under_that_policy(head: ProjectVersion) -> None:
    base = configured({"unique_key": "id"})
    assert check(base, head, sync(primary_key="id"), policy="any_change").conclusion == "failed"
    assert check(base, base, sync(primary_key="id"), policy="any_change").conclusion == "passed"


def test_a_sync_in_meta_counts_as_its_environment_has_it() -> None:
    asked = {"mapping": {"id": "id"}, "environments": {"prod": {"mapping": {"plan": "plan"}}, "dev": {}}}
    base = project(**in_meta(**asked))
    head = project(SQL.replace("plan, ", ""), **in_meta(**asked))
    assert worst(check(base, head, environment="dev")) != BREAKING
    assert worst(check(base, head, environment="prod")) == BREAKING
