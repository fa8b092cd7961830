"""The commit of a load: one query for each table of the state."""

# ruff: noqa: S608 - the SQL is ours: names and numbers

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow_reverse_etl.spec.comparison import Comparison, State
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements.plan import IN_DOUBT, MODES_IN_DOUBT, REMOVED
from airflow_reverse_etl.sql.text_forms import DIALECTS, literal
from airflow_reverse_etl.stores.lake import change_set
from airflow_reverse_etl.stores.lake.delta import DeltaFile, DeltaLog
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.sync.comparing import outdated
from airflow_reverse_etl.sync.ports import Plan
from airflow_reverse_etl.sync.progress import Checkpoint

_HASHES = {"key_hi": "BIGINT", "key_lo": "BIGINT", "fingerprint": "BIGINT"}

SNAPSHOT = {**_HASHES, "row_key": "VARCHAR", "identifiers": "VARCHAR", "field_hashes": "VARCHAR"}

REJECTIONS = {
    "row_key": "VARCHAR",
    **_HASHES,
    "change": "VARCHAR",
    "outcome": "VARCHAR",
    "code": "VARCHAR",
    "message": "VARCHAR",
    "attempts": "BIGINT",
    "first_seen": "TIMESTAMPTZ",
    "last_seen": "TIMESTAMPTZ",
}

HISTORY = {
    "run_id": "VARCHAR",
    "plan_id": "VARCHAR",
    "mode": "VARCHAR",
    "planned_at": "TIMESTAMPTZ",
    "committed_at": "TIMESTAMPTZ",
    **dict.fromkeys(("model_rows", "snapshot_rows", "added", "changed", "removed", "invalid"), "BIGINT"),
    **dict.fromkeys(("accepted", "rejected", "retryable", "unknown", "skipped", "requests"), "BIGINT"),
    "seconds": "DOUBLE",
    "report": "VARCHAR",
}

CHANGE_LOG = {
    **dict.fromkeys(("sync", "run_id", "plan_id", "change", "row_key"), "VARCHAR"),
    **dict.fromkeys(("key_hi", "key_lo", "fingerprint"), "BIGINT"),
    **dict.fromkeys(("outcome", "code"), "VARCHAR"),
    "committed_at": "TIMESTAMPTZ",
}


def commit_plan(
    scratch: Scratch,
    plan: Plan,
    checkpoint: Checkpoint,
    report: RunReport,
    *,
    folder: str,
    stored: dict[str, Any],
    snapshot: DeltaFile,
    rejections: DeltaFile,
    history: DeltaFile,
    change_log: DeltaLog | None,
    kept: timedelta,
) -> None:
    """Bring each table up to date, unless this plan has done so before.

    :param folder: of the change set.
    :param stored: content of plan.json.
    :param change_log: None if the store keeps no change log.
    :param kept: how long runs are kept.
    :raises RunConflictError: another plan changed the snapshot since this one was made.
    """
    comparison = Comparison.from_json(stored["approach"])
    snapshot.view(scratch, "snapshot", empty=comparison.anew)
    _create_relations(scratch, plan, checkpoint, folder, unsent=stored["left"])
    # The snapshot: only if no other plan has changed it, and if this plan changes anything.
    rows = snapshot.rows
    if comparison.tracked and not snapshot.made_by(plan.plan_id):
        if snapshot.generation != stored["generation"]:
            raise outdated(plan)
        _create_in_doubt(scratch, checkpoint, mode=stored["mode"], resent=comparison.resent)
        # ``accepted`` first, because it is the faster query.
        if comparison.anew or _has_rows(scratch, "accepted") or _has_rows(scratch, "outdated"):
            rows = snapshot.replace(scratch, _SNAPSHOT, plan.plan_id)
    # The rejections.
    if not rejections.made_by(plan.plan_id) and (rejections.rows or checkpoint.failed):
        rejections.view(scratch, "rejections", empty=comparison.drops_rejections)
        earlier_rows = _EARLIER_OF_UNREAD_ROWS if comparison.low else _EARLIER_STILL_REFUSED
        select = (_REJECTIONS + earlier_rows).format(now=plan.created_at.isoformat())
        rejections.replace(scratch, select, plan.plan_id)
    # The change log.
    if change_log and plan.total:
        change_log.append(scratch, _select_log(plan, checkpoint), plan.plan_id)
    # The history last: with it the commit is complete.
    open_rows = _lowest_open_cursor(scratch) if comparison.kind else None
    state = comparison.state_after(saved_state(history), rows=rows, open_rows=open_rows)
    history.view(scratch, "history")
    _create_this_run(scratch, plan, report, stored["mode"])
    oldest = (plan.created_at - kept).isoformat()
    select = f"SELECT * FROM history WHERE planned_at >= '{oldest}' UNION ALL BY NAME SELECT * FROM this_run"
    history.replace(scratch, select, plan.plan_id, {_STATE: json.dumps(state.to_json())})


