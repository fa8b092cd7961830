"""The commit of a plan in the lake: each table of the state is replaced by one query."""

# ruff: noqa: S608 - the SQL is ours: names and numbers

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from airflow_reverse_etl.spec.comparison import State
from airflow_reverse_etl.sql.statements.commit import CommitStatement
from airflow_reverse_etl.stores.lake import change_set
from airflow_reverse_etl.stores.lake.delta import DeltaFile, DeltaLog
from airflow_reverse_etl.stores.lake.duckdb import Scratch
from airflow_reverse_etl.stores.state import MEND_STATE, read_stored
from airflow_reverse_etl.sync.committing import CommitRunner
from airflow_reverse_etl.sync.comparing import outdated
from airflow_reverse_etl.sync.planning import StoredPlan
from airflow_reverse_etl.sync.progress import Checkpoint

#: Name of the state in the metadata of the history's last commit, which is the last step of a commit.
STATE = "state"


class LakeCommitRunner(CommitRunner):
    """Commits one plan.

    :param folder: of the change set.
    :param change_log: None if the store keeps no change log.
    :param kept: how long runs are kept.
    """

    def __init__(
        self,
        scratch: Scratch,
        stored: StoredPlan,
        checkpoint: Checkpoint,
        *,
        folder: str,
        snapshot: DeltaFile,
        rejections: DeltaFile,
        history: DeltaFile,
        change_log: DeltaLog | None,
        kept: timedelta,
    ) -> None:
        self._scratch = scratch
        self._plan = stored.plan
        self._stored = stored
        self._checkpoint = checkpoint
        self._snapshot = snapshot
        self._rejections = rejections
        self._history = history
        self._change_log = change_log
        self._kept = kept
        change_set.view(scratch, folder, stored.plan)
        _register_failed(scratch, checkpoint)
        snapshot.view(scratch, "snapshot", empty=stored.comparison.drops_snapshot)

    def replace_snapshot(self, statement: CommitStatement) -> int:
        snapshot = self._snapshot
        if snapshot.made_by(self._plan.plan_id):
            return snapshot.rows
        if snapshot.generation != self._stored.generation:
            raise outdated(self._plan)
        self._scratch.execute(f"CREATE OR REPLACE TEMP VIEW fates AS {statement.fates}")
        if not self._stored.comparison.drops_snapshot and not self.rows("SELECT 1 FROM fates LIMIT 1"):
            return snapshot.rows
        return snapshot.replace(self._scratch, statement.next_snapshot, self._plan.plan_id)

    def snapshot_rows(self) -> int:
        return self._snapshot.rows

    def replace_rejections(self, statement: CommitStatement) -> None:
        rejections = self._rejections
        if rejections.made_by(self._plan.plan_id):
            return
        # The first commit makes the table even without rows, so that other readers always find it.
        if rejections.generation and not (rejections.rows or self._checkpoint.failed):
            return
        rejections.view(self._scratch, "rejections")
        rejections.replace(self._scratch, statement.next_rejections, self._plan.plan_id)

    def append_log(self, select: str) -> None:
        if self._change_log:
            dated = f"SELECT *, now() AS committed_at FROM ({select})"
            self._change_log.append(self._scratch, dated, self._plan.plan_id)

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self._scratch.execute(select)

    def state(self) -> State | None:
        return saved_state(self._history)

    def finish(self, state: State, run: dict[str, Any]) -> None:
        import pyarrow as pa

        self._history.view(self._scratch, "history")
        self._scratch.connection.register("this_row", pa.Table.from_pylist([run]))
        oldest = (self._plan.created_at - self._kept).isoformat()
        select = (
            f"SELECT * FROM history WHERE planned_at >= '{oldest}'"
            " UNION ALL BY NAME SELECT *, now() AS committed_at FROM this_row"
        )
        self._history.replace(self._scratch, select, self._plan.plan_id, {STATE: json.dumps(state.to_json())})


def saved_state(history: DeltaFile) -> State | None:
    """Return the state that the last commit saved.

    :returns: None before the first commit; an empty state if it was lost.
    :raises StateError: a newer version of this package saved it.
    """
    text = history.metadata(STATE)
    if text:
        return read_stored(text, State.from_json, "the state of a sync", todo=MEND_STATE, folder=history.folder)
    return State(format=1) if history.rows else None


def _register_failed(scratch: Scratch, checkpoint: Checkpoint) -> None:
    """Make the relation ``failed``."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for seq, (outcome, at) in checkpoint.failed.items():
        reason = checkpoint.reasons[at]
        rows.append({"seq": seq, "outcome": outcome.value, "code": reason.code, "message": reason.message})
    schema = pa.schema([("seq", pa.int64()), ("outcome", pa.string()), ("code", pa.string()), ("message", pa.string())])
    scratch.connection.register("failed", pa.Table.from_pylist(rows, schema))
