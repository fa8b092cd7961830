"""The rules of each dialect about names and types, as a table: DuckDB, which builds the rows, has other rules.

Sources: the documentation of Snowflake ("Identifier requirements", "Data type conversion"), PostgreSQL ("Lexical
structure", "Type conversion") and BigQuery ("Lexical structure", "Conversion rules").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: The family of a type, which destinations distinguish; ``null`` is that of a bare NULL.
Family = Literal["number", "text", "boolean", "date", "timestamp", "null"]


class Broken(Exception):  # noqa: N818 - an outcome, not an error of the test
    """The warehouse refuses the query."""


class WrongTypes(Broken):
    """It does so because of types."""


class Undecided(Exception):  # noqa: N818
    """The warehouse converts values at its own discretion, or fails by the values: such pairs are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a dialect says about names and types.

    :param folds: names without quotes are stored in this case. None: names are compared without regard to case,
        whether quoted or not.
    :param converts: values of another family are converted where text, a number or a condition is expected. If not, the
        query is refused.
    :param aliases_in_where: WHERE may name what SELECT computes.
    :param reuses_aliases: SELECT may name what it computes before.
    :param groups_by_alias: GROUP BY takes a name for what SELECT computes rather than for a column of a table.
    :param joins_any: ``||`` joins a text with a value of any type.
    :param date_trunc: family of a date that DATE_TRUNC returns.
    :param max_of_boolean: MAX and MIN take booleans.
    :param compares_dates: dates and timestamps compare and combine.
    """

    adapter: str
    folds: Literal["upper", "lower"] | None
    converts: bool
    aliases_in_where: bool
    reuses_aliases: bool = False
    groups_by_alias: bool = False
    joins_any: bool
    date_trunc: Family
    max_of_boolean: bool
    compares_dates: bool

    def key(self, name: str, *, quoted: bool) -> str:
        """Return a text that is equal for two names if and only if the warehouse takes them for the same.

        It is the name in lower case, with a mark if the warehouse stores another spelling than that of a name without
        quotes. DuckDB, which ignores case, tells such texts apart.
        """
        lowered = name.lower()
        if self.folds is None or not quoted:
            return lowered
        folded = name.upper() if self.folds == "upper" else lowered
        if name == folded:
            return lowered
        return f"{lowered}__{''.join('u' if letter.isupper() else 'l' for letter in name)}"


RULES: Mapping[str, Rules] = {
    "snowflake": Rules(
        adapter="snowflake",
        folds="upper",
        converts=True,
        aliases_in_where=True,
        reuses_aliases=True,
        joins_any=True,
        date_trunc="date",
        max_of_boolean=True,
        compares_dates=True,
    ),
    "postgres": Rules(
        adapter="postgres",
        folds="lower",
        converts=False,
        aliases_in_where=False,
        joins_any=True,
        date_trunc="timestamp",
        max_of_boolean=False,
        compares_dates=True,
    ),
    "bigquery": Rules(
        adapter="bigquery",
        folds=None,
        converts=False,
        aliases_in_where=False,
        groups_by_alias=True,
        joins_any=False,
        date_trunc="date",
        max_of_boolean=True,
        compares_dates=False,
    ),
    "duckdb": Rules(
        adapter="duckdb",
        folds=None,
        converts=False,
        aliases_in_where=True,
        reuses_aliases=True,
        joins_any=True,
        date_trunc="date",
        max_of_boolean=True,
        compares_dates=True,
    ),
}

#: Type in the tree → its family, the same in every dialect.
FAMILIES: Mapping[str, Family] = {
    "INT": "number",
    "BIGINT": "number",
    "DECIMAL": "number",
    "DOUBLE": "number",
    "VARCHAR": "text",
    "TEXT": "text",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
}

#: Families that can be cast to each other besides text, in every dialect.
CASTS = frozenset({("date", "timestamp"), ("timestamp", "date"), ("number", "boolean"), ("boolean", "number")})


def written(stored_key: str) -> str:
    """Return the name of a key (:meth:`Rules.key`) in lower case, without its mark."""
    return stored_key.partition("__")[0]
