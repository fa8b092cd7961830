"""Operator that looks for what no run can tell: syncs that are late, stuck, or never ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.compat import BaseOperator, Context, airflow_errors
from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.wiring import store_of

if TYPE_CHECKING:
    from airflow_reverse_etl.notifications import SyncNotifier
    from airflow_reverse_etl.spec.alerts.health import Health
    from airflow_reverse_etl.spec.model import Sync


class SyncWatchOperator(BaseOperator):
    """Report which syncs are late: no run was recorded within the ``max_delay`` of their ``alerts``.

    ``reverse_etl_maintenance_dag(watch=…)`` runs it every ten minutes. It reads the run history, and sends nothing to a
    destination. A sync that never ran is late once that time has passed since this operator saw it first. A sync that
    is late, and then runs, is reported by its own tasks if they have the same notifier, and else by this operator.

    Returns the names of the late syncs. If the state of a sync cannot be read, the task fails once it has looked at the
    others.

    :param syncs: syncs, or paths of YAML files or folders of them, absolute or relative to the folder of the DAG file.
    :param notifier: reports a sync that became late, or that is not late any more.
    """

    def __init__(
        self, *, syncs: Sequence[Sync | Mapping[str, Any] | str | Path], notifier: SyncNotifier, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.syncs = syncs
        self.notifier = notifier

    def execute(self, context: Context) -> list[str]:
        """Look at each sync."""
        late: list[str] = []
        errors: list[ReverseEtlError] = []
        with airflow_errors():
            for sync in self._load():
                try:
                    health = self._look(sync, context)
                except ReverseEtlError as error:  # the other syncs are watched all the same
                    self.log.error("%s: %s", sync.name, error)
                    errors.append(error)
                    continue
                if health.state == "late":
                    self.log.warning("%s: %s", sync.name, "; ".join(health.reasons))
                    late.append(sync.name)
            if errors:
                raise errors[0]
        return late

    def _load(self) -> list[Sync]:
        from airflow_reverse_etl.config import environment
        from airflow_reverse_etl.spec.model import Sync

        found: list[Any] = []
        for sync in self.syncs:
            if isinstance(sync, str | Path):
                found += self._files(Path(sync))
            else:
                found.append(sync)
        return [Sync.load(sync, environment=environment()) for sync in found]

    def _files(self, path: Path) -> list[Path]:
        from airflow_reverse_etl.spec.folders.reading import sync_files

        dag = self.get_dag()
        if dag is not None and dag.fileloc:
            path = Path(dag.fileloc).parent / path
        return sync_files(path)

    def _look(self, sync: Sync, context: Context) -> Health:
        """Judge a sync's delay, and report it if it is news."""
        from airflow_reverse_etl.notifications.sync import page_link
        from airflow_reverse_etl.spec.alerts.health import Health, delay_health

        if sync.alerts is None or sync.alerts.max_delay is None:
            return Health("ok")
        now = datetime.now(UTC)
        memory = self.notifier.memory(sync.name)
        last, unfinished = _last_run(sync)
        since = last or memory.first_seen(now)
        health = delay_health(sync.alerts, since, now=now, unfinished=unfinished, ran=last is not None)
        reported = memory.reported()
        page = page_link(sync.name)
        # People know already that a sync that is failing does not run.
        if reported is None or reported.health != "failing":
            news = health.state == "late" or (reported is not None and reported.health == "late")
            if news:
                self.notifier.report_health(sync.name, health, context, page=page)
        return health


def _last_run(sync: Sync) -> tuple[datetime | None, bool]:
    """Return when the last run was recorded, None if there was none, and whether another has begun."""
    from airflow_reverse_etl.stores.choose import closing_store

    store = store_of(sync)
    with closing_store(store):
        if not store.has_state(sync.name):
            return None, False
        runs = store.past_runs(sync.name, limit=1)
        unfinished = bool(store.unfinished(sync.name))
    return (runs[0].committed_at if runs else None), unfinished
