"""Comparison of a model with the snapshot, and descriptions of the rows that a plan does not send.

Pure: no rows, no storage. After each commit, a store saves a :class:`State`. Before each plan, :func:`comparison_for`
derives the :class:`Comparison` from that state, the sync and the run's options. The plan stores the comparison. At the
commit, :meth:`Comparison.state_after` returns the next state, which the store saves after the snapshot. If the state is
lost, the next plan compares all rows, and is still correct.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any

from airflow_reverse_etl.errors import AttentionError, ConfigurationError, RunConflictError, SpecError
from airflow_reverse_etl.spec.comparison import Bound, Comparison, State
from airflow_reverse_etl.spec.model import HashField, SqlField, Sync
from airflow_reverse_etl.spec.receipts import Reason, rows_text
from airflow_reverse_etl.spec.report import CAUSES, listed
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, same_place


def given_up_text(plan: Plan) -> str:
    """Explain why rows of a plan are given up, and how to send them again."""
    return (
        f"rejected too often or for too long, last with {listed(plan.given_up_codes)}; "
        "to send a row again, change it; to send all rows again, run with full_resync; to list, release or dismiss "
        f"single rows: reverse-etl rejected list {plan.sync}"
    )


def warnings(sync: Sync, plan: Plan) -> list[str]:
    """Describe the rows of a plan that are not sent, the records that are not deleted yet, and other writers."""
    found = []
    if plan.causes:
        found.append(f"invalid, not sent: {listed(plan.causes)}{_mend(sync, plan)}")
    if plan.given_up:
        found.append(f"given up, not sent: {rows_text(plan.given_up)}: {given_up_text(plan)}")
    if plan.held:
        found.append(
            f"held, not deleted yet: {plan.held:,} records whose row has a new identifier that is not delivered, or "
            "is invalid"
        )
    if plan.other_writers:
        found.append(other_writers_text(plan.other_writers))
    return found


def other_writers_text(writers: Mapping[str, str]) -> str:
    """Explain to what end a mirror and other syncs may write to one destination, and the way out."""
    names = ", ".join(f"{name} (last on {day})" for name, day in writers.items())
    return (
        f"other syncs write to the same destination: {names}; a record that leaves this model is deleted there, even "
        "if another sync sends it; give each sync an object of its own, or forget a sync that does not run any more: "
        "reverse-etl state forget"
    )


def _mend(sync: Sync, plan: Plan) -> str:
    """Return how to make the model's rows name different records, as the end of a sentence."""
    if "duplicate_identifier" not in plan.causes:
        return ""
    columns = ", ".join(_compared(sync, sync.mapping[name]) for name in sync.identified_by)
    return (
        "; to keep the newest row of each record, add to the model: qualify row_number() over (partition by "
        f"{columns} order by updated_at desc) = 1"
    )


def _compared(sync: Sync, source: object) -> str:
    """Return SQL for a part of the identifier, as the destination compares it."""
    if isinstance(source, HashField):
        text = f"trim({source.column})" if source.normalize else source.column
        return f"lower({text})" if source.normalize == "email" else text
    column = source.sql if isinstance(source, SqlField) else str(source)
    return f"trim({column})" if sync.destination.compare == "exact" else f"lower(trim({column}))"


def hashed_key_notes(request: PlanRequest) -> tuple[str, ...]:
    """Return the note that the state has a column in plain text which the destination gets as a hash only."""
    keys = {name.lower() for name in request.primary_key}
    hashed = (field.column.lower() for field in request.sync.mapping.values() if isinstance(field, HashField))
    return ("hashed_key",) if request.sync.tracked and keys.intersection(hashed) else ()


def reasons(plan: Plan) -> dict[Reason, int]:
    """Return the reasons why rows of a plan are not delivered and not sent, with their number of rows."""
    found = {Reason(cause, CAUSES[cause]): count for cause, count in plan.causes.items()}
    if plan.given_up:
        found[Reason("given_up", given_up_text(plan))] = plan.given_up
    return found


def comparison_for(
    request: PlanRequest, before: State | None, *, snapshot_rows: int, collation: str = ""
) -> Comparison:
    """Decide how the plan of a request compares the model with the snapshot.

    A whole plan has every row; what its commit records replaces the snapshot. The parameters, and what is raised, are
    those of :func:`_compared_with`.
    """
    found = _compared_with(request, before, snapshot_rows=snapshot_rows, collation=collation)
    if not request.whole or found.recorded == "all":
        return found
    return replace(found, compared=False, adopted=False, recorded="", drops_snapshot=True, columns_before=None)


