"""Summary of a plan for the person who approves it: as data, and as Markdown that is also readable in a log."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.comparison import note_text
from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import rows_text
from airflow_reverse_etl.spec.report import CAUSES
from airflow_reverse_etl.sync.comparing import given_up_text, other_writers_text
from airflow_reverse_etl.sync.guards import verdicts
from airflow_reverse_etl.sync.load.share import Share

if TYPE_CHECKING:
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.sync.guards import Verdict
    from airflow_reverse_etl.sync.ports import Destination, Plan, StateStore

_TRACKING_HINT = (
    "The changed fields of a row are not recorded. Set `track: {fields: true}` in the sync to record them for rows "
    "that are delivered from then on."
)
#: Most characters of a key that are shown.
_MAX_KEY_LENGTH = 100


def summary(
    sync: Sync,
    plan: Plan,
    store: StateStore,
    destination: Destination,
    *,
    sample: int,
    partitions: int = 1,
    lifted: Collection[str] = (),
    drift: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Build the XCom ``plan``. It contains no values of rows, but some of their keys.

    :param sample: most keys to show for each kind of change.
    :param partitions: most shares to load the plan in, after the removed rows; a plan with fewer batches has fewer
        shares.
    :param lifted: guards that do not stop this plan.
    :param drift: changes to the sync's model since its last run.
    """
    capabilities = destination.capabilities
    sizes = {kind: capabilities.batch_rows(sync, operation) for kind, operation in OPERATIONS[sync.mode].items()}
    shared = {kind: rows for kind, rows in plan.ranges().items() if rows and rows.start > plan.removed_first}
    shares = (
        1 if plan.whole else min(partitions, sum(math.ceil(len(rows) / sizes[kind]) for kind, rows in shared.items()))
    )
    requests = _requests(plan, sizes, shares)
    rate = capabilities.limits(sync).requests_per_second
    minutes = round(requests / rate / 60, 2) if rate else None
    guards = verdicts(sync, plan, lifted)
    keys, changed_fields = _sample(sync, plan, store, sample)
    found = {
        "run_id": plan.run_id,
        "planned": dict(plan.planned),
        "total": plan.total,
        "shares": shares,
        "skipped": plan.skipped,
        "given_up": plan.given_up,
        "moved": plan.moved,
        "held": plan.held,
        "invalid": _invalid(plan, store, sample),
        "model_rows": plan.model_rows,
        "requests": requests,
        "minutes": minutes,
        "guards": [verdict.text for verdict in guards],
        "sample": keys,
        "changed_fields": changed_fields,
    }
    if drift:
        found["drift"] = list(drift)
    return {**found, "text": "\n\n".join(_paragraphs(sync, plan, found, guards, rate))}


def _requests(plan: Plan, sizes: Mapping[str, int], shares: int) -> int:
    """Estimate the requests of a plan, one for each batch: a batch has one kind of change, and is part of one share.

    :param sizes: rows of a batch, by kind of change.
    """
    edges = {Share.of(plan, share, shares, after=plan.removed_first).until for share in range(shares)}
    requests = 0
    for kind, rows in plan.ranges().items():
        inside = {rows.start - 1, rows.stop - 1, *(edge for edge in edges if edge + 1 in rows)}
        requests += sum(math.ceil((end - start) / sizes[kind]) for start, end in pairwise(sorted(inside)))
    return requests


def _paragraphs(
    sync: Sync, plan: Plan, found: Mapping[str, Any], guards: Sequence[Verdict], rate: float | None
) -> Iterator[str]:
    destination = sync.destination
    names = [name for name in (destination.object, destination.connection) if name]
    where = " at ".join(map(_code, names)) or f"a {destination.type}"
    duration = f": {_duration(found['requests'] / rate)} at {rate:g} a second" if rate else ""
    record = {0: "none is", 1: "1 is"}.get(plan.snapshot_rows, f"{plan.snapshot_rows:,} are")
    yield (
        f"**{sync.name}** to {where}: {rows_text(plan.total)} to send, mode {sync.mode}, in about "
        f"{_requests_text(found)}{duration}. "
        f"The model has {rows_text(plan.model_rows)}; {record} on record as delivered."
    )
    yield "\n".join(_counts(sync.mode, plan, found["sample"], found["changed_fields"], found["invalid"]))
    if "changed" in found["sample"] and not found["changed_fields"]:
        yield _TRACKING_HINT
    if plan.notes:
        yield "\n".join(f"- {note_text(note, snapshot_rows=plan.snapshot_rows)}" for note in plan.notes)
    if plan.other_writers:
        yield f"- {other_writers_text(plan.other_writers)}"
    yield f"**Guards**, {_outcome(guards)}:\n\n" + "\n".join(map(_guard, guards))
    if found.get("drift"):
        changes = "\n".join(f"- {one['message']}" for one in found["drift"])
        yield f"**The model changed** since the last run:\n\n{changes}"


