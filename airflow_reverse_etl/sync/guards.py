"""Guards, checked before a plan is sent, and failure policy, checked after a commit. Both use counts alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import NamedTuple

from airflow_reverse_etl.errors import ConfigurationError, FailurePolicyError, GuardError
from airflow_reverse_etl.spec.field_types import Limit, rows_of
from airflow_reverse_etl.spec.model import Guards, Sync
from airflow_reverse_etl.spec.problems import nearest
from airflow_reverse_etl.spec.receipts import reason_text, rows_text
from airflow_reverse_etl.spec.report import RunReport, listed
from airflow_reverse_etl.sql.statements.erasure import RECORD
from airflow_reverse_etl.sync.ports import Plan

#: Names of all guards.
GUARDS = tuple(Guards.model_fields)

#: Default limit of a mirror that sets no ``max_removed``: this share of the snapshot or this many rows, if more.
MIRROR_SHARE = "20%"
MIRROR_ROWS = 10


class Verdict(NamedTuple):
    """The verdict of one guard on a plan. A ``lifted`` guard stops nothing, ``met`` or not."""

    name: str
    met: bool
    lifted: bool
    text: str

    @property
    def stops(self) -> bool:
        return not self.met and not self.lifted


def check_guards(sync: Sync, plan: Plan, lifted: Collection[str] = ()) -> None:
    """Raise :class:`GuardError` with every guard of the sync that stops the plan; see :func:`verdicts`."""
    stopping = [verdict for verdict in verdicts(sync, plan, lifted) if verdict.stops]
    if not stopping:
        return
    names = [verdict.name for verdict in stopping]
    conf = {"reverse_etl": {sync.name: {"lift_guards": names}}}
    options = " ".join(f"--lift-guard {name}" for name in names)
    raise GuardError(
        "the plan exceeds the sync's guards, nothing was sent: " + "; ".join(verdict.text for verdict in stopping),
        todo=f"look at the model; if the change is intended, lift {' and '.join(names)} for one run: trigger the DAG "
        f"with the configuration {json.dumps(conf)}, set lift_guards={json.dumps(names)} on the task, or run the sync "
        f"by `reverse-etl run {options}` and its file. For every run, change the sync's guards; max_removed: 100% "
        "allows any removal",
        sync=sync.name,
    )


def verdicts(sync: Sync, plan: Plan, lifted: Collection[str] = ()) -> list[Verdict]:
    """Compare the plan with every guard of the sync.

    A share (``5%``) refers to the snapshot for removed rows, and to the model for changes. On a sync's first run the
    snapshot is empty, and only absolute limits apply. A plan with a cursor reads a part of the model or none of it, so
    the rows of the snapshot count as rows of the model.

    :param lifted: guards that do not stop this plan.
    """
    guards = sync.guards
    planned = plan.planned
    rows = known_rows(sync, plan)

    enough = rows >= guards.min_rows
    than = "at least" if enough else "fewer than"
    found = [("min_rows", enough, f"the model has {rows_text(rows)}, {than} {guards.min_rows:,}")]

    # A mirror that sets no limit gets the default one, which lets a few rows pass in any case.
    max_removed = guards.max_removed
    always_removed = 0
    if max_removed is None and sync.mode in ("mirror", "replace"):
        max_removed = MIRROR_SHARE
        always_removed = MIRROR_ROWS

    for name, limit, always, count, total in (
        ("max_removed", max_removed, always_removed, _removed(plan), plan.snapshot_rows),
        ("max_changes", guards.max_changes, 0, planned.total, rows),
    ):
        if limit is None:
            continue
        if isinstance(limit, str) and plan.snapshot_rows == 0:
            found.append((name, True, f"{limit} does not apply to a first run"))
            continue
        few = count <= max(rows_of(limit, total), always)
        than = "at most" if few else "more than"
        allowed = _format_limit(limit, total)
        if always:
            allowed = f"the larger of {allowed} and {always:,}, the default of mode {sync.mode}"
        found.append((name, few, f"{rows_text(count)}, {than} {allowed}"))

    note = dict.fromkeys(lifted, ", lifted for this run")
    return [Verdict(name, met, name in lifted, f"{name}: {text}{note.get(name, '')}") for name, met, text in found]


def _removed(plan: Plan) -> int:
    """Return the number of rows that the destination loses by a plan."""
    return max(0, plan.snapshot_rows - plan.total) if plan.whole else plan.planned.removed


def lifted_guards(value: object, *, where: str, sync: str) -> frozenset[str]:
    """Read an option that lifts guards: true for all of them, or a list of their names.

    :param where: the option's place, for the error.
    :raises ConfigurationError: the value is neither, or names a guard that does not exist.
    """
    if value is None or isinstance(value, bool):
        return frozenset(GUARDS if value else ())
    known = ", ".join(GUARDS)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(
            f"{where} is neither true nor a list of guard names",
            todo=f"give true for all guards, or a list of their names: {known}",
            sync=sync,
        )
    if unknown := [name for name in value if name not in GUARDS]:
        raise ConfigurationError(
            f"{where} names unknown guards: {', '.join(map(repr, unknown))}", todo=f"use some of {known}", sync=sync
        )
    return frozenset(value)


def lifted_by_conf(conf: object, sync: str) -> frozenset[str]:
    """Read the guards that a DAG run's conf lifts: ``conf["reverse_etl"][<sync>]["lift_guards"]``.

    :raises ConfigurationError: the conf has another shape, or names unknown guards.
    """
    where, options = _conf_of(conf, sync)
    return lifted_guards(options.get("lift_guards"), where=f'{where}["lift_guards"]', sync=sync)


def destination_change_by_conf(conf: object, sync: str) -> str:
    """Read a DAG run's answer to a changed destination: ``conf["reverse_etl"][<sync>]["on_destination_change"]``.

    :returns: ``resync``, ``keep``, ``stop``, or an empty text without an answer.
    :raises ConfigurationError: the conf has another shape, or another answer.
    """
    where, options = _conf_of(conf, sync)
    answer = options.get("on_destination_change") or ""
    if answer in ("", "stop", "resync", "keep"):
        return str(answer)
    raise ConfigurationError(
        f'{where}["on_destination_change"] is not a valid answer', todo="write resync, keep or stop", sync=sync
    )


def switches_by_conf(conf: object, sync: str) -> frozenset[str]:
    """Read which of ``full_resync`` and ``reset`` a DAG run's conf sets for a sync.

    :raises ConfigurationError: the conf has another shape, or a value that is neither true nor false.
    """
    where, options = _conf_of(conf, sync)
    given = {name: options[name] for name in ("full_resync", "reset") if name in options}
    for name, value in given.items():
        if not isinstance(value, bool):
            raise ConfigurationError(
                f'{where}["{name}"] is neither true nor false', todo="write true, or leave it out", sync=sync
            )
    return frozenset(name for name, value in given.items() if value)


def records_by_conf(conf: object, sync: str) -> frozenset[str]:
    """Read the records to which a DAG run's conf limits a sync: ``conf["reverse_etl"][<sync>]["records"]``.

    :returns: their names; empty for all records.
    :raises ConfigurationError: the conf has another shape, or a value that is not a name.
    """
    where, options = _conf_of(conf, sync)
    value = options.get("records")
    if value is None:
        return frozenset()
    names = value if isinstance(value, list) else []
    if not names or not all(isinstance(name, str) and RECORD.fullmatch(name) for name in names):
        # The value is not shown: it may be a key.
        raise ConfigurationError(
            f'{where}["records"] is not a list of record names',
            todo="write the names that `reverse-etl rejected list --json` shows as record, of 32 hexadecimal digits",
            sync=sync,
        )
    if options.get("reset"):
        raise ConfigurationError(
            f"{where} has both records and reset", todo="leave one of them out: reset sends nothing", sync=sync
        )
    return frozenset(names)


def _conf_of(conf: object, sync: str) -> tuple[str, Mapping[object, object]]:
    """Return the options of a sync in a DAG run's conf, and where they are.

    :raises ConfigurationError: the conf has another shape, or unknown keys.
    """
    where = "dag_run.conf"
    options = _mapping(conf, where, sync)
    for key in ("reverse_etl", sync):
        where += f"[{json.dumps(key)}]"
        options = _mapping(options.get(key), where, sync)
    if unknown := [str(key) for key in options if key not in _CONF_KEYS]:
        raise ConfigurationError(
            f"{where} has the unknown key {unknown[0]!r}{nearest(unknown[0], _CONF_KEYS)}",
            todo="correct the key",
            sync=sync,
        )
    return where, options


#: Options of one run of a sync in a DAG run's conf.
_CONF_KEYS = ["lift_guards", "on_destination_change", "full_resync", "reset", "records"]


def _mapping(value: object, where: str, sync: str) -> Mapping[object, object]:
    """Return the mapping, or an empty one for None.

    :raises ConfigurationError: the value is not a mapping.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    example = json.dumps({"reverse_etl": {sync: {"lift_guards": True}}})
    raise ConfigurationError(f"{where} is not a mapping", todo=f"write it as in {example}", sync=sync)


