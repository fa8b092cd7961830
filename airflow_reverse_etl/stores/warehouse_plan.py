"""Running the plan statement in the warehouse that has the model: the same parts, glued together as CTEs and tables."""

# ruff: noqa: S608 - the SQL is ours: names are fixed or made safe

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from airflow_reverse_etl.stores.changes import KINDS
from airflow_reverse_etl.stores.compare import as_text
from airflow_reverse_etl.stores.database import Session
from airflow_reverse_etl.stores.tables import Tables
from airflow_reverse_etl.sync.plan import PlanStatement, surplus

#: Columns of the change set beside the values.
_HASHES = "key_hi, key_lo, fingerprint"
_SNAPSHOT = f"{_HASHES}, row_key, identifiers"
_REJECTIONS = f"{_HASHES}, attempts, first_seen, outcome"


@dataclass(frozen=True, slots=True)
class Built:
    """``counts``: rows of the plan by ``change``."""

    counts: Mapping[str, int]
    model_rows: int
    snapshot_rows: int
    generation: str


class PlanBuilder:
    """Makes the table of a change set.

    :param own: prefix of the sync's tables.
    :param run: suffix of the tables of this plan: ``changes_<run>``, and helpers that are dropped at the end.
    """

    def __init__(self, tables: Tables, statement: PlanStatement, *, own: str, run: str, now: datetime) -> None:
        self._tables, self._statement, self._now = tables, statement, now
        self._own, self._run = own, run

    def build(self, session: Session) -> Built:
        """All or nothing where CREATE TABLE can be part of a transaction; elsewhere helpers may be left."""
        types = self._types(session)
        with_model = self._with_model(types)
        if not self._tables.sql.plan_in_transaction:
            return self._build(session, with_model)
        with session.transaction(one_moment=True):
            return self._build(session, with_model)

    def _build(self, session: Session, with_model: str) -> Built:
        statement, candidates = self._statement, self._table("candidates")
        [(generation,)] = session.run(f"SELECT MAX(generation) FROM {self._tables[f'{self._own}_state']}")
        [(snapshot_rows,)] = session.run(f"SELECT COUNT(*) FROM {self._tables[f'{self._own}_snapshot']}")
        [(model_rows,)] = session.run(f"SELECT COUNT(*) FROM ({statement.extract}) AS counted")
        session.run(f"CREATE TABLE {candidates} AS {with_model}, {self._snapshot} {statement.compare}")
        found = _counts(session.run(f"SELECT found, COUNT(*) FROM {candidates} GROUP BY found"))
        among = candidates
        if statement.tracked and surplus(model_rows=int(model_rows), snapshot_rows=int(snapshot_rows), found=found):
            among = self._compare_repeated(session, with_model)
        counts = self._classify(session, among)
        for helper in {candidates, among}:
            session.run(f"DROP TABLE {helper}")
        return Built(counts, int(model_rows), int(snapshot_rows), str(generation))

    def _types(self, session: Session) -> dict[str, str]:
        """Types of the columns of ``mapped``, in the warehouse's words."""
        name = f"{self._own}_types_{self._run}"
        session.run(
            f"CREATE TABLE {self._tables[name]} AS WITH extracted AS ({self._statement.extract})"
            f" SELECT * FROM ({self._statement.mapped}) AS mapped WHERE 1 = 0"
        )
        types = self._tables.columns(session, name)
        session.run(f"DROP TABLE {self._tables[name]}")
        return types

    def _with_model(self, types: Mapping[str, str]) -> str:
        mapped = self._statement.mapped
        if self._tables.sql.name == "duckdb":  # as the local planner has them
            columns = (f"CAST({name} AS VARCHAR) AS {name}" if as_text(types[name]) else name for name in types)
            mapped = f"SELECT {', '.join(columns)} FROM ({mapped}) AS typed"
            types = {name: "VARCHAR" if as_text(kind) else kind for name, kind in types.items()}
        return (
            f"WITH extracted AS ({self._statement.extract}), mapped AS ({mapped}),"
            f" model AS ({self._statement.model(types)})"
        )

    @property
    def _snapshot(self) -> str:
        return f"snapshot AS (SELECT {_SNAPSHOT} FROM {self._tables[f'{self._own}_snapshot']})"

    def _compare_repeated(self, session: Session, with_model: str) -> str:
        """Compare again, now with the keys that the whole model has several times; returns the new candidates.

        Rare: a key that was unique when it was sent is there several times now.
        """
        statement, kept = self._statement, self._table("model")
        session.run(f"CREATE TABLE {kept} AS {with_model} SELECT * FROM model")
        candidates = self._table("compared")
        session.run(
            f"CREATE TABLE {candidates} AS WITH model AS (SELECT * FROM {kept}), {self._snapshot},"
            f" repeated AS ({statement.repeated('model')}) {statement.compare_repeated}"
        )
        session.run(f"DROP TABLE {kept}")
        return candidates

    def _classify(self, session: Session, candidates: str) -> dict[str, int]:
        """Make the change set: rows to be sent have the first numbers, in the order of their kinds."""
        statement, changes = self._statement, self._table("changes")
        rejections = self._tables[f"{self._own}_rejections"]
        rank = " ".join(f"WHEN '{kind}' THEN {at}" for at, kind in enumerate(KINDS))
        names = "".join(f"{name}, " for name in statement.values)
        session.run(
            f"CREATE TABLE {changes} AS WITH candidates AS (SELECT * FROM {candidates}),"
            f" repeated AS ({statement.repeated('candidates')}),"
            f" rejections AS (SELECT {_REJECTIONS} FROM {rejections}),"
            f" quarantined AS ({statement.quarantined(self._now)}), the_plan AS ({statement.classify})"
            f" SELECT ROW_NUMBER() OVER (ORDER BY CASE change {rank} ELSE 9 END) AS seq, change, row_key, {names}"
            f"identifiers, {_HASHES} FROM the_plan WHERE change <> 'ignored'"
        )
        if self._tables.sql.indexed:
            session.run(self._tables.sql.indexed.format(table=changes))
        return _counts(session.run(f"SELECT change, COUNT(*) FROM {changes} GROUP BY change"))

    def _table(self, name: str) -> str:
        return self._tables[f"{self._own}_{name}_{self._run}"]


#: The tables that a plan may leave when it is cut short.
PLAN_TABLES = ("changes", "candidates", "compared", "model", "types", "failed")


def _counts(rows: list[tuple[str, int]]) -> dict[str, int]:
    return {name: int(count) for name, count in rows}
