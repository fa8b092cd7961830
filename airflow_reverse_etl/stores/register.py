"""A few values that several processes change one after the other: compare-and-swap on any storage of Delta Lake tables.

Each change is a commit of a Delta table without data, whose metadata are the values. That a version is only ever
written once is what Delta Lake's log promises on every storage it supports, so of two writers one wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import UnreachableError

if TYPE_CHECKING:
    from deltalake import CommitProperties, Schema

    from airflow_reverse_etl.stores.files import StateFiles

#: Old versions are of no use to anybody; delta-rs deletes them when it writes a checkpoint of the log.
_TABLE = {"delta.logRetentionDuration": "interval 1 hours", "delta.checkpointInterval": "100"}


class Register:
    """Values under a folder of the state URL.

    :raises UnreachableError: from every method, when the storage does not answer.
    """

    def __init__(self, files: StateFiles, folder: str) -> None:
        self._url = files.child(folder)
        self._options = files.storage_options

    def read(self) -> tuple[int, dict[str, str]]:
        """The version, and the values; version -1 and no values before the first change."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            table = DeltaTable(self._url, storage_options=self._options)
            commit = table.history(1)[0]
        except TableNotFoundError:
            return -1, {}
        except (DeltaError, OSError) as error:
            raise self._unreachable(error) from error
        return table.version(), {name[4:]: value for name, value in commit.items() if name.startswith("set.")}

    def swap(self, version: int, values: Mapping[str, str]) -> bool:
        """Make these the values if ``version`` is still the current one; False if somebody else was faster."""
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import CommitFailedError, DeltaError

        metadata = {f"set.{name}": value for name, value in values.items()}
        properties = CommitProperties(custom_metadata=metadata, max_commit_retries=0)
        try:
            if version < 0:
                return self._create(properties)
            table = DeltaTable(self._url, version=version, storage_options=self._options)
            table.create_write_transaction([], "append", _schema(), commit_properties=properties)
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            raise self._unreachable(error) from error
        return True

    def _create(self, properties: CommitProperties) -> bool:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            DeltaTable.create(
                self._url,
                _schema(),
                configuration=_TABLE,
                storage_options=self._options,
                commit_properties=properties,
            )
        except DeltaError:
            if DeltaTable.is_deltatable(self._url, storage_options=self._options):
                return False
            raise
        return True

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the state storage failed: {error}",
            todo="check that [reverse_etl] state_url exists and that state_conn_id may read and write there",
            url=self._url,
        )


def _schema() -> Schema:
    from deltalake import Field, Schema
    from deltalake.schema import PrimitiveType

    return Schema([Field("unused", PrimitiveType("string"))])
