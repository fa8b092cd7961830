"""Names of databases."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_reverse_etl.sql.dialects import registry
from airflow_reverse_etl.sql.dialects.registry import PLANNERS, dialect_of, writable_dialect


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        # Airflow's connection types
        ("google_cloud_platform", "bigquery"),
        ("gcpbigquery", "bigquery"),
        ("databricks_sql", "databricks"),
        ("mssql", "tsql"),
        ("odbc", "tsql"),
        ("mysql", "mysql"),
        # dbt's adapters
        ("sqlserver", "tsql"),
        ("fabric", "tsql"),
        ("synapse", "tsql"),
        ("glue", "spark"),
        # ADBC's drivers
        ("postgresql", "postgres"),
        ("sqlite3", "sqlite"),
        # a database of which nothing is known
        ("exasol", "exasol"),
    ],
)
def test_a_database_is_found_by_each_of_its_names(name: str, dialect: str) -> None:
    assert dialect_of(name).name == dialect


@pytest.mark.parametrize("name", ["reverse_etl_http", "http", ""])
def test_a_name_that_sqlglot_does_not_know_cannot_be_written(name: str) -> None:
    assert writable_dialect(name) is None


def test_no_two_databases_share_a_name() -> None:
    dialects = (*PLANNERS.values(), *registry._OTHERS)
    names = Counter(name for dialect in dialects for name in (dialect.name, *dialect.aliases))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("adapter", "plain", "quoted"),
    [
        ("bigquery", "aB", "aB"),
        ("snowflake", "AB", "aB"),
        ("postgres", "ab", "aB"),
        ("redshift", "ab", "ab"),
        ("duckdb", "ab", "ab"),
    ],
)
def test_names_are_compared_as_the_database_compares_them(adapter: str, plain: str, quoted: str) -> None:
    dialect = dialect_of(adapter)
    assert dialect.compared_name("aB", is_quoted=False) == plain
    assert dialect.compared_name("aB", is_quoted=True) == quoted
