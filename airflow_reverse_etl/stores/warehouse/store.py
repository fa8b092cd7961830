"""State as tables in the warehouse that has the model: only changed rows leave it. :mod:`.schema` has the tables.

The plan statement, the commit and the lease run in the warehouse, as distributed as the warehouse is.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import RunReport
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sql.statements.classification import DISMISSED
from airflow_reverse_etl.sql.statements.erasure import NamedRecords, OneRecord, record_name
from airflow_reverse_etl.sql.statements.plan import PlanStatement
from airflow_reverse_etl.stores import leases
from airflow_reverse_etl.stores.lake import change_set
from airflow_reverse_etl.stores.state import (
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
from airflow_reverse_etl.stores.warehouse.change_reading import ChangeReading
from airflow_reverse_etl.stores.warehouse.commit import WarehouseCommitRunner, saved_state
from airflow_reverse_etl.stores.warehouse.compare_and_set import TableValues
from airflow_reverse_etl.stores.warehouse.database import Database, Session
from airflow_reverse_etl.stores.warehouse.planner import WarehousePlanRunner, model_types
from airflow_reverse_etl.stores.warehouse.plans import OpenPlans, run_of
from airflow_reverse_etl.stores.warehouse.schema import OWN, SHARED, Tables
from airflow_reverse_etl.sync.committing import commit_plan, commit_statement, invalid_keys
from airflow_reverse_etl.sync.load.values import with_kinds
from airflow_reverse_etl.sync.planning import BuiltPlan, build_plan, statement_for, stored_plan
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.progress import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

#: Changes of rejections, without their WHERE.
_RELEASE = "DELETE FROM {table}"
_DISMISS = f"UPDATE {{table}} SET outcome = '{DISMISSED}'"
_ONLY_REJECTED = " AND outcome = 'rejected'"


class WarehouseStore(StateStore):
    """Snapshot, plans, checkpoints, rejections and history of all syncs of one warehouse, in a schema of ours.

    Safe to use from several threads. It cannot read a model of another warehouse.

    :param connect: makes a DB-API connection that may create tables in ``schema``.
    :param open_warehouse: opens a reader of the same warehouse. Each reading of a change set opens its own.
    :param dialect: ``postgres``, ``redshift``, ``snowflake``, ``bigquery``, ``databricks`` or ``duckdb``.
    :param schema: made when it is missing.
    :param history: how long runs, and the change log, are kept.
    :param change_log: whether to log the outcome of each row that was sent: hashes, keys and outcomes, no values.
    :raises CredentialsError: from every method, when a privilege is missing, with the statement that grants it.
    :raises UnreachableError: from every method, when the warehouse does not answer.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        open_warehouse: Callable[[], Warehouse],
        *,
        dialect: str,
        schema: str = "reverse_etl",
        history: timedelta = timedelta(days=365),
        change_log: bool = False,
    ) -> None:
        if dialect not in PLANNERS:
            raise ConfigurationError(
                f"state cannot be kept in a warehouse of type {dialect!r}",
                todo=f"set `planner: local` in the sync; only these warehouses can keep state: {', '.join(PLANNERS)}",
            )
        self._open_warehouse = open_warehouse
        self._database = Database(connect, PLANNERS[dialect])
        self._tables = Tables(self._database, schema)
        self._open_plans = OpenPlans(self._tables)
        self._history = history
        self._logs_changes = change_log

    def close(self) -> None:
        """Close the idle connections. The store makes new ones when needed."""
        self._database.close()

    def has_state(self, sync: str) -> bool:
        """Return whether this sync has a committed or unfinished run. Does not make tables."""
        with self._tables.errors(sync):
            return self._tables.exist() and any(
                self._database.run(f"SELECT 1 FROM {self._tables[table]} WHERE sync = {self._text(sync)} LIMIT 1")
                for table in ("runs", "plans")
            )

    def make_tables(self) -> None:
        """Make the schema and the tables that all syncs share, if they are missing."""
        with self._tables.errors():
            self._tables.make()

    def model_rows(self, query: str, sync: Sync, *, at_most: int) -> int:
        """Return the number of rows of a sync's model, counted up to ``at_most``.

        :raises SpecError: the query is not a single SELECT.
        """
        query = single_select(query, self._database.sql.name, sync)
        with self._tables.errors(sync.name):
            [(rows,)] = self._database.run(
                f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM (\n{query}\n) AS model LIMIT {at_most}) AS counted"
            )
        return int(rows)

    # -- plans -----------------------------------------------------------------------------------------------------

    def unfinished(self, sync: str) -> Sequence[Plan]:
        with self._tables.errors(sync):
            return self._open_plans.ready(sync)

    def last_report(self, sync: str, run_id: str) -> RunReport | None:
        with self._tables.errors(sync):
            self._tables.make()
            found = self._database.run(
                f"SELECT report FROM {self._tables['runs']} WHERE sync = {self._text(sync)}"
                f" AND run_id = {self._text(run_id)} ORDER BY committed_at DESC, plan_id DESC LIMIT 1"
            )
        if not found:
            return None
        return read_stored(found[0][0], RunReport.from_json, "the report of a run", todo=MEND_STATE, sync=sync)

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        sync = request.sync
        dialect = self._database.sql.name
        # Load the state.
        with self._tables.errors(sync.name):
            self._tables.make()
            own = self._tables.make_own(sync.name)
            self._open_plans.drop_interrupted(sync.name, request.now)
            with self._database.session() as session:
                generation, before = saved_state(session, self._tables, self._tables[f"{own}_state"], sync.name)
                [(rows,)] = session.run(f"SELECT COUNT(*) FROM {self._tables[f'{own}_snapshot']}")
                lowers = sync.hashes_emails or (sync.identified_by and request.ignore_case)
                collation = self._collation(session) if lowers else ""
        # Build the plan statement.
        statement = statement_for(
            request, warehouse, before, snapshot_rows=int(rows), planner=dialect, collation=collation
        )
        # Run it.
        with self._tables.errors(sync.name):
            run = secrets.token_hex(6)
            plan_id = f"{request.now:%Y%m%dT%H%M%S%f}-{run}"
            self._open_plans.begin(plan_id, request)
            try:
                with self._database.session() as session:
                    built = self._build(session, statement, own=own, run=run, rows=int(rows), now=request.now)
                stored = stored_plan(request, plan_id, statement, built, snapshot_rows=int(rows), generation=generation)
                self._open_plans.make_ready(stored, request)
                return stored.plan
            except BaseException:
                with contextlib.suppress(SqlError):  # a later plan deletes what is left
                    self._open_plans.drop(own, plan_id)
                raise

    def _collation(self, session: Session) -> str:
        """Return the collation that lowers text; empty if the database does not have it."""
        sql = self._database.sql
        return sql.collation if sql.has_collation and session.run(sql.has_collation) else ""

    def _build(
        self, session: Session, statement: PlanStatement, *, own: str, run: str, rows: int, now: datetime
    ) -> BuiltPlan:
        """Build the change set, in a transaction if CREATE TABLE can be part of one."""
        types, kinds = model_types(session, self._tables, statement, own=own, run=run)
        runner = WarehousePlanRunner(self._tables, session, types, kinds, own=own, run=run)
        together: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._database.sql.plan_in_transaction:
            together = session.transaction(one_moment=True)
        with together:
            built = build_plan(runner, statement, snapshot_rows=rows, now=now)
            runner.drop_helpers()
        return built

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Generator[pa.RecordBatch, None, None]:
        with self._tables.errors(plan.sync):
            own = self._tables.make_own(plan.sync)
            stored = self._open_plans.stored(plan)
        if stored is None:
            raise change_set.plan_gone()
        last = plan.total if until is None else until
        if last <= after:
            return
        # Only removals need identifiers. In a model without a primary key, only the sequence number names a row.
        string = self._tables.sql.types["VARCHAR"]
        names = ["seq", "change", "key", *stored.values, "identifiers"]
        values = "".join(f"{name}, " for name in stored.values)
        table = self._tables[f"{own}_changes_{run_of(plan)}"]

        def query(after: int, until: int) -> str:
            return (
                f"SELECT seq, change, COALESCE(row_key, CAST(seq AS {string})) AS row_key,"
                f" {values}"
                "CASE WHEN change = 'removed' THEN identifiers END AS identifiers"
                f" FROM {table} WHERE seq > {after} AND seq <= {until} ORDER BY seq"
            )

        reading = ChangeReading(self._open_warehouse, query, names, range_rows=self._tables.sql.range_rows)
        for batch in reading.read(after, last):
            yield with_kinds(batch, stored.value_kinds)

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> dict[int, tuple[str, ...] | None]:
        last = plan.total if until is None else until
        with self._tables.errors(plan.sync):
            own = self._tables.make_own(plan.sync)
            stored = self._open_plans.stored(plan)
            if stored is None:
                raise change_set.plan_gone()
            now = "c.field_hashes" if "field_hashes" in stored.columns else "NULL"
            rows = self._database.run(
                f"SELECT c.seq, s.field_hashes, {now} FROM {self._tables[f'{own}_changes_{run_of(plan)}']} AS c"
                f" JOIN {self._tables[f'{own}_snapshot']} AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo"
                f" WHERE c.change = 'changed' AND c.seq > {after} AND c.seq <= {last} ORDER BY c.seq"
            )
        return {int(seq): field_hashes.changed(sync, before, now) for seq, before, now in rows}

    def sequence_numbers(self, plan: Plan, records: Collection[str]) -> dict[str, int]:
        named = NamedRecords(tuple(records))
        with self._tables.errors(plan.sync):
            own = self._tables.make_own(plan.sync)
            if self._open_plans.stored(plan) is None:
                raise change_set.plan_gone()
            table = self._tables[f"{own}_changes_{run_of(plan)}"]
            sent = f"seq BETWEEN 1 AND {plan.total}"
            rows = self._database.run(
                f"SELECT key_hi, key_lo, seq FROM {table} WHERE {sent} AND ({named.anywhere(())})"
            )
        return {record_name(int(hi), int(lo)): int(seq) for hi, lo, seq in rows}

    def invalid_keys(self, plan: Plan, *, count: int) -> dict[str, list[str]]:
        with self._tables.errors(plan.sync):
            own = self._tables.make_own(plan.sync)
            table = self._tables[f"{own}_changes_{run_of(plan)}"]
            return invalid_keys(plan, table, self._database.run, count=count)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def begin_try(self, plan: Plan, *, partition: int = 0) -> int:
        with self._tables.errors(plan.sync):
            return leases.next_number(self._open_plans.tries(plan, partition))

    def last_try(self, plan: Plan, *, partition: int = 0) -> int:
        with self._tables.errors(plan.sync):
            _, values = self._open_plans.tries(plan, partition).read()
            return leases.last_number(values)

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        with self._tables.errors(plan.sync):
            return self._open_plans.checkpoints(plan).get(partition, Checkpoint())

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0, try_number: int = 0) -> None:
        with self._tables.errors(plan.sync):
            self._open_plans.save_checkpoint(plan, checkpoint, partition=partition, try_number=try_number)

    def checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        with self._tables.errors(plan.sync):
            return self._open_plans.checkpoints(plan)

    # -- the end of a run ------------------------------------------------------------------------------------------

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: RunReport, sync: Sync) -> None:  # noqa: ARG002 - the plan knows
        with self._tables.errors(plan.sync):
            stored = self._open_plans.stored(plan)
            own = self._tables.make_own(plan.sync)
            if not self._committed(plan.plan_id):
                if stored is None:
                    raise change_set.plan_gone()
                statement = commit_statement(
                    stored,
                    checkpoint,
                    dialect=self._database.sql.name,
                    instant=self._database.sql.types["TIMESTAMPTZ"],
                )
                with self._database.session() as session:
                    runner = WarehouseCommitRunner(
                        self._tables,
                        session,
                        stored,
                        checkpoint,
                        own=own,
                        run=run_of(plan),
                        history=self._history,
                        change_log=self._logs_changes,
                    )
                    runner.prepare(statement)
                    with session.transaction():
                        commit_plan(runner, statement, stored, report)
            self._open_plans.drop(own, plan.plan_id)

    def discard(self, plan: Plan) -> None:
        with self._tables.errors(plan.sync):
            self._open_plans.drop(self._tables.make_own(plan.sync), plan.plan_id)

    def acquire(
        self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None, label: str = ""
    ) -> int:
        with self._tables.errors(sync):
            self._tables.make()
            values = TableValues(self._tables, sync)
            return leases.acquire(values, sync, holder, now=now, seconds=seconds, fence=fence, label=label)

    def release(self, sync: str, *, fence: int) -> None:
        with self._tables.errors(sync):
            leases.release(TableValues(self._tables, sync), fence=fence)

    def writers(self, address: str) -> dict[str, datetime]:
        with self._tables.errors():
            if not self._tables.exists("writers"):
                return {}
            rows = self._database.run(
                f"SELECT sync, MAX(written_at) FROM {self._tables['writers']} WHERE address = {self._text(address)}"
                " GROUP BY sync"
            )
        return dict(rows)

    def register_writer(self, sync: str, address: str, now: datetime) -> None:
        table = self._tables["writers"]
        mine = f"sync = {self._text(sync)}"
        with self._tables.errors(sync):
            self._tables.make_writers()
            moment = self._tables.instant(now)
            yesterday = self._tables.instant(now - timedelta(days=1))
            rows = self._database.run(
                f"SELECT address FROM {table} WHERE {mine}"
                f" AND (address <> {self._text(address)} OR written_at > {yesterday})"
            )
            if rows == [(address,)]:
                return
            with self._database.session() as session, session.transaction():
                session.run(f"DELETE FROM {table} WHERE {mine}")
                session.run(
                    f"INSERT INTO {table} (sync, address, written_at)"
                    f" SELECT {self._text(sync)}, {self._text(address)}, {moment}"
                )

    # -- state as a thing of its own -------------------------------------------------------------------------------

    def syncs(self) -> list[SyncState]:
        """Describe the state of every sync, by name."""
        with self._tables.errors():
            if not self._tables.exist():
                return []
            names = self._database.run(f"SELECT sync FROM {self._tables['syncs']} GROUP BY sync ORDER BY sync")
            return [self._described(name) for (name,) in names]

    def _described(self, sync: str) -> SyncState:
        own = self._tables.make_own(sync)
        with self._database.session() as session:
            _, state = saved_state(session, self._tables, self._tables[f"{own}_state"], sync)
            [(rows,)] = session.run(f"SELECT COUNT(*) FROM {self._tables[f'{own}_snapshot']}")
        return SyncState(
            sync,
            rows=int(rows),
            bytes=None,
            format=state.format if state else None,
            destination=state.address if state else "",
            last_run=planned_at(self._last_plan(sync)),
        )

    def forget(self, sync: str, *, force: bool = False) -> None:
        """Delete the state of a sync: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.forget`."""
        with self._tables.errors(sync):
            self._check_known(sync)
            with leases.held(TableValues(self._tables, sync), sync, force=force):
                self._delete_state(sync)

    def forget_plans(self, sync: str, *, force: bool = False) -> int:
        """Delete uncommitted plans: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.forget_plans`."""
        with self._tables.errors(sync):
            self._check_known(sync)
            with leases.held(TableValues(self._tables, sync), sync, force=force):
                return self._open_plans.drop_all(sync)

    def forget_record(self, sync: str, key: str, *, by_identifier: bool = False) -> dict[str, int]:
        """Delete one record: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.forget_record`."""
        with self._tables.errors(sync):
            self._check_known(sync)
            own = self._tables.make_own(sync)
            with leases.held(TableValues(self._tables, sync), sync):
                if self.unfinished(sync):
                    raise unfinished_run(sync)
                self._open_plans.drop_all(sync)  # what interrupted planners have left
                with self._database.session() as session, session.transaction():
                    record = OneRecord(key, by_identifier, self._database.sql.name, self._collation(session))
                    return self._erase(session, sync, own, record)

    def rejections(self, sync: str) -> list[RejectedRow]:
        """Return rejected rows: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.rejections`."""
        with self._tables.errors(sync):
            self._check_known(sync)
            own = self._tables.make_own(sync)
            rows = self._database.run(REJECTED_ROWS.format(table=self._tables[f"{own}_rejections"]))
        return [RejectedRow.from_row(row) for row in rows]

    def past_runs(self, sync: str, *, limit: int) -> list[PastRun]:
        """Return the last runs: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.past_runs`."""
        with self._tables.errors(sync):
            self._check_known(sync)
            where = f"sync = {self._text(sync)}"
            rows = self._database.run(PAST_RUNS.format(table=self._tables["runs"], where=where, limit=limit))
        return [PastRun.from_row(row) for row in rows]

    def release_record(self, sync: str, key: str, *, by_identifier: bool = False) -> int:
        """Try a record again: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.release_record`."""
        return self._change_rejections(sync, OneRecord(key, by_identifier, self._database.sql.name), "", _RELEASE)

    def dismiss_record(self, sync: str, key: str, *, by_identifier: bool = False) -> int:
        """Stop counting a record: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.dismiss_record`."""
        record = OneRecord(key, by_identifier, self._database.sql.name)
        return self._change_rejections(sync, record, _ONLY_REJECTED, _DISMISS)

    def release_records(self, sync: str, names: Sequence[str] | None) -> int:
        """Try records again: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.release_records`."""
        return self._change_rejections(sync, NamedRecords(None if names is None else tuple(names)), "", _RELEASE)

    def dismiss_records(self, sync: str, names: Sequence[str] | None) -> int:
        """Stop counting records: :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.dismiss_records`."""
        records = NamedRecords(None if names is None else tuple(names))
        return self._change_rejections(sync, records, _ONLY_REJECTED, _DISMISS)

    def _change_rejections(self, sync: str, record: OneRecord | NamedRecords, also: str, statement: str) -> int:
        """Apply a statement, without its WHERE, to the rejections of a record; return their number."""
        with self._tables.errors(sync):
            self._check_known(sync)
            table = self._tables[f"{self._tables.make_own(sync)}_rejections"]
            with leases.held(TableValues(self._tables, sync), sync):
                if self.unfinished(sync):
                    raise unfinished_run(sync)
                with self._database.session() as session, session.transaction():
                    found = session.run(record.digests()) if record.by_identifier else []
                    digests = [(int(hi), int(lo)) for hi, lo in found]
                    condition = f"({record.anywhere(digests)}){also}"
                    [(rows,)] = session.run(f"SELECT COUNT(*) FROM {table} WHERE {condition}")
                    session.run(f"{statement.format(table=table)} WHERE {condition}")
        return int(rows)

    def adopt(self, sync: str, source: WarehouseStore) -> None:
        """Move the state of a sync here from another schema of the same database.

        See :meth:`airflow_reverse_etl.stores.lake.store.LakeStore.adopt`.
        """
        with self._tables.errors(sync):
            source._check_known(sync)
            with leases.held(TableValues(source._tables, sync), sync):
                if source.unfinished(sync):
                    raise unfinished_run(sync)
                last = source._last_plan(sync)
                if not self.has_state(sync):
                    source._copy(sync, self)
                # An interrupted deletion has left no runs.
                elif last and not self._committed(last):
                    raise other_state(sync)
                source._delete_state(sync)

    def _copy(self, sync: str, target: WarehouseStore) -> None:
        """Copy the state of a sync to a schema without state of it."""
        if not self._last_plan(sync):
            raise no_state(sync)
        self._tables.make_own(sync)
        target.make_tables()
        target._tables.drop_own(sync)  # what an interrupted copy has left
        own = target._tables.make_own(sync)
        everything = {f"{own}_{name}": (columns, "1 = 1") for name, columns in OWN.items()}
        mine = f"sync = {self._text(sync)}"
        # With the runs, which are the last, the target has state.
        everything |= {name: (SHARED[name], mine) for name in ("change_log", "runs")}
        for name, (columns, where) in everything.items():
            listed = ", ".join(columns)
            self._database.run(f"DELETE FROM {target._tables[name]} WHERE {where}")
            self._database.run(
                f"INSERT INTO {target._tables[name]} ({listed}) SELECT {listed} FROM {self._tables[name]} WHERE {where}"
            )

    def _delete_state(self, sync: str) -> None:
        # The runs go first: without them, the sync has no state. Its name goes last: it leads to what is left.
        self._open_plans.drop_all(sync)
        names = ["runs", "change_log"]
        if self._tables.exists("writers"):
            names.append("writers")
        for table in names:
            self._database.run(f"DELETE FROM {self._tables[table]} WHERE sync = {self._text(sync)}")
        self._tables.drop_own(sync)

    def _last_plan(self, sync: str) -> str:
        """Return the id of the last committed plan; empty if there was none."""
        [(last,)] = self._database.run(
            f"SELECT MAX(plan_id) FROM {self._tables['runs']} WHERE sync = {self._text(sync)}"
        )
        return last or ""

    def _erase(self, session: Session, sync: str, own: str, record: OneRecord) -> dict[str, int]:
        snapshot = self._tables[f"{own}_snapshot"]
        # Find the record.
        digests = [(int(hi), int(lo)) for hi, lo in session.run(record.digests())]
        in_snapshot = record.in_snapshot(digests)
        if not record.by_identifier:
            found = session.run(f"SELECT key_hi, key_lo FROM {snapshot} WHERE {in_snapshot}")
            digests = [(int(hi), int(lo)) for hi, lo in found]
        anywhere = record.anywhere(digests)
        # Delete it. The snapshot comes last, because it leads to the record's identifier.
        places = {
            "change_log": (self._tables["change_log"], f"sync = {self._text(sync)} AND ({anywhere})"),
            "rejections": (self._tables[f"{own}_rejections"], anywhere),
            "snapshot": (snapshot, in_snapshot),
        }
        erased = {}
        for name, (table, condition) in places.items():
            [(rows,)] = session.run(f"SELECT COUNT(*) FROM {table} WHERE {condition}")
            session.run(f"DELETE FROM {table} WHERE {condition}")
            erased[name] = int(rows)
        # A snapshot that has become empty does not count as lost.
        table = self._tables[f"{own}_state"]
        _, state = saved_state(session, self._tables, table, sync)
        if state:
            [(left,)] = session.run(f"SELECT COUNT(*) FROM {snapshot}")
            saved = json.dumps(replace(state, rows=int(left)).to_json())
            session.run(f"UPDATE {table} SET remembered = {self._text(saved)} WHERE 1 = 1")
        return erased

    def _check_known(self, sync: str) -> None:
        """Raise ConfigurationError if the sync has no state."""
        where = f"WHERE sync = {self._text(sync)}"
        if not (self._tables.exist() and self._database.run(f"SELECT 1 FROM {self._tables['syncs']} {where}")):
            raise no_state(sync)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _text(self, value: object) -> str:
        return self._tables.text(value)

    def _committed(self, plan_id: str) -> bool:
        return bool(self._database.run(f"SELECT 1 FROM {self._tables['runs']} WHERE plan_id = {self._text(plan_id)}"))
