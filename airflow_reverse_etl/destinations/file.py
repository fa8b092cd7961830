"""Destination type ``file``: each batch a CSV, JSON lines or Parquet file in a folder or object storage."""

from __future__ import annotations

import asyncio
import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, field_validator

from airflow_reverse_etl.destinations.base import DestinationOptions, Setup
from airflow_reverse_etl.destinations.info import Info
from airflow_reverse_etl.destinations.json_encoding import NotJsonError, dumps
from airflow_reverse_etl.destinations.new_file import NewFile
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, UnreachableError
from airflow_reverse_etl.object_storage import error_text, open_storage, storage_errors
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.spec.receipts import Batch, Outcome, Receipt, Receipts
from airflow_reverse_etl.sync.ports import Capabilities, Limiter, ShownRequest, Support
from airflow_reverse_etl.worker_disk import is_full, space_needed

if TYPE_CHECKING:
    import pyarrow as pa

_NEW_CONTENT = "the new content cannot be written"
#: The engine retries; the library's own long retries would only delay and hide that.
_SHORT_RETRIES = {"max_retries": "1", "retry_timeout": "10s"}


class FileOptions(DestinationOptions):
    """Options of destination type ``file``."""

    url: Annotated[str, Field(min_length=1, description="folder, as a path or URL: file://, s3://, gs://, az:// …")]
    format: Annotated[Literal["csv", "jsonl", "parquet"], Field(description="file format")] = "csv"
    operation_column: Annotated[
        str | None,
        Field(description="column for the row's operation, such as upsert; null: no such column, and no deletes"),
    ] = "_operation"
    max_batch_rows: Annotated[int, Field(ge=1, description="maximum number of rows in a file")] = 50_000

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("", "file") and not parts.netloc:
            raise ValueError("the URL has no bucket: write it as s3://bucket/folder")
        return value.rstrip("/")


INFO = Info(
    type="file",
    title="files in a folder or an object storage",
    connection="The connection is optional: of type `aws`, `google_cloud_platform` or `wasb`, with the credentials of "
    "the storage.",
    example="""\
name: orders_to_files
model: orders
source: warehouse
primary_key: order_id
mapping:
  id: order_id
  total: total
destination: {type: file, url: s3://exports/orders, connection: aws_default, format: parquet}
""",
)


