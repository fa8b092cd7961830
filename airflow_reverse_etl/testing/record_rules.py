"""The rules of a plan in plain Python: which rows are sent, and what happens to the others.

:mod:`airflow_reverse_etl.sql.statements.classification` has the same rules in SQL. This is the model that it is tested
against, so it shares none of its code.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from airflow_reverse_etl.spec.comparison import Comparison
from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ, Outcome
from airflow_reverse_etl.sync.load.records import unnamed
from airflow_reverse_etl.sync.ports import PlanRequest
from airflow_reverse_etl.testing.model_rows import ModelRow

#: Fingerprint of a removal.
REMOVED = "removed"
#: Fingerprint of a record that may have been written: its answer was lost.
IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Record of the snapshot.

    :param key: primary key of the row that was delivered.
    :param fields: the values of single fields are known: to be ``named`` in a plan, or to decide what is ``sent``.
    """

    fingerprint: str
    identifiers: str | None
    key: str
    fields: Literal["", "named", "sent"] = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was not accepted, known by its record and its fingerprint.

    :param key: primary key of the row.
    """

    key: str
    attempts: int
    first_seen: datetime
    last_seen: datetime
    outcome: Outcome
    code: str


#: Record → what was delivered.
Snapshot = dict[str, Delivered]
#: (record, fingerprint) → rejection.
Rejections = dict[tuple[str, str], Rejection]


@dataclass(frozen=True, slots=True)
class Classified:
    """Row of the model, or record that left it, with what the plan does about it.

    ``change``, ``cause`` and ``code`` have the same values as in the plan statement.

    :param row: the model's row; None for a record that no row names.
    """

    change: str
    cause: str
    code: str
    key: str | None
    record: str | None
    fingerprint: str
    identifiers: str | None
    row: ModelRow | None


@dataclass(frozen=True, slots=True)
class _Decision:
    change: str
    cause: str = ""
    code: str = ""


_IGNORED = _Decision("ignored")
_RECORDED = _Decision("recorded")
_FORGOTTEN = _Decision("forgotten")
_HELD = _Decision("skipped", "held")


class Rules:
    """The rules, applied to one model and one state."""

    def __init__(
        self,
        request: PlanRequest,
        comparison: Comparison,
        rows: Sequence[ModelRow],
        snapshot: Mapping[str, Delivered],
        rejections: Rejections,
    ) -> None:
        self._request = request
        self._sync = request.sync
        self._comparison = comparison
        self._rows = rows
        self._snapshot = snapshot if comparison.compared else {}
        self._rejections = rejections

        # Index the rows and the snapshot.
        self._rows_by_key: dict[str, list[ModelRow]] = defaultdict(list)
        self._rows_by_record: dict[str, list[ModelRow]] = defaultdict(list)
        for row in rows:
            if row.key is not None:
                self._rows_by_key[row.key].append(row)
            if row.record is not None:
                self._rows_by_record[row.record].append(row)
        self._keys_delivered = {delivered.key for delivered in self._snapshot.values()}

    def classified(self) -> Iterator[Classified]:
        """Yield every row of the model, and every record of the snapshot that no row names."""
        for row in self._rows:
            decision = self._about_row(row)
            known = self._known(row)
            identifiers = row.identifiers
            if identifiers is None and known:  # kept in case the sync becomes a mirror again
                identifiers = known.identifiers
            yield Classified(
                decision.change, decision.cause, decision.code, row.key, row.record, row.fingerprint, identifiers, row
            )
        for record in self._unclaimed():
            delivered = self._snapshot[record]
            decision = self._about_unclaimed(record, delivered)
            yield Classified(
                decision.change,
                decision.cause,
                decision.code,
                delivered.key,
                record,
                REMOVED,
                delivered.identifiers,
                None,
            )

    # -- rows of the model -------------------------------------------------------------------------------------------

    def _about_row(self, row: ModelRow) -> _Decision:
        if self._was_inserted(row):
            return _RECORDED
        if cause := self._invalid(row):
            return _Decision("invalid", cause)
        if self._is_surplus(row):
            return _IGNORED
        known = self._known(row)
        if self._comparison.recorded == "all":
            return _IGNORED if known and self._is_same(row, known) else _RECORDED
        if known is None:
            return self._about_new_record(row)
        return self._about_known_record(row, known)

    def _was_inserted(self, row: ModelRow) -> bool:
        """Return whether an earlier version has inserted a row, which is then recorded even if it is invalid."""
        adopts = self._comparison.adopted and self._sync.mode == "insert" and not self._sync.cursor
        if not adopts or row.record is None or self._known(row) is None:
            return False
        others = [other for other in self._rows_by_record[row.record] if self._known(other) is not None]
        return row is min(others, key=lambda other: (str(other.key), other.fingerprint))

    def _invalid(self, row: ModelRow) -> str:
        """Return the first cause for which a row is invalid; empty if it is valid."""
        if self._sync.mode == "append":
            return "no_identifier" if row.unnamed else ""
        if row.key is None:
            return "null_key"
        if len(self._rows_by_key[row.key]) > 1:
            return "duplicate_key"
        if row.unnamed or row.record is None:
            return "no_identifier"
        # To delete a record, one of the rows that name it is enough.
        if len(self._rows_by_record[row.record]) > 1 and self._sync.mode != "delete":
            return "duplicate_identifier"
        return ""

    def _is_surplus(self, row: ModelRow) -> bool:
        """Return whether another row deletes the record of this one."""
        if self._sync.mode != "delete" or row.record is None:
            return False
        others = [other for other in self._rows_by_record[row.record] if not self._invalid(other)]
        return str(row.key) > min(str(other.key) for other in others)

    def _about_new_record(self, row: ModelRow) -> _Decision:
        moved = row.key in self._keys_delivered and not self._comparison.adopted
        if moved and self._sync.mode == "insert":
            return _IGNORED
        return self._sent("added", row.record, row.fingerprint, "moved" if moved else "")

    def _about_known_record(self, row: ModelRow, known: Delivered) -> _Decision:
        if self._is_same(row, known):
            return _IGNORED
        renamed = known.key != row.key
        cause = ""
        if known.fingerprint in (row.fingerprint, row.fingerprint_before):
            # With a cursor, the row that had the record before may not have been read.
            if not (renamed and self._sync.cursor):
                return _RECORDED
        elif self._comparison.recorded == "known" and known.fingerprint != IN_DOUBT and not self._is_rejected(row):
            return _RECORDED
        if renamed and self._sync.cursor:
            cause = "moved"
        if "changed" not in OPERATIONS[self._sync.mode]:
            return _RECORDED if self._comparison.adopted else _IGNORED
        return self._sent("changed", row.record, row.fingerprint, cause)

    def _known(self, row: ModelRow) -> Delivered | None:
        """Return what was delivered of a row's record."""
        # The snapshot of an earlier version knows records by primary key.
        name = row.key if self._comparison.adopted else row.record
        return self._snapshot.get(name) if name is not None else None

    def _is_same(self, row: ModelRow, known: Delivered) -> bool:
        """Return whether the snapshot has nothing to learn from a row."""
        lacks_identifiers = self._sync.mode == "mirror" and known.identifiers is None
        unchanged = known.fingerprint == row.fingerprint and known.key == row.key
        return unchanged and not lacks_identifiers and not self._comparison.adopted

    def _is_rejected(self, row: ModelRow) -> bool:
        return any(record == row.record for record, _ in self._rejections)

    # -- records that no row names -----------------------------------------------------------------------------------

    def _unclaimed(self) -> list[str]:
        """Return the records of the snapshot that no row names, valid or not."""
        # With a cursor, a row that was not read may name the record. In the state of an earlier version, records are
        # not known yet.
        if self._comparison.low or self._comparison.adopted:
            return []
        return [record for record in self._snapshot if record not in self._rows_by_record]

    def _about_unclaimed(self, record: str, delivered: Delivered) -> _Decision:
        if self._sync.mode not in ("mirror", "delete", "replace"):
            return _IGNORED
        if self._comparison.recorded == "all" or self._sync.mode == "replace":
            return _FORGOTTEN
        if self._sync.mode == "delete":
            return _IGNORED if self._is_invalid_now(delivered.key) else _FORGOTTEN
        if not self._can_be_deleted(delivered):
            return _FORGOTTEN
        if self._is_held(delivered.key):
            return _HELD
        return self._sent("removed", record, REMOVED)

    def _can_be_deleted(self, delivered: Delivered) -> bool:
        if delivered.identifiers is None:
            return False
        stored = json.loads(delivered.identifiers)
        return not list(unnamed([stored], self._sync.destination.match_on, stored=True))

    def _is_invalid_now(self, key: str) -> bool:
        """Return whether the model has the row that was delivered, and it is invalid."""
        return any(self._invalid(row) for row in self._rows_by_key.get(key, ()))

    def _is_held(self, key: str) -> bool:
        """Return whether the row of a record still needs the record: the row is invalid, or its new one is not there.

        :param key: primary key of the row that was delivered.
        """
        if key not in self._rows_by_key:
            return False
        if self._is_invalid_now(key):
            return True
        [row] = self._rows_by_key[key]
        new = self._known(row)
        delivered = new is not None and new.fingerprint != IN_DOUBT
        return not delivered and not self._request.capabilities.removes_first

    # -- rejections --------------------------------------------------------------------------------------------------

    def _sent(self, change: str, record: str | None, fingerprint: str, cause: str = "") -> _Decision:
        """Decide to send a row, unless it was rejected for good."""
        rejection = self._rejections.get((str(record), fingerprint))
        quarantine = self._quarantine(rejection) if rejection else ""
        if rejection and quarantine:
            return _Decision("skipped", quarantine, rejection.code)
        return _Decision(change, cause)

    def _quarantine(self, rejection: Rejection) -> str:
        """Return why a rejected row is not sent again; empty if it is."""
        if not self._sync.tracked or self._comparison.forgiven or self._is_corrected(rejection):
            return ""
        retry = self._sync.retry
        now = self._request.now
        match rejection.outcome:
            case Outcome.UNKNOWN:
                return "in_doubt"
            case Outcome.SKIPPED:
                missing = self._sync.mode == "update" and rejection.last_seen > now - retry.missing
                return "missing" if missing else ""
            case _:
                given_up = rejection.attempts >= retry.max_attempts or rejection.first_seen <= now - retry.max_age
                return "given_up" if given_up else ""

    def _is_corrected(self, rejection: Rejection) -> bool:
        """Return whether the reply about a row was not read, and the sync's destination has changed since."""
        if rejection.code != REPLY_NOT_READ or self._sync.failure.on_unknown != "resend":
            return False
        return f"{rejection.last_seen:%Y-%m-%d %H:%M:%S.%f}" < self._comparison.destination_since
