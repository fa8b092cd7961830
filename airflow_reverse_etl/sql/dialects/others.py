"""Databases of which little is known."""

from __future__ import annotations

from airflow_reverse_etl.sql.dialects.base import Dialect, ErrorKind

_FLATTEN = frozenset({"flatten"})

ATHENA = Dialect(name="athena", scalar_functions=_FLATTEN)
CLICKHOUSE = Dialect(name="clickhouse", transactions=False, scalar_functions=_FLATTEN)
HIVE = Dialect(name="hive", scalar_functions=_FLATTEN)
ORACLE = Dialect(
    name="oracle",
    merge_source=" FROM DUAL",
    unique_violations=(r"ORA-00001: unique constraint \(([^)]+)\) violated",),
    error_words={
        "ora-00942": ErrorKind.MISSING,
        "ora-01017": ErrorKind.LOGIN,
    },
)
PRESTO = Dialect(name="presto", scalar_functions=_FLATTEN)
SPARK = Dialect(name="spark", aliases=("glue",), transactions=False, scalar_functions=_FLATTEN)
SPARK2 = Dialect(name="spark2", scalar_functions=_FLATTEN)
TRINO = Dialect(name="trino", transactions=False, scalar_functions=_FLATTEN)
