"""Uncommitted plans in a warehouse: the tables ``plans`` and ``checkpoints``, and each plan's own tables."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from airflow_reverse_etl.sql.dialects.base import ErrorKind
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.state import MEND_PLAN, read_stored
from airflow_reverse_etl.stores.warehouse.compare_and_set import TableValues
from airflow_reverse_etl.stores.warehouse.planner import PLAN_TABLES
from airflow_reverse_etl.stores.warehouse.schema import Tables, prefix
from airflow_reverse_etl.sync.planning import StoredPlan
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint

#: Age of a plan that is not ready from which its planner counts as interrupted.
_INTERRUPTED_AFTER = timedelta(days=1)


#: Numbers of the checkpoints of one try.
_NUMBERS = 1_000_000


def _tries(plan_id: str, partition: object) -> str:
    """Return the name under which the number of a try is stored among the leases."""
    return f"try {plan_id} {partition}"


def run_of(plan: Plan) -> str:
    """Return the suffix of the names of a plan's own tables."""
    return plan.plan_id[-12:]


def _plan(content: str, *, sync: str) -> StoredPlan:
    return read_stored(content, StoredPlan.from_json, "a plan", todo=MEND_PLAN, sync=sync)


class OpenPlans:
    """The uncommitted plans, from their creation to their cleanup.

    :raises SqlError: from every method.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._database = tables.database

    def begin(self, plan_id: str, request: PlanRequest) -> None:
        """Record that tables of this plan may be created."""
        self._add(plan_id, request, "begun", "")

    def make_ready(self, stored: StoredPlan, request: PlanRequest) -> None:
        """Record that the plan can be used."""
        self._add(stored.plan.plan_id, request, "ready", json.dumps(stored.to_json()))

    def ready(self, sync: str) -> list[Plan]:
        """Return the plans of a sync that can be used, oldest first.

        :raises StateError: a newer version of this package made one.
        """
        rows = self._ready(f"sync = {self._tables.text(sync)}")
        return [_plan(content, sync=sync).plan for (content,) in rows]

    def stored(self, plan: Plan) -> StoredPlan | None:
        """Return what :meth:`make_ready` stored; None if the plan is gone.

        :raises StateError: a newer version of this package made the plan.
        """
        found = self._ready(f"plan_id = {self._tables.text(plan.plan_id)}")
        return _plan(found[0][0], sync=plan.sync) if found else None

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int, try_number: int) -> None:
        """Store a checkpoint in pieces, because the length of a statement is limited.

        The old checkpoint is deleted when the new one is complete. The numbers of a later try are higher, so a try
        that was stopped for a while cannot replace what a later one has saved.
        """
        table = self._tables["checkpoints"]
        plan_id = self._tables.text(plan.plan_id)
        content = json.dumps(checkpoint.to_json())
        length = self._tables.sql.piece
        pieces = [content[at : at + length] for at in range(0, len(content), length)]
        where = f"plan_id = {plan_id} AND part = {partition}"
        first = try_number * _NUMBERS
        with self._database.session() as session:
            [(last,)] = session.run(
                f"SELECT COALESCE(MAX(number), {first}) FROM {table} WHERE {where}"
                f" AND number >= {first} AND number < {first + _NUMBERS}"
            )
            with session.transaction():
                for at, piece in enumerate(pieces):
                    session.run(
                        f"INSERT INTO {table} (plan_id, sync, part, number, piece, pieces, content)"
                        f" SELECT {plan_id}, {self._tables.text(plan.sync)}, {partition}, {int(last) + 1}, {at},"
                        f" {len(pieces)}, {self._tables.text(piece)}"
                    )
                session.run(f"DELETE FROM {table} WHERE {where} AND number <= {int(last)}")

    def tries(self, plan: Plan, partition: int) -> TableValues:
        """Return the number of the last try of a partition, under compare-and-set."""
        return TableValues(self._tables, _tries(plan.plan_id, partition))

    def checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        """Return the newest complete checkpoint of each partition."""
        rows = self._database.run(
            f"SELECT part, number, pieces, content FROM {self._tables['checkpoints']}"
            f" WHERE plan_id = {self._tables.text(plan.plan_id)} ORDER BY part, number, piece"
        )
        # Collect the pieces of each checkpoint. They come in order.
        texts: dict[tuple[int, int, int], list[str]] = {}
        for part, number, pieces, content in rows:
            texts.setdefault((int(part), int(number), int(pieces)), []).append(content)
        # Keep the complete ones; a newer checkpoint of a partition replaces an older one.
        newest = {part: content for (part, _, pieces), content in texts.items() if len(content) == pieces}
        names = {"sync": plan.sync, "plan": plan.plan_id}
        return {
            part: read_stored("".join(content), Checkpoint.from_json, "a checkpoint", todo=MEND_PLAN, **names)
            for part, content in newest.items()
        }

    def drop(self, own: str, plan_id: str) -> None:
        """Delete a plan and its tables.

        The ``ready`` row goes first, so that the plan cannot be used. The ``begun`` row goes last, so that a later plan
        finds what an interrupted deletion has left.
        """
        where = f"WHERE plan_id = {self._tables.text(plan_id)}"
        plans = self._tables["plans"]
        self._database.run(f"DELETE FROM {plans} {where} AND stage = 'ready'")
        try:
            for name in PLAN_TABLES:
                self._database.run(f"DROP TABLE IF EXISTS {self._tables[f'{own}_{name}_{plan_id[-12:]}']}")
        except SqlError as error:
            if error.kind is ErrorKind.CONFLICT:  # another task reads the table: a later plan deletes it
                return
            raise
        self._database.run(f"DELETE FROM {self._tables['checkpoints']} {where}")
        tries = self._tables.text(f"{_tries(plan_id, '')}%")
        self._database.run(f"DELETE FROM {self._tables['leases']} WHERE sync LIKE {tries}")
        self._database.run(f"DELETE FROM {plans} {where}")

    def drop_all(self, sync: str) -> int:
        """Delete the plans of a sync, whatever their stage, and their tables; return the number of plans."""
        rows = self._database.run(
            f"SELECT DISTINCT plan_id FROM {self._tables['plans']} WHERE sync = {self._tables.text(sync)}"
        )
        for (plan_id,) in rows:
            self.drop(prefix(sync), plan_id)
        return len(rows)

    def drop_interrupted(self, sync: str, now: datetime) -> None:
        """Delete what interrupted planners and deletions have left."""
        plans = self._tables["plans"]
        rows = self._database.run(f"SELECT plan_id, stage FROM {plans} WHERE sync = {self._tables.text(sync)}")
        ready = {plan_id for plan_id, stage in rows if stage == "ready"}
        oldest = f"{now - _INTERRUPTED_AFTER:%Y%m%dT%H%M%S%f}"
        for plan_id in {plan_id for plan_id, _ in rows} - ready:
            if plan_id < oldest:
                self.drop(self._tables.make_own(sync), plan_id)

    def _add(self, plan_id: str, request: PlanRequest, stage: str, content: str) -> None:
        """Insert a row: ``begun`` before the first table is made, ``ready`` when the plan can be used."""
        text = self._tables.text
        texts = ", ".join(text(value) for value in (plan_id, request.sync.name, request.run_id, stage, content))
        now = text(f"{request.now:%Y-%m-%d %H:%M:%S.%f}")
        created = f"CAST({now} AS {self._tables.sql.types['TIMESTAMPTZ']})"
        self._database.run(
            f"INSERT INTO {self._tables['plans']} (plan_id, sync, run_id, stage, content, created_at)"
            f" SELECT {texts}, {created}"
        )

    def _ready(self, where: str) -> list[tuple[Any, ...]]:
        self._tables.make()
        return self._database.run(
            f"SELECT content FROM {self._tables['plans']} WHERE {where} AND stage = 'ready' ORDER BY plan_id"
        )
