"""A file that is written batch by batch on this worker's disk, before it goes to its storage as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "jsonl", "parquet"]


class NewFile:
    """A CSV, JSON lines or Parquet file of several tables with the same columns.

    :param columns: names of the columns.
    :param as_texts: returns a column of the JSON texts of values, for a column whose types have nothing in common.
    """

    def __init__(self, format_: Format, columns: Sequence[str], as_texts: Callable[[Sequence[Any]], pa.Array]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reverse-etl-")
        self._format = format_
        self._columns = columns
        self._as_texts = as_texts
        self._parts: list[Path] = []
        self._file = Path(self._folder.name) / f"content.{format_}"
        self._file.touch()

    def add_lines(self, lines: bytes) -> None:
        """Add lines of JSON."""
        with self._file.open("ab") as file:
            file.write(lines)

    def add_table(self, table: pa.Table) -> None:
        """Add the rows of a table. A part of a Parquet file has a file of its own, as later types are not known yet."""
        from pyarrow import csv, parquet

        if self._format == "csv":
            options = csv.WriteOptions(include_header=self._file.stat().st_size == 0)
            with self._file.open("ab") as file:
                csv.write_csv(table, file, options)
            return
        part = self._file.with_name(f"part-{len(self._parts)}.parquet")
        parquet.write_table(table, part)
        self._parts.append(part)

    def complete(self) -> Path:
        """Return the path of the complete file."""
        import pyarrow as pa
        from pyarrow import parquet

        if self._format != "jsonl" and not self._parts and not self._file.stat().st_size:
            self.add_table(pa.table({name: pa.array([], pa.string()) for name in self._columns}))
        if self._parts:
            schema = self._schema()
            with parquet.ParquetWriter(self._file, schema) as writer:
                for part in self._parts:
                    writer.write_table(self._cast(parquet.read_table(part), schema))
        return self._file

    def close(self) -> None:
        """Delete the files."""
        self._folder.cleanup()

    def _schema(self) -> pa.Schema:
        """Return the types that all parts have room for; text for a column of types that have nothing in common."""
        import pyarrow as pa
        from pyarrow import parquet

        schemas = [parquet.read_schema(part) for part in self._parts]
        return pa.schema([self._field(name, schemas) for name in schemas[0].names])

    def _field(self, name: str, schemas: Sequence[pa.Schema]) -> pa.Field:
        """Return a column's type, after a look at its values where the parts have different types."""
        import pyarrow as pa
        from pyarrow import parquet

        kinds = [pa.schema([schema.field(name)]) for schema in schemas]
        try:
            field: pa.Field = pa.unify_schemas(kinds, promote_options="permissive").field(name)
            for part, schema in zip(self._parts, schemas, strict=True):
                if schema.field(name).type != field.type:
                    parquet.read_table(part, columns=[name]).column(name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            return pa.field(name, pa.string())
        return field

    def _cast(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        columns = []
        for field in schema:
            column = table.column(field.name)
            if pa.types.is_string(field.type) and not pa.types.is_string(column.type):
                columns.append(self._as_texts(column.to_pylist()))
            else:
                columns.append(column.cast(field.type))
        return pa.table(columns, schema=schema)
