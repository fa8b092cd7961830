"""A local Spark that plays Databricks: Spark's parser and functions, with its own tables instead of Delta's.

Plain Spark has no UPDATE and DELETE. They are parsed by it, and done as an overwrite with the rows that they leave.
"""

from __future__ import annotations

import functools
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp

from airflow_reverse_etl.warehouses.dbapi import DbApiWarehouse

if TYPE_CHECKING:
    from tests.stores.warehouses import Place

_ONE = threading.RLock()


class DatabaseError(Exception):
    """Base class of the errors, named as in PEP 249."""


@functools.cache
def spark() -> Any:
    """Return the session of this process."""
    from pyspark.sql import SparkSession

    folder = tempfile.mkdtemp(prefix="spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.default.parallelism": "1",
        "spark.sql.session.timeZone": "Asia/Tokyo",  # ours is set by each session
        "spark.sql.warehouse.dir": f"{folder}/tables",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


class Connection:
    """A DB-API connection with the parts that the store uses."""

    def __init__(self, schema: str) -> None:
        self.description: list[tuple[str, None]] | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._schema = schema

    def cursor(self) -> Connection:
        return self

    def close(self) -> None:
        return

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def execute(self, statement: str) -> None:
        with _ONE:
            try:
                self._execute(statement)
            except Exception as error:  # noqa: BLE001 - the JVM's errors, in the words of PEP 249
                raise DatabaseError(str(error)) from None

    def _execute(self, statement: str) -> None:
        session = spark()
        session._jsparkSession.sessionState().sqlParser().parsePlan(statement)
        session.sql(f"USE {self._schema}")
        if statement.startswith(("UPDATE", "DELETE")):
            self._overwrite(statement)
            return
        found = session.sql(statement)
        self._rows = [tuple(row) for row in found.collect()]
        self.description = [(name, None) for name in found.columns] or None

    def _overwrite(self, statement: str) -> None:
        tree = sqlglot.parse_one(statement, read="databricks")
        table = tree.this.sql("databricks")
        where = tree.args["where"].this.sql("databricks") if tree.args.get("where") else "TRUE"
        if isinstance(tree, exp.Delete):
            left = f"SELECT * FROM {table} WHERE NOT COALESCE(({where}), FALSE)"
        else:
            new = {item.this.name: item.expression.sql("databricks") for item in tree.expressions}
            columns = (
                f"CASE WHEN {where} THEN {new[name]} ELSE {name} END AS {name}" if name in new else name
                for name in spark().table(table).columns
            )
            left = f"SELECT {', '.join(columns)} FROM {table}"
        for step in (
            f"CREATE TABLE {table}__left AS {left}",
            f"INSERT OVERWRITE {table} SELECT * FROM {table}__left",
            f"DROP TABLE {table}__left",
        ):
            spark().sql(step)
        self._rows, self.description = [], None


def spark_place() -> Place:
    """Yield a schema for models, and a schema for the state that does not exist yet."""
    from tests.stores.warehouses import Place

    for name in ("reverse_etl", "models"):
        spark().sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    spark().sql("CREATE SCHEMA models")

    def connect() -> Connection:
        return Connection("models")

    return Place("databricks", connect, lambda: DbApiWarehouse(connect, dialect="databricks", conn_id="spark"))
