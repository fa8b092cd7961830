"""Destination type ``file``: each batch a CSV, JSON lines or Parquet file in a folder or object storage."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, field_validator

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.redaction import clean
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Capabilities, Limiter

if TYPE_CHECKING:
    import pyarrow as pa

#: Trying again is the engine's; the library's own long patience would only hide that.
_PATIENCE = {"max_retries": "1", "retry_timeout": "10s"}


class FileOptions(DestinationOptions):
    """Options of destination type ``file``."""

    url: Annotated[str, Field(min_length=1, description="folder: a path, file://, s3://, gs://, az:// …")]
    format: Annotated[Literal["csv", "jsonl", "parquet"], Field(description="of the files")] = "csv"
    operation_column: Annotated[
        str | None, Field(description="column that says upsert or delete; null: none, which a mirror cannot do without")
    ] = "_operation"
    max_batch_rows: Annotated[int, Field(ge=1, description="most rows in a file")] = 50_000

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("", "file") and not parts.netloc:
            raise ValueError("names no bucket: write it as s3://bucket/folder")
        return value.rstrip("/")


class FileDestination:
    """Writes ``<url>/<object or sync>/<run id>/<first>-<last>-<rows>-<operation>.<format>``; the numbers are the rows'
    places in the change set.

    A file appears whole or not at all. Its name follows from what is in it, so a batch that is sent again replaces its
    own file: every operation may be repeated. Whoever reads the files applies them in the order of their names.

    CSV has a header, the fields of the mapping in its order; nested fields have dots in their names. Text is always
    quoted, and null is empty without quotes. Values are written as they are: a spreadsheet takes a cell that begins
    with ``=``, ``+``, ``-`` or ``@`` for a formula, so do not open files with text from strangers in one.

    Credentials of an object storage come from the connection's extra ``storage_options``, with deltalake's names.
    """

    Options: ClassVar[type[DestinationOptions]] = FileOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset({Operation.DELETE})

    def __init__(self, setup: Setup) -> None:
        options: FileOptions = setup.options
        self._sync, self._options = setup.sync, options
        storage = (setup.connection.extra.get("storage_options") if setup.connection else None) or {}
        self._storage_options = {str(name): str(value) for name, value in storage.items()}
        self._fields = tuple(setup.sync.mapping)
        self._folder = options.object or setup.sync.name
        without = options.operation_column is None
        operations = frozenset(Operation) - {Operation.DELETE} if without else frozenset(Operation)
        self.capabilities = Capabilities(operations, frozenset(Operation), max_batch_rows=options.max_batch_rows)

    async def open(self, limiter: Limiter) -> None:
        """:raises ConfigurationError: the URL's kind of storage is not known, or its settings are incomplete."""
        self._limiter = limiter
        self._write = await asyncio.to_thread(_storage, self._options.url, self._storage_options)

    async def close(self) -> None:
        """Nothing is open between batches."""

    async def send(self, batch: Batch) -> Receipts:
        """Write one file."""
        await self._limiter.acquire()
        return await asyncio.to_thread(self._send, batch)

    def _send(self, batch: Batch) -> Receipts:
        if self._options.format == "jsonl":
            data, exceptions = self._lines(batch)
        else:
            data, exceptions = self._encode(batch), {}
        if len(exceptions) == len(batch):
            return Receipts(exceptions=exceptions, requests=0)
        try:
            self._write(self._name(batch), data)
        except OSError as error:
            return self._failed(_plain(error))
        return Receipts(exceptions=exceptions)

    def _failed(self, message: str) -> Receipts:
        """The file did not appear, or it did and the answer was lost: sending again replaces it, so both may be."""
        where = {"url": self._options.url, "connection": self._options.connection, "sync": self._sync.name}
        if re.search(r"\b(401 Unauthorized|403 Forbidden)\b|AccessDenied|PermissionDenied", message):
            raise CredentialsError(f"the storage refused the file: {message}", todo="check the credentials", **where)
        if "NoSuchBucket" in message:
            raise ConfigurationError(f"there is no such bucket: {message}", todo="correct the URL", **where)
        return Receipts(Receipt(Outcome.RETRYABLE, "storage", message))

    def _name(self, batch: Batch) -> str:
        run = quote(batch.run_id, safe="")
        numbers = f"{batch.seqs[0]:012}-{batch.seqs[-1]:012}-{len(batch)}"
        return f"{self._folder}/{run}/{numbers}-{batch.operation}.{self._options.format}"

    def _lines(self, batch: Batch) -> tuple[bytes, dict[str, Receipt]]:
        column = self._options.operation_column
        lines, exceptions = [], {}
        for key, record in zip(batch.keys, batch.records, strict=True):
            try:
                lines.append(dumps({**record, column: batch.operation} if column else record) + b"\n")
            except NotJsonError as error:
                exceptions[key] = Receipt(Outcome.REJECTED, "not_json", str(error))
        return b"".join(lines), exceptions

    def _encode(self, batch: Batch) -> bytes:
        import pyarrow as pa
        from pyarrow import csv, parquet

        records = [dict(_flat(record)) for record in batch.records]
        columns = {name: _array([record.get(name) for record in records]) for name in self._fields}
        if column := self._options.operation_column:
            columns[column] = pa.array([batch.operation.value] * len(batch), pa.string())
        target = io.BytesIO()
        if self._options.format == "csv":
            csv.write_csv(pa.table({name: _text(array) for name, array in columns.items()}), target)
        else:
            parquet.write_table(pa.table(columns), target)
        return target.getvalue()


def _flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        yield f"{before}{name}", value


def _array(values: Sequence[Any]) -> pa.Array:
    """A typed column; values that do not share a type become JSON texts, and nothing but nulls a text column."""
    import pyarrow as pa

    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else dumps(value).decode() for value in values], pa.string())
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array


def _text(array: pa.Array) -> pa.Array:
    """A column that CSV can hold: lists and objects as JSON."""
    import pyarrow as pa

    if pa.types.is_nested(array.type):
        return pa.array([None if value is None else dumps(value).decode() for value in array.to_pylist()], pa.string())
    return array


def _storage(url: str, options: Mapping[str, str]) -> Any:
    """A function that writes a file, all or nothing: object storages and deltalake's local one alike."""
    from deltalake.fs import DeltaStorageHandler

    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else url).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        url = str(folder)
    try:
        handler = DeltaStorageHandler(url, _PATIENCE | dict(options))
    except Exception as error:  # noqa: BLE001 - a Rust library's errors; none of them is about rows
        raise ConfigurationError(
            f"the storage cannot be used: {type(error).__name__}: {_plain(error)}",
            todo="check the URL, and the connection's extra storage_options",
            url=url,
        ) from None

    def write(name: str, data: bytes) -> None:
        # The handler's own method would be given buffers by pyarrow, which it does not take.
        stream: Any = handler._handler.open_output_stream(name, None)
        stream.write(data)
        stream.close()  # the file appears here

    return write


def _plain(error: Exception) -> str:
    """The library's words, which name buckets and paths, without its colours."""
    return clean(re.sub(r"\x1b\[\d+m", "", str(error)), ())
