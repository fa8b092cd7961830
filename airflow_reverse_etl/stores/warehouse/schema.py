"""The tables of the state in a warehouse: their names, columns and creation.

All syncs share these tables. Rows are only added and deleted, so that syncs do not wait for each other::

    syncs        the prefix of each sync's tables          leases       the holders of leases, see compare_and_set.py
    runs         one row for each committed run            plans        uncommitted plans
    change_log   the outcome of each row, if enabled       checkpoints  the progress of their loads
    writers      the destination that each sync writes to, made with its first row

Each sync has the tables ``snapshot``, ``rejections`` and ``state``, named ``<sync>_<hash>_...``, see :func:`prefix`.
While a run is unfinished, the sync has ``changes_<run>`` too, the only table with row values.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import takewhile
from typing import Any

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    ReverseEtlError,
    RunConflictError,
    StateError,
    UnreachableError,
)
from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.sql.quoting import literal
from airflow_reverse_etl.sql.read_only import files_closed
from airflow_reverse_etl.stores.warehouse.database import Database, Session
from airflow_reverse_etl.sync.committing import CHANGE_LOG, HISTORY, REJECTIONS, SNAPSHOT

SHARED: Mapping[str, Mapping[str, str]] = {
    "syncs": {"sync": "VARCHAR", "table_prefix": "VARCHAR", "created_at": "TIMESTAMPTZ"},
    "leases": {
        "sync": "VARCHAR",
        "holder": "VARCHAR",
        "fence": "BIGINT",
        "valid_until": "VARCHAR",
        "version": "VARCHAR",
    },
    "plans": {
        "plan_id": "VARCHAR",
        "sync": "VARCHAR",
        "run_id": "VARCHAR",
        "stage": "VARCHAR",
        "created_at": "TIMESTAMPTZ",
        "content": "VARCHAR",
    },
    "checkpoints": {
        "plan_id": "VARCHAR",
        "sync": "VARCHAR",
        **dict.fromkeys(("part", "number", "piece", "pieces"), "BIGINT"),
        "content": "VARCHAR",
    },
    "runs": {"sync": "VARCHAR", **HISTORY},
    "change_log": CHANGE_LOG,
}

OWN: Mapping[str, Mapping[str, str]] = {
    "snapshot": SNAPSHOT,
    "rejections": {**REJECTIONS, "plan_id": "VARCHAR"},
    "state": {"generation": "VARCHAR", "remembered": "VARCHAR"},
}

#: Columns of ``writers``. It is not in SHARED, as a schema without it is complete.
WRITERS: Mapping[str, str] = {"sync": "VARCHAR", "address": "VARCHAR", "written_at": "TIMESTAMPTZ"}

#: The ``generation`` before the first commit.
NOTHING_YET = "nothing yet"

#: Errors of a statement that another worker has run at the same moment. Names are unique in catalogs such as Postgres'.
_BY_ANOTHER_WORKER = frozenset({ErrorKind.EXISTS, ErrorKind.CONFLICT, ErrorKind.UNIQUE})

_SCHEMA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


def prefix(sync: str) -> str:
    """Return the prefix of the names of a sync's own tables: readable, and unique for each sync."""
    readable = re.sub(r"[^a-z0-9]+", "_", sync.lower()).strip("_")[:24].rstrip("_")
    return f"{readable or 'sync'}_{hashlib.sha256(sync.encode()).hexdigest()[:8]}"


