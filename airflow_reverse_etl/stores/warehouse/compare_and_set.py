"""The lease of a sync in a table: compare-and-swap with nothing but INSERT, UPDATE and SELECT.

A row's ``version`` is a random text that every change renews. ``UPDATE ... WHERE version = <the one that was read>``
changes nothing when somebody was faster, and reading back shows who won; no warehouse's count of rows is relied on, nor
that it keeps keys unique.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, constants are literals

from __future__ import annotations

import secrets
from collections.abc import Mapping

from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.warehouse.database import Session
from airflow_reverse_etl.stores.warehouse.schema import Tables

_COLUMNS = ("holder", "fence", "until")


class TableValues:
    """The values of one sync's lease, as :class:`airflow_reverse_etl.stores.compare_and_set.FileValues` has them."""

    def __init__(self, tables: Tables, sync: str) -> None:
        self._tables = tables
        self._table = tables["leases"]
        self._sync = f"sync = {tables.text(sync)}"
        self._name = tables.text(sync)

    def read(self) -> tuple[str, dict[str, str]]:
        """The version, and the values; no version before the first change."""
        rows = self._tables.database.run(
            f"SELECT version, holder, fence, valid_until FROM {self._table} WHERE {self._sync}"
            " ORDER BY fence DESC, version"
        )
        if not rows:
            return "", {}
        version, *values = rows[0]
        return str(version), {name: str(value) for name, value in zip(_COLUMNS, values, strict=True)}

    def swap(self, version: str, values: Mapping[str, str]) -> bool:
        """Make these the values if ``version`` is still the current one; False if somebody else was faster."""
        mine = secrets.token_hex(16)
        try:
            with self._tables.database.session() as session:
                return self._change(session, version, mine, values) if version else self._first(session, mine, values)
        except SqlError as error:
            if error.kind == "conflict":
                return False
            raise

    def _change(self, session: Session, version: str, mine: str, values: Mapping[str, str]) -> bool:
        text = self._tables.text
        session.run(
            f"UPDATE {self._table} SET holder = {text(values['holder'])}, fence = {int(values['fence'])},"
            f" valid_until = {text(values['until'])}, version = {text(mine)}"
            f" WHERE {self._sync} AND version = {text(version)}"
        )
        return bool(session.run(f"SELECT 1 FROM {self._table} WHERE {self._sync} AND version = {text(mine)}"))

    def _first(self, session: Session, mine: str, values: Mapping[str, str]) -> bool:
        """Of several that insert at the same moment at most one wins: whoever sees another's row takes its own back."""
        text = self._tables.text
        session.run(
            f"INSERT INTO {self._table} (sync, holder, fence, valid_until, version) SELECT {self._name},"
            f" {text(values['holder'])}, {int(values['fence'])}, {text(values['until'])}, {text(mine)}"
        )
        if len(session.run(f"SELECT 1 FROM {self._table} WHERE {self._sync}")) == 1:
            return True
        session.run(f"DELETE FROM {self._table} WHERE {self._sync} AND version = {text(mine)}")
        return False
