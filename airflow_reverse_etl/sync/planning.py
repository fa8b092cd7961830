"""Planning: the order of a plan, once for all stores that run SQL; and a plan in the form in which it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.comparison import FORMAT, Comparison, State, check_format
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import CAUSES, Planned
from airflow_reverse_etl.spec.stored import typed
from airflow_reverse_etl.sql.dialects.registry import dialect_of
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.sql.statements import classification
from airflow_reverse_etl.sql.statements.plan import ROW, PlanStatement, plan_statement, surplus
from airflow_reverse_etl.sync.comparing import comparison_for, hashed_key_notes
from airflow_reverse_etl.sync.ports import EARLIER_KINDS, KINDS, Plan, PlanRequest, Warehouse

#: Most codes of given-up rows in a plan.
_MAX_CODES = 5

Counts = Iterable[tuple[str, str | None, str | None, int]]


class PlanRunner(Protocol):
    """Runs the plan statement. It has the relations ``delivered`` and ``rejections`` of a sync's state.

    A relation that was made can be read by the SELECTs after it. Making it again replaces it.
    """

    #: Values of the change set whose text stands for another value → one of :mod:`airflow_reverse_etl.spec.columns`.
    #: Empty if the reader of the change set knows it.
    kinds: Mapping[str, str]

    @property
    def identified(self) -> bool:
        """True if ``delivered`` may have identifiers, which only syncs in mode ``mirror`` record."""

    def read_model(
        self, statement: PlanStatement, name: str, select: Callable[[Mapping[str, str]], str]
    ) -> tuple[int, Mapping[str, str]]:
        """Read the model, once, as the relation ``model``, and make the relation ``name`` from a SELECT over it.

        A second call replaces the relation.

        :param select: builds the SELECT, given the type of each column of the model.
        :returns: the number of the model's rows, and the types.
        """

    def make(self, name: str, select: str) -> None:
        """Make a relation from a SELECT."""

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""

    def write(self, statement: PlanStatement) -> Counts:
        """Write the change set from ``the_plan``; return its counts by ``change``, ``cause`` and ``code``."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """The result of :func:`build_plan`.

    :param counts: numbers of the plan's rows by ``change``, ``cause`` and ``code``.
    :param comparison: completed with the bounds of the model's cursor.
    :param types: type of each column of the model, in the planner's words.
    :param kinds: see :attr:`PlanRunner.kinds`.
    """

    counts: Sequence[tuple[str, str | None, str | None, int]]
    model_rows: int
    comparison: Comparison
    types: Mapping[str, str]
    kinds: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan, with what its commit needs.

    :param mode: of the sync when the plan was made.
    :param values: columns of the change set that hold values.
    :param generation: of the snapshot that the plan was made from; None before the first.
    :param cursor_type: the planner's type of the cursor; empty without a cursor.
    :param columns: further columns that the change set has: ``field_hashes``, ``row_hi`` and ``row_lo``.
    :param value_kinds: see :attr:`PlanRunner.kinds`.
    """

    plan: Plan
    mode: str
    values: Sequence[str]
    generation: str | None
    comparison: Comparison
    cursor_type: str = ""
    columns: Sequence[str] = ()
    value_kinds: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as stored. Some keys are those of the first stored plans, not today's names."""
        return {
            **asdict(self.plan),
            "format": FORMAT,
            "created_at": self.plan.created_at.isoformat(),
            "mode": self.mode,
            "values": list(self.values),
            "generation": self.generation,
            "approach": self.comparison.to_json(),
            "cursor_type": self.cursor_type,
            "columns": list(self.columns),
            "value_kinds": dict(self.value_kinds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredPlan:
        """Read a stored plan.

        :raises StateError: a newer version of this package stored it.
        :raises ValueError: it is damaged, as LookupError and TypeError.
        """
        check_format(data["format"])
        columns = data.get("columns")
        if columns is None:  # plans of format 1
            columns = ["field_hashes"] if data.get("field_hashes", True) else []
        values = {
            "plan": _plan_from(data),
            "mode": data["mode"],
            "values": data["values"],
            "generation": data["generation"],
            "comparison": Comparison.from_json(data["approach"]),
            "cursor_type": data.get("cursor_type", ""),
            "columns": columns,
            "value_kinds": data.get("value_kinds", {}),
        }
        return typed(cls, values)


def _plan_from(data: Mapping[str, Any]) -> Plan:
    values = {name: data[name] for name in Plan.__slots__ if name in data}
    values["created_at"] = datetime.fromisoformat(data["created_at"])
    values["notes"] = tuple(data.get("notes", ()))
    values["kinds"] = tuple(data.get("kinds", EARLIER_KINDS))
    return typed(Plan, values)


def statement_for(
    request: PlanRequest,
    warehouse: Warehouse,
    before: State | None,
    *,
    snapshot_rows: int,
    planner: str,
    collation: str = "",
) -> PlanStatement:
    """Build the plan statement of a request.

    :param before: state saved by the last commit.
    :param planner: dialect of the planner.
    :param collation: collation that lowers text; empty for the database's own.
    """
    sync = request.sync
    return plan_statement(
        sync,
        query=request.query,
        primary_key=request.primary_key,
        columns=model_columns(request.query, warehouse, sync),
        source=warehouse.dialect,
        planner=planner,
        comparison=comparison_for(request, before, snapshot_rows=snapshot_rows, collation=collation),
        ignore_case=request.ignore_case,
        collation=collation,
        removes_first=request.capabilities.removes_first,
        has_snapshot=bool(snapshot_rows),
    )


def build_plan(runner: PlanRunner, statement: PlanStatement, *, snapshot_rows: int, now: datetime) -> BuiltPlan:
    """Compare the model with the snapshot, and write the change set."""
    # Compare while the model streams by, unless all of it must be known.
    model_rows = 0
    types: Mapping[str, str] = {}
    stored = bool(statement.cursor)
    if not stored:
        compare = partial(statement.compare, identified=runner.identified)
        model_rows, types = runner.read_model(statement, "candidates", compare)
        _make_owners(runner, statement)
        stored = _needs_whole_model(runner, statement, model_rows=model_rows, snapshot_rows=snapshot_rows)
    if stored:
        model_rows, types = runner.read_model(statement, "whole_model", lambda _: "SELECT * FROM model")
        for name, select in classification.repeated(statement, "whole_model").items():
            runner.make(name, select)
        runner.make("model", "SELECT * FROM whole_model")
        runner.make("candidates", statement.compare_repeated(types))
        _make_owners(runner, statement)
    else:
        for name, select in classification.repeated(statement, "candidates").items():
            runner.make(name, select)

    # Classify the candidates.
    for name, select in classification.relations(statement, now).items():
        runner.make(name, select)
    counts = [(change, cause, code, int(rows)) for change, cause, code, rows in runner.write(statement)]
    comparison = statement.comparison
    if statement.cursor:
        [(high,)] = runner.rows(statement.highest_cursor("whole_model", types, now))
        [(floor,)] = runner.rows(statement.lowest_cursor("the_plan", types, statement.open_unsent))
        comparison = comparison.seen(statement.cursor_kind(types), high, floor)
    return BuiltPlan(counts, model_rows, comparison, types, runner.kinds)


def _make_owners(runner: PlanRunner, statement: PlanStatement) -> None:
    if statement.by_record and statement.compared:
        runner.make("owners", classification.OWNERS)


def _needs_whole_model(runner: PlanRunner, statement: PlanStatement, *, model_rows: int, snapshot_rows: int) -> bool:
    """Return whether rows other than candidates share a record or a primary key."""
    # All rows of a model that is adopted are candidates.
    if not statement.compared or statement.comparison.adopted:
        return False
    found = {name: int(rows) for name, rows in runner.rows("SELECT found, COUNT(*) FROM candidates GROUP BY found")}
    if surplus(model_rows=model_rows, snapshot_rows=snapshot_rows, found=found):
        return True
    return statement.by_record and bool(runner.rows(classification.STRAYS))


def stored_plan(
    request: PlanRequest,
    plan_id: str,
    statement: PlanStatement,
    built: BuiltPlan,
    *,
    snapshot_rows: int,
    generation: str | None,
) -> StoredPlan:
    """Return a plan that was built, with what its commit needs."""
    plan = make_plan(
        request,
        plan_id,
        built.counts,
        model_rows=built.model_rows,
        snapshot_rows=snapshot_rows,
        comparison=built.comparison,
    )
    return StoredPlan(
        plan,
        request.sync.mode,
        (*statement.values, *(statement.hashed if request.sync.sends_changed else ())),
        generation,
        built.comparison,
        cursor_type=built.types[statement.cursor[0]] if statement.cursor else "",
        columns=(*statement.hashed, *(ROW if statement.by_record else ())),
        value_kinds=built.kinds,
    )


def make_plan(
    request: PlanRequest,
    plan_id: str,
    counts: Counts,
    *,
    model_rows: int,
    snapshot_rows: int,
    comparison: Comparison,
) -> Plan:
    """Build the plan of a request from the number of rows for each ``change``, ``cause`` and ``code``."""
    changes: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    moved = 0
    held = 0
    for change, cause, code, rows in counts:
        if change == "skipped" and cause == "held":
            held += rows
            continue
        changes[change] += rows
        if change == "invalid":
            causes[str(cause)] += rows
        elif change == "skipped" and cause == "given_up":
            codes[code or "no code"] += rows
        elif cause == "moved" and change in KINDS:
            moved += rows
    planned = Planned(*(changes[name] for name in Planned.__slots__))
    return Plan(
        plan_id=plan_id,
        run_id=request.run_id,
        sync=request.sync.name,
        planned=planned,
        total=planned.total,
        model_rows=model_rows,
        snapshot_rows=snapshot_rows,
        skipped=changes["skipped"],
        created_at=request.now,
        spec=request.sync.digest,
        recorded=changes["recorded"],
        notes=(*comparison.notes, *hashed_key_notes(request)),
        causes={cause: causes[cause] for cause in CAUSES if causes[cause]},
        given_up=codes.total(),
        given_up_codes=dict(codes.most_common(_MAX_CODES)),
        moved=moved,
        held=held,
        other_writers=dict(request.other_writers),
        place=request.place,
        forgotten=changes["forgotten"],
        # A plan that only records rows has none to send: as a whole content, it would empty the object.
        whole=request.whole and comparison.recorded != "all",
    )


def with_model_columns(sync: Sync, query: str, warehouse: Warehouse) -> Sync:
    """Return the sync with the model's columns in the place of the mapping's ``"*"``, if it has one.

    :raises SpecError: the query is not a single SELECT, or the mapping is not valid with the model's columns.
    """
    if sync.star is None:
        return sync
    names = [column.name for column in model_columns(query, warehouse, sync)]
    return sync.with_columns(names, folds_to_upper=dialect_of(warehouse.dialect).name_case == "upper")


def model_columns(query: str, warehouse: Warehouse, sync: Sync) -> Sequence[Column]:
    """Ask the warehouse for the columns of a model.

    :raises SpecError: the query is not a single SELECT; it is then not sent to the warehouse.
    """
    return warehouse.columns(single_select(query, warehouse.dialect, sync))
