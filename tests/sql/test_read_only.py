"""Only one SELECT reaches a database, and everything that a database accepts as one SELECT does."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.errors import ModelNotFoundError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.model import SqlField, Sync
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.stores.lake.store import LakeStore
from airflow_reverse_etl.stores.warehouse.store import WarehouseStore
from airflow_reverse_etl.sync.ports import PlanRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SYNC = Sync(name="s", model="m", source="w", destination={"type": "file"}, mapping={"email": "email"})

#: Dialect → statements that are not a SELECT, or that do more than read.
HOSTILE = {
    "duckdb": [
        "",
        ";",
        " ; ; ",
        "-- nothing",
        "/* nothing */",
        "drop table customers",
        "create table t as select 1",
        "copy customers to '/tmp/customers.csv'",
        "copy (select 1) to '/tmp/customers.csv'",
        "attach '/tmp/other.duckdb'",
        "detach other",
        "install httpfs",
        "load httpfs",
        "pragma database_list",
        "call pragma_version()",
        "set memory_limit = '1GB'",
        "export database '/tmp/folder'",
        "select 1; delete from customers",
        "select 1; -- and\n delete from customers",
        "; select 1",
        # the query that is built from a table's name
        "SELECT * FROM customers; drop table customers",
        "SELECT * FROM (delete from customers returning *)",
        "SELECT * FROM customers) as x, (select 1",
    ],
    "postgres": [
        "with d as (delete from customers returning *) select * from d",
        "with d as (update customers set id = 1 returning *) select * from d",
        "with d as (insert into customers values (1) returning *) select * from d",
        "with d as (merge into customers using s on true when matched then delete returning *) select * from d",
        "with a as (with b as (delete from customers returning *) select * from b) select * from a",
        "with d as (select 1) delete from customers",
        "with d as (select 1) insert into customers select * from d",
        "with d as (drop table customers) select 1",
        "select * into copies from customers",
        "select * from customers for update",
        "select * from customers for no key update",
        "select * from customers for share",
        "select * from customers for key share skip locked",
        "select * from (select * from customers for update) as x",
        "(delete from customers returning *)",
        "select 1 union all (delete from customers returning 1)",
        "explain analyze delete from customers",
        "do $$ begin delete from customers; end $$",
        "call f()",
        "vacuum customers",
        "grant select on customers to public",
        "lock table customers",
        # with SQL that sqlglot cannot parse
        "select * from t, lateral (update customers set id = 1 returning id) as y where (insert is null)",
        "with d as (delete from customers returning *) select * from d where (insert is null)",
        "select * into copies from t where (insert is null)",
        "select * from t where (insert is null) for update",
    ],
    "mysql": [
        "select * from customers into outfile '/tmp/x'",
        "select * into outfile '/tmp/x' from customers",
        "select 1 /*! into outfile '/tmp/x' */",
        "select 1 /*!50000 into outfile '/tmp/x' */ from customers",
        "select * from customers lock in share mode",
        "with d as (select 1) delete t from customers as t join d",
        "replace into customers values (1)",
    ],
    "tsql": [
        "select 1 delete from customers",
        "select 1 drop table customers",
        "select * from customers where 1 = 1 truncate table customers",
        "select 1 exec sp_who",
        "select 1 update customers set id = 1",
        "select * into #copies from customers",
        "exec sp_who",
    ],
    "snowflake": ["select 1 ->> delete from customers", "merge into t using s on true when matched then delete"],
    "spark": ["from customers insert into copies select *", "from customers insert overwrite table copies select *"],
    "bigquery": ["from customers |> insert into copies", "from customers |> create table copies"],
    "oracle": ["select * from customers for update of id nowait", "select id bulk collect into x from customers"],
}
#: Dialect → queries that it accepts as one SELECT: with words of statements as names, texts and comments, and with the
#: dialect's own SQL, part of which sqlglot cannot parse.
VALID = {
    "duckdb": [
        "from customers",
        "from customers select id",
        "values (1, 2)",
        "table customers",
        "(select 1)",
        "(select 1) union all (select 2)",
        "select * replace (id as id) from customers",
        "select t.set, copy, load, attach from t",
        "select * from t update",
        "select ';' as a -- ; delete from customers",
        "select $$;$$ as a",
        "select 1 as a;\n\n;; -- the end",
        "select * from (unpivot t on a, b into name x value y)",
        "from (pivot t on a using sum(b))",
        "select * from (summarize customers)",
        "select * from t asof join u on t.a >= u.a",
        "select list_transform(a, lambda x: x + 1) from t",
    ],
    "postgres": [
        'select "delete", t.update from t',
        "select delete from t",
        "select set, replace, merge, copy from t",
        "select replace(a, 'delete from x', '') as r from t",
        "select a, update from t where delete = 1 and (insert is null)",
        "select count(*) update from t",
        "select 1 /* ; drop table customers */",
        "select * from customers -- for update",
        "with d as (select 1) select * from d",
        "(with d as (select 1) select * from d)",
        "select * from rows from (f(), g()) as x",
        "select substring(a from 2 for 3) from t",
        "select j ->> 'a' from t",
        "select * from json_table('[]', '$[*]' columns (a int path '$.a')) as x",
        "select a from t fetch first 3 rows with ties",
    ],
    "redshift": [
        "select approximate count(distinct a) from t",
        "select object_transform(x keep 'a' set 'b', 1) from t",
    ],
    "mysql": [
        "select insert(a, 1, 2, 'x') from t",
        "select `into`, 'into outfile' from t",
        "select 1 /* ! */",
        "select 1 /*+ max_execution_time(1000) */",
    ],
    "tsql": [
        "select [delete], x as [update] from [drop]",
        "select top 5 * from t with (nolock) option (merge join)",
        "select * from a inner merge join b on a.x = b.x",
        "select * from t option (use hint('x'))",
        "select a from t for json path",
        "select * from t for system_time as of '2020-01-01'",
    ],
    "snowflake": [
        "select * exclude (a) from t qualify row_number() over (partition by a order by b) = 1",
        "select parse_json(a):b.c::string from t, lateral flatten(input => t.x) as f",
        "select * from t changes(information => default) at (timestamp => '2020-01-01'::timestamp)",
        "select * from table(result_scan(last_query_id()))",
        "select $$ ; ->> $$ as a",
    ],
    "databricks": [
        "select * from t version as of 3",
        "select a from t lateral view explode(b) x as y",
        "select /*+ broadcast(t) */ a from t tablesample (10 percent)",
    ],
    "bigquery": [
        "from t |> drop a |> set b = 1 |> call f()",
        "from t |> where a > 1 |> select a",
        "select `update`, `delete` from `p.d.t` where insert_date > '2026-01-01'",
        "select * from ml.predict(model `p.m`, (select 1))",
        "select struct(1 as a).* from unnest([1, 2])",
    ],
    "oracle": [
        "select connect_by_root a from t start with b is null connect by prior a = b",
        "select * from t model dimension by (a) measures (b) rules (b[1] = 2)",
        "select * from t@link",
    ],
    "clickhouse": [
        "with 1 as x select x",
        "select * from t final prewhere a = 1 limit 1 by a settings max_threads = 1",
    ],
}


def pairs(statements: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(dialect, text) for dialect, texts in statements.items() for text in texts]


class Untouched:
    """A warehouse that records every call."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.calls: list[str] = []

    def columns(self, query: str) -> list[Column]:
        self.calls.append(query)
        return [Column("id"), Column("email")]

    def read(self, query: str, **_: Any) -> Any:
        self.calls.append(query)
        raise ModelNotFoundError("read")

    def close(self) -> None: ...