class FileDestination:
    """Writes each batch to ``<url>/<object or sync>/<run id>/<first>-<last>-<rows>-<operation>.<format>``.

    ``first`` and ``last`` are sequence numbers in the change set, ``rows`` is the number of rows.

    A file appears whole or not at all. Its name depends only on the rows in it, so sending a batch again replaces its
    own file: every operation may be repeated. Readers apply the files in the order of their names.

    CSV files have a header with the fields of the mapping in its order; nested fields have dots in their names. Text is
    always quoted, and null is empty without quotes. Values are written unchanged: a spreadsheet reads a cell that
    begins with ``=``, ``+``, ``-`` or ``@`` as a formula, so do not open files with untrusted text in a spreadsheet.

    In mode ``replace``, all rows are one file, ``<url>/<object or sync>.<format>``, without the column for operations.
    It is written on the worker's disk, and then takes the place of the old one at once.

    Credentials of an object storage come from the connection's extra ``storage_options``, with Delta Lake's names.
    """

    info = INFO
    Options: ClassVar[type[DestinationOptions]] = FileOptions
    needs_match_on: ClassVar[frozenset[Operation]] = frozenset({Operation.DELETE})

    def __init__(self, setup: Setup) -> None:
        options: FileOptions = setup.options
        self._sync = setup.sync
        self._options = options
        storage_options = (setup.connection.extra.get("storage_options") if setup.connection else None) or {}
        self._storage_options = {str(name): str(value) for name, value in storage_options.items()}
        is_path = not urlsplit(options.url).scheme
        self._url = Path(options.url).absolute().as_uri() if is_path else options.url
        self._fields = tuple(setup.sync.mapping)
        self._folder = options.object or setup.sync.name
        # A file is replaced by the same file, and appears when it is complete.
        support = Support(idempotent=True, answers="row", max_rows=options.max_batch_rows)
        operations = dict.fromkeys(Operation, support)
        if options.operation_column is None:  # a reader could not tell a delete from an upsert
            del operations[Operation.DELETE]
        self._is_whole = setup.sync.mode == "replace"
        self._content: NewFile | None = None
        self.address = setup.address(options.url, None if options.object else self._folder)
        self.capabilities = Capabilities(operations, json=options.format == "jsonl")

    async def open(self, limiter: Limiter) -> None:
        """Prepare the storage.

        :raises ConfigurationError: the URL's scheme is unknown, or the storage's settings are incomplete.
        """
        self._limiter = limiter
        self._storage = await asyncio.to_thread(open_storage, self._url, _SHORT_RETRIES | self._storage_options)

    async def close(self) -> None:
        """Delete a new content that was not shown. No other file stays open between batches."""
        if self._content is not None:
            await asyncio.to_thread(self._content.close)
            self._content = None

    async def begin(self) -> None:
        """Begin a new content on the worker's disk.

        :raises TryLaterError: the disk is full.
        """
        await self.close()
        with space_needed(_NEW_CONTENT):
            self._content = NewFile(self._options.format, self._fields, _texts)

    async def finish(self) -> None:
        """Put the new content in the place of the old one. A file appears when it is complete.

        :raises UnreachableError: the storage did not take it.
        :raises CredentialsError: the storage refused it.
        :raises ConfigurationError: the bucket does not exist.
        """
        await self._limiter.acquire()
        await asyncio.to_thread(self._show)

    def _show(self) -> None:
        assert self._content is not None, "begin() comes first"
        with space_needed(_NEW_CONTENT):
            content = self._content.complete()
        try:
            self._storage.put(self._whole_name, content)
        except storage_errors() as error:
            receipt = self._failed(error).default
            raise UnreachableError(
                f"the storage did not take the file: {receipt.message}",
                todo="make space there" if is_full(error) else "try again",
                url=self._options.url,
            ) from None

    async def send(self, batch: Batch) -> Receipts:
        """Write one file, or a part of the new content.

        :raises TryLaterError: the worker's disk has no room for the new content.
        """
        if self._content is not None:
            with space_needed(_NEW_CONTENT):
                return await asyncio.to_thread(self._add, self._content, batch)
        await self._limiter.acquire()
        return await asyncio.to_thread(self._send, batch)

    def _send(self, batch: Batch) -> Receipts:
        exceptions: dict[str, Receipt] = {}
        if self._options.format == "jsonl":
            data, exceptions = self._json_lines(batch)
        else:
            data = self._table(batch)
        if len(exceptions) == len(batch):
            return Receipts(exceptions=exceptions, requests=0)
        try:
            self._storage.put(self._file_name(batch), data)  # the file appears when it is complete
        except storage_errors() as error:
            return self._failed(error)
        return Receipts(exceptions=exceptions)

    def _add(self, content: NewFile, batch: Batch) -> Receipts:
        """Add a batch to the new content."""
        if self._options.format != "jsonl":
            content.add_table(self._columns(batch))
            return Receipts(requests=0)
        data, exceptions = self._json_lines(batch)
        content.add_lines(data)
        return Receipts(exceptions=exceptions, requests=0)

    def first_request(self, batch: Batch) -> ShownRequest:
        """Return the file of a batch: its name and its lines."""
        name = f"{self._url}/{self._whole_name if self._is_whole else self._file_name(batch)}"
        if self._options.format == "parquet":
            lines = [dumps(record).decode() for record in batch.records]
            return ShownRequest(name, body="\n".join(lines), notes=("the rows are written in Parquet's format",))
        if self._options.format == "csv":
            return ShownRequest(name, body=self._table(batch).decode().rstrip("\n"))
        data, exceptions = self._json_lines(batch)
        notes = sorted({receipt.message for receipt in exceptions.values()})
        return ShownRequest(name, body=data.decode().rstrip("\n"), notes=tuple(notes))

    def _failed(self, error: Exception) -> Receipts:
        """Return the receipts of a failed write.

        Either the write failed or its response was lost. Retrying is safe in both cases because it overwrites the file.
        """
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        message = error_text(error)
        where = {"url": self._options.url, "connection": self._options.connection, "sync": self._sync.name}
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            raise CredentialsError(f"the storage refused the file: {message}", todo="check the credentials", **where)
        if isinstance(error, FileNotFoundError):
            raise ConfigurationError(f"bucket not found: {message}", todo="correct the URL", **where)
        return Receipts(Receipt(Outcome.RETRYABLE, "storage", message))

    def _file_name(self, batch: Batch) -> str:
        run = quote(batch.run_id, safe="")
        numbers = f"{batch.seqs[0]:012}-{batch.seqs[-1]:012}-{len(batch)}"
        return f"{self._folder}/{run}/{numbers}-{batch.operation}.{self._options.format}"

    @property
    def _whole_name(self) -> str:
        return f"{self._folder}.{self._options.format}"

    @property
    def _operation_column(self) -> str | None:
        return None if self._is_whole else self._options.operation_column

    def _json_lines(self, batch: Batch) -> tuple[bytes, dict[str, Receipt]]:
        column = self._operation_column
        lines: list[bytes] = []
        exceptions: dict[str, Receipt] = {}
        for key, record in zip(batch.keys, batch.records, strict=True):
            line = {**record, column: batch.operation} if column else record
            try:
                lines.append(dumps(line) + b"\n")
            except NotJsonError as error:
                exceptions[key] = Receipt(Outcome.REJECTED, "not_json", str(error))
        return b"".join(lines), exceptions

    def _table(self, batch: Batch) -> bytes:
        from pyarrow import csv, parquet

        target = io.BytesIO()
        if self._options.format == "csv":
            csv.write_csv(self._columns(batch), target)
        else:
            parquet.write_table(self._columns(batch), target)
        return target.getvalue()

    def _columns(self, batch: Batch) -> pa.Table:
        """Return the rows of a batch as columns, in the form that the format can hold."""
        import pyarrow as pa

        # One column for each field of the mapping, and the operation's.
        records = [dict(_flat(record)) for record in batch.records]
        columns: dict[str, pa.Array] = {}
        for name in self._fields:
            values = [record.get(name) for record in records]
            columns[name] = _array(values)
        if column := self._operation_column:
            columns[column] = pa.array([batch.operation.value] * len(batch), pa.string())
        if self._options.format == "csv":
            return pa.table({name: _csv_column(array) for name, array in columns.items()})
        return pa.table(columns)


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted name; an object both as a whole and by its fields."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        yield f"{prefix}{name}", value


