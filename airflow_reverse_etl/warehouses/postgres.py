"""What rows of Postgres are in Arrow: the same, whichever driver reads them.

=====================================================  ========================================================
type                                                   in Arrow
=====================================================  ========================================================
smallint, integer, bigint                              int64
boolean                                                bool
real, double precision                                 float64; of a real, the number that its shortest text is
numeric                                                decimal of the declared scale; undeclared, of the first
                                                       rows' scale with room for more
text, varchar, char, name                              string
bytea                                                  binary
date, time, timestamp, timestamptz                     date32, time64, timestamp in microseconds, the last in UTC
json, jsonb                                            string: the server's text
arrays, composite types                                string: the server's JSON
anything else: uuid, interval, enums, ranges, inet …   string: the server's text
=====================================================  ========================================================

Infinite dates, those before the year 1 or after 9999, NaN and infinity as a numeric, and numerics of more than 38
digits have no value there: they are refused. Drivers give them too, but as something else.

Sources: PostgreSQL's system catalog ``pg_type`` for the numbers of types.
"""

# ruff: noqa: S608 - the query is the model, and the user's own; names are quoted

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.sql.text_forms import quoted
from airflow_reverse_etl.warehouses.arrow import no_date

if TYPE_CHECKING:
    import pyarrow as pa

#: The types that drivers read as they are, by their numbers.
_NAMES = {
    16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 114: "json",
    700: "float4", 701: "float8", 1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp",
    1184: "timestamptz", 1700: "numeric", 3802: "jsonb",
}  # fmt: skip
_DAYS_AND_TIMES = (1082, 1083, 1114, 1184)
_NO_DATE = ("infinity", "BC", "24:00:00")


@dataclass(frozen=True, slots=True)
class PostgresColumn:
    """A column of a query. ``kind``: name of its type, empty if it is one that is read as text. ``scale``: declared."""

    name: str
    kind: str
    scale: int | None = None

    @classmethod
    def described(cls, description: Sequence[Any]) -> PostgresColumn:
        """From an entry of psycopg's ``cursor.description``."""
        return cls(description[0], _NAMES.get(description[1], ""), description[5])

    @classmethod
    def of_field(cls, field: pa.Field) -> PostgresColumn:
        """From a field of the schema that the ADBC driver has for a query. Raises ConfigurationError: it is too old."""
        metadata = field.metadata or {}
        if b"POSTGRESQL:type" not in metadata:
            raise ConfigurationError("the ADBC driver of Postgres is too old", todo="upgrade adbc-driver-postgresql")
        kind, modifier = (metadata.get(name, b"").decode() for name in (b"POSTGRESQL:type", b"POSTGRESQL:typmod"))
        # a numeric's modifier is 4 more than precision (16 bits) and scale (11 bits, with a sign)
        scale = ((int(modifier) - 4) & 0x7FF ^ 0x400) - 0x400 if int(modifier or -1) >= 4 else None
        return cls(field.name, kind if kind in _NAMES.values() else "", scale)

    @property
    def data_type(self) -> pa.DataType | None:
        """None where only values tell: a numeric without a scale."""
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
    def _selected(self) -> str:
        name = quoted(self.name, "postgres")
        if self.kind in ("json", "jsonb"):
            return f"CAST({name} AS TEXT) AS {name}"
        if self.kind == "float4":
            return f"CAST(CAST({name} AS TEXT) AS FLOAT8) AS {name}"
        return name if self.kind else f"TO_JSON({name}) #>> '{{}}' AS {name}"


def as_read(query: str, columns: Sequence[PostgresColumn]) -> str:
    """The query, with the server writing as text what drivers have values of their own for. Keeps the order of rows."""
    if all(column.kind and column.kind not in ("json", "jsonb", "float4") for column in columns):
        return query
    return f"SELECT {', '.join(column._selected for column in columns)} FROM (\n{query}\n) AS model"


def conninfo(connection: Any) -> str:
    """The parameters of a psycopg connection, those that its Airflow hook found out included, as libpq's text.

    Holds the password.
    """
    info = connection.info
    parameters = dict(info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters)
    parameters["password"] = info.password
    texts = (
        (name, str(value).replace("\\", "\\\\").replace("'", "\\'")) for name, value in parameters.items() if value
    )
    return " ".join(f"{name}='{text}'" for name, text in texts)


def strict(connection: Any) -> Any:
    """Have psycopg2 refuse the dates that it makes others of; psycopg 3 does."""
    if not hasattr(connection, "info") or not hasattr(connection.info, "dsn_parameters"):
        return connection
    from psycopg2 import extensions

    for number in _DAYS_AND_TIMES:
        standard = extensions.string_types[number]

        def checked(text: str | None, cursor: Any, standard: Any = standard) -> Any:
            try:
                if text is not None and text.endswith(_NO_DATE):
                    raise ValueError(text)
                return standard(text, cursor)
            except ValueError:
                raise no_date() from None

        extensions.register_type(extensions.new_type((number,), f"STRICT{number}", checked), connection)
    return connection


def adbc_connection(hook: Any) -> Any:
    """An ADBC connection with the parameters that the hook finds out, tokens that it fetches included."""
    from adbc_driver_postgresql.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    with closing(hook.get_conn()) as connection:
        return connect(conninfo(connection))
