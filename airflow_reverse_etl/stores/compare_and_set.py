"""Compare-and-set for a text or a few values that several workers change.

Each change is a new file, ``<folder>/<number>.json``, that only one worker can create. The file with the highest number
holds the present text.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from airflow_reverse_etl.errors import StateError, UnreachableError
from airflow_reverse_etl.spec.stored import typed
from airflow_reverse_etl.stores.files import StateFiles, reachable
from airflow_reverse_etl.stores.state import read_stored

#: Changes from one clean-up to the next. A higher value means that one change takes longer than the others.
_CLEAN_UP_EVERY = 10
#: Folder in which earlier versions of this package kept the text, as a Delta Lake table with numbered transactions.
_DELTA_LOG = "_delta_log"
_MEND = "let no run of the sync be at work, then delete the newest file of the folder; it is made again"


class VersionedFile:
    """A text under compare-and-set, stored in numbered files.

    :param folder: folder under the state URL, which holds nothing else.
    :param kept: time for which files are kept after they were replaced. Deleting a number makes it free again: a worker
        that was stopped for longer than this can create it, and then finds the higher ones.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    :raises ConfigurationError: from every method, when the storage has no compare-and-set.
    """

    def __init__(self, files: StateFiles, folder: str, *, kept: timedelta = timedelta(days=1)) -> None:
        self._files = files
        self._folder = folder
        self._kept = kept

    def read(self) -> tuple[int, str | None]:
        """Return the version, which :meth:`replace` needs, and the text; version 0 and None before the first write."""
        names = self._files.list(self._folder)
        version = _highest(names)
        if version == 0 and _DELTA_LOG in names:
            return self._read_delta()
        if version == 0:
            return 0, None
        data = self._files.read(self._path(version))
        if data is None:
            raise UnreachableError(
                "a file of the state disappeared while it was read", todo="try again", file=self._path(version)
            )
        try:
            return version, data.decode()
        except UnicodeDecodeError:
            raise damaged(self._files.child(self._path(version))) from None

    def replace(self, version: int, text: str) -> bool:
        """Write the text unless it was changed since ``read`` returned this version.

        :returns: False if another worker changed the text first; read it again. The text that is read may then contain
            this change: another worker may have built on it at once, or the storage's answer was lost.
        """
        number = version + 1
        if not self._files.create(self._path(number), text.encode()):
            return False
        # The number may have been used and deleted long ago.
        if _highest(self._files.list(self._folder)) > number:
            return False
        if number % _CLEAN_UP_EVERY == 0:
            with contextlib.suppress(UnreachableError):  # the text is written; a later write cleans up
                self._clean_up(number)
        return True

    def _path(self, number: int) -> str:
        return f"{self._folder}/{_name(number)}"

    def _clean_up(self, present: int) -> None:
        """Delete the files that are older than the newest one by more than ``kept``."""
        times = self._files.times(self._folder)
        oldest = max(times.values()) - self._kept
        for path, time in times.items():
            if time < oldest and path != _name(present):
                self._files.delete(f"{self._folder}/{path}")

    def _read_delta(self) -> tuple[int, str | None]:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        with reachable(self._files.url, DeltaError):
            try:
                table = DeltaTable(self._files.child(self._folder), storage_options=self._files.storage_options)
            except TableNotFoundError:
                return 0, None
            version = table.transaction_version("ledger") or 0
            text = table.to_pyarrow_table()["text"].to_pylist() if version else []
        return version, text[0] if text else None


def damaged(file: str) -> StateError:
    """Build the error for a file whose content is not what was written."""
    return StateError("a file of the state is damaged", todo=_MEND, file=file)


def _texts(values: Any) -> dict[str, str]:
    found: dict[str, str] = typed(dict[str, str], values)
    return found


def _name(number: int) -> str:
    return f"{number:012}.json"


def _highest(names: list[str]) -> int:
    """Return the highest number among the names of files, or 0."""
    return max((int(name[:-5]) for name in names if re.fullmatch(r"[0-9]{12}\.json", name)), default=0)


class FileValues:
    """A few values under compare-and-set, in a folder under the state URL.

    The parameters and errors are those of :class:`VersionedFile`.
    """

    def __init__(self, files: StateFiles, folder: str, *, kept: timedelta = timedelta(days=1)) -> None:
        self._file = VersionedFile(files, folder, kept=kept)
        self._folder = files.child(folder)

    def read(self) -> tuple[int, dict[str, str]]:
        """Return the version and the values; version 0 and no values before the first change."""
        version, text = self._file.read()
        if text is None:
            return version, {}
        # An empty file is not a missing one: the numbers of a lease must not begin again.
        return version, read_stored(text, _texts, "a file of the state", todo=_MEND, folder=self._folder)

    def swap(self, version: int, values: Mapping[str, str]) -> bool:
        """Store these values if ``version`` is still the current one: :meth:`VersionedFile.replace`."""
        return self._file.replace(version, json.dumps(values))


V = TypeVar("V")


class VersionedValues(Protocol[V]):
    """A few values that are changed by compare-and-set."""

    def read(self) -> tuple[V, dict[str, str]]:
        """Return the version and the values."""

    def swap(self, version: V, values: Mapping[str, str]) -> bool:
        """Store these values if ``version`` is still the current one; return whether it was.

        After False the values may be stored nevertheless, because an answer was lost. Read them again.
        """
