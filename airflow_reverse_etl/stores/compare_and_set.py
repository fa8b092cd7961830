"""Compare-and-set: a document, or a few values, that several workers change one at a time."""

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
_TIDY_EVERY = 50
_KEEP_FILES = timedelta(days=1)


class VersionedFile:
    """A text under compare-and-set.

    :param url: of the ledger's own folder, see :meth:`airflow_reverse_etl.stores.files.StateFiles.child`.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.url = url
        self._options = dict(storage_options or {})
        self._table: DeltaTable | None = None

    def read(self) -> tuple[int, str | None]:
        """The version, which :meth:`replace` wants back, and the text; version 0 and None before the first."""
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
        """Write the text if nobody has since ``read`` returned this version. False: read again."""
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
            if (version + 1) % _TIDY_EVERY == 0:
                self._tidy(self._table)
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            if "commit transaction" in str(error):  # lost against another's creation of the table
                return False
            raise self._unreachable(error) from error
        return True

    def _create(self) -> None:
        from deltalake import DeltaTable, Field, Schema
        from deltalake.exceptions import DeltaError

        try:
            # Not exclusive and need not be: an empty table has no version yet, whoever made it.
            DeltaTable.create(
                self.url,
                Schema([Field("text", "string")]),  # type: ignore[arg-type]
                mode="ignore",
                storage_options=self._options,
                configuration={"delta.checkpointInterval": "20", "delta.logRetentionDuration": "interval 1 days"},
            )
        except (DeltaError, OSError) as error:
            if "commit transaction" not in str(error):  # another has made it meanwhile
                raise self._unreachable(error) from error

    def _tidy(self, table: DeltaTable) -> None:
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
    """Values under a folder of the state URL.

    :raises UnreachableError: from every method, when the storage does not answer.
    """

    def __init__(self, files: StateFiles, folder: str) -> None:
        self._ledger = VersionedFile(files.child(folder), files.storage_options)

    def read(self) -> tuple[int, dict[str, str]]:
        """The version, and the values; none before the first change."""
        version, text = self._ledger.read()
        return version, json.loads(text) if text else {}

    def swap(self, version: int, values: Mapping[str, str]) -> bool:
        """Make these the values if the version that was read is still the current one; False if it is not."""
        return self._ledger.replace(version, json.dumps(values))


V = TypeVar("V")


class VersionedValues(Protocol[V]):
    """A few values that are changed by compare-and-swap: their version and themselves, and whether a change won."""

    def read(self) -> tuple[V, dict[str, str]]: ...

    def swap(self, version: V, values: Mapping[str, str]) -> bool: ...
