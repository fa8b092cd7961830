"""Classification of the candidates: which rows are sent, and what happens to the others.

The relations, in the order in which a planner makes them from ``candidates``, ``delivered`` and ``rejections``::

    relation       rows                                                                   only if
    owners         records of the snapshot whose row is among the candidates              by_record and compared
    repeated       records that several rows of the model name                            there are keys
    repeated_rows  primary keys of several rows of the model                              by_record
    quarantined    rejected rows that are not tried again
    judged         candidates, with the cause if they are invalid
    row_states     primary keys of the candidates: invalid, or not delivered yet          by_record
    the_plan       judged, with ``change``, ``cause`` and ``code``

``change`` is ``added``, ``changed``, ``removed``; or ``invalid`` (``cause`` is one of
:data:`~airflow_reverse_etl.spec.report.CAUSES`), ``skipped`` (``cause`` is ``given_up``, ``dismissed``, ``in_doubt``,
``missing`` or ``held``, and ``code`` that of the last rejection), ``forgotten`` (leaves the snapshot, and nothing is
sent), ``recorded`` (enters the snapshot, or replaces its record there, and nothing is sent), or ``ignored``. The
:class:`~airflow_reverse_etl.spec.comparison.Comparison` decides what is compared, and what is only recorded. ``cause``
is ``moved`` for an added row whose primary key has another record in the snapshot.

The rules: a record that any row of the model names, even an invalid one, is never deleted. A record whose row has
another identifier now is deleted once that one is delivered, and never while its row is invalid.
"""

# ruff: noqa: S608 - this module builds SQL; names are fixed, constants are literals

from __future__ import annotations

from datetime import datetime

from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ
from airflow_reverse_etl.sql.statements.plan import KEY, ROW, PlanStatement, same
from airflow_reverse_etl.sql.templates import fill

#: Outcome of a rejected row that a person does not want to be counted, nor tried again while it does not change.
DISMISSED = "dismissed"

#: States of a primary key in ``row_states``, in the order of precedence.
_UNDELIVERED = 1
_INVALID = 2


def counted(relation: str) -> str:
    """Build the query for the counts of a plan, which is stored as ``relation``."""
    return f"SELECT change, cause, code, COUNT(*) FROM {relation} GROUP BY change, cause, code"


#: Query for the records of the snapshot whose primary key is that of a candidate.
OWNERS = fill(
    """
    SELECT s.key_hi, s.key_lo, s.row_hi, s.row_lo
    FROM delivered AS s
    JOIN (SELECT DISTINCT row_hi, row_lo FROM candidates WHERE present = 1 AND row_hi IS NOT NULL) AS c ON {same_row}
    """,
    same_row=same("s", "c", ROW),
)

#: Query that returns a row if a row that is not a candidate has the primary key of one that is.
STRAYS = (
    f"SELECT 1 AS found FROM owners AS o LEFT JOIN candidates AS c ON {same('o', 'c')} WHERE c.key_hi IS NULL LIMIT 1"
)


def repeated(statement: PlanStatement, relation: str) -> dict[str, str]:
    """Build the queries for what several rows of ``relation`` share: a record; a primary key."""
    found = {}
    if statement.by_record:
        found["repeated_rows"] = _several(ROW, relation)
    # Of several rows that delete one record, the first valid one is sent.
    if statement.by_record and statement.sync.mode == "delete":
        found["repeated"] = fill(
            """
            SELECT m.key_hi, m.key_lo,
            MIN(CASE WHEN m.row_hi IS NOT NULL AND e.row_hi IS NULL THEN m.row_key END) AS first_row
            FROM {relation} AS m
            LEFT JOIN repeated_rows AS e ON {same_row}
            WHERE m.present = 1 AND m.key_hi IS NOT NULL
            GROUP BY m.key_hi, m.key_lo
            HAVING COUNT(*) > 1
            """,
            relation=relation,
            same_row=same("m", "e", ROW),
        )
    else:
        found["repeated"] = _several(KEY, relation)
    return found