def request(query: str) -> PlanRequest:
    return PlanRequest(SYNC, query, ("id",), "r", NOW)


@pytest.mark.parametrize(("dialect", "query"), pairs(HOSTILE))
def test_a_query_that_is_not_a_select_or_does_more_than_read_reaches_no_warehouse(
    tmp_path: Path, dialect: str, query: str
) -> None:
    """The local planner asks the warehouse neither for columns nor for rows."""
    warehouse = Untouched(dialect)
    with pytest.raises(SpecError, match="query cannot be used"):
        LakeStore(str(tmp_path)).plan(request(query), warehouse)
    assert warehouse.calls == []


@pytest.mark.parametrize(("dialect", "query"), pairs(VALID))
def test_a_query_that_a_database_accepts_as_one_select_reaches_it(tmp_path: Path, dialect: str, query: str) -> None:
    warehouse = Untouched(dialect)
    with pytest.raises(ModelNotFoundError, match="read"):
        LakeStore(str(tmp_path)).plan(request(query), warehouse)
    assert warehouse.calls[0] == single_select(query, dialect, SYNC)
    assert len(warehouse.calls) == 2


class _Recorder:
    """A DB-API connection that records statements and returns no rows."""

    description = None

    def __init__(self) -> None:
        self.statements: list[str] = []

    def cursor(self) -> _Recorder:
        return self

    def execute(self, statement: str) -> None:
        self.statements.append(statement)

    def close(self) -> None: ...


@pytest.mark.parametrize("query", HOSTILE["duckdb"])
def test_rows_are_not_counted_in_the_warehouse_for_a_query_that_is_not_a_select(query: str) -> None:
    """``planner: auto`` counts them before anything else."""
    recorder = _Recorder()
    store = WarehouseStore(lambda: recorder, lambda: Untouched("duckdb"), dialect="duckdb")
    with pytest.raises(SpecError, match="query cannot be used"):
        store.model_rows(query, SYNC, at_most=1)
    assert recorder.statements == []


