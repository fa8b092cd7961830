"""State as Delta Lake tables under a URL; plans and commits run in DuckDB on the worker.

::

    <url>/syncs/<sync>/snapshot/     Delta: key_hi, key_lo, fingerprint; row_hi and row_lo with match_on; row_key and
                                     identifiers in mode mirror; field_hashes, see sql/statements/field_hashes.py
                       rejections/   Delta: rows that the destination refuses
                       history/      Delta: one row for each committed run
                       change_log/   Delta: the outcome of each row that was to be sent, if enabled
                       lease/        the holder of the sync's lease, see stores/compare_and_set.py
                       runs/<plan>/  plan.json, changes/*.parquet, and of each partition
                                     checkpoint-<partition>-<try>.json and try-<partition>/: until the commit

         writers/<digest>/<sync>   the destination that a sync writes to, by the digest of its address

The snapshot holds hashes, no values. The change set of a plan does hold values; commit and discard delete it.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed, constants are literals

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sql.statements.classification import DISMISSED
from airflow_reverse_etl.sql.statements.erasure import NamedRecords, OneRecord, record_name
from airflow_reverse_etl.stores import leases
from airflow_reverse_etl.stores.compare_and_set import FileValues
from airflow_reverse_etl.stores.files import StateFiles
from airflow_reverse_etl.stores.lake import change_set, commit
from airflow_reverse_etl.stores.lake.delta import DeltaFile, DeltaLog
from airflow_reverse_etl.stores.lake.duckdb import Scratch, scratch
from airflow_reverse_etl.stores.lake.planner import LakePlanRunner
from airflow_reverse_etl.stores.state import (
    MEND_PLAN,
    MEND_STATE,
    PAST_RUNS,
    REJECTED_ROWS,
    PastRun,
    RejectedRow,
    SyncState,
    no_state,
    other_state,
    planned_at,
    read_stored,
    unfinished_run,
)
from airflow_reverse_etl.sync import committing
from airflow_reverse_etl.sync.committing import commit_plan, commit_statement, invalid_keys
from airflow_reverse_etl.sync.planning import StoredPlan, build_plan, statement_for, stored_plan
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

#: Age of a folder without plan.json from which its planner counts as interrupted.
_INTERRUPTED_AFTER = timedelta(days=1)
_PLAN_ID_TIME = "%Y%m%dT%H%M%S%f"
#: Name of a checkpoint's file. Those of format 1 have no number of a try.
_CHECKPOINT = re.compile(r"checkpoint-(?P<partition>-?\d+)(?:-(?P<try>\d+))?\.json")

#: Rejections after a change; a place for the condition of the records.
_RELEASED = "SELECT * FROM rejections WHERE ({}) IS NOT TRUE"
_DISMISSED = f"SELECT * REPLACE (CASE WHEN {{}} THEN '{DISMISSED}' ELSE outcome END AS outcome) FROM rejections"
_ONLY_REJECTED = " AND outcome = 'rejected'"


class LakeStore(StateStore):
    """Snapshot, plans, checkpoints, rejections and history of all syncs, under one URL.

    :param url: folder, ``file://`` or object storage URL.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :param memory_limit: of DuckDB, which spills to ``scratch`` beyond it. The process needs up to 600 MB in addition.
    :param threads: of DuckDB; default: one for each core.
    :param scratch: an existing local folder for spilled data; default: the system's temporary folder.
    :param history: how long runs, and the change log, are kept.
    :param change_log: whether to log the outcome of each row that was sent: hashes, keys and outcomes, no values.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        memory_limit: str = "900MB",
        threads: int | None = None,
        scratch: Path | None = None,
        history: timedelta = timedelta(days=365),
        change_log: bool = False,
    ) -> None:
        self._files = StateFiles(url, storage_options)
        self._memory_limit = memory_limit
        self._threads = threads
        self._scratch_folder = scratch
        self._kept = history
        self._logs_changes = change_log

    def has_state(self, sync: str) -> bool:
        """Return whether this sync has a committed or unfinished run."""
        return bool(self._history(sync).rows or self.unfinished(sync))

    def unfinished(self, sync: str) -> Sequence[Plan]:
        runs = f"{_folder(sync)}/runs"
        stored = (self._stored(sync, plan_id) for plan_id in self._files.list(runs))
        return [data.plan for data in stored if data]

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        history = self._history(sync)
        if not history.generation:
            return None
        with self._scratch() as work:
            history.view(work, "history")
            found = work.execute(
                "SELECT report FROM history WHERE run_id = ? ORDER BY committed_at DESC, plan_id DESC LIMIT 1", [run_id]
            )
        if not found:
            return None
        return read_stored(found[0][0], RunReport.from_json, "the report of a run", todo=MEND_STATE, sync=sync)

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        sync = request.sync
        self._delete_interrupted(sync.name, request.now)
        snapshot = self._snapshot(sync.name)
        rejections = self._rejections(sync.name)
        # Build the plan statement.
        before = commit.saved_state(self._history(sync.name))
        statement = statement_for(request, warehouse, before, snapshot_rows=snapshot.rows, planner="duckdb")
        # Run it.
        plan_id = f"{request.now.strftime(_PLAN_ID_TIME)}-{secrets.token_hex(4)}"
        with self._scratch() as work:
            snapshot.view(work, "delivered")
            rejections.view(work, "rejections")
            runner = LakePlanRunner(work, warehouse, f"{_plan_folder(sync.name, plan_id)}/changes")
            built = build_plan(runner, statement, snapshot_rows=snapshot.rows, now=request.now)
        # Store the plan: from here on it exists.
        stored = stored_plan(
            request, plan_id, statement, built, snapshot_rows=snapshot.rows, generation=snapshot.generation
        )
        path = f"{_plan_folder(sync.name, plan_id)}/plan.json"
        self._files.write(path, json.dumps(stored.to_json()).encode())
        return stored.plan

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        stored = self._stored(plan.sync, plan.plan_id)
        if stored is None:
            raise change_set.plan_gone()
        yield from change_set.read_changes(
            self._files,
            _plan_folder(plan.sync, plan.plan_id) + "/changes",
            plan,
            after=after,
            until=plan.total if until is None else until,
            values=stored.values,
            kinds=stored.value_kinds,
        )

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> dict[int, tuple[str, ...] | None]:
        folder = f"{_plan_folder(plan.sync, plan.plan_id)}/changes"
        last = plan.total if until is None else until
        with self._scratch() as work:
            self._snapshot(plan.sync).view(work, "snapshot")
            change_set.view(work, folder, plan, unsent=())
            rows = work.execute(
                "SELECT c.seq, s.field_hashes, c.field_hashes FROM snapshot AS s JOIN changes AS c"
                " USING (key_hi, key_lo) WHERE c.change = 'changed' AND c.seq BETWEEN ? AND ? ORDER BY c.seq",
                [after + 1, last],
            )
        return {seq: field_hashes.changed(sync, before, now) for seq, before, now in rows}

    def sequence_numbers(self, plan: Plan, records: Collection[str]) -> dict[str, int]:
        if self._stored(plan.sync, plan.plan_id) is None:
            raise change_set.plan_gone()
        named = NamedRecords(tuple(records))
        with self._scratch() as work:
            change_set.view(work, f"{_plan_folder(plan.sync, plan.plan_id)}/changes", plan, unsent=())
            rows = work.execute(f"SELECT key_hi, key_lo, seq FROM changes WHERE {named.anywhere(())}")
        return {record_name(hi, lo): seq for hi, lo, seq in rows}

    def invalid_keys(self, plan: Plan, *, count: int) -> dict[str, list[str]]:
        if not plan.causes:
            return {}
        with self._scratch() as work:
            work.view("invalid", f"{_plan_folder(plan.sync, plan.plan_id)}/changes/invalid.parquet")
            return invalid_keys(plan, "invalid", work.execute, count=count)

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        return leases.next_number(self._tries(plan, partition))

    def last_try(self, plan: Plan, *, partition: int = 0) -> int:
        _, values = self._tries(plan, partition).read()
        return leases.last_number(values)

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        return self.checkpoints(plan).get(partition, Checkpoint())

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        # A file for each try, so that a try that was stopped for a while cannot replace what a later one has saved.
        name = f"checkpoint-{partition}-{try_number:06}.json"
        path = f"{_plan_folder(plan.sync, plan.plan_id)}/{name}"
        self._files.write(path, json.dumps(checkpoint.to_json()).encode())

    def checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        folder = _plan_folder(plan.sync, plan.plan_id)
        last: dict[int, tuple[int, str]] = {}
        for name in self._files.list(folder):
            if found := _CHECKPOINT.fullmatch(name):
                number = int(found["try"] or 0)
                partition = int(found["partition"])
                last[partition] = max(last.get(partition, (-1, "")), (number, name))
        checkpoints: dict[int, Checkpoint] = {}
        for partition, (_, name) in last.items():
            path = f"{folder}/{name}"
            data = self._files.read(path)
            # A plan may be deleted meanwhile. An empty checkpoint is not a missing one: rows may have been sent.
            if data is not None:
                checkpoints[partition] = read_stored(
                    data, Checkpoint.from_json, "a checkpoint", todo=MEND_PLAN, file=path
                )
        return checkpoints

    def _tries(self, plan: Plan, partition: int) -> FileValues:
        return FileValues(self._files, f"{_plan_folder(plan.sync, plan.plan_id)}/try-{partition}")

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:  # noqa: ARG002 - see plan.json
        folder = _plan_folder(plan.sync, plan.plan_id)
        history = self._history(plan.sync)
        stored = self._stored(plan.sync, plan.plan_id)
        # The history is the last table of a commit: if it has the plan, so have the others.
        if not history.made_by(plan.plan_id):
            if stored is None:
                raise change_set.plan_gone()
            change_log = self._change_log(plan.sync) if self._logs_changes else None
            with self._scratch() as work:
                runner = commit.LakeCommitRunner(
                    work,
                    stored,
                    checkpoint,
                    folder=f"{folder}/changes",
                    snapshot=self._snapshot(plan.sync),
                    rejections=self._rejections(plan.sync),
                    history=history,
                    change_log=change_log,
                    kept=self._kept,
                )
                if not stored.cursor_type:  # a plan of format 1
                    stored = replace(stored, cursor_type=work.columns("changes").get("w", ""))
                statement = commit_statement(stored, checkpoint, dialect="duckdb", instant="TIMESTAMPTZ")
                commit_plan(runner, statement, stored, report)
            self._shorten_log(plan)
        self._delete(plan)

    def discard(self, plan: Plan) -> None:
        self._delete(plan)

    def acquire(
        self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None, label: str = ""
    ) -> int:
        return leases.acquire(self._lease(sync), sync, holder, now=now, seconds=seconds, fence=fence, label=label)

    def release(self, sync: str, *, fence: int) -> None:
        leases.release(self._lease(sync), fence=fence)

    def writers(self, address: str) -> dict[str, datetime]:
        found = self._files.times(_writers_of(address))
        # A file that is being written has another name for a moment.
        return {sync: last for sync, last in found.items() if not sync.startswith(".")}

    def register_writer(self, sync: str, address: str, now: datetime) -> None:
        folder = _writers_of(address)
        # One file for each sync, which no other sync changes.
        known = self._registered(sync)
        for path in known.keys() - {f"{folder}/{sync}"}:
            self._files.delete(path)
        last = known.get(f"{folder}/{sync}")
        if last is None or now - last > timedelta(days=1):
            self._files.write(f"{folder}/{sync}", json.dumps({"sync": sync, "address": address}).encode())

    def _registered(self, sync: str) -> dict[str, datetime]:
        """Return the files that register a sync as a writer, and when they were written."""
        found = self._files.times("writers")
        return {f"writers/{path}": time for path, time in found.items() if path.partition("/")[2] == sync}

    # -- state as a thing of its own -------------------------------------------------------------------------------

    def syncs(self) -> list[SyncState]:
        """Describe the state of every sync, by name."""
        # What is left of a forgotten sync is its lease, whose number must not come back.
        names = [name for name in self._files.list("syncs") if self._files.list(_folder(name)) != ["lease"]]
        with self._scratch() as work:
            return [self._described(work, name) for name in names]

    def _described(self, work: Scratch, sync: str) -> SyncState:
        history = self._history(sync)
        state = commit.saved_state(history)
        return SyncState(
            sync,
            rows=self._snapshot(sync).rows,
            bytes=sum(self._files.sizes(_folder(sync)).values()),
            format=state.format if state else None,
            destination=state.address if state else "",
            last_run=planned_at(_last_plan(work, history)),
        )

    def forget(self, sync: str, *, force: bool = False) -> None:
        """Delete the state of a sync. Repeat it if it was interrupted.

        :param force: also while a run of the sync is at work, which then stops.
        :raises ConfigurationError: the sync has no state.
        :raises RunConflictError: a run of the sync is at work.
        """
        names = self._names(sync)
        with leases.held(self._lease(sync), sync, force=force):
            self._delete_state(sync, names)
            self._files.delete(f"recipes/{sync}.json")  # see stores/recipes.py

    def forget_plans(self, sync: str, *, force: bool = False) -> int:
        """Delete the plans of a sync that are not committed, damaged ones too. Repeat it if it was interrupted.

        Which of their rows were sent is lost with them.

        :param force: also while a run of the sync is at work, which then stops.
        :returns: number of plans.
        :raises ConfigurationError: the sync has no state.
        :raises RunConflictError: a run of the sync is at work.
        """
        self._names(sync)
        runs = f"{_folder(sync)}/runs"
        with leases.held(self._lease(sync), sync, force=force):
            plans = self._files.list(runs)
            self._files.delete(runs)
        return len(plans)

    def forget_record(self, sync: str, key: str, *, by_identifier: bool = False) -> dict[str, int]:
        """Delete one record from snapshot, rejections and change log. Repeat it if it was interrupted.

        :param key: primary key or identifier, see :class:`~airflow_reverse_etl.sql.statements.erasure.OneRecord`.
        :returns: name of each table → number of deleted rows.
        :raises ConfigurationError: the sync has no state.
        :raises RunConflictError: a run of the sync is at work, or is not finished.
        """
        names = self._names(sync)
        record = OneRecord(key, by_identifier, "duckdb")
        mark = _mark()
        with leases.held(self._lease(sync), sync), self._scratch() as work:
            if self.unfinished(sync):
                raise unfinished_run(sync)
            self._files.delete(f"{_folder(sync)}/runs")  # what interrupted planners have left
            # Find the record.
            snapshot = self._snapshot(sync)
            snapshot.view(work, "snapshot")
            digests = work.execute(record.digests())
            in_snapshot = record.in_snapshot(digests)
            if not by_identifier:
                digests = work.execute(f"SELECT key_hi, key_lo FROM snapshot WHERE {in_snapshot}")
            anywhere = record.anywhere(digests)
            # Delete it. The snapshot comes last, because it leads to the record's identifier.
            erased = {"change_log": 0}
            if "change_log" in names:
                erased["change_log"] = self._change_log(sync).erase(work, anywhere)
            erased["rejections"] = _erase(work, self._rejections(sync), anywhere, mark)
            erased["snapshot"] = _erase(work, snapshot, in_snapshot, mark)
            self._save_rows(work, sync, mark)
        return erased

    def rejections(self, sync: str) -> list[RejectedRow]:
        """Return the rows of a sync that its destination refused, by primary key.

        :raises ConfigurationError: the sync has no state.
        """
        self._names(sync)
        with self._scratch() as work:
            self._rejections(sync).view(work, "rejections")
            return [RejectedRow.from_row(row) for row in work.execute(REJECTED_ROWS.format(table="rejections"))]

    def past_runs(self, sync: str, *, limit: int) -> list[PastRun]:
        """Return the last committed runs of a sync, the last one first.

        :raises ConfigurationError: the sync has no state.
        """
        self._names(sync)
        history = self._history(sync)
        with self._scratch() as work:
            history.view(work, "history")
            rows = work.execute(PAST_RUNS.format(table="history", where="1 = 1", limit=limit))
        return [PastRun.from_row(row) for row in rows]

    def release_record(self, sync: str, key: str, *, by_identifier: bool = False) -> int:
        """Delete the rejections of one record, so that the next run tries it again; return their number.

        The parameters and errors are those of :meth:`forget_record`.
        """
        return self._change_rejections(sync, OneRecord(key, by_identifier, "duckdb"), "", _RELEASED)

    def dismiss_record(self, sync: str, key: str, *, by_identifier: bool = False) -> int:
        """Count a rejected record as given up no more, and do not try it again until it changes; return its rejections.

        The parameters and errors are those of :meth:`forget_record`.
        """
        record = OneRecord(key, by_identifier, "duckdb")
        return self._change_rejections(sync, record, _ONLY_REJECTED, _DISMISSED)

    def release_records(self, sync: str, names: Sequence[str] | None) -> int:
        """Do :meth:`release_record` with several records.

        :param names: of the records, as :attr:`RejectedRow.record` has them; None for all.
        """
        return self._change_rejections(sync, NamedRecords(None if names is None else tuple(names)), "", _RELEASED)

    def dismiss_records(self, sync: str, names: Sequence[str] | None) -> int:
        """Do :meth:`dismiss_record` with several records, which are named as in :meth:`release_records`."""
        return self._change_rejections(
            sync, NamedRecords(None if names is None else tuple(names)), _ONLY_REJECTED, _DISMISSED
        )

    def _change_rejections(self, sync: str, record: OneRecord | NamedRecords, also: str, select: str) -> int:
        """Replace the rejections by a SELECT with a place for the condition of a record; return the number it meets."""
        self._names(sync)
        mark = _mark()
        with leases.held(self._lease(sync), sync), self._scratch() as work:
            if self.unfinished(sync):
                raise unfinished_run(sync)
            digests = work.execute(record.digests()) if record.by_identifier else []
            condition = f"({record.anywhere(digests)}){also}"
            table = self._rejections(sync)
            table.view(work, "rejections")
            [(rows,)] = work.execute(f"SELECT COUNT(*) FROM rejections WHERE {condition}")
            if rows:
                table.replace(work, select.format(condition), mark)
        return int(rows)

    def copy(self, sync: str, target: LakeStore) -> None:
        """Copy the state of a sync to another place, unless the place has it already. Repeat it if it was interrupted.

        :raises ConfigurationError: the sync has no state here, or other state there.
        :raises RunConflictError: a run of the sync is at work, or is not finished.
        """
        names = self._names(sync)
        with leases.held(self._lease(sync), sync):
            self._copy_once(sync, names, target)

    def adopt(self, sync: str, source: LakeStore) -> None:
        """Move the state of a sync here from another place. Repeat it if it was interrupted.

        :raises ConfigurationError: the sync has no state there, or other state here.
        :raises RunConflictError: a run of the sync is at work there, or is not finished.
        """
        names = source._names(sync)
        with leases.held(source._lease(sync), sync):
            source._copy_once(sync, names, self)
            source._delete_state(sync, names)

    def _copy_once(self, sync: str, names: Sequence[str], target: LakeStore) -> None:
        if self.unfinished(sync):
            raise unfinished_run(sync)
        if not target.has_state(sync):
            self._copy(sync, names, target)
        elif not target._is_copy(sync, self):
            raise other_state(sync)

    def _copy(self, sync: str, names: Sequence[str], target: LakeStore) -> None:
        """Copy the state of a sync to a place without state of it."""
        history = self._history(sync)
        state = commit.saved_state(history)
        if not history.generation or not state:
            raise no_state(sync)
        # Delete what an interrupted copy has left.
        folder = _folder(sync)
        for name in target._files.list(folder):
            if name != "lease":
                target._files.delete(f"{folder}/{name}")
        # Copy the other tables.
        for name in set(names) - {"history", "runs"}:
            for path in self._files.sizes(f"{folder}/{name}"):
                self._files.copy(f"{folder}/{name}/{path}", target._files)
        # Write the history, in one step: from here on, the target has state.
        with self._scratch() as work:
            last = _last_plan(work, history)
            runs = work.connection.sql("FROM history").to_arrow_table()
        with target._scratch() as work:
            work.connection.register("history", runs)
            saved = {commit.STATE: json.dumps(state.to_json())}
            target._history(sync).replace(work, "SELECT * FROM history", last, saved)

    def _is_copy(self, sync: str, source: LakeStore) -> bool:
        """Return whether the state here has the last run of the state in another place."""
        with source._scratch() as work:
            last = _last_plan(work, source._history(sync))
        with self._scratch() as work:
            self._history(sync).view(work, "history")
            return bool(work.execute("SELECT 1 FROM history WHERE plan_id = ?", [last]))

    def _delete_state(self, sync: str, names: Sequence[str]) -> None:
        for path in self._registered(sync):
            self._files.delete(path)
        # The history is the last to go: until then, the sync's next run finds that its snapshot is lost.
        for name in sorted(names, key=lambda name: name == "history"):
            self._files.delete(f"{_folder(sync)}/{name}")

    def _save_rows(self, work: Scratch, sync: str, mark: str) -> None:
        """Save the number of rows in the snapshot, so that a snapshot that has become empty does not count as lost."""
        history = self._history(sync)
        state = commit.saved_state(history)
        rows = self._snapshot(sync).rows
        if state and state.rows != rows:
            saved = {commit.STATE: json.dumps(replace(state, rows=rows).to_json())}
            history.view(work, "history")
            history.replace(work, "SELECT * FROM history", mark, saved)

    def _names(self, sync: str) -> list[str]:
        """Return the names in a sync's folder, except its lease.

        :raises ConfigurationError: the sync has no state.
        """
        names = [name for name in self._files.list(_folder(sync)) if name != "lease"]
        if not names:
            raise no_state(sync)
        return names

    def _lease(self, sync: str) -> FileValues:
        return FileValues(self._files, f"{_folder(sync)}/lease")

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _scratch(self) -> contextlib.AbstractContextManager[Scratch]:
        return scratch(self._files, memory_limit=self._memory_limit, threads=self._threads, folder=self._scratch_folder)

    def _history(self, sync: str) -> DeltaFile:
        return DeltaFile(self._files, f"{_folder(sync)}/history", committing.HISTORY)

    def _snapshot(self, sync: str) -> DeltaFile:
        return DeltaFile(self._files, f"{_folder(sync)}/snapshot", committing.SNAPSHOT)

    def _rejections(self, sync: str) -> DeltaFile:
        return DeltaFile(self._files, f"{_folder(sync)}/rejections", committing.REJECTIONS)

    def _change_log(self, sync: str) -> DeltaLog:
        return DeltaLog(self._files, f"{_folder(sync)}/change_log", committing.CHANGE_LOG)

    def _shorten_log(self, plan: Plan) -> None:
        """Delete old rows of the change log, also if it is no longer enabled."""
        if self._files.list(f"{_folder(plan.sync)}/change_log"):
            self._change_log(plan.sync).forget((plan.created_at - self._kept).strftime(_PLAN_ID_TIME))

    def _stored(self, sync: str, plan_id: str) -> StoredPlan | None:
        """Read plan.json; None if the plan does not exist.

        :raises StateError: a newer version of this package made the plan, or its file is damaged.
        """
        path = f"{_plan_folder(sync, plan_id)}/plan.json"
        data = self._files.read(path)
        if data is None:
            return None
        return read_stored(data, StoredPlan.from_json, "a plan", todo=MEND_PLAN, file=path)

    def _delete(self, plan: Plan) -> None:
        """Delete the plan: plan.json first, so that an interrupted deletion does not leave a plan."""
        folder = _plan_folder(plan.sync, plan.plan_id)
        self._files.delete(f"{folder}/plan.json")
        self._files.delete(folder)

    def _delete_interrupted(self, sync: str, now: datetime) -> None:
        """Delete folders that interrupted planners and deletions have left."""
        runs = f"{_folder(sync)}/runs"
        oldest = (now - _INTERRUPTED_AFTER).strftime(_PLAN_ID_TIME)
        for plan_id in self._files.list(runs):
            if plan_id < oldest and self._files.read(f"{runs}/{plan_id}/plan.json") is None:
                self._files.delete(f"{runs}/{plan_id}")


