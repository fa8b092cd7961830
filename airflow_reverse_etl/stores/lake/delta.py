"""Delta Lake tables that a plan's commit writes one Parquet file to: as the whole of it, or beside the others.

DuckDB writes the file, in parallel and with bounded memory; Delta Lake's log makes the change atomic, refuses it when
someone else was faster, and remembers which plan made it. Any reader of Delta Lake can read the table.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from airflow_reverse_etl.errors import RunConflictError, StateError, UnreachableError
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake.duckdb import Scratch

if TYPE_CHECKING:
    from deltalake import DeltaTable

#: How many commits back a plan is looked for. Nothing between a commit and its repetition makes more.
_REMEMBERED = 50
_PLAN = "plan_id"


class _Table:
    """A table in a folder.

    :param columns: name → DuckDB type, all of them nullable.
    :raises UnreachableError: the storage did not answer.
    :raises StateError: what is there is not a table that we can read.
    """

    #: Columns whose value is the same throughout a file, and is kept with its name instead of in it.
    _of_files: tuple[str, ...] = ()

    def __init__(self, files: StateFiles, folder: str, columns: Mapping[str, str]) -> None:
        self._files = files
        self._folder = folder
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
        """The files that make up the table."""
        return [uri.rsplit("/", 1)[-1] for uri in self._table.file_uris()] if self._table else []

    def _add(
        self,
        scratch: Scratch,
        select: str,
        plan_id: str,
        *,
        mode: Literal["append", "overwrite"],
        of_file: Mapping[str, str] | None = None,
        keep: Mapping[str, str] | None = None,
    ) -> int:
        """Write the rows of a SELECT as a file named after the plan; returns how many there are.

        :param of_file: values of the columns that are not in the file.
        """
        from deltalake import CommitProperties, Schema
        from deltalake.transaction import AddAction, create_table_with_add_actions

        name, held = f"{plan_id}.parquet", [name for name in self._columns if name not in self._of_files]
        rows, size = scratch.copy(
            f"SELECT {', '.join(f'CAST({column} AS {self._columns[column]}) AS {column}' for column in held)}"
            f" FROM ({select})",
            f"{self._folder}/{name}",
        )
        add = AddAction(
            path=name,
            size=size,
            partition_values=dict(of_file or {}),
            modification_time=int(time.time() * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": rows}),
        )
        schema = Schema.from_arrow(scratch.connection.sql(self._nothing).to_arrow_table().schema)
        properties = CommitProperties(custom_metadata={_PLAN: plan_id, **(keep or {})}, max_commit_retries=0)
        partitions = list(self._of_files) or None
        with _storage(self._files.url, writing=True):
            if self._table:
                self._table.create_write_transaction(
                    [add], mode, schema, partition_by=partitions, commit_properties=properties
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
        return rows

    @property
    def _nothing(self) -> str:
        return f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {name}' for name, kind in self._columns.items())} LIMIT 0"


class DeltaFile(_Table):
    """A table that is one file, replaced as a whole."""

    def __init__(self, files: StateFiles, folder: str, columns: Mapping[str, str]) -> None:
        super().__init__(files, folder, columns)
        names = self._names()
        if names and names[0] not in files.list(folder):  # deleted behind our back
            names = []
        #: Name of the current file: changes with every commit. None without one.
        self.generation = names[0] if names else None

    @property
    def rows(self) -> int:
        return self._table.count() if self._table and self.generation else 0

    def made_by(self, plan_id: str) -> bool:
        """Whether a recent commit of this table was the one of this plan."""
        commits = self._table.history(_REMEMBERED) if self._table else []
        return any(commit.get(_PLAN) == plan_id for commit in commits)

    def kept(self, name: str) -> str | None:
        """A value that :meth:`replace` was given to keep, by the last of the recent commits that has one."""
        commits = self._table.history(_REMEMBERED) if self._table else []
        return next((str(commit[name]) for commit in commits if name in commit), None)

    def view(self, scratch: Scratch, name: str, *, empty: bool = False) -> None:
        """Make the table a relation; one without rows where it does not exist yet, or if it shall be ``empty``."""
        if self.generation and not empty:
            scratch.view(name, f"{self._folder}/{self.generation}", columns=self._columns)
        else:
            scratch.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {self._nothing}")

    def replace(self, scratch: Scratch, select: str, plan_id: str, keep: Mapping[str, str] | None = None) -> int:
        """Make the rows of a SELECT the table's content, delete the old file; returns how many rows there are.

        :param keep: values for :meth:`kept`.
        :raises RunConflictError: the table was changed since it was loaded.
        """
        rows = self._add(scratch, select, plan_id, mode="overwrite", keep=keep)
        for old in self._files.list(self._folder):
            if old.endswith(".parquet") and old != f"{plan_id}.parquet":
                self._files.delete(f"{self._folder}/{old}")
        return rows


class DeltaLog(_Table):
    """A table that grows by a file with each plan, whose id is a column. Of ids, earlier ones sort first."""

    _of_files = (_PLAN,)

    def append(self, scratch: Scratch, select: str, plan_id: str) -> None:
        """Add the rows of a SELECT, unless this plan did so before."""
        if f"{plan_id}.parquet" not in self._names():
            self._add(scratch, select, plan_id, mode="append", of_file={_PLAN: plan_id})

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
    from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError:
        raise
    except (CommitFailedError, OSError, DeltaError) as error:
        if writing and (isinstance(error, CommitFailedError) or "already exists" in str(error)):
            raise RunConflictError(
                "another run committed the state of this sync meanwhile",
                todo="nothing by hand: the next try plans again; let only one run of a sync be active at a time",
                url=url,
            ) from error
        if isinstance(error, OSError):
            raise UnreachableError(
                f"the state storage failed: {error}", todo="check [reverse_etl] state_url and state_conn_id", url=url
            ) from error
        raise StateError(
            f"the state cannot be read: {error}",
            todo="restore the folder from a backup, or delete it to send everything again",
            url=url,
        ) from error
