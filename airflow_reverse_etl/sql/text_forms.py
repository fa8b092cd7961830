"""How each planner dialect writes what is not common SQL: the text form of a value, a digest, a JSON record.

The text form is what fingerprints are made of, so it is the same for equal values wherever the types allow:

======================  =====================================================================================
type                    text
======================  =====================================================================================
text, uuid, enum        as it is
integer                 decimal digits
boolean                 ``true`` / ``false``
decimal                 decimal digits, without trailing zeros: ``1.50``, ``1.5`` and ``1.500`` are equal
float                   the shortest text that reads back as the same number, without ``.0``, and ``0`` for ``-0``;
                        below 0.0001 and from 1e16 on with an exponent: ``1e-05``, ``1e+16``; ``nan``, ``inf``.
                        DuckDB, Postgres and Databricks agree on it, save for some whole numbers beyond the precision
                        of the type, which Postgres gives a digit more, and for texts of 17 digits where 16 would do,
                        which an old Java writes; BigQuery, Redshift and Snowflake have their own way with exponents
date, time, timestamp   ISO 8601 with a space between date and time, fraction of a second only if there is one, to the
                        nanosecond in Snowflake
timestamp with zone     the same, of the instant in UTC, and ``Z``
binary                  lower-case hexadecimal
JSON, nested            the planner's JSON text; a JSON column is the text that the warehouse gives
======================  =====================================================================================

A digest is MD5. It is kept as BIGINTs, which join faster than text: hexadecimal digits 1 to 15 and 17 to 31 of it for a
key, the latter for a fingerprint, which is only ever compared within one key. Planners of all dialects agree on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from airflow_reverse_etl.spec.field_types import BLANKS

_BLANKS = " || ".join(f"CHR({ord(character)})" for character in BLANKS)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Templates; ``{x}`` is an expression, ``{h}`` a digest, ``{items}`` a list, ``{path}`` a path into JSON.

    :param timestamp: without a zone; empty, as for other types, where a cast gives the text form.
    :param clocks_as_text: dates and times go into a JSON record as text forms: Redshift's OBJECT takes none, and
        Databricks' TO_JSON cuts microseconds off.
    :param digest: of a text, in the form that ``high`` and ``low`` split.
    :param array: JSON array of texts, as text.
    :param record: JSON object of ``'name', value`` pairs; ``record_text`` makes text of it.
    :param value: text of a scalar in JSON text; NULL where it is null or missing.
    :param path: a path's beginning, separator and end; empty where its parts are arguments of their own.
    :param trimmed: text without the blanks around it.
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
    value: str
    path: tuple[str, str, str] | None = None
    trimmed: str = f"TRIM({{x}}, {_BLANKS})"
    boolean: str = ""
    time: str = ""
    timestamp: str = ""
    date: str = ""
    clocks_as_text: bool = False

    def text(self, expression: str, data_type: str) -> str:
        """The text form of a value of this type (the dialect's own type text; unknown ones are cast)."""
        form = _form(data_type, self.name)
        template = str(getattr(self, form)) if form else ""
        return (template or f"CAST({{x}} AS {self.string})").format(x=expression)

    def prefix_code(self, texts: Sequence[str]) -> str:
        """One text of several, such that no two lists of texts give the same, NULL and '' included.

        ``coalesce(length(t) || ':' || t, 'n')`` of each, in one call where CONCAT skips nulls: a third faster than a
        chain of ``||``.
        """
        if self.name == "duckdb":
            parts = ", ".join(f"COALESCE(LENGTH({text}) || ':', 'n'), {text}" for text in texts)
            return f"CONCAT({parts})"
        return " || ".join(f"COALESCE(CAST(LENGTH({t}) AS {self.string}) || ':' || {t}, 'n')" for t in texts)

    def hex_digest(self, text: str) -> str:
        """A digest as hexadecimal text."""
        return ("MD5({x})" if self.name == "duckdb" else self.digest).format(x=text)

    def json_array(self, texts: Iterable[str]) -> str:
        return self.array.format(items=", ".join(texts))

    def blank(self, text: str) -> str:
        """SQL for whether a text is null or blank."""
        return f"COALESCE({self.trimmed.format(x=text)}, '') = ''"

    def json_value(self, json: str, path: Sequence[str]) -> str:
        """Text of a scalar in JSON text, by the names that lead to it; NULL where it is null or missing."""
        if self.path is None:
            place = ", ".join(literal(name, self.name) for name in path)
        else:
            beginning, separator, end = self.path
            place = literal(beginning + separator.join(path) + end, self.name)
        return self.value.format(x=json, path=place)

    def json_record(self, record: Mapping[str, object], types: Mapping[str, str]) -> str:
        """JSON text of nested records whose leaves are columns with these types, and constants."""
        return self.record_text.format(x=self._record(record, types))

    def _record(self, record: Mapping[str, object], types: Mapping[str, str]) -> str:
        items = (f"{literal(name, self.name)}, {self._item(item, types)}" for name, item in record.items())
        return self.record.format(items=", ".join(items))

    def _item(self, item: object, types: Mapping[str, str]) -> str:
        if isinstance(item, Mapping):
            return self._record(item, types)
        data_type = types.get(str(item))
        as_text = self.clocks_as_text and data_type and _form(data_type, self.name) in _CLOCKS
        return self.text(str(item), str(data_type)) if as_text else str(item)


def literal(value: object, dialect: str) -> str:
    """A constant (text, number, boolean, None) as SQL."""
    from sqlglot import exp

    return exp.convert(value).sql(dialect)


def quoted(name: str, dialect: str) -> str:
    """An identifier as SQL, always quoted."""
    from sqlglot import exp

    return exp.to_identifier(name, quoted=True).sql(dialect)


_TRIMMED = "RTRIM(RTRIM(CAST({x} AS VARCHAR), '0'), '.')"
#: Shortest digits, too, but with an exponent in other places.
_POSTGRES_FLOAT = (
    "CASE WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16 THEN CAST(TRIM_SCALE(CAST(CAST({x} AS TEXT) AS NUMERIC)) AS TEXT)"
    " WHEN {x} = 0 THEN '0' ELSE REPLACE(LOWER(CAST({x} AS TEXT)), 'infinity', 'inf') END"
)
_NO_FRACTION = "REGEXP_REPLACE(CAST({x} + 0 AS %s), '[.]0$', '')"
_PLAIN_FLOAT = "REPLACE(LOWER(" + _NO_FRACTION % "VARCHAR" + "), 'infinity', 'inf')"
#: The characters to be trimmed are the *first* argument of RTRIM, says the page of the function in Databricks' manual.
_SPARK_TRIMMED = "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({x} AS STRING)))"
#: Java's text of a number: 1.0E16, 1.5E-5. A decimal of 38 digits holds every one that is written without exponent.
_SPARK_FLOAT = (
    "CASE WHEN {x} = 0 THEN '0' WHEN ABS({x}) >= 1e-4 AND ABS({x}) < 1e16 THEN "
    + _SPARK_TRIMMED.format(x="CAST(CAST({x} AS STRING) AS DECIMAL(38, 21))")
    + " ELSE REGEXP_REPLACE(REGEXP_REPLACE(REPLACE(REPLACE(LOWER(CAST({x} AS STRING)), '.0e', 'e'), 'infinity', 'inf'),"
    " 'e([0-9])', 'e+$1'), 'e([+-])([0-9])$', 'e$10$2') END"
)
#: With nine digits of a second, so that there is always a point to trim zeros up to.
_SNOWFLAKE_CLOCK = "RTRIM(RTRIM(TO_VARCHAR({x}, '%sHH24:MI:SS.FF9'), '0'), '.')"
#: Redshift's CHR documents ASCII only.
_NO_BREAK_SPACE = "'\u00a0'"
#: DuckDB shows the sign of a NaN, which no comparison sees.
_DUCKDB_FLOAT = "CASE WHEN ISNAN({x}) THEN 'nan' ELSE " + _NO_FRACTION % "VARCHAR" + " END"


def _reversed(eight: str) -> str:
    """The first 60 bits of eight bytes that are in reverse, as MD5_NUMBER has them; much faster than over text."""
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
            value="JSON_EXTRACT_STRING({x}, {path})",
            path=('$."', '"."', '"'),
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
            value="JSON_EXTRACT_PATH_TEXT(CAST({x} AS JSON), {path})",
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
            value="JSON_EXTRACT_PATH_TEXT({x}, {path})",
            trimmed=f"BTRIM({{x}}, {_BLANKS.replace('CHR(160)', _NO_BREAK_SPACE)})",
            boolean="CASE WHEN {x} THEN 'true' WHEN NOT {x} THEN 'false' END",  # it has no cast to text
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
            value="JSON_EXTRACT_PATH_TEXT({x}, {path})",
            path=('"', '"."', '"'),
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
            value="JSON_VALUE({x}, {path})",
            path=('$."', '"."', '"'),
            time="FORMAT_TIME('%H:%M:%E*S', {x})",  # a cast writes fractions in threes
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
            value="GET_JSON_OBJECT({x}, {path})",
            path=("$['", "']['", "']"),
            trimmed=f"BTRIM({{x}}, {_BLANKS})",
            clocks_as_text=True,
        ),
    )
}


