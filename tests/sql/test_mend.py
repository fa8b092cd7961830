"""The queries that mend duplicates, as the how-to page and the log print them, on rows that name one record twice."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import sqlglot

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sync.comparing import warnings
from airflow_reverse_etl.sync.ports import Plan
from tests.fresh import REPOSITORY
from tests.stores.bench import NOW
from tests.stores.warehouses import Place, duckdb_place, postgres_place

TEXT = (REPOSITORY / "docs" / "how-to" / "mend-duplicates.md").read_text()
DUPLICATES, QUALIFY, DISTINCT_ON, RANKED = re.findall(r"```sql\n(.*?);?\n```", TEXT, re.DOTALL)

#: Two rows of one record, written in two ways: the second is newer. A third has no time.
ROWS = [
    "(1, 'Ada@example.com', 'free', CAST('2026-01-01' AS DATE))",
    "(2, ' ada@EXAMPLE.com ', 'team', CAST('2026-01-02' AS DATE))",
    "(3, 'bo@example.com', 'free', CAST('2026-01-01' AS DATE))",
    "(4, 'bo@example.com', 'free', CAST('2026-01-01' AS DATE))",
    "(5, 'cy@example.com', 'free', CAST('2026-01-01' AS DATE))",
]
UNDATED = "(6, 'cy@example.com', 'team', NULL)"
#: Keys of the rows that stay.
KEPT = [2, 3, 5]


def made(place: Place, rows: list[str]) -> Place:
    columns = "customer_id INT, email VARCHAR(50), plan VARCHAR(50), updated_at DATE"
    place.run(f"CREATE TABLE customers ({columns})", f"INSERT INTO customers VALUES {', '.join(rows)}")
    return place


def printed() -> str:
    """Return the clause that the log prints for a sync by e-mail."""
    values = {"name": "s", "model": "customers", "source": "w", "mapping": {"email": "email"}}
    sync = Sync.load({**values, "destination": {"type": "http", "connection": "c", "match_on": "email"}})
    counts = {"total": 0, "model_rows": 6, "snapshot_rows": 0, "skipped": 0}
    plan = Plan("p", "r", "s", Planned(invalid=5), created_at=NOW, causes={"duplicate_identifier": 5}, **counts)
    [warning] = warnings(sync, plan)
    clause = warning.rpartition("add to the model: ")[2]
    assert clause in TEXT, "the page shows what the log prints"
    return clause


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    return duckdb_place() if request.param == "duckdb" else postgres_place(request.getfixturevalue("postgres"))


def keys(rows: list[tuple[object, ...]]) -> list[object]:
    return sorted(row[0] for row in rows)  # type: ignore[type-var]


def test_they_find_and_mend_duplicates(place: Place) -> None:
    made(place, [*ROWS, UNDATED])
    assert keys(place.run(DUPLICATES)) == [1, 2, 3, 4, 5, 6]
    queries = [QUALIFY] if place.dialect == "duckdb" else []
    for query in [*queries, DISTINCT_ON]:
        assert keys(place.run(query)) == KEPT


def test_the_query_for_any_database_mends_rows_with_a_time(place: Place) -> None:
    made(place, ROWS)
    assert keys(place.run(RANKED)) == KEPT


def test_the_printed_clause_leaves_one_row_of_each_record() -> None:
    rows = made(duckdb_place(), [*ROWS, UNDATED]).run(f"SELECT * FROM customers {printed()}")
    assert [key for key in keys(rows) if key not in (3, 4)] == [2, 5]
    assert len(rows) == len(KEPT)


@pytest.mark.parametrize("dialect", ["bigquery", "databricks", "redshift", "snowflake"])
@pytest.mark.parametrize(
    "query",
    [lambda: DUPLICATES, lambda: QUALIFY, lambda: f"SELECT * FROM customers {printed()}"],
    ids=["duplicates", "qualify", "printed"],
)
def test_they_mean_the_same_in_the_other_databases(dialect: str, query: Callable[[], str]) -> None:
    """By sqlglot's knowledge of each dialect, its order of nulls included: what DuckDB does with the translation."""
    [statement] = sqlglot.transpile(query(), read=dialect, write="duckdb", error_level=sqlglot.ErrorLevel.RAISE)
    rows = made(duckdb_place(), ROWS).run(statement)
    assert keys(rows) == ([1, 2, 3, 4] if query() == DUPLICATES else KEPT)


def test_the_query_for_any_database_parses_in_others() -> None:
    for dialect in ("mysql", "tsql", "oracle", "trino"):
        assert sqlglot.parse_one(RANKED, read=dialect, error_level=sqlglot.ErrorLevel.RAISE)