def _compared_with(request: PlanRequest, before: State | None, *, snapshot_rows: int, collation: str) -> Comparison:
    """Decide how a plan that sends what differs compares the model with the snapshot.

    :param before: state saved by the last commit; None if no run of the sync was ever committed.
    :param snapshot_rows: rows of the snapshot that the store can read now.
    :param collation: collation that lowers text. Under another one, they are other identifiers.
    :raises ConfigurationError: the run's options contradict each other or the sync.
    :raises AttentionError: the destination is another place, or records that may not be sent twice are not known any
        more, so a person must decide.
    """
    sync = request.sync
    _check_options(request)
    if not sync.tracked:
        return Comparison(compared=False, tracked=False, forgiven=True)
    known = before or State()
    plain = _unrestricted(request, collation)

    # A snapshot of other identifiers, or a lost one, cannot be compared with the model.
    rekeyed = _is_rekeyed(known, plain)
    # A state without any digest is lost, unless the sync has never kept one.
    forgotten = before is not None and not known.key and not known.stale
    lost = not snapshot_rows and (bool(known.rows) or forgotten)
    moved = bool(known.address and plain.address) and not same_place(known.address, plain.address)
    if known.address and not moved and not request.account:
        plain = replace(plain, address=known.address)  # which may have the account
    # Records that are known by primary key cannot stay next to those that a run without a comparison records.
    uncompared = _knows_rows_only(known, plain, snapshot_rows) and (request.reset or request.full_resync)
    compared = not (rekeyed or lost or uncompared)
    since = known.destination_since
    if known.destination not in ("", plain.destination):
        since = f"{request.now.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"
    start = replace(plain, compared=compared, drops_snapshot=not compared, forgiven=rekeyed, destination_since=since)

    # The run's options come first, then the first run of a sync.
    if request.reset:
        return replace(start, forgiven=True, recorded="all", notes=("reset",))
    if request.full_resync:
        return replace(
            start,
            compared=False,
            forgiven=True,
            resent=True,
            drops_snapshot=start.drops_snapshot or moved,
            notes=("full_resync",),
        )
    if before is None and not snapshot_rows and sync.initial == "baseline":
        return replace(start, recorded="all", notes=("baseline",))

    # Then the place of the records, then the state of the snapshot.
    if moved:
        start = _at_another_place(request, known, start)
        if start.drops_snapshot:
            return start
    elif before is not None and not known.address and plain.address:
        start = replace(start, notes=("destination_adopted",))
    if rekeyed or lost:
        return _after_loss(request, start, lost=lost)
    return _plain(request, known, start, snapshot_rows=snapshot_rows)


def _after_loss(request: PlanRequest, start: Comparison, *, lost: bool) -> Comparison:
    """Return the comparison of a sync whose snapshot is lost, or knows its records by other fields.

    :raises AttentionError: the sync's rows may not be sent twice.
    """
    if lost:
        _check_repeatable(request, "the record of what was delivered is lost")
        return replace(start, notes=("snapshot_lost",))
    if request.sync.on_mapping_change == "keep":
        return replace(start, recorded="all", notes=("key_keep",))
    _check_repeatable(request, "records are recognised by other fields than before")
    return replace(start, notes=("key_resync",))


def _plain(request: PlanRequest, known: State, start: Comparison, *, snapshot_rows: int) -> Comparison:
    """Return the comparison with an existing snapshot that knows the model's records."""
    notes = start.notes
    if _knows_rows_only(known, start, snapshot_rows):
        return replace(start, adopted=True, drops_snapshot=True, notes=(*notes, "records_adopted"))
    if known.stale and snapshot_rows:
        return replace(start, compared=False, resent=True, notes=(*notes, "snapshot_stale"))
    if known.mapping not in ("", start.mapping) and snapshot_rows:
        if request.sync.on_mapping_change == "keep":
            return replace(start, recorded="known", notes=(*notes, "mapping_keep"))
        return replace(start, notes=(*notes, "mapping_resync"))
    if known.columns != start.columns and snapshot_rows:
        return replace(start, columns_before=known.columns, notes=(*notes, "columns_changed"))

    # The cursor's lower bound holds only for the sync that it was saved for.
    low = known.low if known.scope == start.scope else ""
    return replace(start, low=_with_lag(request.sync, low))


