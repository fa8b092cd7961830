"""The commit statement, which brings the state of a sync up to date after a load.

It reads these relations::

    relation    rows
    changes     the whole plan: seq, change, row_key, identifiers, key_hi, key_lo, row_hi, row_lo, fingerprint,
                field_hashes, and w, the cursor, if there is one. Rows that were not to be sent have any seq or none
    failed      rows that were not accepted: seq, outcome, code, message
    snapshot    delivered records, as the plan found them
    rejections  earlier rejected rows
    fates       what happens to records of the snapshot, made by :attr:`CommitStatement.fates`

A store replaces a table by a SELECT, or applies the same rows as DELETE and INSERT.
"""

# ruff: noqa: S608 - this module builds SQL; names are fixed, numbers and constants are literals

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.spec.ranges import RangeSet
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.quoting import literal
from airflow_reverse_etl.sql.statements.plan import IN_DOUBT, KEY, MODES_IN_DOUBT, REMOVED, ROW, same
from airflow_reverse_etl.sql.templates import fill

_SENT = "c.change IN ('added', 'changed', 'removed')"


@dataclass(frozen=True, slots=True)
class CommitStatement:
    """The parts of the commit statement.

    :param mode: of the sync when the plan was made.
    :param settled: sequence numbers of rows with an outcome.
    :param in_doubt: sequence numbers of rows that may have been sent, and have no outcome.
    :param answer_lost: sequence numbers whose answer was lost, settled or not.
    :param now: SQL of the time of the plan, with a time zone.
    """

    dialect: PlannerDialect
    mode: str
    comparison: Comparison
    settled: RangeSet
    in_doubt: RangeSet
    answer_lost: Sequence[int]
    now: str

    @property
    def fates(self) -> str:
        """The query for each row's fate in the snapshot: ``accepted``, ``in_doubt`` or ``gone``. Other records stay.

        If all rows were to be sent again, a row that was not accepted is gone, because the destination may not have it
        any more. In modes that record rows in doubt, it then counts as such a row.
        """
        resent = self.comparison.resent
        lost = f"{_in_ranges(self.in_doubt)} OR f.outcome = '{Outcome.UNKNOWN}'"
        snapshot = ""
        if resent and not self.comparison.drops_snapshot:
            snapshot = f"LEFT JOIN snapshot AS s ON {same('s', 'c')}"
            lost += " OR s.key_hi IS NOT NULL"
        cases = [
            "WHEN c.change = 'forgotten' THEN 'gone'",
            "WHEN c.change = 'recorded' THEN 'accepted'",
            f"WHEN NOT ({_SENT}) THEN NULL",
            f"WHEN f.seq IS NULL AND {self._settled} AND c.change = 'removed' THEN 'gone'",
            f"WHEN f.seq IS NULL AND {self._settled} THEN 'accepted'",
        ]
        if self.mode in MODES_IN_DOUBT:
            cases.append(f"WHEN {lost} THEN 'in_doubt'")
        if resent:
            cases.append("ELSE 'gone'")
        return fill(
            """
            SELECT *
            FROM (
                SELECT c.key_hi, c.key_lo, c.row_hi, c.row_lo, c.fingerprint, c.row_key, c.identifiers, c.field_hashes,
                CASE {cases} END AS fate
                FROM changes AS c
                LEFT JOIN failed AS f ON f.seq = c.seq
                {snapshot}
            ) AS decided
            WHERE fate IS NOT NULL
            """,
            cases=" ".join(cases),
            snapshot=snapshot,
        )

    @property
    def delivered(self) -> str:
        """The query for records that enter the snapshot."""
        return fill(
            """
            SELECT key_hi, key_lo, row_hi, row_lo,
            CASE WHEN fate = 'in_doubt' THEN {in_doubt} ELSE fingerprint END AS fingerprint,
            CASE WHEN identifiers IS NOT NULL THEN row_key END AS row_key, identifiers,
            CASE WHEN fate = 'accepted' THEN field_hashes ELSE CAST(NULL AS {string}) END AS field_hashes
            FROM fates
            WHERE fate IN ('accepted', 'in_doubt')
            """,
            in_doubt=IN_DOUBT,
            string=self.dialect.string,
        )

    @property
    def next_snapshot(self) -> str:
        """The query for the whole snapshot after the commit."""
        if self.comparison.drops_snapshot:
            return self.delivered
        return fill(
            """
            SELECT s.key_hi, s.key_lo, s.row_hi, s.row_lo, s.fingerprint, s.row_key, s.identifiers, s.field_hashes
            FROM snapshot AS s
            LEFT JOIN fates AS f ON {same_record}
            WHERE f.key_hi IS NULL
            UNION ALL
            {delivered}
            """,
            same_record=same("s", "f"),
            delivered=self.delivered,
        )

    @property
    def next_rejections(self) -> str:
        """The query for all rejections after the commit.

        Every run tries a refused row again. A row without an outcome in this run is still refused only if this run
        skipped it for its rejection, did not come to it, or could not send it (invalid). A refused removal is dropped
        once a row names the record again, even an invalid row.
        """
        if self.comparison.drops_rejections:
            return self._new_rejections(earlier="(SELECT * FROM rejections WHERE 1 = 0)")
        return f"{self._new_rejections(earlier='rejections')} UNION ALL {self._kept_rejections}"

    def _new_rejections(self, *, earlier: str) -> str:
        """Build the query for this run's rejections. A row that the destination did not have counts no attempt."""
        missing = f"f.outcome = '{Outcome.SKIPPED}'"
        return fill(
            """
            SELECT c.row_key, c.key_hi, c.key_lo, c.fingerprint, c.change, f.outcome, f.code, f.message,
            CASE WHEN {missing} THEN 0 ELSE COALESCE(r.attempts, 0) + 1 END AS attempts,
            COALESCE(r.first_seen, {now}) AS first_seen, {now} AS last_seen
            FROM changes AS c
            JOIN failed AS f ON f.seq = c.seq
            LEFT JOIN {earlier} AS r
            ON {same_record} AND r.fingerprint = c.fingerprint AND r.outcome <> '{skipped}'
            WHERE {wanted}
            """,
            missing=missing,
            now=self.now,
            earlier=earlier,
            same_record=same("r", "c", KEY, ROW if self.comparison.adopted else KEY),
            skipped=Outcome.SKIPPED,
            wanted="1 = 1" if self.mode == "update" else f"NOT {missing}",
        )

    @property
    def _kept_rejections(self) -> str:
        names = "r.fingerprint, r.change, r.outcome, r.code, r.message, r.attempts, r.first_seen, r.last_seen"
        unsettled = f"{_SENT} AND NOT {self._settled}"
        if self.comparison.adopted:  # they were known by primary key
            return fill(
                """
                SELECT r.row_key, c.key_hi, c.key_lo, {names}
                FROM rejections AS r
                JOIN changes AS c ON {same_row}
                WHERE c.change = 'skipped' OR {unsettled}
                """,
                names=names,
                same_row=same("r", "c", KEY, ROW),
                unsettled=unsettled,
            )
        invalid = f"c.change = 'invalid' AND r.fingerprint <> {REMOVED}"
        of_record = f"SELECT 1 FROM changes AS c WHERE {same('r', 'c')}"
        # A refused removal does not apply to a row that names the record again, and the other way round.
        same_kind = f"(r.fingerprint <> {REMOVED} OR c.fingerprint = {REMOVED})"
        kept = f"EXISTS ({of_record} AND {same_kind} AND (c.change = 'skipped' OR {invalid} OR {unsettled}))"
        # A row that lost its identifier keeps its attempts.
        kept += f" OR EXISTS (SELECT 1 FROM changes AS c WHERE c.row_key = r.row_key AND {invalid})"
        if self.comparison.low:  # only part of the model was read: a row that was not read is still refused
            kept = f"NOT EXISTS ({of_record} AND {_SENT} AND {self._settled})"
        return f"SELECT r.row_key, r.key_hi, r.key_lo, {names} FROM rejections AS r WHERE {kept}"

    def lowest_open_cursor(self, data_type: str) -> str:
        """Build the query for the lowest cursor of the rows that a later run must read again, as text.

        :param data_type: of the cursor, in the dialect's own words.
        """
        return fill(
            """
            SELECT {lowest}
            FROM changes AS c
            LEFT JOIN failed AS f ON f.seq = c.seq
            WHERE {sent} AND (NOT {settled} OR f.outcome <> '{skipped}')
            """,
            lowest=self.dialect.text("MIN(c.w)", data_type),
            sent=_SENT,
            settled=self._settled,
            skipped=Outcome.SKIPPED,
        )

    def log(self, *, sync: str, run_id: str) -> str:
        """Build the query for the change log's rows: the outcome of each row that was to be sent."""
        lost = ""
        if self.answer_lost:
            lost = f"WHEN c.seq IN ({', '.join(map(str, self.answer_lost))}) THEN '{Outcome.UNKNOWN}'"
        return fill(
            """
            SELECT {sync} AS sync, {run_id} AS run_id, c.change, c.row_key, c.key_hi, c.key_lo, c.fingerprint,
            CASE WHEN f.seq IS NOT NULL THEN f.outcome
            {lost}
            WHEN {settled} THEN '{accepted}'
            WHEN {in_doubt} THEN '{unknown}'
            ELSE 'not sent' END AS outcome, f.code
            FROM changes AS c
            LEFT JOIN failed AS f ON f.seq = c.seq
            WHERE {sent}
            """,
            sync=literal(sync, self.dialect.name),
            run_id=literal(run_id, self.dialect.name),
            lost=lost,
            settled=self._settled,
            accepted=Outcome.ACCEPTED,
            in_doubt=_in_ranges(self.in_doubt),
            unknown=Outcome.UNKNOWN,
            sent=_SENT,
        )

    @property
    def _settled(self) -> str:
        return _in_ranges(self.settled)


def _in_ranges(numbers: RangeSet) -> str:
    """Return the condition that the number of a row of the plan is one of these."""
    conditions = [f"c.seq BETWEEN {rows.start} AND {rows.stop - 1}" for rows in numbers]
    return f"({' OR '.join(conditions) or '1 = 0'})"
