"""History of a project's catalogs. The catalog of each commit remains stored, for syncs that are pinned or rolled back.

Each change is one empty file, whose name holds time and commit. Files are never rewritten, so no lock is needed.
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
    """A commit that a model sync found, other than the commit before."""

    at: datetime
    commit: str


def history(files: StateFiles, folder: str) -> tuple[CatalogVersion, ...]:
    """Return the commits, newest first.

    :param folder: the part of an output's ``catalog`` before the last slash.
    """
    found = []
    for name in files.list(f"{folder}/history"):
        at, _, commit = name.partition("_")
        found.append(CatalogVersion(datetime.strptime(at, _TIME).replace(tzinfo=UTC), commit))
    return tuple(sorted(found, key=lambda entry: entry.at, reverse=True))


def record(files: StateFiles, folder: str, *, commit: str, at: datetime) -> str | None:
    """Record the project's current commit.

    :returns: the latest commit that differs from it, if there is one.
    """
    known = history(files, folder)
    if not known or known[0].commit != commit:
        time = at.astimezone(UTC).strftime(_TIME)
        files.write(f"{folder}/history/{time}_{commit}", b"")
    return next((entry.commit for entry in known if entry.commit != commit), None)
