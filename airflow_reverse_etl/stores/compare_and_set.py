"""Compare-and-set for a text or a few values that several workers change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from airflow_reverse_etl.errors import UnreachableError

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from airflow_reverse_etl.stores.files import StateFiles

_TRANSACTION = "ledger"
_CLEAN_UP_EVERY = 50
_KEEP_FILES = timedelta(days=1)


class VersionedFile:
    """A text under compare-and-set, stored in a Delta Lake table of its own.

    :param url: folder of the table, see :meth:`airflow_reverse_etl.stores.files.StateFiles.child`.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.url = url
        self._options = dict(storage_options or {})
        self._table: DeltaTable | None = None

    def read(self) -> tuple[int, str | None]:
        """Return the version, which :meth:`replace` needs, and the text; version 0 and None before the first write."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            self._table = DeltaTable(self.url, storage_options=self._options)
            version = self._table.transaction_version(_TRANSACTION) or 0
            text = self._table.to_pyarrow_table()["text"].to_pylist() if version else []
        except TableNotFoundError:
            self._table = None
            return 0, None
        except (DeltaError, OSError) as error:
            raise self._unreachable(error) from error
        return version, text[0] if text else None

    def replace(self, version: int, text: str) -> bool:
        """Write the text unless it was changed since ``read`` returned this version.

        :returns: False if another worker changed the text first; read it again.
        """
        import pyarrow as pa
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        if self._table is None:
            self._create()
            if self.read()[0] != version:
                return False
        assert self._table is not None
        transaction = Transaction(app_id=_TRANSACTION, version=version + 1)
        try:
            write_deltalake(
                self._table,
                pa.table({"text": pa.array([text], pa.string())}),
                mode="overwrite",
                commit_properties=CommitProperties(app_transactions=[transaction], max_commit_retries=0),
            )
            if (version + 1) % _CLEAN_UP_EVERY == 0:
                self._clean_up(self._table)
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            if "commit transaction" in str(error):  # another worker created the table at the same moment
                return False
            raise self._unreachable(error) from error
        return True

    def _create(self) -> None:
        from deltalake import DeltaTable, Field, Schema
        from deltalake.exceptions import DeltaError

        try:
            # Two workers may create the table at the same moment: it stays empty, and without a version.
            DeltaTable.create(
                self.url,
                Schema([Field("text", "string")]),  # type: ignore[arg-type]
                mode="ignore",
                storage_options=self._options,
                configuration={"delta.checkpointInterval": "20", "delta.logRetentionDuration": "interval 1 days"},
            )
        except (DeltaError, OSError) as error:
            if "commit transaction" not in str(error):  # another worker has created the table meanwhile
                raise self._unreachable(error) from error

    def _clean_up(self, table: DeltaTable) -> None:
        table.update_incremental()
        hours = int(_KEEP_FILES.total_seconds() // 3600)
        table.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False)
        table.cleanup_metadata()

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the state storage failed: {error}",
            todo="check that [reverse_etl] state_url exists and that state_conn_id may read and write there",
            url=self.url,
        )


class FileValues:
    """A few values under compare-and-set, in a folder under the state URL.

    :raises UnreachableError: from every method, when the storage does not answer.
    """

    def __init__(self, files: StateFiles, folder: str) -> None:
        self._file = VersionedFile(files.child(folder), files.storage_options)

    def read(self) -> tuple[int, dict[str, str]]:
        """Return the version and the values; version 0 and no values before the first change."""
        version, text = self._file.read()
        return version, json.loads(text) if text else {}

    def swap(self, version: int, values: Mapping[str, str]) -> bool:
        """Store these values if ``version`` is still the current one.

        :returns: False if another worker changed the values first.
        """
        return self._file.replace(version, json.dumps(values))


V = TypeVar("V")


class VersionedValues(Protocol[V]):
    """A few values that are changed by compare-and-set."""

    def read(self) -> tuple[V, dict[str, str]]:
        """Return the version and the values."""

    def swap(self, version: V, values: Mapping[str, str]) -> bool:
        """Store these values if ``version`` is still the current one; return whether it was."""