@pytest.mark.airflow
@pytest.mark.parametrize("query", HOSTILE["postgres"])
def test_drift_is_not_looked_for_in_a_query_that_is_not_a_select(tmp_path: Path, query: str) -> None:
    from airflow_reverse_etl.check.drift_memory import look_for_drift
    from airflow_reverse_etl.stores.files import StateFiles

    warehouse = Untouched("postgres")
    with pytest.raises(SpecError, match="query cannot be used"):
        look_for_drift(SYNC, query=query, warehouse=warehouse, files=StateFiles(str(tmp_path)), output=None)
    assert warehouse.calls == []


#: Statements of Postgres that can be common table expressions. ``{}`` is the place of a blank.
WRITES = [
    "delete{}from{}customers",
    "insert{}into{}customers{}values{}(1)",
    "update{}customers{}set{}id{}={}1",
    "merge{}into{}customers{}using{}s{}on{}true{}when{}matched{}then{}delete",
]
AROUND = [
    "{write}",
    "select 1 ; {write}",
    "with d as ({write} returning *) select * from d",
    "with a as (select 1), d as materialized ({write}) select 1",
    "with d as (select 1) {write}",
    "select * from ({write}) as x",
    # SQL that sqlglot cannot parse
    "with d as ({write} returning *) select * from d where (insert is null)",
    "select * from t where (insert is null); {write}",
]


@st.composite
def hostile(draw: st.DrawFn) -> str:
    """Draw a statement that writes, in any layout."""
    write = draw(st.sampled_from(WRITES))
    blank = st.sampled_from([" ", "\n", "\t ", " /* select */ ", " -- select\n"])
    write = write.format(*(draw(blank) for _ in range(write.count("{}"))))
    text = draw(st.sampled_from(AROUND)).format(write=write)
    return draw(st.sampled_from([str.lower, str.upper, str.title]))(text)


@given(query=hostile())
def test_a_statement_that_writes_is_refused_in_any_layout(query: str) -> None:
    with pytest.raises(SpecError, match="query cannot be used"):
        single_select(query, "postgres", SYNC)


WORDS = ["delete from x", "insert into x", "; drop table x", "for update", "into x"]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("dialect", ["postgres", "duckdb", "snowflake", "redshift", "oracle", "trino"])
@pytest.mark.parametrize("condition", ["", " and (insert is null)"], ids=["known", "unknown"])
def test_words_in_names_texts_and_comments_are_not_read(dialect: str, words: str, condition: str) -> None:
    """Even if sqlglot cannot parse the SQL."""
    query = f"select '{words}' as a, \"{words}\" /* {words} */ from t where a = '{words}'{condition} -- {words}"
    assert single_select(query, dialect, SYNC) == query


RENDERED_BY_NOBODY = [
    "select * from t where d = '{{ ds }}'",
    "select * from t where d = {{ ds }}",
    "select * from {{ ref('customers') }}",
    'select * from "{{ params.table }}"',
    "select * from t where d >= '{{ macros.ds_add(ds, -7) }}'",
    "{% if full %} select 1 {% else %} select 2 {% endif %}",
    "select '{%- if params.x -%}a{%- endif -%}' as a",
]
NOT_TEMPLATES = [
    "select 'Dear {{ first_name }}' as greeting",  # a template of the destination's
    "select '{{' || name || '}}' as tag",
    "select 1 as a -- {{ ds }}",
]


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "snowflake", "bigquery", "databricks", "mysql"])
@pytest.mark.parametrize("query", RENDERED_BY_NOBODY)
def test_a_template_that_nobody_renders_is_named(dialect: str, query: str) -> None:
    with pytest.raises(SpecError, match="has a Jinja template") as error:
        single_select(query, dialect, SYNC)
    assert "set templated: true" in str(error.value)


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "snowflake", "bigquery", "databricks", "mysql"])
@pytest.mark.parametrize("query", NOT_TEMPLATES)
def test_braces_in_texts_and_comments_are_no_template(dialect: str, query: str) -> None:
    assert single_select(query, dialect, SYNC) == query


def test_a_struct_in_a_struct_is_no_template() -> None:
    assert single_select("select {'a': {'b': 1}} as x", "duckdb", SYNC)


def test_a_template_in_an_expression_is_named(tmp_path: Path) -> None:
    sync = SYNC.model_copy(update={"mapping": {"email": SqlField(sql="coalesce(email, '{{ ds }}')")}})
    warehouse = Untouched("duckdb")
    with pytest.raises(SpecError, match=re.escape("mapping.email.sql: it has a Jinja template")):
        LakeStore(str(tmp_path)).plan(PlanRequest(sync, "select 1", ("id",), "r", NOW), warehouse)