def _adopts_inserts(statement: PlanStatement) -> bool:
    """Return whether rows that were inserted are adopted: even an invalid one must not be inserted again."""
    return statement.comparison.adopted and statement.sync.mode == "insert" and not statement.cursor


def _several(columns: tuple[str, ...], relation: str) -> str:
    names = ", ".join(columns)
    return fill(
        """
        SELECT {names}
        FROM {relation}
        WHERE present = 1 AND {first} IS NOT NULL
        GROUP BY {names}
        HAVING COUNT(*) > 1
        """,
        names=names,
        relation=relation,
        first=columns[0],
    )


def relations(statement: PlanStatement, now: datetime) -> dict[str, str]:
    """Build the queries for the other relations, by name, in order."""
    found = {"quarantined": _quarantined(statement, now), "judged": _judged(statement)}
    if statement.by_record:
        found["row_states"] = _ROW_STATES
    return {**found, "the_plan": _the_plan(statement)}


def _quarantined(statement: PlanStatement, now: datetime) -> str:
    """Build the query for rows that are not tried again while unchanged: given up, dismissed, in doubt, missing."""
    found = (
        "SELECT key_hi, key_lo, fingerprint, code,"
        " CASE outcome WHEN 'unknown' THEN 'in_doubt' WHEN 'skipped' THEN 'missing'"
        f" WHEN '{DISMISSED}' THEN 'dismissed' ELSE 'given_up' END AS cause"
        " FROM rejections WHERE"
    )
    sync = statement.sync
    comparison = statement.comparison
    if not statement.tracked or comparison.forgiven:
        return f"{found} 1 = 0"
    conditions = [
        "outcome = 'unknown'",
        f"outcome = '{DISMISSED}'",
        f"outcome = 'rejected' AND attempts >= {sync.retry.max_attempts}",
        f"outcome = 'rejected' AND first_seen <= {_moment(now - sync.retry.max_age)}",
    ]
    if sync.mode == "update":
        conditions.append(f"outcome = 'skipped' AND last_seen > {_moment(now - sync.retry.missing)}")
    unread = ""
    if comparison.destination_since and sync.failure.on_unknown == "resend":
        # Rows whose reply could not be read go out again once the destination was corrected.
        since = f"CAST('{comparison.destination_since}' AS TIMESTAMP)"
        unread = f"(code <> '{REPLY_NOT_READ}' OR last_seen >= {since}) AND "
    return f"{found} {unread}({' OR '.join(f'({condition})' for condition in conditions)})"


def _judged(statement: PlanStatement) -> str:
    """Build the query for the candidates with ``invalid``, the cause for which a row is invalid."""
    if not statement.keys or statement.sync.mode == "append":
        return (
            "SELECT c.*, CASE WHEN c.unnamed = 1 THEN 'no_identifier' END AS invalid, 0 AS repeats FROM candidates AS c"
        )
    if not statement.by_record:
        return fill(
            """
            SELECT c.*,
            CASE WHEN c.present IS NULL THEN NULL
            WHEN c.key_hi IS NULL THEN 'null_key'
            WHEN d.key_hi IS NOT NULL THEN 'duplicate_key'
            WHEN c.unnamed = 1 THEN 'no_identifier' END AS invalid, 0 AS repeats
            FROM candidates AS c
            LEFT JOIN repeated AS d ON {same_record}
            """,
            same_record=same("c", "d"),
        )
    # To delete a record, one of the rows that name it is enough.
    repeats = "0"
    duplicate = "WHEN d.key_hi IS NOT NULL THEN 'duplicate_identifier'"
    if statement.sync.mode == "delete":
        repeats = "CASE WHEN c.row_key > d.first_row THEN 1 ELSE 0 END"
        duplicate = ""
    if _adopts_inserts(statement):
        # Of several rows that were inserted as one record, the first is recorded.
        inserted = "CASE WHEN c.found = 'added' THEN 0 ELSE 1 END"
        place = f"ROW_NUMBER() OVER (PARTITION BY c.key_hi, c.key_lo, {inserted} ORDER BY c.row_key, c.fingerprint)"
        repeats = f"CASE WHEN {inserted} = 1 AND {place} > 1 THEN 1 ELSE 0 END"
    return fill(
        """
        SELECT c.*,
        CASE WHEN c.present IS NULL THEN NULL
        WHEN c.row_hi IS NULL THEN 'null_key'
        WHEN e.row_hi IS NOT NULL THEN 'duplicate_key'
        WHEN c.unnamed = 1 THEN 'no_identifier'
        {duplicate}
        END AS invalid, {repeats} AS repeats
        FROM candidates AS c
        LEFT JOIN repeated AS d ON {same_record}
        LEFT JOIN repeated_rows AS e ON {same_row}
        """,
        duplicate=duplicate,
        repeats=repeats,
        same_record=same("c", "d"),
        same_row=same("c", "e", ROW),
    )


