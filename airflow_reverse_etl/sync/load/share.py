"""Shares of a plan: each is loaded by itself, and has a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.sync.ports import Plan


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of a plan that one load sends: sequence numbers above ``after``, up to ``until``."""

    partition: int
    after: int
    until: int

    @classmethod
    def of(cls, plan: Plan, partition: int, partitions: int, *, after: int = 0) -> Share:
        """Return one of ``partitions`` shares of nearly equal size, which together are all rows above ``after``."""
        if plan.whole:  # one load sends it, from its first row
            return cls(partition, 0 if partition == 0 else plan.total, plan.total)
        rows = plan.total - after
        start = after + rows * partition // partitions
        until = after + rows * (partition + 1) // partitions
        return cls(partition, start, until)

    @property
    def rows(self) -> RangeSet:
        """The share's sequence numbers."""
        return RangeSet(range(self.after + 1, self.until + 1))