def _array(values: Sequence[Any]) -> pa.Array:
    """Return a typed column. Values that do not share a type become JSON texts; a column of nulls gets type text.

    Integers of more than 64 bits become decimals.
    """
    import pyarrow as pa

    try:
        array = pa.array(values)
    except OverflowError:
        if any(type(value) is int for value in values):
            return _array([Decimal(value) if type(value) is int else value for value in values])
        return _texts(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return _texts(values)
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array


def _texts(values: Sequence[Any]) -> pa.Array:
    """Return a column of the JSON texts of values."""
    import pyarrow as pa

    return pa.array([None if value is None else dumps(value).decode() for value in values], pa.string())


def _csv_column(array: pa.Array) -> pa.Array:
    """Return a column that CSV can hold: lists and objects become JSON, bytes become base64 as in JSON.

    Decimals become text if Arrow would write one of them with an exponent.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_decimal(array.type):
        if not pc.any(pc.match_substring(array.cast(pa.string()), "E")).as_py():
            return array
        return pa.array([None if value is None else f"{value:f}" for value in array.to_pylist()], pa.string())
    if pa.types.is_binary(array.type):
        values = array.to_pylist()
        return pa.array([None if value is None else b64encode(value).decode() for value in values], pa.string())
    if pa.types.is_nested(array.type):
        return _texts(array.to_pylist())
    return array
