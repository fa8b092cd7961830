"""A notifier that wraps others: it reports each change of a sync's health once, and the recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl import config
from airflow_reverse_etl.compat import BaseNotifier, Context
from airflow_reverse_etl.wiring import state_files

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.alerts.health import Health
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.stores.reported_health import HealthMemory, ReportedHealth

#: Most characters of an error in a message.
_MAX_REASON = 600


class SyncNotifier(BaseNotifier):
    """Report a change of a sync's health through other notifiers, once, and its recovery.

    Use one object as ``on_success_callback`` and as ``on_failure_callback`` of a sync's tasks: in the task's arguments,
    or in the DAG's ``default_args``. A run that ends like the one before reports nothing. The sync's ``alerts`` decide
    what needs attention. On any other task, a dbt run for example, it reports the first failure and the recovery.

    The wrapped notifiers render their fields with these names, next to those of Airflow's context: ``message``, the
    whole text; ``sync``, the name of the sync or ``dag_id.task_id``; ``health`` and ``health_before``: ``ok``,
    ``attention``, ``failing`` or ``late``; ``severity``: ``info``, ``warning`` or ``critical``; ``since``, a datetime;
    ``reasons``, a list of texts; ``report``, the counts of the run or an empty dict; ``page``, the address of the
    sync's page or an empty text.

    The health that was reported last is kept under ``[reverse_etl] state_url``. If a notifier fails, or its process is
    killed, the next run reports the change again: a message may come twice, and does not get lost.

    :param notifiers: Airflow notifiers: Slack, e-mail, PagerDuty, Apprise …
    :param name: a name of its own, if a task has several of them: each remembers what it has reported.
    :param critical_only: report ``failing`` and ``late``, and the recovery from them; not ``attention``.
    """

    def __init__(self, *notifiers: BaseNotifier, critical_only: bool = False, name: str = "") -> None:
        super().__init__()
        if not notifiers:
            raise ValueError("SyncNotifier needs a notifier that it reports with")
        self.notifiers = notifiers
        self.critical_only = critical_only
        self.name = name

    def notify(self, context: Context) -> None:
        """Judge the task that has just ended, and report its health if that changed. Airflow calls this."""
        task: Any = context["task"]
        ti = context["ti"]
        sync = _sync_of(task)
        report = getattr(task, "last_report", None)
        if sync is None:
            self.report_health(f"{ti.dag_id}.{ti.task_id}", _task_health(context), context)
            return
        if _failed(context):
            health = _task_health(context)
        elif report is not None:
            health = task.last_health
        else:
            return  # a step that does not end its run has nothing to report
        counts = report.to_json() if report is not None else {}
        self.report_health(sync.name, health, context, report=counts, page=page_link(sync.name))

    def memory(self, subject: str) -> HealthMemory:
        """Return the memory of what this notifier has reported of a sync."""
        from airflow_reverse_etl.stores.reported_health import HealthMemory

        return HealthMemory(state_files(), config.settings().environment, subject, self.name)

    def report_health(
        self,
        subject: str,
        health: Health,
        context: Context | Mapping[str, Any],
        *,
        report: Mapping[str, Any] | None = None,
        page: str = "",
    ) -> bool:
        """Report the health of a sync if it is another one than before; return whether it was reported.

        :param subject: name of the sync.
        :param report: counts of the run.
        :param page: address of the sync's page.
        :raises Exception: the first error of a notifier, after all of them were called.
        """
        if self.critical_only and health.state == "attention":
            return False
        now = datetime.now(UTC)
        memory = self.memory(subject)

        def send(before: ReportedHealth | None) -> None:
            if before is None and health.state == "ok":
                return  # the first run is fine: remember it, and disturb nobody
            names = {
                "sync": subject,
                "health": health.state,
                "health_before": before.health if before else "",
                "severity": health.severity,
                "since": before.since if before else now,
                "reasons": list(health.reasons),
                "report": dict(report or {}),
                "page": page,
            }
            names["message"] = _message(subject, health, before, report or {}, page)
            _call_all(self.notifiers, {**context, **names})

        return memory.change(health.state, send, now=now)


def page_link(sync: str) -> str:
    """Return the address of a sync's page, for a message; empty if ``[api] base_url`` has no host."""
    page = config.sync_page(sync)
    return page if "://" in page else ""


def _sync_of(task: Any) -> Sync | None:
    """Return the sync that a task works on, or None for another task."""
    loaded: Sync | None = getattr(task, "loaded_sync", None)
    if loaded is not None or not hasattr(task, "known_sync"):
        return loaded
    known: Sync | None = task.known_sync()
    return known


def _failed(context: Context) -> bool:
    """Return True if the task failed.

    If its worker was killed, the DAG processor calls, with neither an exception nor a state (Airflow 3.1 to 3.3).
    """
    state = getattr(context["ti"], "state", None)
    succeeded = getattr(state, "value", state) == "success"
    return context.get("exception") is not None or "reason" in context or not succeeded


def _task_health(context: Context) -> Health:
    from airflow_reverse_etl.spec.alerts.health import Health

    if not _failed(context):
        return Health("ok")
    what = (
        context.get("exception")
        or context.get("reason")
        or "the task ended without an error of its own: its process or its worker was killed"
    )
    return Health("failing", (str(what)[:_MAX_REASON],))


def _message(subject: str, health: Health, before: ReportedHealth | None, report: Mapping[str, Any], page: str) -> str:
    """Return the text of a message: what, since when, why, how many rows, what to do."""
    was = f" (was {before.health} since {before.since:%Y-%m-%d %H:%M}Z)" if before else ""
    lines = [f"{subject} is {health.state}{was}."]
    lines += [f"{reason[0].upper()}{reason[1:].rstrip('.')}." for reason in health.reasons]
    if report:
        counts = ", ".join(f"{name} {report[name]:,}" for name in ("accepted", "rejected", "unknown", "given_up"))
        lines.append(f"Rows: {counts}.")
        lines += [
            f"{reason['code']} ({reason['count']:,}): {reason['message']}" for reason in list(report["reasons"])[:3]
        ]
    if health.state != "ok" and page:
        lines.append(f"See `reverse-etl status {subject}`, or {page}")
    elif health.state != "ok" and report:
        lines.append(f"See `reverse-etl status {subject}`.")
    elif page:
        lines.append(page)
    return "\n".join(lines)


def _call_all(notifiers: Sequence[BaseNotifier], context: dict[str, Any]) -> None:
    """Call each with a context, and raise the first error after that."""
    errors = []
    for notifier in notifiers:
        try:
            copy(notifier)(dict(context))  # a call renders the fields of its notifier in place
        except Exception as error:  # noqa: BLE001 - one notifier must not silence another
            errors.append(error)
    if errors:
        raise errors[0]