class Tables:
    """The state's tables in one schema.

    :param schema: made when it is missing; may be ``database.schema``.
    """

    def __init__(self, database: Database, schema: str) -> None:
        if not _SCHEMA_NAME.fullmatch(schema):
            raise ConfigurationError(
                f"{schema!r} is not a valid schema name for the state",
                todo="use letters, digits and underscores, as in reverse_etl or my_database.reverse_etl",
            )
        self.database = database
        self.schema = schema
        self.sql = database.sql
        self._has_shared = False
        self._syncs_with_tables: set[str] = set()

    def __getitem__(self, name: str) -> str:
        """Return the full name of a table."""
        return f"{self.schema}.{name}"

    def text(self, value: object) -> str:
        """Return a constant as SQL. NUL, which Postgres cannot store, becomes U+FFFD."""
        if isinstance(value, str):
            value = value.replace("\0", "\ufffd")
        return literal(value, self.sql.name)

    def instant(self, moment: datetime) -> str:
        """Return a moment as SQL that every warehouse can read in a session whose time zone is UTC."""
        return f"CAST('{moment:%Y-%m-%d %H:%M:%S.%f}' AS {self.sql.types['TIMESTAMPTZ']})"

    def exist(self) -> bool:
        """Return whether the shared tables exist and can be read."""
        try:
            for name in SHARED:
                self.database.run(f"SELECT 1 FROM {self[name]} WHERE 1 = 0")
        except SqlError as error:
            if error.kind in (ErrorKind.MISSING, ErrorKind.DENIED, ErrorKind.WRONG):
                return False
            raise
        return True

    def make(self) -> None:
        """Make the schema and the shared tables, if they are missing.

        :raises CredentialsError: a privilege is missing. The error has the statement that grants it.
        """
        if self._has_shared or self.exist():
            self._has_shared = True
            return
        has_schema = False
        try:
            has_schema = bool(self.database.run(self.sql.has_schema.format(schema_name=self._schema_name)))
            if not has_schema:
                self._run_ddl(f"CREATE SCHEMA {self.schema}")
                # In Snowflake, CREATE SCHEMA makes it the session's schema, where a model's bare names would resolve.
                self.database.close()
            for name, columns in SHARED.items():
                self._run_ddl(self._create(name, columns))
        except SqlError as error:
            if error.kind is ErrorKind.DENIED:
                raise self.denied(error, has_schema=has_schema) from None
            raise
        self._has_shared = True

    def make_own(self, sync: str) -> str:
        """Make the tables of one sync, if they are missing; return their prefix."""
        own = prefix(sync)
        if sync in self._syncs_with_tables:
            return own
        known = self.database.run(f"SELECT 1 FROM {self['syncs']} WHERE sync = {self.text(sync)}")
        try:
            missing = [name for name in OWN if not (known and self.exists(f"{own}_{name}"))]
            for name in missing:
                self._run_ddl(self._create(f"{own}_{name}", OWN[name]))
            if "snapshot" not in missing:
                self._add_missing_columns(f"{own}_snapshot", OWN["snapshot"])
        except SqlError as error:
            if error.kind is ErrorKind.DENIED:
                raise self.denied(error, has_schema=True) from None
            raise
        if missing:
            self._register(sync, own, known=bool(known))
        self._syncs_with_tables.add(sync)
        return own

    def make_writers(self) -> None:
        """Make the table of the syncs that write to a destination, if it is missing."""
        self.make()
        if not self.exists("writers"):
            self._run_ddl(self._create("writers", WRITERS))

    def drop_own(self, sync: str) -> None:
        """Drop the tables of one sync, and forget that it has them."""
        for name in OWN:
            self.database.run(f"DROP TABLE IF EXISTS {self[f'{prefix(sync)}_{name}']}")
        self.database.run(f"DELETE FROM {self['syncs']} WHERE sync = {self.text(sync)}")
        self._syncs_with_tables.discard(sync)

    def columns(self, session: Session, name: str) -> dict[str, str]:
        """Return the columns of a table with the warehouse's types."""
        rows = session.run(self.sql.describe.format(schema=self.schema, schema_name=self._schema_name, table=name))
        # Databricks adds rows about the storage after the columns.
        named = takewhile(lambda row: row[0] and not row[0].startswith("#"), rows)
        return {str(row[0]).lower(): str(row[1]) for row in named}

    def denied(self, error: SqlError, *, has_schema: bool) -> CredentialsError:
        """Build the error for a missing privilege, with the statement that grants it."""
        user, current = self._identity()
        database = self.schema.rpartition(".")[0] or current
        grant = self.sql.grant_tables if has_schema else self.sql.grant_schema
        statement = grant.format(schema=self.schema, user=user, database=database)
        return CredentialsError(
            f"the state cannot be kept in the warehouse: {error.text}",
            todo=f"have an administrator run: {statement} "
            "Or set `planner: local` in the sync, which only reads from the warehouse",
            schema=self.schema,
        )

    @contextlib.contextmanager
    def errors(self, sync: str | None = None) -> Iterator[None]:
        """Translate the warehouse's SQL errors into our exceptions.

        :raises ReverseEtlError: of the class that fits the error.
        """
        try:
            yield
        except SqlError as error:
            raise self._translated(error, sync) from None

    def _translated(self, error: SqlError, sync: str | None) -> ReverseEtlError:
        where: Mapping[str, Any] = {"sync": sync, "schema": self.schema}
        if error.kind is ErrorKind.FILES:
            return files_closed(**where)
        if error.kind is ErrorKind.DENIED:
            return self.denied(error, has_schema=True)
        if error.kind is ErrorKind.LOGIN:
            return CredentialsError(
                f"the warehouse refused the credentials: {error.text}",
                todo="correct the user name and password of the connection",
                **where,
            )
        if error.kind is ErrorKind.UNREACHABLE:
            return UnreachableError(error.text, todo="check that the warehouse is up and reachable", **where)
        if error.kind in _BY_ANOTHER_WORKER:
            return RunConflictError(
                f"another run of this sync was faster: {error.text}",
                todo="let only one run of a sync be active at a time; the next try plans again",
                **where,
            )
        if error.kind is ErrorKind.MISSING:
            return StateError(
                error.text, todo="restore the state's tables, or drop the schema to send everything again", **where
            )
        if error.kind is ErrorKind.WRONG:
            return ConfigurationError(
                f"the plan cannot be run in the warehouse: {error.text}",
                todo="correct the sync's expressions; c0, c1 ... are the model's columns in the order of their use",
                **where,
            )
        return ConfigurationError(
            f"an expression of the mapping fails for a row of the model ({error.text})",
            todo="make the expression safe for every row, with CASE, or leave the row out of the model",
            **where,
        )

    @property
    def _schema_name(self) -> str:
        return self.schema.rpartition(".")[2]

    def _identity(self) -> tuple[str, str]:
        try:
            [(user, database, *_)] = self.database.run(self.sql.identity)
        except (SqlError, ValueError):
            return "<user>", "<database>"
        return str(user), str(database)

    def _create(self, name: str, columns: Mapping[str, str]) -> str:
        typed = ", ".join(f"{column} {self.sql.types[kind]}" for column, kind in columns.items())
        return f"CREATE TABLE IF NOT EXISTS {self[name]} ({typed})"

    def _add_missing_columns(self, name: str, columns: Mapping[str, str]) -> None:
        """Add the columns that a table of an earlier version of this package does not have."""
        with self.database.session() as session:
            existing = self.columns(session, name)
        for column in columns.keys() - existing.keys():
            typed = f"{column} {self.sql.types[columns[column]]}"
            self._run_ddl(f"ALTER TABLE {self[name]} {self.sql.add_column.format(column=typed)}")

    def _run_ddl(self, statement: str) -> None:
        """Run a CREATE or ALTER statement. It is not an error if another worker has run it at the same moment."""
        try:
            self.database.run(statement)
        except SqlError as error:
            if error.kind not in _BY_ANOTHER_WORKER:
                raise

    def exists(self, name: str) -> bool:
        """Return whether one table exists."""
        try:
            self.database.run(f"SELECT 1 FROM {self[name]} WHERE 1 = 0")
        except SqlError as error:
            if error.kind is ErrorKind.MISSING:
                return False
            raise
        return True

    def _register(self, sync: str, own: str, *, known: bool) -> None:
        """Insert the first row of the sync's state, and the sync itself unless it is known."""
        with self.database.session() as session, session.transaction():
            session.run(
                f"INSERT INTO {self[f'{own}_state']} (generation) SELECT {self.text(NOTHING_YET)} AS generation"
                f" FROM (SELECT COUNT(*) AS n FROM {self[f'{own}_state']}) AS t WHERE n = 0"
            )
            if known:  # a table was missing: the next plan decides what follows from that
                return
            session.run(
                f"INSERT INTO {self['syncs']} (sync, table_prefix, created_at)"
                f" SELECT {self.text(sync)}, {self.text(own)}, CURRENT_TIMESTAMP"
            )
