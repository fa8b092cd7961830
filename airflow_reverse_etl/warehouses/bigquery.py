"""BigQuery as Arrow: its own client behind the part of DB-API that :class:`DbApiWarehouse` needs.

The cursor of Airflow's hook gives rows of JSON values; the client reads Arrow, page by page.

Sources: google-cloud-bigquery's ``Client.query``, ``RowIterator.to_arrow_iterable``; google-api-core's
``GoogleAPICallError.code``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


class Error(Exception):
    """What DB-API calls the root of a driver's errors."""


class ProgrammingError(Error):
    """The query is wrong: syntax, or a name."""


class OperationalError(Error):
    """The service did not do it."""


class BigQueryConnection:
    """A client as a connection.

    :param client: ``google.cloud.bigquery.Client``.
    :param storage: ``google.cloud.bigquery_storage.BigQueryReadClient``, which reads faster; None: the REST interface.
    """

    def __init__(self, client: Any, storage: Any = None) -> None:
        self._client, self._storage = client, storage

    def cursor(self) -> BigQueryCursor:
        return BigQueryCursor(self._client, self._storage)

    def close(self) -> None:
        self._client.close()


class BigQueryCursor:
    """One query."""

    def __init__(self, client: Any, storage: Any) -> None:
        self._client, self._storage = client, storage
        self._job: Any = None
        self._rows: Any = None

    @property
    def description(self) -> list[tuple[Any, ...]]:
        return [(field.name, field.field_type, None, None, None, None, None) for field in self._rows.schema]

    def execute(self, query: str) -> None:
        with _errors():
            self._job = self._client.query(query)
            self._rows = self._job.result()

    def fetch_arrow_batches(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        with _errors():  # one stream and a short queue: what is read ahead is held in memory
            for batch in self._rows.to_arrow_iterable(self._storage, max_queue_size=2, max_stream_count=1):
                yield pa.Table.from_batches([batch])

    def cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, int):
            raise
        text = (str(getattr(error, "message", "")).splitlines() or [""])[0]
        if code in (400, 404):
            raise ProgrammingError(text) from None
        raise OperationalError("permission denied: " + text if code in (401, 403) else text) from None