def _outcome(guards: Sequence[Verdict]) -> str:
    """Sum up the guards' verdicts."""
    if any(guard.stops for guard in guards):
        return "not all met, so a run would send nothing"
    if any(guard.lifted for guard in guards):
        return "met or lifted for this run"
    return "all met"


def _guard(guard: Verdict) -> str:
    """Format one guard's verdict as a line, in bold if the guard is not met, lifted or not."""
    return f"- {guard.text}" if guard.met else f"- **{guard.text}**"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7200:
        return f"{seconds / 60:,.0f} minutes"
    return f"{seconds / 3600:,.1f} hours"


#: Why rows that have not changed are not sent, and whether the mode is ``update``.
_WHY_UNCHANGED = {
    False: "dismissed by a person, or in doubt, as their answer was lost",
    True: "dismissed by a person, in doubt, as their answer was lost, or missing at the destination when sent last",
}


def _requests_text(found: Mapping[str, Any]) -> str:
    count = found["requests"]
    return f"{count:,} {'request' if count == 1 else 'requests'}"


def _counts(
    mode: str,
    plan: Plan,
    sample: Mapping[str, Sequence[str]],
    changed_fields: Mapping[str, Sequence[str] | None],
    invalid: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    """Yield a line for each kind of change, and for each cause of invalid rows."""
    for kind, count in plan.planned:
        if kind == "invalid":
            continue
        shown = ", ".join(_shown(key, kind, changed_fields) for key in sample.get(kind, ()))
        more = ", …" if shown and count > len(sample[kind]) else ""
        label = ": keys " if shown else ""
        yield f"- **{count:,} {kind}**{label}{shown}{more}"
    for cause, found in invalid.items():
        keys = ", ".join(map(_code, found["keys"]))
        more = ", …" if keys and found["rows"] > len(found["keys"]) else ""
        label = ": keys " if keys else ""
        yield f"- {found['rows']:,} invalid, never sent: {CAUSES[cause]}{label}{keys}{more}"
    if plan.given_up:
        yield f"- {plan.given_up:,} given up, not sent: {given_up_text(plan)}"
    if others := plan.skipped - plan.given_up:
        yield f"- {others:,} unchanged, not sent: {_WHY_UNCHANGED[mode == 'update']}"
    if plan.moved:
        yield f"- {plan.moved:,} of the rows to send have another identifier than the one they were delivered under"
    if plan.held:
        yield f"- {plan.held:,} records not deleted yet: their row is invalid, or its new identifier is not delivered"


def _shown(key: str, kind: str, changed_fields: Mapping[str, Sequence[str] | None]) -> str:
    """Format a key, and the changed fields of a changed row."""
    if kind != "changed" or key not in changed_fields:
        return _code(key)
    names = changed_fields[key]
    fields = ", ".join(map(_code, names)) if names else "fields not known"
    return f"{_code(key)} ({fields})"


def _code(text: str) -> str:
    """Format text as a Markdown code span, so that it cannot add Markdown or a line break."""
    if len(text) > _MAX_KEY_LENGTH:
        text = f"{text[:_MAX_KEY_LENGTH]}…"
    text = json.dumps(text, ensure_ascii=False)[1:-1]
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if len(ticks) > 1 else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _invalid(plan: Plan, store: StateStore, count: int) -> dict[str, dict[str, Any]]:
    """Count the invalid rows of a plan: cause → number of ``rows``, and the first ``keys``."""
    from airflow_reverse_etl.sync.ports import InvalidKeys

    keys: Mapping[str, Sequence[str]] = {}
    if plan.causes and count and isinstance(store, InvalidKeys):
        keys = store.invalid_keys(plan, count=count)
    return {cause: {"rows": rows, "keys": list(keys.get(cause, ()))} for cause, rows in plan.causes.items()}


def _sample(
    sync: Sync, plan: Plan, store: StateStore, count: int
) -> tuple[dict[str, list[str]], dict[str, list[str] | None]]:
    """Return the first keys of each kind of change, and the changed fields of changed rows if the sync tracks them."""
    from airflow_reverse_etl.sync.ports import FieldTracking

    found: dict[str, list[str]] = {}
    changed_fields: dict[str, list[str] | None] = {}
    for kind, rows in plan.ranges().items():
        if not rows or not count:
            continue
        first = rows.start - 1
        part = {"after": first, "until": first + min(len(rows), count)}
        keys: list[str] = []
        for batch in store.changes(plan, **part):
            keys += batch.column("key").to_pylist()
        found[kind] = keys
        if kind == "changed" and sync.track_fields and isinstance(store, FieldTracking):
            names = store.changed_fields(plan, sync, **part)
            for seq, key in enumerate(found[kind], first + 1):
                changed = names.get(seq)
                changed_fields[key] = list(changed) if changed else None
    return found, changed_fields
