"""DuckDB: the planner of the worker, and a warehouse."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.dialects.planner import NO_FRACTION, PlannerDialect


class _DuckDB(PlannerDialect):
    def prefix_code(self, texts: Sequence[str]) -> str:
        """Return the same text in one call of CONCAT, which skips nulls. A chain of ``||`` takes half as long again."""
        parts = ", ".join(f"COALESCE(LENGTH({text}) || ':', 'n'), {text}" for text in texts)
        return f"CONCAT({parts})"


def _reversed(eight: str) -> str:
    """Return SQL for the first 60 bits of eight bytes in reverse order, as in MD5_NUMBER; much faster than text."""
    pairs = f"((({eight} & 71777214294589695) << 8) | (({eight} >> 8) & 71777214294589695))"  # 0x00ff00ff00ff00ff
    fours = f"((({pairs} & 281470681808895) << 16) | (({pairs} >> 16) & 281470681808895))"  # 0x0000ffff0000ffff
    return f"CAST(({fours} >> 36) | (({fours} & 4294967295) << 28) AS BIGINT)"


_NO_GRANTS = "-- DuckDB has no grants: open the file without read_only"

DUCKDB = _DuckDB(
    name="duckdb",
    scalar_functions=frozenset({"generate_series", "regexp_matches", "flatten"}),
    # writing
    autocommits=True,
    explains=True,
    upsert="ON CONFLICT",
    references="",  # a delete never reaches another table's rows
    many_rows=True,  # executemany takes a millisecond a row
    unique_constraints="""
        SELECT u.constraint_name, FALSE, u.name, c.is_nullable
        FROM (SELECT *, unnest(constraint_column_names) AS name FROM duckdb_constraints()) AS u
        JOIN duckdb_columns() AS c ON c.table_oid = u.table_oid AND c.column_name = u.name
        WHERE u.constraint_type IN ('UNIQUE', 'PRIMARY KEY') AND u.table_name = {name}
        ORDER BY u.table_oid, u.constraint_name
    """,
    # errors
    unique_violations=(
        r"^Constraint Error: Duplicate key .* violates ()(?:unique|primary key) constraint",
        r"^Constraint Error: PRIMARY KEY or UNIQUE constraint violation()",
    ),
    error_words={
        "permission error: ": ErrorKind.FILES,  # used for nothing else
        "binder error: ": ErrorKind.WRONG,
        "function with name": ErrorKind.WRONG,
        "conflict on": ErrorKind.CONFLICT,
        "transaction conflict": ErrorKind.CONFLICT,
    },
    error_classes={
        "CatalogException": ErrorKind.MISSING,
        "InvalidInputException": ErrorKind.DATA,
        "OutOfMemoryException": ErrorKind.OTHER,
    },
    # text forms
    string="VARCHAR",
    # a cast shows the sign of a NaN, although DuckDB treats all NaNs as equal
    float="CASE WHEN ISNAN({x}) THEN 'nan' ELSE " + NO_FRACTION % "VARCHAR" + " END",
    instant="CAST({x} AT TIME ZONE 'UTC' AS VARCHAR) || 'Z'",
    binary="LOWER(HEX({x}))",
    nested="CAST(TO_JSON({x}) AS VARCHAR)",
    # digests and JSON
    digest="MD5_NUMBER({x})",
    hexadecimal="MD5({x})",
    sha256="SHA256({x})",
    high=_reversed("CAST({h} & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT)"),
    low=_reversed("CAST({h} >> 64 AS UBIGINT)"),
    array="CAST(TO_JSON([{items}]) AS VARCHAR)",
    record="JSON_OBJECT({items})",
    record_text="CAST({x} AS VARCHAR)",
    # state
    session=("SET TimeZone = 'UTC'",),
    plan_in_transaction=True,
    range_rows=65_536,
    describe=(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE LOWER(table_schema) = LOWER('{schema_name}') AND LOWER(table_name) = '{table}'"
        " ORDER BY ordinal_position"
    ),
    identity="SELECT current_user, current_database()",
    grant_schema=_NO_GRANTS,
    grant_tables=_NO_GRANTS,
)
