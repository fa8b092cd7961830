"""Rows of Postgres in Arrow: the same for every driver.

=====================================================  ========================================================
type                                                   in Arrow
=====================================================  ========================================================
smallint, integer, bigint                              int64
boolean                                                bool
real, double precision                                 float64; of a real, the number of its shortest text
numeric                                                decimal of the declared scale; without one, of the scale
                                                       of the first rows, with room for more digits
text, varchar, char, name                              string
bytea                                                  binary
date, time, timestamp, timestamptz                     date32, time64, timestamp in microseconds, the last in UTC
json, jsonb                                            string: the server's text
arrays, composite types                                string: the server's JSON
anything else: uuid, interval, enums, ranges, inet …   string: the server's text
=====================================================  ========================================================

Infinite dates and dates before the year 1 or after 9999 are read as infinite dates. NaN and infinity as a numeric, and
numerics of more than 38 digits, are read as :func:`~airflow_reverse_etl.spec.columns.no_decimal`. These, and the time
24:00, reject their row when it is sent. The drivers alone would return other values.

Sources: PostgreSQL's system catalog ``pg_type`` for the numbers of types.
"""

# ruff: noqa: S608 - the query is the model, and the user's own; names are quoted

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.columns import JSON, NESTED
from airflow_reverse_etl.sql.quoting import quoted
from airflow_reverse_etl.warehouses.arrow import UNSUPPORTED

if TYPE_CHECKING:
    import pyarrow as pa

#: Type number → name, of the types that drivers read directly.
_NAMES = {
    16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 114: "json",
    700: "float4", 701: "float8", 1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp",
    1184: "timestamptz", 1700: "numeric", 3802: "jsonb",
}  # fmt: skip
#: Type numbers of ranges.
_RANGES = frozenset({3904, 3906, 3908, 3910, 3912, 3926})
_DAYS_AND_TIMES = (1082, 1083, 1114, 1184)
_UNSUPPORTED_ENDINGS = ("infinity", "BC", "24:00:00")


@dataclass(frozen=True, slots=True)
class PostgresColumn:
    """A column of a query.

    :param kind: name of the type; empty if the column is read as text.
    :param scale: the declared scale of a numeric.
    """

    name: str
    kind: str
    scale: int | None = None
    is_range: bool = False

    @classmethod
    def from_description(cls, description: Sequence[Any]) -> PostgresColumn:
        """Build a column from an entry of psycopg's ``cursor.description``."""
        number = description[1]
        return cls(description[0], _NAMES.get(number, ""), description[5], number in _RANGES)

    @classmethod
    def from_field(cls, field: pa.Field) -> PostgresColumn:
        """Build a column from a field of the schema that the ADBC driver returns for a query.

        :raises ConfigurationError: the driver is too old.
        """
        metadata = field.metadata or {}
        if b"POSTGRESQL:type" not in metadata:
            raise ConfigurationError("the ADBC driver of Postgres is too old", todo="upgrade adbc-driver-postgresql")
        kind = metadata[b"POSTGRESQL:type"].decode()
        modifier = metadata.get(b"POSTGRESQL:typmod", b"").decode()
        # A numeric's modifier is 4 more than its precision (16 bits) and scale (11 bits, signed).
        scale = ((int(modifier) - 4) & 0x7FF ^ 0x400) - 0x400 if int(modifier or -1) >= 4 else None
        return cls(field.name, kind if kind in _NAMES.values() else "", scale, kind.endswith("range"))

    @property
    def data_type(self) -> pa.DataType | None:
        """The type in Arrow; None for a numeric without a declared scale, which only values can type."""
        import pyarrow as pa

        if self.kind == "numeric":
            known = self.scale is not None and 0 <= self.scale <= 38
            return pa.decimal128(38, self.scale) if known else None
        types = {
            "bool": pa.bool_(), "bytea": pa.binary(), "int2": pa.int64(), "int4": pa.int64(), "int8": pa.int64(),
            "float4": pa.float64(), "float8": pa.float64(), "date": pa.date32(), "time": pa.time64("us"),
            "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"),
        }  # fmt: skip
        return types.get(self.kind, pa.string())

    @property
    def stands_for(self) -> str:
        """The values that the text stands for. Arrays and composites are read as JSON; ranges look like it."""
        if self.kind in ("json", "jsonb"):
            return JSON
        return "" if self.kind or self.is_range else NESTED

    @property
    def _selected(self) -> str:
        name = quoted(self.name, "postgres")
        if self.kind in ("json", "jsonb"):
            return f"CAST({name} AS TEXT) AS {name}"
        if self.kind == "float4":
            return f"CAST(CAST({name} AS TEXT) AS FLOAT8) AS {name}"
        return name if self.kind else f"TO_JSON({name}) #>> '{{}}' AS {name}"


def with_text_casts(query: str, columns: Sequence[PostgresColumn]) -> str:
    """Return the query with casts to text for the types that drivers read differently. Keeps the order of rows."""
    if all(column.kind and column.kind not in ("json", "jsonb", "float4") for column in columns):
        return query
    return f"SELECT {', '.join(column._selected for column in columns)} FROM (\n{query}\n) AS model"


def conninfo(connection: Any) -> str:
    """Return the parameters of a psycopg connection as libpq's connection string, with those that the hook resolved.

    The text has the password.
    """
    info = connection.info
    is_psycopg3 = hasattr(info, "get_parameters")
    parameters = dict(info.get_parameters() if is_psycopg3 else info.dsn_parameters)
    parameters["password"] = info.password
    pairs = []
    for name, value in parameters.items():
        if value:
            escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
            pairs.append(f"{name}='{escaped}'")
    return " ".join(pairs)


def mark_unsupported_dates(connection: Any) -> Any:
    """Make psycopg return :data:`UNSUPPORTED` for dates and times that Python has not.

    psycopg2 alone would change them, and psycopg 3 would fail for all rows of a batch.
    """
    info = getattr(connection, "info", None)
    if hasattr(info, "dsn_parameters"):
        _mark_psycopg2(connection)
    elif hasattr(info, "get_parameters"):
        _mark_psycopg3(connection)
    return connection


def _mark_psycopg2(connection: Any) -> None:
    from psycopg2 import extensions

    for number in _DAYS_AND_TIMES:
        standard = extensions.string_types[number]

        def checked(text: str | None, cursor: Any, standard: Any = standard) -> Any:
            if text is not None and text.endswith(_UNSUPPORTED_ENDINGS):
                return UNSUPPORTED
            try:
                return standard(text, cursor)
            except ValueError:
                return UNSUPPORTED

        extensions.register_type(extensions.new_type((number,), f"MARKED{number}", checked), connection)


def _mark_psycopg3(connection: Any) -> None:
    from psycopg import DataError
    from psycopg.types import datetime as loaders

    for name in ("Date", "Time", "Timestamp", "Timestamptz"):
        standard: Any = getattr(loaders, f"{name}Loader")

        def load(self: Any, data: Any, standard: Any = standard) -> Any:
            try:
                return standard.load(self, data)
            except (DataError, ValueError, OverflowError):
                return UNSUPPORTED

        connection.adapters.register_loader(name.lower(), type(f"Marked{name}Loader", (standard,), {"load": load}))


def adbc_connection(hook: Any) -> Any:
    """Return an ADBC connection with the parameters that the hook resolves, including tokens that it fetches."""
    from adbc_driver_postgresql.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    with closing(hook.get_conn()) as connection:
        return connect(conninfo(connection))
