"""Delta Lake tables to which the commit of a plan writes one Parquet file, replacing the others or adding to them.

DuckDB writes the file, in parallel and with bounded memory. Delta Lake's log makes the change atomic, refuses it when
another run was faster, and records which plan made it. Any reader of Delta Lake can read the table.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from airflow_reverse_etl.errors import RunConflictError, StateError
from airflow_reverse_etl.object_storage import STORAGE_ERROR, error_text
from airflow_reverse_etl.stores.files import StateFiles, unreachable
from airflow_reverse_etl.stores.lake.duckdb import Scratch

if TYPE_CHECKING:
    from deltalake import DeltaTable

#: Commits that are searched for a plan. Fewer happen between a commit and its repetition.
_SEARCHED_COMMITS = 50
_PLAN = "plan_id"


class _Table:
    """A table in a folder.

    :param columns: name → DuckDB type, all of them nullable.
    :raises UnreachableError: the storage did not answer.
    :raises StateError: the folder holds something that is not a readable table.
    """

    #: Columns with one value for each file. Delta Lake's log holds the value, the file does not.
    _file_columns: tuple[str, ...] = ()

    def __init__(self, files: StateFiles, folder: str, columns: Mapping[str, str]) -> None:
        self._files = files
        self._folder = folder
        #: URL of the folder, which names the table in errors.
        self.folder = files.child(folder)
        self._columns = columns
        self._table = self._load()

    def _load(self) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            with _storage(self._files.url):
                return DeltaTable(self._files.child(self._folder), storage_options=self._files.storage_options)
        except TableNotFoundError:
            return None

    def _names(self) -> list[str]:
        """Return the names of the files that make up the table."""
        if not self._table:
            return []
        return [uri.rsplit("/", 1)[-1] for uri in self._table.file_uris()]

    def delete_unused(self) -> None:
        """Delete the files that are no longer part of the table. No run of the sync may be at work."""
        self._table = self._load()
        used = self._names()
        for name in self._files.list(self._folder):
            if name.endswith(".parquet") and name not in used:
                self._files.delete(f"{self._folder}/{name}")

    def _add(
        self,
        scratch: Scratch,
        select: str,
        plan_id: str,
        *,
        mode: Literal["append", "overwrite"],
        file_values: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[str, int]:
        """Write the rows of a SELECT to a file named after the plan; return its name and the number of rows.

        :param mode: ``overwrite`` replaces all files, or those with the same ``file_values``.
        :param file_values: values of the columns that are not in the file.
        :param metadata: values that the commit in Delta Lake's log keeps.
        """
        from deltalake import CommitProperties, Schema
        from deltalake.transaction import AddAction, create_table_with_add_actions

        # Write the file. Nothing refers to it yet. Its name is of this process alone: an earlier try of the same commit
        # may have been stopped while it wrote its own file, and resume at any time.
        name = f"{plan_id}.{secrets.token_hex(4)}.parquet"
        written = {column: kind for column, kind in self._columns.items() if column not in self._file_columns}
        casts = ", ".join(f"CAST({column} AS {kind}) AS {column}" for column, kind in written.items())
        rows, size = scratch.copy(f"SELECT {casts} FROM ({select})", f"{self._folder}/{name}")
        # Commit it to the log.
        add = AddAction(
            path=name,
            size=size,
            partition_values=dict(file_values or {}),
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": rows}),
        )
        schema = Schema.from_arrow(scratch.connection.sql(self._empty_select).to_arrow_table().schema)
        properties = CommitProperties(custom_metadata={_PLAN: plan_id, **(metadata or {})}, max_commit_retries=0)
        partitions = list(self._file_columns) or None
        with _storage(self._files.url, writing=True):
            if self._table:
                replaced = [(column, "=", value) for column, value in (file_values or {}).items()]
                self._table.create_write_transaction(
                    [add],
                    mode,
                    schema,
                    partition_by=partitions,
                    partition_filters=replaced if replaced and mode == "overwrite" else None,
                    commit_properties=properties,
                )
            else:
                create_table_with_add_actions(
                    self._files.child(self._folder),
                    schema,
                    [add],
                    partition_by=partitions,
                    storage_options=self._files.storage_options,
                    commit_properties=properties,
                )
        return name, rows

    @property
    def _empty_select(self) -> str:
        """SELECT with the columns of the table and no rows."""
        nulls = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in self._columns.items())
        return f"SELECT {nulls} LIMIT 0"


class DeltaFile(_Table):
    """A table of one file, which every commit replaces."""

    def __init__(self, files: StateFiles, folder: str, columns: Mapping[str, str]) -> None:
        super().__init__(files, folder, columns)
        names = self._names()
        if names and names[0] not in files.list(folder):  # a person deleted the file
            names = []
        #: Name of the current file, which changes with every commit, or None.
        self.generation = names[0] if names else None

    @property
    def rows(self) -> int:
        """Number of rows."""
        if not self._table or not self.generation:
            return 0
        with _storage(self._files.url):
            return self._table.count()

    def made_by(self, plan_id: str) -> bool:
        """Return whether a recent commit of this table belongs to this plan."""
        return any(commit.get(_PLAN) == plan_id for commit in self._recent_commits())

    def metadata(self, name: str) -> str | None:
        """Return a value that :meth:`replace` kept, from the last recent commit that has it."""
        return next((str(commit[name]) for commit in self._recent_commits() if name in commit), None)

    def view(self, scratch: Scratch, name: str, *, empty: bool = False) -> None:
        """Make the table a relation: without rows if the table does not exist yet, or if ``empty`` is set."""
        if self.generation and not empty:
            scratch.view(name, f"{self._folder}/{self.generation}", columns=self._columns)
        else:
            scratch.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {self._empty_select}")

    def replace(self, scratch: Scratch, select: str, plan_id: str, metadata: Mapping[str, str] | None = None) -> int:
        """Replace the table's content by the rows of a SELECT, and delete the old file; return the number of rows.

        :param metadata: values for :meth:`metadata`.
        :raises RunConflictError: the table was changed since it was loaded.
        """
        name, rows = self._add(scratch, select, plan_id, mode="overwrite", metadata=metadata)
        for old in self._files.list(self._folder):
            if old.endswith(".parquet") and old != name:
                self._files.delete(f"{self._folder}/{old}")
        return rows

    def _recent_commits(self) -> list[dict[str, Any]]:
        if not self._table:
            return []
        with _storage(self._files.url):
            return self._table.history(_SEARCHED_COMMITS)


class DeltaLog(_Table):
    """A table that grows by one file with each plan. The plan's id is a column; the ids sort by time."""

    _file_columns = (_PLAN,)

    def append(self, scratch: Scratch, select: str, plan_id: str) -> None:
        """Add the rows of a SELECT, unless this plan has added its rows before."""
        if not any(name.startswith(plan_id) for name in self._names()):
            self._add(scratch, select, plan_id, mode="append", file_values={_PLAN: plan_id})

    def erase(self, scratch: Scratch, condition: str) -> int:
        """Delete the rows that meet a condition, and the files that had them; return the number of rows.

        No run of the sync may be at work.
        """
        erased = 0
        for name in self._names():
            scratch.view("log", f"{self._folder}/{name}")
            [(rows,)] = scratch.execute(f"SELECT COUNT(*) FROM log WHERE {condition}")
            if not rows:
                continue
            plan_id = name.partition(".")[0]
            self._add(
                scratch,
                f"SELECT * FROM log WHERE ({condition}) IS NOT TRUE",
                plan_id,
                mode="overwrite",
                file_values={_PLAN: plan_id},
            )
            self._table = self._load()  # the next change builds on this one
            erased += rows
        self.delete_unused()
        return erased

    def forget(self, before: str) -> None:
        """Delete the rows of plans whose id sorts before this text."""
        old = [name for name in self._files.list(self._folder) if name.endswith(".parquet") and name < before]
        if not old or not self._table:
            return
        with _storage(self._files.url, writing=True):
            self._table.delete(f"{_PLAN} < '{before}'")
        for name in old:
            self._files.delete(f"{self._folder}/{name}")


@contextlib.contextmanager
def _storage(url: str, *, writing: bool = False) -> Iterator[None]:
    """Translate errors of Delta Lake and the storage. TableNotFoundError is raised as it is, for callers to handle."""
    from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError:
        raise
    except (CommitFailedError, OSError, DeltaError) as error:
        if writing and (isinstance(error, CommitFailedError) or "already exists" in str(error)):
            raise RunConflictError(
                "another run committed the state of this sync meanwhile",
                todo="let only one run of a sync be active at a time; the next try plans again",
                url=url,
            ) from None
        if isinstance(error, OSError) or STORAGE_ERROR.search(str(error)):
            raise unreachable(error, url) from None
        raise StateError(
            f"the state cannot be read: {error_text(error)}",
            todo="restore the folder from a backup, or delete it to send everything again",
            url=url,
        ) from None
