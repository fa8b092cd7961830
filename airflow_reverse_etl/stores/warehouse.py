"""State as tables in the warehouse that has the model: only changed rows leave it. See :mod:`.tables` for what is kept.

The plan statement, the commit and the lease run in the warehouse, so it is as distributed as the warehouse is.
"""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.errors import (
    ConfigurationError,
    ReverseEtlError,
    RunConflictError,
    StateError,
    UnreachableError,
)
from airflow_reverse_etl.stores import changes, leases
from airflow_reverse_etl.stores.database import PIECE, Database, SqlError
from airflow_reverse_etl.stores.sql_dialects import STATE_SQL
from airflow_reverse_etl.stores.sql_register import SqlRegister
from airflow_reverse_etl.stores.tables import Tables
from airflow_reverse_etl.stores.warehouse_fold import Fold, remembered
from airflow_reverse_etl.stores.warehouse_plan import PLAN_TABLES, Built, PlanBuilder
from airflow_reverse_etl.sync import fields
from airflow_reverse_etl.sync.plan import plan_statement
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, StateStore, Warehouse
from airflow_reverse_etl.sync.receipts import Checkpoint, Planned, Report
from airflow_reverse_etl.sync.spec import Sync
from airflow_reverse_etl.sync.tracking import approach

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1

#: A plan cut short leaves tables. After this long no planner is at work in them any more.
_CUT_SHORT = timedelta(days=1)