def saved_state(history: DeltaFile) -> State | None:
    """Return the state that the last commit saved.

    :returns: None before the first commit; an empty state if it was lost.
    """
    text = history.metadata(_STATE)
    if text:
        return State.from_json(json.loads(text))
    return State() if history.rows else None


#: Name of the state in the metadata of the history's last commit, which is the last step of a commit.
_STATE = "state"

_SNAPSHOT = """
    SELECT key_hi, key_lo, fingerprint, row_key, identifiers, field_hashes
    FROM snapshot ANTI JOIN outdated USING (key_hi, key_lo)
    UNION ALL
    SELECT key_hi, key_lo, fingerprint, CASE WHEN identifiers IS NOT NULL THEN row_key END, identifiers, field_hashes
    FROM (
        SELECT * FROM accepted WHERE change <> 'removed' UNION ALL BY NAME SELECT * FROM in_doubt
        UNION ALL BY NAME SELECT * FROM recorded
    )
"""

# Every run tries a refused row again. A row without an outcome in this run is still refused only if this run skipped it
# for its rejection, did not come to it, or could not send it (invalid). A refused removal is dropped once a row has
# the key again, even an invalid row.
_REJECTIONS = """
    SELECT c.row_key, c.key_hi, c.key_lo, c.fingerprint, c.change, f.outcome, f.code, f.message,
        coalesce(r.attempts, 0) + 1 AS attempts, coalesce(r.first_seen, '{now}'::TIMESTAMPTZ) AS first_seen,
        '{now}'::TIMESTAMPTZ AS last_seen
    FROM changes AS c JOIN failed AS f USING (seq)
    LEFT JOIN rejections AS r
        ON r.key_hi = c.key_hi AND r.key_lo = c.key_lo AND r.fingerprint = c.fingerprint
    WHERE f.outcome <> 'skipped'
    UNION ALL BY NAME
    SELECT r.* FROM rejections AS r
"""
_EARLIER_STILL_REFUSED = f"""
    WHERE (key_hi, key_lo) IN (
        SELECT (key_hi, key_lo) FROM skipped UNION ALL SELECT (key_hi, key_lo) FROM changes WHERE NOT settled
    )
    OR (fingerprint <> {REMOVED} AND (key_hi, key_lo) IN (SELECT (key_hi, key_lo) FROM invalid))
"""
# After a run that read only part of the model: a row that was not read is still refused.
_EARLIER_OF_UNREAD_ROWS = """
    ANTI JOIN (SELECT key_hi, key_lo FROM changes WHERE settled) USING (key_hi, key_lo)
"""


def _select_log(plan: Plan, checkpoint: Checkpoint) -> str:
    """Build the SELECT of the change log's rows: the outcome of each row that was to be sent."""
    sync = literal(plan.sync, "duckdb")
    run = literal(plan.run_id, "duckdb")
    return (
        f"SELECT {sync} AS sync, {run} AS run_id, c.change, c.row_key, c.key_hi, c.key_lo, c.fingerprint,"
        f" {logged_outcome(checkpoint, settled='c.settled')} AS outcome, f.code, now() AS committed_at"
        " FROM changes AS c LEFT JOIN failed AS f ON c.seq = f.seq"
    )


def logged_outcome(checkpoint: Checkpoint, *, settled: str) -> str:
    """Build the SQL of a row's outcome in the change log. ``c`` is the change set, ``f`` the rows not accepted.

    :param settled: SQL condition for a settled row.
    """
    listed = ", ".join(map(str, sorted(checkpoint.answer_lost)))
    answer_lost = f" WHEN c.seq IN ({listed}) THEN '{Outcome.UNKNOWN}'" if listed else ""
    return (
        f"CASE WHEN f.seq IS NOT NULL THEN f.outcome{answer_lost} WHEN {settled} THEN '{Outcome.ACCEPTED}'"
        f" WHEN {in_doubt_sql(checkpoint)} THEN '{Outcome.UNKNOWN}' ELSE 'not sent' END"
    )


def in_doubt_sql(checkpoint: Checkpoint) -> str:
    """Build the SQL condition for rows in doubt of ``c``, the change set."""
    ranges = (f"c.seq BETWEEN {rows.start} AND {rows.stop - 1}" for rows in checkpoint.in_doubt())
    return f"({' OR '.join(ranges) or '1 = 0'})"


def _has_rows(scratch: Scratch, relation: str) -> bool:
    return bool(scratch.execute(f"SELECT 1 FROM {relation} LIMIT 1"))