def known_rows(sync: Sync, plan: Plan) -> int:
    """Return the number of rows that a share of the model refers to.

    With a cursor, that is the snapshot's number if it is larger, as the plan read a part of the model only.
    """
    if sync.cursor:
        return max(plan.model_rows, plan.snapshot_rows)
    return plan.model_rows


def check_failure_policy(sync: Sync, report: RunReport) -> None:
    """Raise :class:`FailurePolicyError` if the report of a committed run is worse than the sync allows."""
    found = []

    limit = sync.failure.max_rejected
    total = report.planned.total + report.planned.invalid
    bad = report.rejected + report.planned.invalid
    if bad > rows_of(limit, total):
        causes = f", {listed(report.invalid)}," if report.invalid else ""
        found.append(
            f"{rows_text(report.rejected)} rejected and {report.planned.invalid:,} invalid{causes} of {total:,}, "
            f"more than {_format_limit(limit, total)}"
        )

    limit = sync.failure.max_given_up
    total = report.model_rows
    if report.given_up > rows_of(limit, total):
        found.append(
            f"{rows_text(report.given_up)} given up of {total:,} in the model, more than {_format_limit(limit, total)}"
        )

    if report.unknown and sync.failure.on_unknown == "fail":
        found.append(f"the answer to {rows_text(report.unknown)} was lost; they may or may not have been written")
    if not found:
        return
    message = "; ".join(found)
    if report.reasons:
        message += ". Most frequent: " + "; ".join(map(reason_text, report.reasons[:3]))
    raise FailurePolicyError(
        message,
        report=report,
        todo="correct the rows or the mapping; accepted rows are delivered, and are not sent again",
        sync=sync.name,
    )


def _format_limit(limit: Limit, total: int) -> str:
    return f"{limit} of {total:,}" if isinstance(limit, str) else f"{limit:,}"
