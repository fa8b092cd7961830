"""A DuckDB that computes plans and commits: bounded memory, no network, no files but the state and a scratch folder."""

# ruff: noqa: S608 - the SQL is ours: names are fixed, paths are quoted

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import StateError
from airflow_reverse_etl.stores.files import StateFiles

if TYPE_CHECKING:
    import duckdb

#: Row groups are limited in bytes, so that reading wide rows does not need much memory.
_COPY = "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE_BYTES '64MB'"

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
        except duckdb.InvalidInputException:
            raise StateError(
                "a file of the state is damaged",
                todo="restore the file from a backup, or delete it: its content then counts as lost",
                file=path,
            ) from None
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

    with tempfile.TemporaryDirectory(prefix="reverse_etl-", dir=folder) as own:
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
            yield Scratch(connection, Path(own), files)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