#: Query for the primary keys of candidates that hold back the deletion of the records that their rows had before.
_ROW_STATES = fill(
    """
    SELECT row_hi, row_lo,
    MAX(CASE WHEN invalid IS NOT NULL THEN {invalid} WHEN found IN ('added', 'doubtful') THEN {undelivered} ELSE 0 END)
    AS state
    FROM judged
    WHERE present = 1 AND row_hi IS NOT NULL
    GROUP BY row_hi, row_lo
    """,
    invalid=_INVALID,
    undelivered=_UNDELIVERED,
)


def _the_plan(statement: PlanStatement) -> str:
    """Build the query for the plan."""
    mode = statement.sync.mode
    comparison = statement.comparison
    sent = OPERATIONS[mode]
    joins = []
    moved = ""

    # Records that no row of the model names.
    forgotten = "'forgotten'" if mode in ("mirror", "delete", "replace") else "'ignored'"
    held = _held(statement)
    if statement.by_record:
        joins.append(f"LEFT JOIN row_states AS w ON j.present IS NULL AND {same('w', 'j', ROW)}")
        if statement.compared:
            moved = "j.found = 'added' AND o.row_hi IS NOT NULL"
            if statement.cursor and not comparison.adopted:
                moved = f"({moved} OR j.found = 'renamed')"
            joins.append(f"LEFT JOIN (SELECT DISTINCT row_hi, row_lo FROM owners) AS o ON {same('o', 'j', ROW)}")

    # Earlier rejections are known by the record; in the state of before, by the primary key.
    digest = ROW if comparison.adopted else KEY
    joins.append(f"LEFT JOIN quarantined AS q ON {same('q', 'j', KEY, digest)} AND q.fingerprint = j.fingerprint")
    if comparison.recorded == "known" or statement.sync.sends_changed:
        joins.append(f"LEFT JOIN (SELECT DISTINCT key_hi, key_lo FROM rejections) AS x ON {same('x', 'j')}")

    # What happens to a row: the first condition that holds decides.
    changes = ["WHEN j.invalid IS NOT NULL THEN 'invalid'"]
    if _adopts_inserts(statement):
        delivered = "j.found NOT IN ('added', 'gone') AND j.key_hi IS NOT NULL AND j.repeats = 0"
        changes.insert(0, f"WHEN {delivered} THEN 'recorded'")
    only_records = comparison.recorded == "all"
    changes += [
        f"WHEN j.found = 'gone' THEN {forgotten if only_records else _change_of_gone(statement, held)}",
        "WHEN j.found = 'same' OR j.repeats = 1 THEN 'ignored'",
    ]
    if only_records:
        last = "'recorded'"
        moved = ""
    else:
        if comparison.columns_before is not None:
            changes.append("WHEN j.found = 'widened' THEN 'recorded'")
        if not statement.cursor or comparison.adopted:
            changes.append("WHEN j.found = 'renamed' THEN 'recorded'")
        if mode == "insert" and moved:
            changes.append(f"WHEN {moved} THEN 'ignored'")
            moved = ""
        if comparison.recorded == "known":
            changes.append("WHEN j.found = 'known' AND x.key_hi IS NULL THEN 'recorded'")
        if "changed" not in sent:
            unsent = "recorded" if comparison.adopted else "ignored"
            changes.append(f"WHEN j.found <> 'added' THEN '{unsent}'")
        changes.append("WHEN q.key_hi IS NOT NULL THEN 'skipped'")
        last = "CASE WHEN j.found = 'added' THEN 'added' ELSE 'changed' END"
    return fill(
        """
        SELECT {columns},
        CASE {changes} ELSE {last} END AS change,
        {cause} AS cause, q.code
        FROM judged AS j
        {joins}
        """,
        columns=_columns(statement),
        changes=" ".join(changes),
        last=last,
        cause=_cause(held, moved),
        joins=" ".join(joins),
    )


