"""Planning: a model's columns, and the plan built from the counts of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.spec.report import CAUSES, Planned
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.sync.ports import Plan, PlanRequest, Warehouse

#: Most codes of given-up rows in a plan.
_MAX_CODES = 5


def make_plan(
    request: PlanRequest,
    plan_id: str,
    counts: Iterable[tuple[str, str | None, str | None, int]],
    *,
    model_rows: int,
    snapshot_rows: int,
    comparison: Comparison,
) -> Plan:
    """Build the plan of a request from the number of rows for each ``change``, ``cause`` and ``code``."""
    changes: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for change, cause, code, rows in counts:
        changes[change] += rows
        if change == "invalid":
            causes[str(cause)] += rows
        elif change == "skipped" and cause == "given_up":
            codes[code or "no code"] += rows
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
        notes=comparison.notes,
        causes={cause: causes[cause] for cause in CAUSES if causes[cause]},
        given_up=codes.total(),
        given_up_codes=dict(codes.most_common(_MAX_CODES)),
    )


def model_columns(query: str, warehouse: Warehouse, sync: Sync) -> Sequence[Column]:
    """Ask the warehouse for the columns of a model.

    :raises SpecError: the query is not a single SELECT; it is then not sent to the warehouse.
    """
    return warehouse.columns(single_select(query, warehouse.dialect, sync))
