"""Expressions that each planner dialect writes in its own way: text forms of values, digests, JSON records.

Fingerprints are digests of text forms, so equal values have equal text forms as far as the types allow:

======================  =====================================================================================
type                    text
======================  =====================================================================================
text, uuid, enum        the text itself
integer                 decimal digits
boolean                 ``true`` / ``false``
decimal                 decimal digits, without trailing zeros: ``1.50``, ``1.5`` and ``1.500`` are equal
float                   the shortest text that reads back as the same number, without ``.0``, and ``0`` for ``-0``;
                        below 0.0001 and from 1e16 on with an exponent: ``1e-05``, ``1e+16``; ``nan``, ``inf``.
                        DuckDB, Postgres and Databricks agree on it, except for some whole numbers beyond the type's
                        precision, which Postgres writes with one digit more, and for texts of 17 digits where 16 are
                        enough, which an old Java writes; BigQuery, Redshift and Snowflake write exponents differently
date, time, timestamp   ISO 8601 with a space between date and time, fraction of a second only if it is not zero, to
                        the nanosecond in Snowflake
timestamp with zone     the instant in UTC, written like a timestamp, and ``Z``
binary                  lower-case hexadecimal
JSON, nested            the planner's JSON text; for a JSON column, the text that the warehouse returns
======================  =====================================================================================

A digest is MD5, stored as BIGINTs, which join faster than text. A key has two, from the hexadecimal digits 1 to 15 and
17 to 31. A fingerprint, which is only compared within one key, has the second. Planners of all dialects agree on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from airflow_reverse_etl.spec.field_types import BLANKS

if TYPE_CHECKING:
    from sqlglot import exp

_BLANKS = " || ".join(f"CHR({ord(character)})" for character in BLANKS)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Templates of one dialect: ``{x}`` is an expression, ``{h}`` a digest and ``{items}`` a list.

    A template for the text form of a type is empty if a cast gives the text form.

    :param timestamp: text form of a timestamp without a zone.
    :param instant: text form of a timestamp with a zone.
    :param clocks_as_text: dates and times enter a JSON record as text forms. Redshift's OBJECT does not accept them,
        and Databricks' TO_JSON cuts off microseconds.
    :param digest: digest of a text, in the form that ``high`` and ``low`` split.
    :param array: JSON array of texts, as text.
    :param record: JSON object of ``'name', value`` pairs; ``record_text`` casts it to text.
    :param trimmed: text without surrounding blanks.
    """

    name: str
    string: str
    decimal: str
    float: str
    instant: str
    binary: str
    nested: str
    digest: str
    high: str
    low: str
    array: str
    record: str
    record_text: str
    trimmed: str = f"TRIM({{x}}, {_BLANKS})"
    boolean: str = ""
    time: str = ""
    timestamp: str = ""
    date: str = ""
    clocks_as_text: bool = False

    def text(self, expression: str, data_type: str) -> str:
        """Return SQL for the text form of a value.

        :param data_type: type in the dialect's own words; a value of an unknown type is cast.
        """
        form = _form(data_type, self.name)
        template = str(getattr(self, form)) if form else ""
        if not template:
            return f"CAST({expression} AS {self.string})"
        return template.format(x=expression)

    def prefix_code(self, texts: Sequence[str]) -> str:
        """Return SQL that joins texts so that no two lists of texts give the same result, NULL and '' included.

        Each text becomes ``coalesce(length(t) || ':' || t, 'n')``. In DuckDB, where CONCAT skips nulls, one call of it
        is a third faster than a chain of ``||``.
        """
        if self.name == "duckdb":
            parts = ", ".join(f"COALESCE(LENGTH({text}) || ':', 'n'), {text}" for text in texts)
            return f"CONCAT({parts})"
        return " || ".join(f"COALESCE(CAST(LENGTH({t}) AS {self.string}) || ':' || {t}, 'n')" for t in texts)

    def hex_digest(self, text: str) -> str:
        """Return SQL for the digest of a text, as hexadecimal text."""
        template = "MD5({x})" if self.name == "duckdb" else self.digest
        return template.format(x=text)

    def json_array(self, texts: Iterable[str]) -> str:
        """Return SQL for a JSON array of texts, as text."""
        return self.array.format(items=", ".join(texts))

    def json_record(self, record: Mapping[str, object], types: Mapping[str, str]) -> str:
        """Return SQL for the JSON text of nested records, whose leaves are columns with these types, or constants."""
        return self.record_text.format(x=self._record(record, types))

    def _record(self, record: Mapping[str, object], types: Mapping[str, str]) -> str:
        items = (f"{literal(name, self.name)}, {self._item(item, types)}" for name, item in record.items())
        return self.record.format(items=", ".join(items))

    def _item(self, item: object, types: Mapping[str, str]) -> str:
        if isinstance(item, Mapping):
            return self._record(item, types)
        data_type = types.get(str(item))
        if self.clocks_as_text and data_type and _form(data_type, self.name) in _CLOCKS:
            return self.text(str(item), data_type)
        return str(item)