def _columns(statement: PlanStatement) -> str:
    """Build the columns of ``judged`` for the plan.

    With ``send: changed``, a row that was rejected before is sent whole. A row with fields that are recorded without
    being sent is sent whole with its next change.
    """
    if not statement.sync.sends_changed:
        return "j.*"
    unsent = "'known', 'widened'"
    if statement.comparison.columns_before is not None:
        unsent += ", 'renamed'"
    values = (*statement.values, *statement.cursor, "row_key", "identifiers", "unnamed", *statement.digests)
    others = (*values, "fingerprint", "present", "found", "invalid", "repeats")
    return (
        f"{', '.join(f'j.{name}' for name in others)},"
        f" CASE WHEN j.found NOT IN ({unsent}) THEN j.field_hashes END AS field_hashes,"
        " CASE WHEN x.key_hi IS NULL THEN j.hashes_before END AS hashes_before"
    )


def _cause(held: str, moved: str) -> str:
    """Build the cause of a row's change from the conditions for ``held`` and ``moved``, which may be empty."""
    cases = ["WHEN j.invalid IS NOT NULL THEN j.invalid"]
    if held:
        cases.append(f"WHEN j.found = 'gone' AND {held} THEN 'held'")
    cases.append("WHEN q.key_hi IS NOT NULL THEN q.cause")
    if moved:
        cases.append(f"WHEN {moved} THEN 'moved'")
    return f"CASE {' '.join(cases)} END"


def _held(statement: PlanStatement) -> str:
    """Build the condition under which a record that no row of the model names is not deleted yet; empty if never."""
    if statement.sync.mode != "mirror" or statement.comparison.adopted or not statement.by_record:
        return ""
    lowest = _INVALID if statement.removes_first else _UNDELIVERED
    return f"w.state >= {lowest}"


def _change_of_gone(statement: PlanStatement, held: str) -> str:
    """Build the change of a record that no row of the model names.

    :param held: result of :func:`_held`.
    """
    mode = statement.sync.mode
    if mode == "delete":  # forgotten, so that a record that comes back is deleted again
        if statement.by_record:
            return f"CASE WHEN w.state = {_INVALID} THEN 'ignored' ELSE 'forgotten' END"
        return "'forgotten'"
    if mode == "replace":
        return "'forgotten'"
    if mode != "mirror" or statement.comparison.adopted:
        return "'ignored'"
    # A record without identifiers, from before the sync was a mirror, cannot be deleted.
    change = ["WHEN j.identifiers IS NULL THEN 'forgotten'"]
    if held:
        change.append(f"WHEN {held} THEN 'skipped'")
    change.append("WHEN q.key_hi IS NULL THEN 'removed'")
    return f"CASE {' '.join(change)} ELSE 'skipped' END"


def _moment(moment: datetime) -> str:
    return f"CAST('{moment:%Y-%m-%d %H:%M:%S}' AS TIMESTAMP)"
