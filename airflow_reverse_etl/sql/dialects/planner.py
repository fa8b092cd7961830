"""A database that plans and keeps state.

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
                        precision, which Postgres writes with one digit more; for values of REAL halfway between two
                        texts of eight digits, such as 131072.875, which Postgres rounds to the even digit (131072.88)
                        and DuckDB writes whole; and for texts of 17 digits where 16 are enough, which an old Java
                        writes. BigQuery, Redshift and Snowflake write exponents differently
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

from airflow_reverse_etl.spec.field_types import BLANKS
from airflow_reverse_etl.sql import column_types
from airflow_reverse_etl.sql.dialects.base import Dialect
from airflow_reverse_etl.sql.quoting import literal, quoted

#: SQL of a text with all blanks.
BLANK_TEXT = " || ".join(f"CHR({ord(character)})" for character in BLANKS)
#: Text form of a float, with ``%s`` for the type of texts, in a database whose cast writes the shortest digits.
NO_FRACTION = "REGEXP_REPLACE(CAST({x} + 0 AS %s), '[.]0$', '')"

_CLOCKS = frozenset({"date", "time", "timestamp", "instant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerDialect(Dialect):
    """SQL of a database that plans and keeps state.

    These are templates: ``{x}`` is an expression, ``{h}`` a digest and ``{items}`` a list. One for the text form of a
    type is empty if a cast gives the text form.

    :param string: type of texts.
    :param timestamp: text form of a timestamp without a zone.
    :param instant: text form of a timestamp with a zone.
    :param free_scale: a decimal without precision has any number of digits after the point.
    :param clocks_as_text: dates and times enter a JSON record as text forms.
    :param collation: collation under which LOWER knows the letters of all languages, where LOWER alone may not.
    :param has_collation: query that returns a row if the database has ``collation``.
    :param digest: digest of a text, in the form that ``high`` and ``low`` split.
    :param hexadecimal: digest of a text, in hexadecimal digits, if ``digest`` is not that.
    :param sha256: SHA-256 of a text in UTF-8, in lower-case hexadecimal digits.
    :param array: JSON array of texts, as text.
    :param record: JSON object of ``'name', value`` pairs; ``record_text`` casts it to text.
    :param trimmed: text without surrounding blanks.

    In these, ``{schema}`` is the schema of the state, possibly with its database, ``{schema_name}`` the schema's name
    alone, ``{table}`` a table, ``{user}`` and ``{database}`` those of the session.

    :param timestamptz: type of timestamps with a zone, as ``bigint`` and ``double`` are types of numbers.
    :param session: statements at the start of each session. They make text forms independent of the settings of user
        and server.
    :param plan_in_transaction: CREATE TABLE can be part of a transaction.
    :param one_moment: statement that lets a new transaction see all data as of one moment.
    :param describe: query for the name and type of each column of a table, in order.
    :param identity: query for the session's user (or role) and database.
    :param has_schema: query that returns a row if the schema exists.
    :param grant_schema: statement for an administrator if the schema is missing.
    :param grant_tables: statement for an administrator if the schema exists.
    :param analyzed: statement that refreshes the statistics of a table after many changes.
    :param indexed: statement that makes ranges of ``seq`` fast to read, and in order.
    :param range_rows: most rows of a change set that one statement reads, if the database holds a statement until its
        rows are read; 0 if it stores the result.
    :param add_column: the part of ALTER TABLE that adds a column.
    :param piece: most characters of one text constant; warehouses accept about a megabyte of SQL in a statement.
    :param doubles_percent: module of a driver that reads ``%%`` as ``%``.
    """

    # -- text forms ----------------------------------------------------------------------------------------------------
    string: str
    float: str
    instant: str
    binary: str
    nested: str
    decimal: str = "RTRIM(RTRIM(CAST({x} AS VARCHAR), '0'), '.')"
    json: str = ""
    boolean: str = ""
    time: str = ""
    timestamp: str = ""
    date: str = ""
    free_scale: bool = False
    clocks_as_text: bool = False
    trimmed: str = f"TRIM({{x}}, {BLANK_TEXT})"
    collation: str = ""
    has_collation: str = ""
    # -- digests and JSON ----------------------------------------------------------------------------------------------
    digest: str = "MD5({x})"
    hexadecimal: str = ""
    sha256: str = "SHA2({x}, 256)"
    high: str
    low: str
    array: str
    record: str
    record_text: str
    # -- state ---------------------------------------------------------------------------------------------------------
    timestamptz: str = "TIMESTAMPTZ"
    bigint: str = "BIGINT"
    double: str = "DOUBLE PRECISION"
    session: tuple[str, ...] = ()
    plan_in_transaction: bool = False
    one_moment: str = ""
    describe: str
    identity: str
    has_schema: str = "SELECT 1 FROM information_schema.schemata WHERE LOWER(schema_name) = LOWER('{schema_name}')"
    grant_schema: str
    grant_tables: str
    analyzed: str = ""
    indexed: str = ""
    range_rows: int = 0
    add_column: str = "ADD COLUMN {column}"
    piece: int = 200_000
    doubles_percent: str = ""

    @property
    def types(self) -> Mapping[str, str]:
        """Our word for a type, as in :mod:`airflow_reverse_etl.sync.committing` → the warehouse's."""
        return {
            "VARCHAR": self.string,
            "TIMESTAMPTZ": self.timestamptz,
            "BIGINT": self.bigint,
            "DOUBLE": self.double,
        }

    def is_identifier(self, data_type: str) -> bool:
        """Return whether values of a type are written alike in a record and in the JSON of its identifiers."""
        return column_types.is_identifier(data_type, self.name, free_scale=self.free_scale)

    def text(self, expression: str, data_type: str) -> str:
        """Return SQL for the text form of a value.

        :param data_type: type in the dialect's own words; a value of an unknown type is cast.
        """
        form = self._form(data_type)
        template = str(getattr(self, form)) if form else ""
        if not template:
            return f"CAST({expression} AS {self.string})"
        return template.format(x=expression)

    def lowered(self, text: str, collation: str = "") -> str:
        """Return SQL for a text in lower case.

        :param collation: the dialect's, if the database has it.
        """
        return f"LOWER({text} COLLATE {quoted(collation, self.name)})" if collation else f"LOWER({text})"

    def prefix_code(self, texts: Sequence[str]) -> str:
        """Return SQL that joins texts so that no two lists of texts give the same result, NULL and '' included.

        Each text becomes ``coalesce(length(t) || ':' || t, 'n')``.
        """
        return " || ".join(f"COALESCE(CAST(LENGTH({t}) AS {self.string}) || ':' || {t}, 'n')" for t in texts)

    def hex_digest(self, text: str) -> str:
        """Return SQL for the digest of a text, as hexadecimal text."""
        return (self.hexadecimal or self.digest).format(x=text)

    def hashed(self, expression: str, normalize: str | None, *, collation: str = "") -> str:
        """Return SQL for the SHA-256 of a value's text; NULL for a null or blank text.

        :param normalize: ``trim``, ``email`` (trimmed, in lower case), or None for the text as it is.
        :param collation: see ``lowered``.
        """
        text = f"CAST({expression} AS {self.string})"
        trimmed = self.trimmed.format(x=text)
        normalised = {None: text, "trim": trimmed, "email": self.lowered(trimmed, collation)}[normalize]
        return f"CASE WHEN {trimmed} <> '' THEN {self.sha256.format(x=normalised)} END"

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
        if self.clocks_as_text and data_type and self._form(data_type) in _CLOCKS:
            return self.text(str(item), data_type)
        return str(item)

    def _form(self, data_type: str) -> column_types.Form | None:
        return column_types.form_of(data_type, self.name, free_scale=self.free_scale)
