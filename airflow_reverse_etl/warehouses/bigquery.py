"""BigQuery as Arrow: options of its ADBC driver, and its client behind the part of DB-API that is needed of it.

The cursor of Airflow's hook gives rows of JSON values; driver and client read the Arrow of the Storage API.

Sources: ``adbc_driver_bigquery.DatabaseOptions`` and ``StatementOptions`` (1.11); ``GoogleBaseHook`` and
``BigQueryHook`` of apache-airflow-providers-google 22.8; google-cloud-bigquery's ``Client.query``,
``RowIterator.to_arrow_iterable``; google-api-core's ``GoogleAPICallError.code``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_reverse_etl.sync.ports import ConnectionInfo


_SQL = "adbc.bigquery.sql."
_PREFIX = "extra__google_cloud_platform__"  # of fields, in connections that are older

#: In the service's words on a query that it cannot run; what it says of a row's value has none.
_POSITION = re.compile(r" at \[\d+:\d+\]")

#: Fields of the connection that say nothing of who logs in; where it reads is given beside them. Like the client, the
#: driver has none of the hook's settings of its own jobs.
_BESIDE = {"api_resource_configs", "labels", "location", "num_retries", "priority", "project", "use_legacy_sql"}

#: Batches that are fetched ahead are held in memory: two, in place of two hundred, and what the driver has on its way,
#: up to four for each processor. It would name a default dataset of the project without its ``datasetId``, which the
#: REST interface requires.
STATEMENT: dict[str, str | int] = {f"{_SQL}query.result_buffer_size": 2, f"{_SQL}query.default_project_id": ""}


def database_options(extra: Mapping[str, Any], *, project: str | None, location: str | None) -> dict[str, str]:
    """Options of the ADBC driver for a connection: a service account's key, or the worker's own credentials.

    :param extra: the connection's extra fields. The options hold the key that is among them.
    :raises ConfigurationError: fields that the driver may not have, or has in another way: the client can read as well.
    """
    given = {name.removeprefix(_PREFIX): value for name, value in extra.items() if name.startswith(_PREFIX)}
    given |= {name: value for name, value in extra.items() if not name.startswith(_PREFIX)}
    given = {name: value for name, value in given.items() if value not in (None, "", False)}
    path, key = given.pop("key_path", ""), given.pop("keyfile_dict", "")
    if not path and not key:  # the driver does not see what was set after it was loaded
        path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        if not path and os.environ.get("CLOUDSDK_CONFIG"):  # it does not look there
            given["CLOUDSDK_CONFIG"] = True
    if more := given.keys() - _BESIDE:
        raise ConfigurationError(f"a login with {', '.join(sorted(more))}", todo="read with google-cloud-bigquery")
    options = {f"{_SQL}project_id": project, f"{_SQL}location": location}
    if path:
        way, options[f"{_SQL}auth_credentials"] = "json_credential_file", path
    elif key:
        way = "json_credential_string"
        options[f"{_SQL}auth_credentials"] = key if isinstance(key, str) else json.dumps(key)
    else:
        way = "auth_bigquery"
    options[f"{_SQL}auth_type"] = f"{_SQL}auth_type.{way}"
    return {name: value for name, value in options.items() if value}


class Error(Exception):
    """What DB-API calls the root of a driver's errors."""


class ProgrammingError(Error):
    """The query is wrong: syntax, or a name."""


class DatabaseError(Error):
    """The query fails for some row, which the service's words may quote."""


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

        with _errors(reading=True):  # one stream and a short queue: what is read ahead is held in memory
            for batch in self._rows.to_arrow_iterable(self._storage, max_queue_size=2, max_stream_count=1):
                yield pa.Table.from_batches([batch])

    def cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _errors(*, reading: bool = False) -> Iterator[None]:
    """:param reading: the query has run: what is not found now is the stream, such as one whose time is up."""
    try:
        yield
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, int):
            raise
        text = (str(getattr(error, "message", "")).splitlines() or [""])[0]
        if code in (400, 404) and not reading:
            raise (ProgrammingError if code == 404 or _POSITION.search(text) else DatabaseError)(text) from None
        raise OperationalError("permission denied: " + text if code in (401, 403) else text) from None


def adbc_connection(hook: Any, info: ConnectionInfo) -> Any:
    """An ADBC connection with the credentials, project and place that the connection names."""
    from adbc_driver_bigquery.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    options = database_options(info.extra, project=hook.project_id, location=hook.location)
    return connect(options, autocommit=True)


def connection(hook: Any) -> Any:
    """A connection of the own client, with its storage reader where that is installed."""
    storage = None
    if find_spec("google.cloud.bigquery_storage"):
        from google.cloud.bigquery_storage import BigQueryReadClient

        storage = BigQueryReadClient(credentials=hook.get_credentials())
    return BigQueryConnection(_client(hook), storage)


def dbapi_connection(hook: Any) -> Any:
    """A DB-API connection of Google's own driver."""
    from google.cloud.bigquery.dbapi import connect

    return connect(_client(hook), prefer_bqstorage_client=False)


def _client(hook: Any) -> Any:
    """In the project and place that the connection names; by itself the hook takes the worker's project."""
    return hook.get_client(project_id=hook.project_id, location=hook.location)
