"""A few values that several processes change one after the other, as a document of a :class:`Ledger`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_reverse_etl.stores.compare_and_set import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_reverse_etl.stores.files import StateFiles


class Register:
    """Values under a folder of the state URL.

    :raises UnreachableError: from every method, when the storage does not answer.
    """

    def __init__(self, files: StateFiles, folder: str) -> None:
        self._ledger = Ledger(files.child(folder), files.storage_options)

    def read(self) -> tuple[int, dict[str, str]]:
        """The version, and the values; none before the first change."""
        version, text = self._ledger.read()
        return version, json.loads(text) if text else {}

    def swap(self, version: int, values: Mapping[str, str]) -> bool:
        """Make these the values if the version that was read is still the current one; False if it is not."""
        return self._ledger.replace(version, json.dumps(values))