def _last_plan(work: Scratch, history: DeltaFile) -> str:
    """Make the history a relation, and return the id of the last committed plan; empty if there was none."""
    history.view(work, "history")
    [(last,)] = work.execute("SELECT MAX(plan_id) FROM history")
    return last or ""


def _mark() -> str:
    """Return the id of a change by a command, in the form of a plan's id."""
    return f"{datetime.now(UTC).strftime(_PLAN_ID_TIME)}-{secrets.token_hex(4)}"


def _erase(work: Scratch, table: DeltaFile, condition: str, mark: str) -> int:
    """Delete the rows of a table that meet a condition; return their number."""
    table.view(work, "erased")
    [(rows,)] = work.execute(f"SELECT COUNT(*) FROM erased WHERE {condition}")
    if rows:
        table.replace(work, f"SELECT * FROM erased WHERE ({condition}) IS NOT TRUE", mark)
    table.delete_unused()  # also what an interrupted call has left
    return int(rows)


def _writers_of(address: str) -> str:
    """Return the folder of the syncs that write to a destination."""
    return f"writers/{hashlib.sha256(address.encode()).hexdigest()[:16]}"


def _folder(sync: str) -> str:
    return f"syncs/{sync}"


def _plan_folder(sync: str, plan_id: str) -> str:
    return f"{_folder(sync)}/runs/{plan_id}"
