"""The health of a sync after a run, or without one, and why it has that health."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Literal

from airflow_reverse_etl.spec.alerts.limits import AlertLimits, Alerts
from airflow_reverse_etl.spec.field_types import rows_of
from airflow_reverse_etl.spec.receipts import rows_text
from airflow_reverse_etl.spec.report import RunReport, listed

#: Counts of a report of which one row is enough for a person to look → how a sentence names them.
_OPEN = {
    "rejected": "rejected",
    "retryable": "left for a later try",
    "unknown": "in doubt, as their answer was lost",
    "given_up": "given up",
}
_MOST_CODES = 20

#: ``attention`` is a warning; ``failing`` and ``late`` are critical. The page in Airflow uses the same words.
State = Literal["ok", "attention", "failing", "late"]


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a sync.

    :param reasons: sentences without their full stop; none if the health is ``ok``.
    """

    state: State
    reasons: tuple[str, ...] = ()

    @property
    def severity(self) -> Literal["info", "warning", "critical"]:
        """The severity of a message about this health."""
        if self.state == "ok":
            return "info"
        return "warning" if self.state == "attention" else "critical"


def health_after(
    report: RunReport, alerts: Alerts | None, *, earlier: Sequence[int] = (), drifted: bool = False
) -> Health:
    """Judge a run whose task succeeded.

    :param alerts: the sync's limits; None for the default: every row that is not delivered needs attention.
    :param earlier: numbers of the model's rows in earlier runs, for ``max_row_change``.
    :param drifted: the model changed since the last run.
    """
    if alerts is None:
        reasons = tuple(_not_delivered(report))
        if drifted:
            reasons += ("the model changed since the last run",)
        return Health("attention", reasons) if reasons else Health("ok")
    usual = int(median(earlier)) if earlier else None
    if critical := tuple(_exceeded(report, alerts.critical, usual)):
        return Health("failing", critical)
    if warning := tuple(_exceeded(report, alerts.warning, usual)):
        return Health("attention", warning)
    return Health("ok")


def delay_health(alerts: Alerts, since: datetime, *, now: datetime, unfinished: bool, ran: bool) -> Health:
    """Judge the time since a sync's last recorded run: ``late`` or ``ok``.

    :param since: time of the last recorded run; for a sync that never ran, of the first look at it.
    :param unfinished: a run has begun, and is not recorded.
    :param ran: a run was recorded.
    """
    limit = alerts.max_delay
    if limit is None or now - since <= limit:
        return Health("ok")
    what = "no run was recorded since" if ran else "no run was ever recorded, and the sync is known since"
    reason = f"{what} {since:%Y-%m-%d %H:%M}Z (max_delay {_time_text(limit)})"
    more = ("a run has begun, and is not finished",) if unfinished else ()
    return Health("late", (reason, *more))


def _not_delivered(report: RunReport) -> Iterator[str]:
    for name, words in _OPEN.items():
        if count := getattr(report, name):
            yield f"{rows_text(count)} {words}"
    if report.planned.invalid:
        causes = f": {listed(report.invalid)}" if report.invalid else ""
        yield f"{rows_text(report.planned.invalid)} invalid{causes}"


def health_document(
    before: Mapping[str, Any], report: RunReport | None, health: Health, *, error: str, run_id: str, now: datetime
) -> dict[str, Any]:
    """Return the health after a try, as the page reads it.

    :param before: the document of the try before; empty for the first.
    :param report: the counts of the try; None if it sent nothing.
    :param error: message of the error with which the try failed; empty if it succeeded.
    :param run_id: of the DAG run.
    :returns: ``state``, ``reasons``, ``since``, ``at``, ``run_id``, ``error``, ``open`` (rows that a person should look
        at) and ``by_code``: code → ``count``, ``message`` and ``first_seen``.
    """
    moment = now.isoformat()
    known = before.get("by_code") or {}
    if report is None:  # a try that sent nothing says nothing about rows
        by_code = dict(known)
        opened = int(before.get("open") or 0)
    else:
        by_code = {}
        for reason in report.reasons[:_MOST_CODES]:
            code = str(reason["code"])
            seen = known.get(code, {}).get("first_seen", moment)
            by_code[code] = {"count": reason["count"], "message": reason["message"], "first_seen": seen}
        opened = report.planned.invalid + sum(getattr(report, name) for name in _OPEN)
    return {
        "state": health.state,
        "reasons": list(health.reasons),
        "since": before["since"] if before.get("state") == health.state else moment,
        "at": moment,
        "run_id": run_id,
        "error": error,
        "open": opened,
        "by_code": by_code,
    }


def _exceeded(report: RunReport, limits: AlertLimits, usual: int | None) -> Iterator[str]:
    """Yield a sentence for each limit that a run exceeds."""
    rejected = report.rejected + report.planned.invalid
    planned = report.planned.total + report.planned.invalid
    if limits.max_rejected is not None and rejected > rows_of(limits.max_rejected, planned):
        yield (f"{rejected:,} of {planned:,} planned rows rejected or invalid (max_rejected {limits.max_rejected})")
    if limits.max_given_up is not None and report.given_up > rows_of(limits.max_given_up, report.model_rows):
        yield f"{rows_text(report.given_up)} given up (max_given_up {limits.max_given_up})"
    if limits.max_row_change is not None and usual is not None:
        change = abs(report.model_rows - usual)
        if change > rows_of(limits.max_row_change, usual):
            yield (
                f"the model has {rows_text(report.model_rows)}, and usually {usual:,} "
                f"(max_row_change {limits.max_row_change})"
            )
    if limits.max_duration is not None and report.seconds > limits.max_duration.total_seconds():
        duration = _time_text(timedelta(seconds=round(report.seconds)))
        yield f"the run took {duration} (max_duration {_time_text(limits.max_duration)})"


def _time_text(time: timedelta) -> str:
    """Return a time as a sync writes it: ``90s``, ``15m``, ``26h``."""
    seconds = int(time.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
