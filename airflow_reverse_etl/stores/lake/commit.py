"""Folding a load into the state: one query for each table."""

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


def fold(
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
    """Bring the tables up to date, each unless this plan did so before.

    :param folder: of the change set.
    :param stored: plan.json.
    :param change_log: None where none is wanted.
    :param kept: how long runs are kept.
    :raises RunConflictError: another plan changed the snapshot since this one was made.
    """
    comparison = Comparison.from_json(stored["comparison"])
    snapshot.view(scratch, "snapshot", empty=comparison.anew)
    _relations(scratch, plan, checkpoint, folder, left=stored["left"])
    rows = snapshot.rows
    if comparison.tracked and not snapshot.made_by(plan.plan_id):
        if snapshot.generation != stored["generation"]:
            raise outdated(plan)
        _in_doubt(scratch, checkpoint, mode=stored["mode"], resent=comparison.resent)
        if comparison.anew or _any(scratch, "accepted") or _any(scratch, "outdated"):  # the first is quick to find
            rows = snapshot.replace(scratch, _SNAPSHOT, plan.plan_id)
    if not rejections.made_by(plan.plan_id) and (rejections.rows or checkpoint.failed):
        rejections.view(scratch, "rejections", empty=comparison.drops_rejections)
        rows_kept = _REJECTIONS + (_UNREAD if comparison.low else _STILL)
        rejections.replace(scratch, rows_kept.format(now=plan.created_at.isoformat()), plan.plan_id)
    if change_log and plan.total:
        change_log.append(scratch, _log(plan, checkpoint), plan.plan_id)
    state = comparison.state_after(state_of(history), rows=rows, open_rows=_open(scratch) if comparison.kind else None)
    history.view(scratch, "history")
    _one_run(scratch, plan, report, stored["mode"])
    oldest = (plan.created_at - kept).isoformat()
    select = f"SELECT * FROM history WHERE planned_at >= '{oldest}' UNION ALL BY NAME SELECT * FROM this_run"
    history.replace(scratch, select, plan.plan_id, {_STATE: json.dumps(state.to_json())})


def state_of(history: DeltaFile) -> State | None:
    """What the last commit left to remember; None if there was none, an empty state if it is lost."""
    text = history.kept(_STATE)
    if text:
        return State.from_json(json.loads(text))
    return State() if history.rows else None


#: Where the state is kept: in the last commit of the history, which is the last step of a commit.
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

# A row is tried again in every run. One that is not in this run's outcomes is still refused only if this run left it
# out because of that (skipped), did not come to it, or could not send it (invalid). A refused removal is dropped once
# a row has the key again, even an invalid one.
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
_STILL = f"""
    WHERE (key_hi, key_lo) IN (
        SELECT (key_hi, key_lo) FROM skipped UNION ALL SELECT (key_hi, key_lo) FROM changes WHERE NOT settled
    )
    OR (fingerprint <> {REMOVED} AND (key_hi, key_lo) IN (SELECT (key_hi, key_lo) FROM invalid))
"""
# Of a part of the model: a row that was not read is still refused.
_UNREAD = """
    ANTI JOIN (SELECT key_hi, key_lo FROM changes WHERE settled) USING (key_hi, key_lo)
"""


def _log(plan: Plan, checkpoint: Checkpoint) -> str:
    """What became of each row that was to be sent."""
    sync, run = literal(plan.sync, "duckdb"), literal(plan.run_id, "duckdb")
    return (
        f"SELECT {sync} AS sync, {run} AS run_id, c.change, c.row_key, c.key_hi, c.key_lo, c.fingerprint,"
        f" {logged_outcome(checkpoint, settled='c.settled')} AS outcome, f.code, now() AS committed_at"
        " FROM changes AS c LEFT JOIN failed AS f ON c.seq = f.seq"
    )


def logged_outcome(checkpoint: Checkpoint, *, settled: str) -> str:
    """SQL for what the change log says of a row: of ``c``, the change set, and ``f``, what was not accepted.

    :param settled: SQL for whether the row is.
    """
    listed = ", ".join(map(str, sorted(checkpoint.answer_lost)))
    answer_lost = f" WHEN c.seq IN ({listed}) THEN '{Outcome.UNKNOWN}'" if listed else ""
    return (
        f"CASE WHEN f.seq IS NOT NULL THEN f.outcome{answer_lost} WHEN {settled} THEN '{Outcome.ACCEPTED}'"
        f" WHEN {in_doubt_sql(checkpoint)} THEN '{Outcome.UNKNOWN}' ELSE 'not sent' END"
    )


def in_doubt_sql(checkpoint: Checkpoint) -> str:
    """SQL for whether a row of ``c``, the change set, may have been sent and has no outcome."""
    ranges = (f"c.seq BETWEEN {rows.start} AND {rows.stop - 1}" for rows in checkpoint.in_doubt())
    return f"({' OR '.join(ranges) or '1 = 0'})"


def _any(scratch: Scratch, relation: str) -> bool:
    return bool(scratch.execute(f"SELECT 1 FROM {relation} LIMIT 1"))


def _relations(scratch: Scratch, plan: Plan, checkpoint: Checkpoint, folder: str, *, left: list[str]) -> None:
    """``changes`` with ``settled``, ``failed``, ``accepted``, and one relation for each of :data:`changes.LEFT`."""
    import pyarrow as pa

    settled = [(1, checkpoint.settled.low), *checkpoint.settled.above()]
    change_set.view(scratch, folder, plan.planned, settled=" OR ".join(f"seq BETWEEN {a} AND {b}" for a, b in settled))
    rows = []
    for seq, (outcome, at) in checkpoint.failed.items():
        reason = checkpoint.reasons[at]
        rows.append((seq, outcome.value, reason.code, reason.message))
    names = ("seq", "outcome", "code", "message")
    kinds = (pa.int64(), pa.string(), pa.string(), pa.string())
    columns = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(kinds)]
    scratch.connection.register("failed", pa.Table.from_arrays(columns, names=names))
    scratch.execute("CREATE TEMP VIEW accepted AS SELECT * FROM changes ANTI JOIN failed USING (seq) WHERE settled")
    for name in change_set.LEFT:
        if name in left:
            scratch.view(name, f"{folder}/{name}.parquet")
        else:
            texts = "'' AS row_key, '' AS identifiers"
            hashes = ", ".join(f"0::BIGINT AS {column}" for column in _HASHES)
            scratch.execute(f"CREATE TEMP VIEW {name} AS SELECT {hashes}, {texts} LIMIT 0")


def _in_doubt(scratch: Scratch, checkpoint: Checkpoint, *, mode: str, resent: bool) -> None:
    """``in_doubt``, rows that the destination may have, and ``outdated``, the keys whose place in the snapshot is lost.

    After everything was sent again, a row that was not accepted is not known to be there any more.
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


def _open(scratch: Scratch) -> str | None:
    """The lowest cursor of a row that was sent, or not, and has to be read again."""
    types = scratch.columns("changes")
    if "w" not in types:
        return None
    refused = "seq IN (SELECT seq FROM failed WHERE outcome <> 'skipped')"
    [(lowest,)] = scratch.execute(
        f"SELECT {DIALECTS['duckdb'].text('MIN(w)', types['w'])} FROM changes WHERE NOT settled OR {refused}"
    )
    return str(lowest) if lowest is not None else None


def _one_run(scratch: Scratch, plan: Plan, report: RunReport, mode: str) -> None:
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