class WarehouseStore(StateStore):
    """Snapshot, plans, checkpoints, rejections and history of all syncs of one warehouse, in a schema of ours.

    Safe to use from several threads. What it does not do: read a model of another warehouse.

    :param connect: makes a DB-API connection that may create tables in ``schema``.
    :param open_warehouse: opens what reads from the same warehouse; the change set is read with one of its own.
    :param dialect: ``postgres``, ``redshift``, ``snowflake``, ``bigquery``, ``databricks`` or ``duckdb``.
    :param schema: made when it is missing.
    :param history: how long runs, and the change log, are kept.
    :param change_log: whether to keep what became of each row that was sent: hashes, keys and outcomes, no values.
    :raises CredentialsError: from every method, when a right is missing, with the statement that grants it.
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
        if dialect not in STATE_SQL:
            raise ConfigurationError(
                f"state cannot be kept in a warehouse of type {dialect!r}",
                todo=f"set `planner: local` in the sync; warehouses that can: {', '.join(STATE_SQL)}",
            )
        self._open_warehouse = open_warehouse
        self._database = Database(connect, STATE_SQL[dialect])
        self._tables = Tables(self._database, schema)
        self._history, self._change_log = history, change_log

    def close(self) -> None:
        """Close the connections that are open. More are made when needed."""
        self._database.close()

    def knows(self, sync: str) -> bool:
        """Whether there is a committed or unfinished run of this sync. Makes no table."""
        with self._errors(sync):
            return self._tables.exist() and any(
                self._database.run(f"SELECT 1 FROM {self._tables[table]} WHERE sync = {self._text(sync)} LIMIT 1")
                for table in ("runs", "plans")
            )

    def make_tables(self) -> None:
        """Make the schema and the tables that all syncs share, where they are missing."""
        with self._errors():
            self._tables.make()

    def model_rows(self, query: str, *, at_most: int) -> int:
        """How many rows a SELECT has, counted no further than ``at_most``."""
        with self._errors():
            [(rows,)] = self._database.run(
                f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM (\n{query}\n) AS model LIMIT {at_most}) AS counted"
            )
        return int(rows)

    # -- plans -----------------------------------------------------------------------------------------------------

    def unfinished(self, sync: str) -> Sequence[Plan]:
        with self._errors(sync):
            rows = self._plans(f"sync = {self._text(sync)}")
        return [_plan_from(json.loads(content)) for (content,) in rows]

    def last_report(self, sync: str, run_id: str) -> Report | None:
        with self._errors(sync):
            self._tables.make()
            found = self._database.run(
                f"SELECT report FROM {self._tables['runs']} WHERE sync = {self._text(sync)}"
                f" AND run_id = {self._text(run_id)} ORDER BY committed_at DESC, plan_id DESC LIMIT 1"
            )
        return _report_from(json.loads(found[0][0])) if found else None

    def plan(self, request: PlanRequest, warehouse: Warehouse) -> Plan:
        sync, dialect = request.sync, self._database.sql.name
        with self._errors(sync.name):
            self._tables.make()
            own = self._tables.make_own(sync.name)
            self._delete_cut_short(sync.name, request.now)
            with self._database.session() as session:
                generation, before = remembered(session, self._tables, self._tables[f"{own}_state"], sync.name)
                [(rows,)] = session.run(f"SELECT COUNT(*) FROM {self._tables[f'{own}_snapshot']}")
        statement = plan_statement(
            sync,
            query=request.query,
            primary_key=request.primary_key,
            columns=warehouse.columns(request.query),
            source=dialect,
            planner=dialect,
            approach=approach(request, before, snapshot_rows=int(rows)),
        )
        with self._errors(sync.name):
            run = secrets.token_hex(6)
            plan_id = f"{request.now:%Y%m%dT%H%M%S%f}-{run}"
            self._add_plan(plan_id, request, "begun", "")
            try:
                builder = PlanBuilder(
                    self._tables, statement, own=own, run=run, snapshot_rows=int(rows), now=request.now
                )
                with self._database.session() as session:
                    built = builder.build(session)
                return self._planned(
                    request, built, plan_id, snapshot_rows=int(rows), generation=generation, values=statement.values
                )
            except BaseException:
                with contextlib.suppress(SqlError):  # what is left is deleted by a later plan
                    self._drop(own, plan_id)
                raise

    def changes(self, plan: Plan, *, after: int = 0, until: int | None = None) -> Iterator[pa.RecordBatch]:
        with self._errors(plan.sync):
            own, stored = self._tables.make_own(plan.sync), self._stored(plan)
        if stored is None:
            raise changes.forgotten()
        last = plan.total if until is None else until
        if last <= after:
            return
        string = self._tables.sql.types["VARCHAR"]
        names = ["seq", "change", "key", *stored["values"], "identifiers"]
        query = (
            f"SELECT seq, change, COALESCE(row_key, CAST(seq AS {string})) AS row_key,"
            f" {''.join(f'{name}, ' for name in stored['values'])}"
            "CASE WHEN change = 'removed' THEN identifiers END AS identifiers"
            f" FROM {self._tables[f'{own}_changes_{_run_of(plan)}']}"
            f" WHERE seq > {after} AND seq <= {last} ORDER BY seq"
        )
        warehouse = self._open_warehouse()  # its own, as partitions are read at the same time
        try:
            reader = warehouse.read(query)
            try:
                for batch in reader:
                    yield _typed(batch, names)
            finally:
                reader.close()
                del reader  # it still holds the cursor
        finally:
            warehouse.close()  # ends the transaction, which would keep the table from being dropped

    def changed_fields(
        self, plan: Plan, sync: Sync, *, after: int = 0, until: int | None = None
    ) -> dict[int, tuple[str, ...] | None]:
        last = plan.total if until is None else until
        with self._errors(plan.sync):
            own, stored = self._tables.make_own(plan.sync), self._stored(plan)
            if stored is None:
                raise changes.forgotten()
            now = "c.field_hashes" if stored.get("field_hashes") else "NULL"
            rows = self._database.run(
                f"SELECT c.seq, s.field_hashes, {now} FROM {self._tables[f'{own}_changes_{_run_of(plan)}']} AS c"
                f" JOIN {self._tables[f'{own}_snapshot']} AS s ON s.key_hi = c.key_hi AND s.key_lo = c.key_lo"
                f" WHERE c.change = 'changed' AND c.seq > {after} AND c.seq <= {last} ORDER BY c.seq"
            )
        return {int(seq): fields.changed(sync, before, now) for seq, before, now in rows}

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def load_checkpoint(self, plan: Plan, *, partition: int = 0) -> Checkpoint:
        return self._checkpoints(plan).get(partition, Checkpoint())

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int = 0) -> None:
        table, plan_id = self._tables["checkpoints"], self._text(plan.plan_id)
        content = json.dumps(checkpoint.to_json())
        pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
        where = f"plan_id = {plan_id} AND part = {partition}"
        with self._errors(plan.sync), self._database.session() as session:
            [(last,)] = session.run(f"SELECT COALESCE(MAX(number), 0) FROM {table} WHERE {where}")
            with session.transaction():
                for at, piece in enumerate(pieces):
                    session.run(
                        f"INSERT INTO {table} (plan_id, sync, part, number, piece, pieces, content)"
                        f" SELECT {plan_id}, {self._text(plan.sync)}, {partition}, {int(last) + 1}, {at},"
                        f" {len(pieces)}, {self._text(piece)}"
                    )
                session.run(f"DELETE FROM {table} WHERE {where} AND number <= {int(last)}")

    def checkpoints(self, plan: Plan) -> Sequence[Checkpoint]:
        return list(self._checkpoints(plan).values())

    def _checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        """The newest complete checkpoint of each partition."""
        with self._errors(plan.sync):
            rows = self._database.run(
                f"SELECT part, number, pieces, content FROM {self._tables['checkpoints']}"
                f" WHERE plan_id = {self._text(plan.plan_id)} ORDER BY part, number, piece"
            )
        texts: dict[tuple[int, int, int], list[str]] = {}
        for part, number, pieces, content in rows:
            texts.setdefault((int(part), int(number), int(pieces)), []).append(content)
        return {
            part: Checkpoint.from_json(json.loads("".join(content)))
            for (part, _, pieces), content in texts.items()
            if len(content) == pieces
        }

    # -- the end of a run ------------------------------------------------------------------------------------------

    def commit(self, plan: Plan, checkpoint: Checkpoint, report: Report, sync: Sync) -> None:  # noqa: ARG002 - the plan knows
        with self._errors(plan.sync):
            stored = self._stored(plan)
            own = self._tables.make_own(plan.sync)
            if not self._committed(plan):
                if stored is None:
                    raise changes.forgotten()
                fold = Fold(self._tables, plan, checkpoint, own=own, run=_run_of(plan), stored=stored)
                with self._database.session() as session:
                    fold.prepare(session)
                    with session.transaction():
                        fold.run(session, report, history=self._history, change_log=self._change_log)
            self._drop(own, plan.plan_id)

    def discard(self, plan: Plan) -> None:
        with self._errors(plan.sync):
            self._drop(self._tables.make_own(plan.sync), plan.plan_id)

    def acquire(self, sync: str, holder: str, *, now: datetime, seconds: float, fence: int | None = None) -> int:
        with self._errors(sync):
            self._tables.make()
            register = SqlRegister(self._tables, sync)
            return leases.acquire(register, sync, holder, now=now, seconds=seconds, fence=fence)

    def release(self, sync: str, *, fence: int) -> None:
        with self._errors(sync):
            leases.release(SqlRegister(self._tables, sync), fence=fence)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _text(self, value: object) -> str:
        return self._tables.text(value)

    def _planned(self, request: PlanRequest, built: Built, plan_id: str, *, snapshot_rows: int, **kept: Any) -> Plan:
        """Make it known that the plan can be used. ``kept`` with it: ``generation`` and ``values``."""
        planned = Planned(*(built.counts.get(name, 0) for name in Planned.__slots__))
        plan = Plan(
            plan_id=plan_id,
            run_id=request.run_id,
            sync=request.sync.name,
            planned=planned,
            total=planned.total,
            model_rows=built.model_rows,
            snapshot_rows=snapshot_rows,
            skipped=built.counts.get("skipped", 0),
            created_at=request.now,
            spec=request.sync.digest,
            recorded=built.counts.get("recorded", 0),
            notes=built.approach.notes,
        )
        content = {
            **asdict(plan),
            "format": _FORMAT,
            "created_at": plan.created_at.isoformat(),
            "mode": request.sync.mode,
            "approach": built.approach.to_json(),
            "cursor_type": built.cursor_type,
            "field_hashes": request.sync.track_fields,
            **kept,
        }
        self._add_plan(plan_id, request, "ready", json.dumps(content))
        return plan

    def _add_plan(self, plan_id: str, request: PlanRequest, stage: str, content: str) -> None:
        """``begun`` before the first table is made, ``ready`` when the plan can be used."""
        texts = ", ".join(self._text(text) for text in (plan_id, request.sync.name, request.run_id, stage, content))
        created = (
            f"CAST({self._text(f'{request.now:%Y-%m-%d %H:%M:%S.%f}')} AS {self._tables.sql.types['TIMESTAMPTZ']})"
        )
        self._database.run(
            f"INSERT INTO {self._tables['plans']} (plan_id, sync, run_id, stage, content, created_at)"
            f" SELECT {texts}, {created}"
        )

    def _plans(self, where: str) -> list[tuple[Any, ...]]:
        self._tables.make()
        return self._database.run(
            f"SELECT content FROM {self._tables['plans']} WHERE {where} AND stage = 'ready' ORDER BY plan_id"
        )

    def _stored(self, plan: Plan) -> dict[str, Any] | None:
        found = self._plans(f"plan_id = {self._text(plan.plan_id)}")
        if not found:
            return None
        stored: dict[str, Any] = json.loads(found[0][0])
        if stored["format"] > _FORMAT:
            raise StateError(
                "an unfinished plan was made by a newer version of this package",
                todo="upgrade this worker to the version of the others",
                sync=plan.sync,
                plan=plan.plan_id,
            )
        return stored

    def _committed(self, plan: Plan) -> bool:
        return bool(
            self._database.run(f"SELECT 1 FROM {self._tables['runs']} WHERE plan_id = {self._text(plan.plan_id)}")
        )

    def _drop(self, own: str, plan_id: str) -> None:
        """Forget a plan: first that it is ready, last that it was begun, so that nothing is left behind unknown."""
        where = f"WHERE plan_id = {self._text(plan_id)}"
        plans = self._tables["plans"]
        self._database.run(f"DELETE FROM {plans} {where} AND stage = 'ready'")
        try:
            for name in PLAN_TABLES:
                self._database.run(f"DROP TABLE IF EXISTS {self._tables[f'{own}_{name}_{plan_id[-12:]}']}")
        except SqlError as error:
            if error.kind == "conflict":  # somebody is reading it: a later plan deletes it
                return
            raise
        self._database.run(f"DELETE FROM {self._tables['checkpoints']} {where}")
        self._database.run(f"DELETE FROM {plans} {where}")

    def _delete_cut_short(self, sync: str, now: datetime) -> None:
        """Delete what planners and deletions that were cut short have left."""
        plans = self._tables["plans"]
        rows = self._database.run(f"SELECT plan_id, stage FROM {plans} WHERE sync = {self._text(sync)}")
        ready = {plan_id for plan_id, stage in rows if stage == "ready"}
        oldest = f"{now - _CUT_SHORT:%Y%m%dT%H%M%S%f}"
        for plan_id in {plan_id for plan_id, _ in rows} - ready:
            if plan_id < oldest:
                self._drop(self._tables.make_own(sync), plan_id)

    @contextlib.contextmanager
    def _errors(self, sync: str | None = None) -> Iterator[None]:
        try:
            yield
        except SqlError as error:
            raise self._explained(error, sync) from None

    def _explained(self, error: SqlError, sync: str | None) -> ReverseEtlError:
        where: Mapping[str, Any] = {"sync": sync, "schema": self._tables.schema}
        if error.kind == "denied":
            return self._tables.denied(error, has_schema=True)
        if error.kind == "unreachable":
            return UnreachableError(error.text, todo="check that the warehouse is up and reachable", **where)
        if error.kind in ("conflict", "exists"):
            return RunConflictError(
                f"another run of this sync was faster: {error.text}",
                todo="nothing by hand: the next try plans again; let only one run of a sync be active at a time",
                **where,
            )
        if error.kind == "missing":
            return StateError(
                error.text, todo="restore the state's tables, or drop the schema to send everything again", **where
            )
        if error.kind == "wrong":
            return ConfigurationError(
                f"the plan cannot be run in the warehouse: {error.text}",
                todo="correct the sync's expressions; c0, c1 ... are the model's columns in the order of their use",
                **where,
            )
        return ConfigurationError(
            f"an expression of the mapping fails for a row of the model ({error.text})",
            todo="make the expression safe for every row, with CASE, or leave the row out of the model",
            **where,
        )


_CONVERTED = ("planned", "created_at", "notes")


def _run_of(plan: Plan) -> str:
    return plan.plan_id[-12:]


def _typed(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """With the promised names and types: some warehouses have names in upper case, and numbers as decimals."""
    import pyarrow as pa

    promised = {"seq": pa.int64(), "change": pa.string(), "key": pa.string(), "identifiers": pa.string()}
    columns = zip(names, batch.columns, strict=True)
    return pa.RecordBatch.from_pydict(
        {name: column.cast(promised[name]) if name in promised else column for name, column in columns}
    )


def _plan_from(data: Mapping[str, Any]) -> Plan:
    return Plan(
        **{name: data[name] for name in Plan.__slots__ if name in data and name not in _CONVERTED},
        planned=Planned(**data["planned"]),
        created_at=datetime.fromisoformat(data["created_at"]),
        notes=tuple(data.get("notes", ())),
    )


def _report_from(data: Mapping[str, Any]) -> Report:
    return replace(Report(**data), planned=Planned(**data["planned"]), errors=tuple(data["errors"]))
