"""Tests of a model's columns and lineage, in the dialects of the warehouses."""

from __future__ import annotations

import pytest

from airflow_reverse_etl.check.lineage import ColumnResolver, family
from tests.dbt.projects import model, side

A = "select 1 as id, 'x' as name, null as js, now() as at"


def columns(adapter: str, sql: str) -> list[str] | None:
    nodes = model("a", A), model("b", sql, parents=["a"])
    found = ColumnResolver(side(*nodes, adapter=adapter)).columns("model.shop.b")
    return list(found.by_name) if found.complete else None


@pytest.mark.parametrize(
    ("adapter", "sql", "expected"),
    [
        ("snowflake", "select *, row_number() over (order by id) as rn from {} qualify rn = 1", "id name js at rn"),
        ("snowflake", "select * exclude (at) rename (id as key) from {}", "key name js"),
        ("snowflake", "select a.id, f.value:x::string as x from {} a, lateral flatten(input => a.js) f", "id x"),
        ("bigquery", "select * except (at) replace (upper(name) as name) from {}", "id name js"),
        ("bigquery", "select id, x from {}, unnest(js) as x", "id x"),
        ("postgres", "select distinct on (id) id, name::text, js->>'x' as x from {}", "id name x"),
        ("postgres", "with recursive t as (select id from {} union all select id + 1 from t) select * from t", "id"),
        (
            "redshift",
            "select id, listagg(name, ',') within group (order by name) as names from {} group by 1",
            "id names",
        ),
        ("databricks", "select id, explode(js) as e from {}", "id e"),
        ("duckdb", "from {}", "id name js at"),
        ("duckdb", "select * from {} pivot (sum(id) for name in ('x', 'y'))", "js at x y"),
        ("sqlserver", "select top 5 id, [name] from {}", "id name"),
        ("an_adapter_of_tomorrow", "select id, name from {}", "id name"),
    ],
)
def test_known(adapter: str, sql: str, expected: str) -> None:
    assert columns(adapter, sql.format("{{ ref('a') }}")) == expected.split()


@pytest.mark.parametrize(
    ("adapter", "sql"),
    [
        ("bigquery", "select js.* from {}"),
        ("duckdb", "select columns('i.*') from {}"),
        ("duckdb", "pivot {} on name using sum(id)"),
        ("duckdb", "select id from {} union by name select 1 as other"),
        ("snowflake", "select $1 from {}"),
        ("postgres", "select count(*) from {}"),
        ("postgres", "select * from somewhere.unknown"),
        ("postgres", "select from where"),
    ],
)
def test_unknown_is_never_guessed(adapter: str, sql: str) -> None:
    assert columns(adapter, sql.format("{{ ref('a') }}")) is None


@pytest.mark.parametrize(
    ("types", "name"),
    [
        ("VARCHAR(20) text STRING nvarchar uuid character citext", "text"),
        ("INT64 bigint NUMBER(38,0) numeric(10,2) double FLOAT64 hugeint smallserial real", "number"),
        ("TIMESTAMP_NTZ timestamptz DATETIME datetime2 timestamp(6)", "timestamp"),
        ("date DATE", "date"),
        ("time TIME(6)", "time"),
        ("bool BOOLEAN", "boolean"),
        ("json JSONB VARIANT super object", "json"),
        ("bytea BYTES varbinary(10)", "binary"),
        ("ARRAY<STRING> text[] list", "array"),
        ("STRUCT<a:int> map(int,int)", "struct"),
        ("interval", "interval"),
    ],
)
def test_families(types: str, name: str) -> None:
    assert {family(text) for text in types.split()} == {name}


def test_an_unknown_type_has_no_family() -> None:
    assert family("hstore_of_mine") is None
    assert family("") is None