def _create_relations(scratch: Scratch, plan: Plan, checkpoint: Checkpoint, folder: str, *, unsent: list[str]) -> None:
    """Create ``changes`` with ``settled``, ``failed``, ``accepted``, and one relation for each unsent kind of row.

    :param unsent: the kinds that the plan has.
    """
    import pyarrow as pa

    ranges = [(1, checkpoint.settled.low), *checkpoint.settled.above()]
    settled = " OR ".join(f"seq BETWEEN {first} AND {last}" for first, last in ranges)
    change_set.view(scratch, folder, plan.planned, settled=settled)
    # The rows that were not accepted.
    failed: list[dict[str, Any]] = []
    for seq, (outcome, at) in checkpoint.failed.items():
        reason = checkpoint.reasons[at]
        failed.append({"seq": seq, "outcome": outcome.value, "code": reason.code, "message": reason.message})
    schema = pa.schema([("seq", pa.int64()), ("outcome", pa.string()), ("code", pa.string()), ("message", pa.string())])
    scratch.connection.register("failed", pa.Table.from_pylist(failed, schema))
    scratch.execute("CREATE TEMP VIEW accepted AS SELECT * FROM changes ANTI JOIN failed USING (seq) WHERE settled")
    # The rows that were not sent; an empty relation for a kind that the plan does not have.
    for name in change_set.UNSENT_KINDS:
        if name in unsent:
            scratch.view(name, f"{folder}/{name}.parquet")
        else:
            texts = "'' AS row_key, '' AS identifiers"
            hashes = ", ".join(f"0::BIGINT AS {column}" for column in _HASHES)
            scratch.execute(f"CREATE TEMP VIEW {name} AS SELECT {hashes}, {texts} LIMIT 0")


def _create_in_doubt(scratch: Scratch, checkpoint: Checkpoint, *, mode: str, resent: bool) -> None:
    """Create ``in_doubt``, the rows in doubt, and ``outdated``, the keys that leave the snapshot.

    :param resent: all rows were to be sent again. A row that was not accepted then leaves the snapshot, because the
        destination may not have it any more.
    """
    lost = f"{in_doubt_sql(checkpoint)} OR seq IN (SELECT seq FROM failed WHERE outcome = 'unknown')"
    missed = "seq NOT IN (SELECT seq FROM accepted)"
    known = "(key_hi, key_lo) IN (SELECT (key_hi, key_lo) FROM snapshot)"
    in_doubt = f"{lost} OR {missed} AND {known}" if resent else lost
    scratch.execute(
        f"CREATE TEMP VIEW in_doubt AS SELECT * REPLACE ({IN_DOUBT}::BIGINT AS fingerprint, NULL AS field_hashes)"
        f" FROM changes AS c WHERE {mode in MODES_IN_DOUBT} AND ({in_doubt})"
    )
    sources = ("accepted", "in_doubt", "forgotten", "recorded")
    keys = [f"SELECT key_hi, key_lo FROM {name}" for name in sources]
    if resent:
        keys.append(f"SELECT key_hi, key_lo FROM changes WHERE {missed}")
    scratch.execute(f"CREATE TEMP VIEW outdated AS {' UNION ALL '.join(keys)}")


def _lowest_open_cursor(scratch: Scratch) -> str | None:
    """Return the lowest cursor of the rows that a later run must read again; None without such rows."""
    types = scratch.columns("changes")
    if "w" not in types:
        return None
    refused = "seq IN (SELECT seq FROM failed WHERE outcome <> 'skipped')"
    lowest_cursor = DIALECTS["duckdb"].text("MIN(w)", types["w"])
    [(lowest,)] = scratch.execute(f"SELECT {lowest_cursor} FROM changes WHERE NOT settled OR {refused}")
    return str(lowest) if lowest is not None else None


def _create_this_run(scratch: Scratch, plan: Plan, report: RunReport, mode: str) -> None:
    """Create ``this_run``, the row of the history for this run."""
    import pyarrow as pa

    numbers = report.to_json()
    row = {
        **{name: getattr(plan, name) for name in ("run_id", "plan_id", "model_rows", "snapshot_rows")},
        **dict(plan.planned),
        **{name: numbers[name] for name in ("accepted", "rejected", "retryable", "unknown", "skipped", "requests")},
        "mode": mode,
        "seconds": report.seconds,
        "report": json.dumps(numbers),
        "planned_at": plan.created_at,
    }
    scratch.connection.register("this_row", pa.Table.from_pylist([row]))
    scratch.execute("CREATE TEMP VIEW this_run AS SELECT *, now() AS committed_at FROM this_row")
