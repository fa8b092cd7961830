"""The lease of a sync in a table: compare-and-set with INSERT, UPDATE and SELECT only.

A row's ``version`` is a random text that every change renews. ``UPDATE ... WHERE version = <the one read>``
changes nothing if another worker was faster, and reading the row back shows who won. This relies neither on a
warehouse's count of changed rows nor on unique keys.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, constants are literals

from __future__ import annotations

import secrets
from collections.abc import Mapping

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.warehouse.database import Session
from airflow_reverse_etl.stores.warehouse.schema import Tables

_COLUMNS = ("holder", "fence", "until")


class TableValues:
    """The values of one sync's lease: :class:`airflow_reverse_etl.stores.compare_and_set.VersionedValues`."""

    def __init__(self, tables: Tables, sync: str) -> None:
        self._tables = tables
        self._table = tables["leases"]
        self._sync = f"sync = {tables.text(sync)}"
        self._name = tables.text(sync)

    def read(self) -> tuple[str, dict[str, str]]:
        """Return the version and the values; an empty version and no values before the first change."""
        rows = self._tables.database.run(
            f"SELECT version, holder, fence, valid_until FROM {self._table} WHERE {self._sync}"
            " ORDER BY fence DESC, version"
        )
        if not rows:
            return "", {}
        version, *values = rows[0]
        return str(version), {name: str(value) for name, value in zip(_COLUMNS, values, strict=True)}

    def swap(self, version: str, values: Mapping[str, str]) -> bool:
        """Store these values if ``version`` is still the current one.

        :returns: False if another worker changed the values first.
        """
        new_version = secrets.token_hex(16)
        try:
            with self._tables.database.session() as session:
                if not version:
                    return self._insert(session, new_version, values)
                return self._update(session, version, new_version, values)
        except SqlError as error:
            if error.kind is ErrorKind.CONFLICT:
                return False
            raise

    def _update(self, session: Session, version: str, new_version: str, values: Mapping[str, str]) -> bool:
        text = self._tables.text
        session.run(
            f"UPDATE {self._table} SET holder = {text(values['holder'])}, fence = {int(values['fence'])},"
            f" valid_until = {text(values['until'])}, version = {text(new_version)}"
            f" WHERE {self._sync} AND version = {text(version)}"
        )
        return bool(session.run(f"SELECT 1 FROM {self._table} WHERE {self._sync} AND version = {text(new_version)}"))

    def _insert(self, session: Session, new_version: str, values: Mapping[str, str]) -> bool:
        """Insert the first row. At most one of several concurrent inserts wins.

        A writer that finds a second row deletes its own.
        """
        text = self._tables.text
        session.run(
            f"INSERT INTO {self._table} (sync, holder, fence, valid_until, version) SELECT {self._name},"
            f" {text(values['holder'])}, {int(values['fence'])}, {text(values['until'])}, {text(new_version)}"
        )
        if len(session.run(f"SELECT 1 FROM {self._table} WHERE {self._sync}")) == 1:
            return True
        session.run(f"DELETE FROM {self._table} WHERE {self._sync} AND version = {text(new_version)}")
        return False