def literal(value: object, dialect: str) -> str:
    """Return a constant (text, number, boolean, None) as SQL."""
    from sqlglot import exp

    return exp.convert(value).sql(dialect)


def quoted(name: str, dialect: str) -> str:
    """Return an identifier as SQL, always quoted."""
    from sqlglot import exp

    return exp.to_identifier(name, quoted=True).sql(dialect)


_TRIMMED = "RTRIM(RTRIM(CAST({x} AS VARCHAR), '0'), '.')"
#: The cast also writes the shortest digits, but switches to an exponent at other limits.
_POSTGRES_FLOAT = (
    "CASE WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16 THEN CAST(TRIM_SCALE(CAST(CAST({x} AS TEXT) AS NUMERIC)) AS TEXT)"
    " WHEN {x} = 0 THEN '0' ELSE REPLACE(LOWER(CAST({x} AS TEXT)), 'infinity', 'inf') END"
)
_NO_FRACTION = "REGEXP_REPLACE(CAST({x} + 0 AS %s), '[.]0$', '')"
_PLAIN_FLOAT = "REPLACE(LOWER(" + _NO_FRACTION % "VARCHAR" + "), 'infinity', 'inf')"
#: TRIM, because RTRIM takes the characters to trim as its *first* argument, according to Databricks' manual.
_SPARK_TRIMMED = "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({x} AS STRING)))"
#: Java writes 1.0E16, 1.5E-5. A decimal of 38 digits holds every number that is written without an exponent.
_SPARK_FLOAT = (
    "CASE WHEN {x} = 0 THEN '0' WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16 THEN "
    + _SPARK_TRIMMED.format(x="CAST(CAST({x} AS STRING) AS DECIMAL(38, 21))")
    + " ELSE REGEXP_REPLACE(REGEXP_REPLACE(REPLACE(REPLACE(LOWER(CAST({x} AS STRING)), '.0e', 'e'), 'infinity', 'inf'),"
    " 'e([0-9])', 'e+$1'), 'e([+-])([0-9])$', 'e$10$2') END"
)
#: Always with nine digits of a second, so that trimming zeros stops at the decimal point.
_SNOWFLAKE_CLOCK = "RTRIM(RTRIM(TO_VARCHAR({x}, '%sHH24:MI:SS.FF9'), '0'), '.')"
#: A literal, because the documentation of Redshift's CHR covers ASCII only.
_NO_BREAK_SPACE = "'\u00a0'"
#: A cast shows the sign of a NaN, although DuckDB treats all NaNs as equal.
_DUCKDB_FLOAT = "CASE WHEN ISNAN({x}) THEN 'nan' ELSE " + _NO_FRACTION % "VARCHAR" + " END"


def _reversed(eight: str) -> str:
    """Return SQL for the first 60 bits of eight bytes in reverse order, as in MD5_NUMBER; much faster than text."""
    pairs = f"((({eight} & 71777214294589695) << 8) | (({eight} >> 8) & 71777214294589695))"  # 0x00ff00ff00ff00ff
    fours = f"((({pairs} & 281470681808895) << 16) | (({pairs} >> 16) & 281470681808895))"  # 0x0000ffff0000ffff
    return f"CAST(({fours} >> 36) | (({fours} & 4294967295) << 28) AS BIGINT)"


DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="duckdb",
            string="VARCHAR",
            decimal=_TRIMMED,
            float=_DUCKDB_FLOAT,
            instant="CAST({x} AT TIME ZONE 'UTC' AS VARCHAR) || 'Z'",
            binary="LOWER(HEX({x}))",
            nested="CAST(TO_JSON({x}) AS VARCHAR)",
            digest="MD5_NUMBER({x})",
            high=_reversed("CAST({h} & CAST(18446744073709551615 AS UHUGEINT) AS UBIGINT)"),
            low=_reversed("CAST({h} >> 64 AS UBIGINT)"),
            array="CAST(TO_JSON([{items}]) AS VARCHAR)",
            record="JSON_OBJECT({items})",
            record_text="CAST({x} AS VARCHAR)",
        ),
        Dialect(
            name="postgres",
            string="TEXT",
            decimal="CAST(TRIM_SCALE({x}) AS TEXT)",
            float=_POSTGRES_FLOAT,
            instant="CAST({x} AT TIME ZONE 'UTC' AS TEXT) || 'Z'",
            binary="ENCODE({x}, 'hex')",
            nested="CAST(TO_JSON({x}) AS TEXT)",
            digest="MD5({x})",
            high="CAST(CAST('x0' || SUBSTR({h}, 1, 15) AS BIT(64)) AS BIGINT)",
            low="CAST(CAST('x0' || SUBSTR({h}, 17, 15) AS BIT(64)) AS BIGINT)",
            array="CAST(ARRAY_TO_JSON(ARRAY[{items}]) AS TEXT)",
            record="JSON_BUILD_OBJECT({items})",
            record_text="CAST({x} AS TEXT)",
            trimmed=f"BTRIM({{x}}, {_BLANKS})",
        ),
        Dialect(
            name="redshift",
            string="VARCHAR(MAX)",
            decimal=_TRIMMED,
            float=_PLAIN_FLOAT,
            instant="CAST({x} AT TIME ZONE 'UTC' AS VARCHAR) || 'Z'",
            binary="LOWER(TO_HEX({x}))",
            nested="JSON_SERIALIZE({x})",
            digest="MD5({x})",
            high="STRTOL(SUBSTRING({h}, 1, 15), 16)",
            low="STRTOL(SUBSTRING({h}, 17, 15), 16)",
            array="JSON_SERIALIZE(ARRAY({items}))",
            record="OBJECT({items})",
            record_text="JSON_SERIALIZE({x})",
            trimmed=f"BTRIM({{x}}, {_BLANKS.replace('CHR(160)', _NO_BREAK_SPACE)})",
            boolean="CASE WHEN {x} THEN 'true' WHEN NOT {x} THEN 'false' END",  # Redshift cannot cast it to text
            clocks_as_text=True,
        ),
        Dialect(
            name="snowflake",
            string="VARCHAR",
            decimal=_TRIMMED,
            float=_PLAIN_FLOAT,
            instant=_SNOWFLAKE_CLOCK.replace("{x}", "CONVERT_TIMEZONE('UTC', {x})") % "YYYY-MM-DD " + " || 'Z'",
            binary="LOWER(HEX_ENCODE({x}))",
            nested="TO_JSON(TO_VARIANT({x}))",
            digest="MD5({x})",
            high="TO_NUMBER(SUBSTR({h}, 1, 15), 'XXXXXXXXXXXXXXX')",
            low="TO_NUMBER(SUBSTR({h}, 17, 15), 'XXXXXXXXXXXXXXX')",
            array="TO_JSON(ARRAY_CONSTRUCT({items}))",
            record="OBJECT_CONSTRUCT_KEEP_NULL({items})",
            record_text="TO_JSON({x})",
            time=_SNOWFLAKE_CLOCK % "",
            timestamp=_SNOWFLAKE_CLOCK % "YYYY-MM-DD ",
        ),
        Dialect(
            name="bigquery",
            string="STRING",
            decimal="CAST({x} AS STRING)",
            float="CAST({x} + 0 AS STRING)",
            instant="FORMAT_TIMESTAMP('%F %H:%M:%E*S', {x}, 'UTC') || 'Z'",
            binary="TO_HEX({x})",
            nested="TO_JSON_STRING({x})",
            digest="TO_HEX(MD5({x}))",
            high="CAST('0x' || SUBSTR({h}, 1, 15) AS INT64)",
            low="CAST('0x' || SUBSTR({h}, 17, 15) AS INT64)",
            array="TO_JSON_STRING([{items}])",
            record="JSON_OBJECT({items})",
            record_text="TO_JSON_STRING({x})",
            time="FORMAT_TIME('%H:%M:%E*S', {x})",  # a cast writes fractions in groups of three digits
            timestamp="FORMAT_DATETIME('%F %H:%M:%E*S', {x})",
        ),
        Dialect(
            name="databricks",
            string="STRING",
            decimal=_SPARK_TRIMMED,
            float=_SPARK_FLOAT,
            instant="CAST(TO_UTC_TIMESTAMP({x}, CURRENT_TIMEZONE()) AS STRING) || 'Z'",
            binary="LOWER(HEX({x}))",
            nested="TO_JSON({x}, MAP('ignoreNullFields', 'false'))",
            digest="MD5({x})",
            high="CAST(CONV(SUBSTR({h}, 1, 15), 16, 10) AS BIGINT)",
            low="CAST(CONV(SUBSTR({h}, 17, 15), 16, 10) AS BIGINT)",
            array="TO_JSON(ARRAY({items}))",
            record="NAMED_STRUCT({items})",
            record_text="TO_JSON({x}, MAP('ignoreNullFields', 'false'))",
            trimmed=f"BTRIM({{x}}, {_BLANKS})",
            clocks_as_text=True,
        ),
    )
}


