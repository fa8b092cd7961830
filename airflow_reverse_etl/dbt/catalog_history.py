"""Which commits a project's catalog has been at: each stays stored, so that a sync can be pinned or rolled back.

One empty file for each change, whose name says all; nothing is ever rewritten, hence nothing to lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class CatalogVersion:
    """A model sync that found another commit than the one before."""

    at: datetime
    commit: str


def history(files: StateFiles, folder: str) -> tuple[CatalogVersion, ...]:
    """The commits, newest first.

    :param folder: the part of an output's ``catalog`` before the last slash.
    """
    entries = (name.partition("_") for name in files.list(f"{folder}/history"))
    found = (CatalogVersion(datetime.strptime(at, _TIME).replace(tzinfo=UTC), commit) for at, _, commit in entries)
    return tuple(sorted(found, key=lambda entry: entry.at, reverse=True))


def record(files: StateFiles, folder: str, *, commit: str, at: datetime) -> str | None:
    """Note that the project is at a commit now. Returns the last other one."""
    known = history(files, folder)
    if not known or known[0].commit != commit:
        files.write(f"{folder}/history/{at.astimezone(UTC).strftime(_TIME)}_{commit}", b"")
    return next((entry.commit for entry in known if entry.commit != commit), None)
