"""Plans that are not committed, in a warehouse: the tables ``plans`` and ``checkpoints``, and those of a plan's own."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe, constants are literals

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from airflow_reverse_etl.errors import StateError
from airflow_reverse_etl.spec.report import Planned
from airflow_reverse_etl.sql.driver_errors import SqlError
from airflow_reverse_etl.stores.warehouse.planner import PLAN_TABLES, Built
from airflow_reverse_etl.stores.warehouse.schema import Tables
from airflow_reverse_etl.sync.ports import Plan, PlanRequest
from airflow_reverse_etl.sync.progress import Checkpoint

_FORMAT = 1

#: A plan cut short leaves tables. After this long no planner is at work in them any more.
_CUT_SHORT = timedelta(days=1)


def run_of(plan: Plan) -> str:
    """What the names of a plan's own tables end with."""
    return plan.plan_id[-12:]


class OpenPlans:
    """From the moment that a plan is begun until nothing of it is left.

    :raises SqlError: from every method.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables, self._database = tables, tables.database

    def begin(self, plan_id: str, request: PlanRequest) -> None:
        """Make it known that tables of this plan may come to be."""
        self._add(plan_id, request, "begun", "")

    def make_ready(
        self, plan: Plan, request: PlanRequest, built: Built, *, generation: str, values: Sequence[str]
    ) -> None:
        """Make it known that the plan can be used."""
        content = {
            **asdict(plan),
            "format": _FORMAT,
            "created_at": plan.created_at.isoformat(),
            "mode": request.sync.mode,
            "comparison": built.comparison.to_json(),
            "cursor_type": built.cursor_type,
            "field_hashes": request.sync.track_fields,
            "generation": generation,
            "values": values,
        }
        self._add(plan.plan_id, request, "ready", json.dumps(content))

    def ready(self, sync: str) -> list[Plan]:
        """The plans of a sync that can be used, oldest first."""
        rows = self._ready(f"sync = {self._tables.text(sync)}")
        return [_plan_from(json.loads(content)) for (content,) in rows]

    def stored(self, plan: Plan) -> dict[str, Any] | None:
        """What :meth:`make_ready` was given; None if the plan is gone.

        :raises StateError: it was made by a newer version of this package.
        """
        found = self._ready(f"plan_id = {self._tables.text(plan.plan_id)}")
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

    def save_checkpoint(self, plan: Plan, checkpoint: Checkpoint, *, partition: int) -> None:
        """In pieces, as a statement's length has limits; the old one goes when the new one is complete."""
        table, plan_id = self._tables["checkpoints"], self._tables.text(plan.plan_id)
        content = json.dumps(checkpoint.to_json())
        length = self._tables.sql.piece
        pieces = [content[at : at + length] for at in range(0, len(content), length)]
        where = f"plan_id = {plan_id} AND part = {partition}"
        with self._database.session() as session:
            [(last,)] = session.run(f"SELECT COALESCE(MAX(number), 0) FROM {table} WHERE {where}")
            with session.transaction():
                for at, piece in enumerate(pieces):
                    session.run(
                        f"INSERT INTO {table} (plan_id, sync, part, number, piece, pieces, content)"
                        f" SELECT {plan_id}, {self._tables.text(plan.sync)}, {partition}, {int(last) + 1}, {at},"
                        f" {len(pieces)}, {self._tables.text(piece)}"
                    )
                session.run(f"DELETE FROM {table} WHERE {where} AND number <= {int(last)}")

    def checkpoints(self, plan: Plan) -> dict[int, Checkpoint]:
        """The newest complete checkpoint of each partition."""
        rows = self._database.run(
            f"SELECT part, number, pieces, content FROM {self._tables['checkpoints']}"
            f" WHERE plan_id = {self._tables.text(plan.plan_id)} ORDER BY part, number, piece"
        )
        texts: dict[tuple[int, int, int], list[str]] = {}
        for part, number, pieces, content in rows:
            texts.setdefault((int(part), int(number), int(pieces)), []).append(content)
        return {
            part: Checkpoint.from_json(json.loads("".join(content)))
            for (part, _, pieces), content in texts.items()
            if len(content) == pieces
        }

    def drop(self, own: str, plan_id: str) -> None:
        """Forget a plan: first that it is ready, last that it was begun, so that nothing is left behind unknown."""
        where = f"WHERE plan_id = {self._tables.text(plan_id)}"
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

    def drop_cut_short(self, sync: str, now: datetime) -> None:
        """Delete what planners and deletions that were cut short have left."""
        plans = self._tables["plans"]
        rows = self._database.run(f"SELECT plan_id, stage FROM {plans} WHERE sync = {self._tables.text(sync)}")
        ready = {plan_id for plan_id, stage in rows if stage == "ready"}
        oldest = f"{now - _CUT_SHORT:%Y%m%dT%H%M%S%f}"
        for plan_id in {plan_id for plan_id, _ in rows} - ready:
            if plan_id < oldest:
                self.drop(self._tables.make_own(sync), plan_id)

    def _add(self, plan_id: str, request: PlanRequest, stage: str, content: str) -> None:
        """``begun`` before the first table is made, ``ready`` when the plan can be used."""
        text = self._tables.text
        texts = ", ".join(text(value) for value in (plan_id, request.sync.name, request.run_id, stage, content))
        created = f"CAST({text(f'{request.now:%Y-%m-%d %H:%M:%S.%f}')} AS {self._tables.sql.types['TIMESTAMPTZ']})"
        self._database.run(
            f"INSERT INTO {self._tables['plans']} (plan_id, sync, run_id, stage, content, created_at)"
            f" SELECT {texts}, {created}"
        )

    def _ready(self, where: str) -> list[tuple[Any, ...]]:
        self._tables.make()
        return self._database.run(
            f"SELECT content FROM {self._tables['plans']} WHERE {where} AND stage = 'ready' ORDER BY plan_id"
        )


_CONVERTED = ("planned", "created_at", "notes")


def _plan_from(data: Mapping[str, Any]) -> Plan:
    return Plan(
        **{name: data[name] for name in Plan.__slots__ if name in data and name not in _CONVERTED},
        planned=Planned(**data["planned"]),
        created_at=datetime.fromisoformat(data["created_at"]),
        notes=tuple(data.get("notes", ())),
    )
