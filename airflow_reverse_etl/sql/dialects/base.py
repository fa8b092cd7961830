"""Facts about any database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Facts about a database. The defaults suit a database of which nothing else is known.

    :param name: sqlglot's name of the dialect.
    :param aliases: its other names, as Airflow's connection types, dbt's adapters and ADBC's drivers have them.
    :param hooks: connection type whose own hook runs no SQL → the hook that does: module under ``airflow.providers``,
        class, and name of the argument for the connection's id.
    :param name_case: the way in which names of relations are compared. Case is ``ignored`` or ``exact``; or names
        without quotes are in ``lower`` or ``upper`` case, and quoted ones are exact.
    :param scalar_functions: functions that return one value for each row here, and any number of rows elsewhere.
    :param more_than_select: pattern of its own syntax for more than one SELECT, which sqlglot misreads, over the text
        that :mod:`airflow_reverse_etl.sql.read_only` makes of the query.
    """

    name: str
    aliases: tuple[str, ...] = ()
    hooks: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    name_case: Literal["ignored", "exact", "lower", "upper"] = "ignored"
    scalar_functions: frozenset[str] = frozenset()
    more_than_select: str = ""

    def compared_name(self, name: str, *, is_quoted: bool) -> str:
        """Return the name of a relation in the form in which the database compares it."""
        if self.name_case == "exact":
            return name
        if is_quoted and self.name_case in ("lower", "upper"):
            return name
        return name.upper() if self.name_case == "upper" else name.lower()
