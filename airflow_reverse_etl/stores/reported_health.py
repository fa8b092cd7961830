"""The health that was reported last, of each sync or task, under the state URL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_reverse_etl.stores.compare_and_set import FileValues

if TYPE_CHECKING:
    from airflow_reverse_etl.stores.files import StateFiles

#: Time after which a report that was begun counts as lost: its process may have been killed.
_REPORTING = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class ReportedHealth:
    """The health of a sync that people know of.

    :param since: time from which on the sync has had it.
    """

    health: str
    since: datetime


class HealthMemory:
    """Memory of what was reported of one sync or task.

    :param environment: ``[reverse_etl] environment``, or empty.
    :param subject: name of the sync, or of another task.
    :param notifier: name of the notifier, if there are several.
    :raises UnreachableError: from every method, when the storage does not answer.
    """

    def __init__(self, files: StateFiles, environment: str, subject: str, notifier: str = "") -> None:
        path = [environment, "health", quote(subject, safe=""), quote(f"@{notifier}", safe="@") if notifier else ""]
        self._values = FileValues(files, "/".join(filter(None, path)))

    def first_seen(self, now: datetime) -> datetime:
        """Return when this sync was looked at first."""
        version, values = self._values.read()
        if "first_seen" not in values:
            self._values.swap(version, {**values, "first_seen": now.isoformat()})
            _, values = self._values.read()
        return datetime.fromisoformat(values["first_seen"])

    def reported(self) -> ReportedHealth | None:
        """Return the health that was reported last, or None before the first report."""
        _, values = self._values.read()
        return _reported(values)

    def change(self, health: str, report: Callable[[ReportedHealth | None], None], *, now: datetime) -> bool:
        """Report a health if it is another one than before; return whether it was reported here.

        One of several workers reports it. A later call reports it again if ``report`` raises, or its process is killed.

        :param report: receives the health before; None if it is not known.
        """
        version, values = self._values.read()
        before = _reported(values)
        reporting = (
            values.get("reporting") == health and now - datetime.fromisoformat(values["reporting_at"]) < _REPORTING
        )
        if reporting or (before is not None and before.health == health):
            return False
        kept = {name: value for name, value in values.items() if name not in ("reporting", "reporting_at")}
        if not self._values.swap(version, {**kept, "reporting": health, "reporting_at": now.isoformat()}):
            return False  # another worker was faster: it reports this health, or a later run does
        try:
            report(before)
        except BaseException:
            self._store(kept)
            raise
        self._store({**kept, "health": health, "since": now.isoformat()})
        return True

    def _store(self, values: dict[str, str]) -> None:
        version, _ = self._values.read()
        self._values.swap(version, values)


def _reported(values: dict[str, str]) -> ReportedHealth | None:
    if "health" not in values:
        return None
    return ReportedHealth(values["health"], datetime.fromisoformat(values["since"]))