_CLOCKS = frozenset({"date", "time", "timestamp", "instant"})


@lru_cache(maxsize=1024)
def _form(data_type: str, dialect: str) -> str | None:
    from sqlglot import ParseError, exp
    from sqlglot.errors import TokenError

    kinds = exp.DataType.Type
    try:
        parsed = exp.DataType.build(data_type, dialect=dialect)
    except (ParseError, TokenError, ValueError):
        return None
    kind = parsed.this
    if kind in exp.DataType.FLOAT_TYPES:
        return "float"
    if kind in {kinds.TIMESTAMPTZ, kinds.TIMESTAMPLTZ}:
        return "instant"
    if kind in {kinds.BINARY, kinds.VARBINARY, kinds.BLOB}:
        return "binary"
    nested = {*exp.DataType.STRUCT_TYPES, *exp.DataType.ARRAY_TYPES, kinds.MAP, kinds.VARIANT, kinds.SUPER}
    if kind in nested or (kind == kinds.JSON and dialect == "bigquery"):  # which has no cast of it to text
        return "nested"
    if kind == kinds.BOOLEAN:
        return "boolean"
    if kind == kinds.TIME:
        return "time"
    if kind == kinds.DATE:
        return "date"
    if kind in {kinds.TIMESTAMP, kinds.TIMESTAMPNTZ, kinds.DATETIME}:
        return "timestamp"
    if kind in {kinds.DECIMAL, kinds.BIGDECIMAL}:
        return None if _scale(parsed, dialect) == 0 else "decimal"
    return None


def _scale(decimal: object, dialect: str) -> int | None:
    """Digits after the point. Undeclared it is any number in Postgres, and 0 elsewhere."""
    declared = getattr(decimal, "expressions", [])
    if len(declared) > 1:
        return int(declared[1].name)
    return None if dialect in ("postgres", "bigquery") and not declared else 0
