"""A DuckDB that computes plans and commits: bounded memory, no network, no files but the state and a scratch folder."""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import AttentionError, StateError, TryLaterError
from airflow_reverse_etl.object_storage import error_text
from airflow_reverse_etl.stores.files import StateFiles, reachable

if TYPE_CHECKING:
    import duckdb

#: Row groups are limited in bytes, so that reading wide rows does not need much memory.
_COPY = "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE_BYTES '64MB'"

#: Words of DuckDB about a disk that is full, or that it may not use more of.
_FULL = re.compile(
    r"no space|file too large|quota|failed to (write|offload|create)|could not (write|truncate)|temp_directory_size",
    re.IGNORECASE,
)
#: A parent folder may be called ``name=value``. DuckDB would read that as a column.
_NO_FOLDER_COLUMNS = "hive_partitioning = false"


@dataclass(frozen=True, slots=True)
class Scratch:
    """A DuckDB connection, the folder that is deleted with it, and the files of the state."""

    connection: duckdb.DuckDBPyConnection
    folder: Path
    files: StateFiles

    def execute(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.connection.execute(sql, parameters).fetchall()

    def columns(self, relation: str) -> dict[str, str]:
        """Return the columns of a relation: name → type."""
        return {name: kind for name, kind, *_ in self.execute(f"DESCRIBE FROM {relation}")}

    def view(self, name: str, path: str, *, columns: Mapping[str, str] | None = None) -> None:
        """Make a Parquet file under the state URL a relation, with the position of each row as ``file_row_number``.

        :param columns: name → type; null for columns that a file of an earlier version of this package does not have.
        :raises StateError: the file is not a Parquet file, or is incomplete.
        """
        import duckdb

        source = self.files.root / path if self.files.root else self.folder / f"{name}.parquet"
        if not self.files.root:  # DuckDB reads a local copy much faster than a remote file through Python
            self.files.download(path, source)
        rows = f"read_parquet({_quoted(source)}, file_row_number = true, {_NO_FOLDER_COLUMNS})"
        try:
            existing = self.columns(rows)
        except duckdb.Error as error:
            if is_full(error):
                raise
            raise _damaged(self.files.child(path)) from None
        absent = {column: kind for column, kind in (columns or {}).items() if column not in existing}
        missing = "".join(f", CAST(NULL AS {kind}) AS {column}" for column, kind in absent.items())
        self.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT *{missing} FROM {rows}")

    def store(self, name: str, select: str) -> None:
        """Make the rows of a SELECT a relation, stored in a file. A table would fill the memory before it spills."""
        file = _quoted(self.folder / f"{name}.parquet")
        self.execute(f"COPY ({select}) TO {file} ({_COPY})")
        self.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM read_parquet({file}, {_NO_FOLDER_COLUMNS})")

    def copy(self, select: str, path: str) -> tuple[int, int]:
        """Write the rows of a SELECT to a Parquet file under the state URL; return the number of rows and of bytes."""
        target = self.files.root / path if self.files.root else self.folder / "copy.parquet"
        with reachable(self.files.url):
            target.parent.mkdir(parents=True, exist_ok=True)
        [(rows,)] = self.execute(f"COPY ({select}) TO {_quoted(target)} ({_COPY})")
        size = target.stat().st_size
        if not self.files.root:
            self.files.upload(target, path)
            target.unlink()
        return rows, size


@contextlib.contextmanager
def scratch(files: StateFiles, *, memory_limit: str, threads: int | None, folder: Path | None) -> Iterator[Scratch]:
    """Open a scratch database. Everything it wrote outside the state URL is deleted at the end.

    :param folder: an existing local folder for spilled data; None for the system's temporary folder.
    """
    import duckdb

    with _own_folder(folder) as own:
        config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "temp_directory": own,
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
        }
        if threads:
            config["threads"] = threads
        with duckdb.connect(":memory:", config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # DuckDB keeps the right side of a join in memory. It cannot know the size of a stream; our SQL is written
            # so that the right side is the smaller one.
            connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
            # Expressions of a sync's author can read no other files.
            folders = ", ".join(_quoted(folder) for folder in (Path(own), files.root) if folder)
            connection.execute(f"SET allowed_directories = [{folders}]")
            connection.execute("SET enable_external_access = false")
            with _state_errors(files):
                yield Scratch(connection, Path(own), files)


@contextlib.contextmanager
def _own_folder(parent: Path | None) -> Iterator[str]:
    """Make a folder for spilled data, and delete it at the end."""
    try:
        folder = tempfile.mkdtemp(prefix="reverse_etl-", dir=parent)
    except OSError as error:
        raise TryLaterError(
            f"the worker's temporary folder cannot be used: {error_text(error)}",
            todo="make space there and let the worker write there, or set TMPDIR to another folder",
            folder=parent or tempfile.gettempdir(),
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_full(error: Exception) -> bool:
    """Return whether an error of DuckDB is about memory or disk, and neither about SQL nor about a file's content."""
    import duckdb

    if isinstance(error, duckdb.OutOfMemoryException):
        return True
    return isinstance(error, duckdb.IOException) and bool(_FULL.search(str(error)))


def full(**where: object) -> AttentionError:
    """Build the error for work that needs more memory or disk than it may use."""
    return AttentionError(
        "the plan or commit does not fit into the memory and disk that it may use",
        todo="make space in the worker's temporary folder and under the state URL, or raise the memory limit of the "
        "state store",
        **where,
    )


@contextlib.contextmanager
def _state_errors(files: StateFiles) -> Iterator[None]:
    """Translate the errors of DuckDB that nothing has translated: those about the files of the state.

    :raises AttentionError: memory or disk are full.
    :raises StateError: a file is damaged behind its beginning, or is not of this package.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if is_full(error):
            raise full() from None
        # The text may quote a value.
        raise _damaged(files.url, type(error).__name__) from error


def _damaged(file: str, error: str = "") -> StateError:
    return StateError(
        f"a file of the state is damaged{f' ({error})' if error else ''}",
        todo="restore the file from a backup, or delete it: its content then counts as lost",
        file=file,
    )


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
