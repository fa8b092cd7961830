"""BigQuery as Arrow: options of its ADBC driver, and a small DB-API over its client.

The cursor of Airflow's hook returns rows of JSON values. Driver and client read the Arrow of the Storage API instead.

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
_PREFIX = "extra__google_cloud_platform__"  # of field names in older connections

#: A position in the query. Messages about an invalid query have one; messages about a row's value do not.
_POSITION = re.compile(r" at \[\d+:\d+\]")

#: Fields of the connection that do not affect the login. Project and location are passed separately. The hook's
#: settings for its own jobs apply neither to the driver nor to the client.
_NOT_FOR_LOGIN = {"api_resource_configs", "labels", "location", "num_retries", "priority", "project", "use_legacy_sql"}

#: Batches that are fetched ahead stay in memory: two instead of two hundred, in addition to up to four for each
#: processor that the driver is fetching. The empty project keeps the driver from naming a default dataset without its
#: ``datasetId``, which the REST interface requires.
STATEMENT: dict[str, str | int] = {f"{_SQL}query.result_buffer_size": 2, f"{_SQL}query.default_project_id": ""}


def database_options(extra: Mapping[str, Any], *, project: str | None, location: str | None) -> dict[str, str]:
    """Return the ADBC driver's options for a connection: a service account's key, or the worker's own credentials.

    :param extra: the connection's extra fields. If they have a key, the options hold it.
    :raises ConfigurationError: the driver may not support a field, or supports it differently. The client can read
        instead.
    """
    # Fields without the prefix win over those with it.
    given = {name.removeprefix(_PREFIX): value for name, value in extra.items() if name.startswith(_PREFIX)}
    given |= {name: value for name, value in extra.items() if not name.startswith(_PREFIX)}
    given = {name: value for name, value in given.items() if value not in (None, "", False)}
    # The key, or the file that has it.
    path = given.pop("key_path", "")
    key = given.pop("keyfile_dict", "")
    if not path and not key:  # read the variable here: the driver does not see variables set after it was loaded
        path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        if not path and os.environ.get("CLOUDSDK_CONFIG"):  # the driver does not support it
            given["CLOUDSDK_CONFIG"] = True
    if unsupported := given.keys() - _NOT_FOR_LOGIN:
        raise ConfigurationError(
            f"a login with {', '.join(sorted(unsupported))}", todo="read with google-cloud-bigquery"
        )
    options = {f"{_SQL}project_id": project, f"{_SQL}location": location}
    if path:
        auth_type = "json_credential_file"
        options[f"{_SQL}auth_credentials"] = path
    elif key:
        auth_type = "json_credential_string"
        options[f"{_SQL}auth_credentials"] = key if isinstance(key, str) else json.dumps(key)
    else:
        auth_type = "auth_bigquery"
    options[f"{_SQL}auth_type"] = f"{_SQL}auth_type.{auth_type}"
    return {name: value for name, value in options.items() if value}


class Error(Exception):
    """Base class of the errors, named as in DB-API."""


class ProgrammingError(Error):
    """An invalid query: its syntax, or a name in it."""


class DataError(Error):
    """A query that fails for a row. The service's message may quote its values."""


class OperationalError(Error):
    """A failure or refusal of the service."""


class BigQueryConnection:
    """A DB-API connection over a client.

    :param client: ``google.cloud.bigquery.Client``.
    :param storage: ``google.cloud.bigquery_storage.BigQueryReadClient``, which reads faster; None to read through the
        REST interface.
    """

    def __init__(self, client: Any, storage: Any = None) -> None:
        self._client = client
        self._storage = storage

    def cursor(self) -> BigQueryCursor:
        return BigQueryCursor(self._client, self._storage)

    def close(self) -> None:
        self._client.close()


class BigQueryCursor:
    """A DB-API cursor for one query."""

    def __init__(self, client: Any, storage: Any) -> None:
        self._client = client
        self._storage = storage
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

        with _errors(reading=True):  # one stream and a short queue: batches that are read ahead stay in memory
            for batch in self._rows.to_arrow_iterable(self._storage, max_queue_size=2, max_stream_count=1):
                yield pa.Table.from_batches([batch])

    def cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Do nothing: the cursor does not hold resources."""


@contextlib.contextmanager
def _errors(*, reading: bool = False) -> Iterator[None]:
    """Translate the client's errors into those of DB-API.

    :param reading: the query has run. A 404 is then about the stream of rows, which may have expired.
    """
    try:
        yield
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, int):
            raise
        text = (str(getattr(error, "message", "")).splitlines() or [""])[0]
        if code in (400, 404) and not reading:
            if code == 404 or _POSITION.search(text):
                raise ProgrammingError(text) from None
            raise DataError(text) from None
        if code in (401, 403):
            raise OperationalError("permission denied: " + text) from None
        raise OperationalError(text) from None


def adbc_connection(hook: Any, info: ConnectionInfo) -> Any:
    """Return an ADBC connection with the credentials, project and location of the Airflow connection."""
    from adbc_driver_bigquery.dbapi import connect  # type: ignore[import-untyped, unused-ignore]

    options = database_options(info.extra, project=hook.project_id, location=hook.location)
    return connect(options, autocommit=True)


def connection(hook: Any) -> Any:
    """Return a connection over Google's client, with its storage reader if that is installed."""
    storage = None
    if find_spec("google.cloud.bigquery_storage"):
        from google.cloud.bigquery_storage import BigQueryReadClient

        storage = BigQueryReadClient(credentials=hook.get_credentials())
    return BigQueryConnection(_client(hook), storage)


def dbapi_connection(hook: Any) -> Any:
    """Return a connection of Google's own DB-API driver."""
    from google.cloud.bigquery.dbapi import connect

    return connect(_client(hook), prefer_bqstorage_client=False)


def _client(hook: Any) -> Any:
    """Return a client for the connection's project and location. By default the hook uses the worker's project."""
    return hook.get_client(project_id=hook.project_id, location=hook.location)