def _with_lag(sync: Sync, low: str) -> str:
    """Return a bound, as text, that is earlier by the sync's ``lag``; empty to read all rows.

    :raises SpecError: the cursor is a number.
    """
    if not low or not sync.cursor_lag:
        return low
    try:
        earlier = Bound.from_text(low).minus(sync.cursor_lag)
    except ValueError:
        raise SpecError(
            f"track.lag is a time, and the cursor {sync.cursor} has whole numbers",
            todo="remove lag, or give a cursor of dates or time stamps",
            sync=sync.name,
        ) from None
    return str(earlier) if earlier else ""


def _knows_rows_only(known: State, plain: Comparison, snapshot_rows: int) -> bool:
    """Return whether an earlier version stored the snapshot by primary key, and ``match_on`` identifies records."""
    return bool(plain.identity and known.format == 1 and snapshot_rows)


def _is_rekeyed(known: State, plain: Comparison) -> bool:
    """Return whether the snapshot knows its records by other fields than the sync does now."""
    if plain.identity:
        if known.identity:
            return known.identity != plain.identity
        # Format 1 has no identity: it is adopted, unless the destination's keys are known to have changed since.
        earlier = known.format == 1 and known.destination in ("", plain.destination)
        return known.key != "" and not (earlier and known.key == plain.key)
    return known.identity != "" or known.key not in ("", plain.key)


def _at_another_place(request: PlanRequest, known: State, start: Comparison) -> Comparison:
    """Return the comparison of a sync whose destination is another place than before.

    :raises AttentionError: ``on_destination_change`` is ``stop``.
    """
    answer = request.on_destination_change or request.sync.on_destination_change
    if answer == "keep":
        return replace(start, notes=("destination_keep",))
    if answer == "resync":
        return replace(start, compared=False, drops_snapshot=True, forgiven=True, notes=("destination_resync",))
    raise AttentionError(
        f"the destination is another place than the one that the state describes: {request.place}, before "
        f"{known.address}",
        todo="set on_destination_change in the sync, or in the conf of one run, to resync (send every row to the new "
        "place, delete nothing) or keep (the records are at the new place already); from a terminal: `reverse-etl run "
        "--on-destination-change resync`, or keep",
        sync=request.sync.name,
    )


def _check_repeatable(request: PlanRequest, reason: str) -> None:
    """Refuse to send all rows again with an operation that is not safe to repeat.

    :raises AttentionError: the mode has such an operation.
    """
    if request.sync.mode != "insert" and request.capabilities.may_repeat(request.sync.mode):
        return
    raise AttentionError(
        f"{reason}, and mode {request.sync.mode} would send every row a second time",
        todo="start one run with reset, which records every row as delivered, or full_resync, which sends every row",
        sync=request.sync.name,
    )


def _unrestricted(request: PlanRequest, collation: str) -> Comparison:
    """Return the comparison of all rows with the whole snapshot."""
    sync = request.sync
    columns = [name.lower() for name in request.primary_key]
    scope = _digest([sync.digest, columns, sync.cursor.lower()]) if sync.cursor else ""
    # The columns that a "*" gives are kept by name, so that a new one does not look like another mapping.
    mapping = sync.as_written.model_dump(include={"mapping"})
    identity = ""
    if sync.identified_by:
        fields = sync.model_dump(include={"mapping"})["mapping"]
        parts = {name: fields[name] for name in sync.destination.match_on}
        identity = _digest([parts, request.ignore_case, *([collation] if collation and request.ignore_case else [])])
    return Comparison(
        mapping=_digest(mapping),
        key=_digest(columns),
        identity=identity,
        scope=scope,
        destination=_digest(sync.model_dump(include={"destination"})),
        address=request.place,
        columns=tuple(sorted(sync.every_column)),
    )


def _check_options(request: PlanRequest) -> None:
    problem = ""
    if request.reset and request.full_resync:
        problem = "reset sends nothing and full_resync sends everything, so a run cannot do both"
    elif request.reset and not request.sync.tracked:
        problem = "reset records rows as delivered, but this sync keeps no record (mode append, or track: none)"
    if problem:
        raise ConfigurationError(problem, todo="start the run without the option", sync=request.sync.name)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def outdated(plan: Plan) -> RunConflictError:
    """Build the error for a plan that was made from an earlier snapshot."""
    return RunConflictError(
        "another run changed the snapshot after this run was planned",
        outdated=True,
        todo="let the next try plan again, and allow only one active run of the sync at a time",
        sync=plan.sync,
        run=plan.run_id,
    )