def is_text(data_type: str, dialect: str) -> bool:
    """Return whether a type holds text, as far as it is known."""
    from sqlglot import exp

    kind = _kind(data_type, dialect)
    return kind is None or kind.this in exp.DataType.TEXT_TYPES


def is_identifier(data_type: str, dialect: str) -> bool:
    """Return whether values of a type are written alike in a record and in the JSON of its identifiers."""
    from sqlglot import exp

    kinds = exp.DataType.Type
    found = _kind(data_type, dialect)
    if found is None:
        return False
    kind = found.this
    if kind in {kinds.DECIMAL, kinds.BIGDECIMAL}:
        return _scale(found, dialect) == 0
    return (
        kind in exp.DataType.TEXT_TYPES
        or kind in exp.DataType.INTEGER_TYPES
        or kind in {kinds.BOOLEAN, kinds.DATE, kinds.UUID, kinds.ENUM}
    )


def _kind(data_type: str, dialect: str) -> exp.DataType | None:
    """Parse a type; return None if sqlglot does not know it."""
    from sqlglot import ParseError, exp
    from sqlglot.errors import TokenError

    try:
        return exp.DataType.build(data_type, dialect=dialect)
    except (ParseError, TokenError, ValueError):
        return None


_CLOCKS = frozenset({"date", "time", "timestamp", "instant"})


@lru_cache(maxsize=1024)
def _form(data_type: str, dialect: str) -> str | None:
    """Return the name of the template for a type's text form, or None for a cast."""
    from sqlglot import exp

    kinds = exp.DataType.Type
    parsed = _kind(data_type, dialect)
    if parsed is None:
        return None
    kind = parsed.this
    if kind in exp.DataType.FLOAT_TYPES:
        return "float"
    if kind in {kinds.TIMESTAMPTZ, kinds.TIMESTAMPLTZ}:
        return "instant"
    if kind in {kinds.BINARY, kinds.VARBINARY, kinds.BLOB}:
        return "binary"
    nested = {*exp.DataType.STRUCT_TYPES, *exp.DataType.ARRAY_TYPES, kinds.MAP, kinds.VARIANT, kinds.SUPER}
    if kind in nested:
        return "nested"
    if kind == kinds.JSON and dialect == "bigquery":  # BigQuery cannot cast it to text
        return "nested"
    if kind == kinds.BOOLEAN:
        return "boolean"
    if kind == kinds.TIME:
        return "time"
    if kind == kinds.DATE:
        return "date"
    if kind in {kinds.TIMESTAMP, kinds.TIMESTAMPNTZ, kinds.DATETIME}:
        return "timestamp"
    if kind in {kinds.DECIMAL, kinds.BIGDECIMAL} and _scale(parsed, dialect) != 0:
        return "decimal"
    return None


def _scale(decimal: object, dialect: str) -> int | None:
    """Return the number of digits after the point, or None for any number of them.

    A decimal without precision has any number of them in Postgres and BigQuery, and none elsewhere.
    """
    declared = getattr(decimal, "expressions", [])
    if len(declared) > 1:
        return int(declared[1].name)
    if not declared and dialect in ("postgres", "bigquery"):
        return None
    return 0
