"""The plan statement, which finds the rows of the model that the destination does not have yet.

It is built once for a sync, in the dialect of the planner that runs it, over these relations::

    relation     columns or rows                                                   made by
    extracted    the columns that the sync uses, as c0 … cn                        extract, in the source's dialect
    mapped       k0 …, the key; f0 …, the mapped values; r0 …, the columns
                 that templates read; w, the cursor                                mapped
    model        values, row_key, identifiers, key_hi, key_lo, fingerprint         model, given the types of mapped
    delivered    key_hi, key_lo, fingerprint, row_key, identifiers                 the store: acknowledged rows
    candidates   rows that may be a change, ``found``, field_hashes                compare, one pass over the model
    repeated     keys of several candidates                                        repeated
    rejections   key_hi, key_lo, fingerprint, attempts, first_seen, outcome, code  the store: earlier rejected rows
    quarantined  rejections that are not tried again                               quarantined
    the plan     candidates with their ``change``, ``cause`` and ``code``          classify

No name is a reserved word in any of the dialects; ``snapshot`` is one in Redshift.

``change`` is ``added``, ``changed``, ``removed``; or ``invalid`` (``cause`` is one of
:data:`~airflow_reverse_etl.spec.report.CAUSES`), ``skipped`` (quarantined; ``cause`` is ``given_up`` or
``in_doubt``, and ``code`` that of the last rejection), ``forgotten`` (leaves the snapshot, and nothing is sent),
``recorded`` (enters the snapshot, or replaces its fingerprint there, and nothing is sent), or ``ignored``. The
:class:`~airflow_reverse_etl.spec.comparison.Comparison` decides what is compared, and what is only recorded.

``unnamed`` is 1 for a row of the model, or a record that left the model, if an identifier (a field in ``match_on``) is
null or blank. Such a row is always a candidate, even if it equals the snapshot. Such a record is never deleted.

``compare`` reads the model once, so the model can be a stream, and finds repeated keys only among the candidates. A
repeated key is not a candidate if all its rows equal the snapshot. :func:`surplus` counts such rows; if there are any,
the comparison must run again over a stored model, with ``repeated`` made from all of it (``compare_repeated``). With a
cursor, only part of the model is read, and counts cannot find repeated keys: the model is then always stored, and
compared with ``compare_repeated``.

A key's hash and a row's fingerprint are digests of the *text forms* of values, see
:mod:`airflow_reverse_etl.sql.text_forms`. A fingerprint covers the mapped values in the order of the destination
fields' names, plus the names, constants and templates themselves. The order of the mapping, and columns that are not
mapped, make no difference. For hashes of single fields, see :mod:`airflow_reverse_etl.sql.statements.field_hashes`.
"""

# ruff: noqa: S608 - this module builds SQL; names are quoted, constants are literals

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.comparison import Bound, Comparison, Kind, cursor_kind
from airflow_reverse_etl.spec.model import SqlField, Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.operations import OPERATIONS
from airflow_reverse_etl.spec.receipts import REPLY_NOT_READ
from airflow_reverse_etl.spec.templates import template_columns
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sql.statements.expressions import UsedColumns, expression
from airflow_reverse_etl.sql.text_forms import DIALECTS, Dialect, literal, quoted

#: Fingerprints of a removal and of a row in doubt. Digests are never negative.
REMOVED = -1
IN_DOUBT = -2

#: Modes in which a row in doubt is recorded as such, so that the next run sends or deletes it even if the model's row
#: is unchanged or removed. In other modes the row stays out of the snapshot, and is sent again if the model has it.
MODES_IN_DOUBT = frozenset({"upsert", "update", "mirror"})


@dataclass(frozen=True, slots=True)
class PlanStatement:
    """The parts of the plan statement. ``extract`` is in the source's dialect, everything else in the planner's.

    :param values: columns of the change set: ``f0 …`` and ``r0 …``.
    :param keys: ``k0 …``; empty if the sync has no key.
    :param tracked: there is a snapshot to compare with.
    :param cursor: the cursor's column in ``mapped`` and in the candidates; empty without a cursor. It is not sent.
    """

    sync: Sync
    dialect: Dialect
    extract: str
    mapped: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    tracked: bool
    cursor: tuple[str, ...]
    comparison: Comparison
    _identifiers: Mapping[str, Any] | None

    def model(self, types: Mapping[str, str]) -> str:
        """Build the query for the model with its hashes.

        :param types: type of each column of ``mapped``, in the planner's own words.
        """
        texts = {name: self.dialect.text(name, data_type) for name, data_type in types.items()}
        string = self.dialect.string
        names = ", ".join((*self.values, *self.cursor))
        blank = " OR ".join(self.dialect.blank(texts[name]) for name in self._named_by)
        unnamed = f"CASE WHEN {blank} THEN 1 ELSE 0 END" if blank else "0"
        identifiers = self.dialect.json_record(self._identifiers, types) if self._identifiers else "NULL"
        columns = f"{names}, CAST({{key}} AS {string}) AS row_key, CAST({identifiers} AS {string}) AS identifiers"
        columns += f", {unnamed} AS unnamed"
        if not self.keys:
            hashes = ", ".join(f"CAST(NULL AS BIGINT) AS {name}" for name in ("key_hi", "key_lo", "fingerprint"))
            return f"SELECT {columns.format(key='NULL')}, {hashes}, 1 AS present FROM mapped"

        # the key: its text, and a digest of all its parts
        key = [texts[name] for name in self.keys]
        row_key = key[0] if len(key) == 1 else self.dialect.json_array(key)

        # the fingerprint: a digest of the mapping's shape and of all values
        shape = literal(field_hashes.shape(self.sync), self.dialect.name)
        values = [texts[name] for name in field_hashes.values(self.sync)]
        row = self.dialect.prefix_code([shape, *values])

        high = self.dialect.high
        low = self.dialect.low
        hashes = (
            f"{high.format(h='key_digest')} AS key_hi, {low.format(h='key_digest')} AS key_lo,"
            f" {low.format(h='row_digest')} AS fingerprint"
        )
        return (
            f"SELECT {names}, row_key, identifiers, unnamed, {hashes}, 1 AS present FROM ("
            f"SELECT {columns.format(key=row_key)},"
            f" {self._key_digest(key)} AS key_digest, {self.dialect.digest.format(x=row)} AS row_digest"
            " FROM mapped) AS digests"
        )

    @property
    def hashed(self) -> tuple[str, ...]:
        """The candidates' column with hashes of single fields; empty if the sync does not store them."""
        return ("field_hashes",) if self.sync.track_fields else ()

    @property
    def calculates(self) -> bool:
        """True if ``mapped`` contains expressions that the author wrote."""
        return any(isinstance(field, SqlField) for field in self.sync.mapping.values())

    def check_rows(self, *, read: int, mapped: int) -> None:
        """Check that ``mapped`` has each row that was read, once.

        :raises ConfigurationError: the numbers of rows differ.
        """
        if read != mapped:
            raise ConfigurationError(
                f"the mapping returns {mapped:,} rows for the {read:,} that were read",
                todo="move functions that return several rows for one, or none, from its expressions to the model",
                sync=self.sync.name,
            )

    def compare(self, types: Mapping[str, str], *, identified: bool = True) -> str:
        """Build the query for the candidates, in one pass over ``model``.

        :param types: see ``model``.
        :param identified: ``delivered`` may have identifiers, which are kept in case the sync is a mirror again.
        """
        return self._compare(types, "", identified=identified)

    def compare_repeated(self, types: Mapping[str, str]) -> str:
        """Build the query for the candidates, and for all rows of the keys in ``repeated``, changed or not."""
        return self._compare(types, "repeated")

    @staticmethod
    def repeated(relation: str) -> str:
        """Build the query for keys of several rows of ``candidates`` or ``model``."""
        return (
            f"SELECT key_hi, key_lo FROM {relation} WHERE present = 1 AND key_hi IS NOT NULL"
            " GROUP BY key_hi, key_lo HAVING COUNT(*) > 1"
        )

    def quarantined(self, now: datetime) -> str:
        """Build the query for rows that are not tried again while unchanged: given up, or in doubt."""
        found = (
            "SELECT key_hi, key_lo, fingerprint, code,"
            " CASE WHEN outcome = 'unknown' THEN 'in_doubt' ELSE 'given_up' END AS cause FROM rejections WHERE"
        )
        if not self.tracked or self.comparison.forgiven:
            return f"{found} 1 = 0"
        oldest = (now - self.sync.retry.max_age).strftime("%Y-%m-%d %H:%M:%S")
        unread = ""
        if self.comparison.destination_since and self.sync.failure.on_unknown == "resend":
            # Rows whose reply could not be read go out again once the destination was corrected.
            since = f"CAST('{self.comparison.destination_since}' AS TIMESTAMP)"
            unread = f"(code <> '{REPLY_NOT_READ}' OR last_seen >= {since}) AND "
        return (
            f"{found} {unread}(outcome = 'unknown' OR attempts >= {self.sync.retry.max_attempts}"
            f" OR first_seen <= CAST('{oldest}' AS TIMESTAMP))"
        )

    @property
    def classify(self) -> str:
        """The query for the plan."""
        unnamed = "c.unnamed = 1 AND c.found <> 'gone'"
        invalid = f"c.found = 'null' OR d.key_hi IS NOT NULL OR {unnamed}"
        cause = (
            "CASE WHEN c.found = 'null' THEN 'null_key' WHEN d.key_hi IS NOT NULL THEN 'duplicate_key'"
            f" WHEN {unnamed} THEN 'no_identifier' {{skipped}}END AS cause"
        )
        repeated = " LEFT JOIN repeated AS d ON c.key_hi = d.key_hi AND c.key_lo = d.key_lo"
        if self.comparison.recorded == "all":
            gone = "forgotten" if self.sync.mode in ("mirror", "delete") else "ignored"
            return (
                f"SELECT c.*, CASE WHEN {invalid} THEN 'invalid' WHEN c.found = 'gone' THEN '{gone}'"
                f" ELSE 'recorded' END AS change, {cause.format(skipped='')},"
                f" CAST(NULL AS {self.dialect.string}) AS code FROM candidates AS c{repeated}"
            )
        sent = OPERATIONS[self.sync.mode]
        gone = "'ignored'"
        if "removed" in sent:  # a row without identifiers, from before the sync was a mirror, cannot be deleted
            gone = (
                "CASE WHEN c.identifiers IS NULL OR c.unnamed = 1 THEN 'forgotten'"
                " WHEN q.key_hi IS NULL THEN 'removed' ELSE 'skipped' END"
            )
        elif self.sync.mode == "delete":  # so that a key that comes back is deleted again
            gone = "'forgotten'"
        unsent = "" if "changed" in sent else " WHEN c.found IN ('changed', 'known') THEN 'ignored'"
        quarantined = (
            " LEFT JOIN quarantined AS q"
            " ON c.key_hi = q.key_hi AND c.key_lo = q.key_lo AND c.fingerprint = q.fingerprint"
        )
        known = rejected = ""
        if self.comparison.recorded:
            known = " WHEN c.found = 'known' AND x.key_hi IS NULL THEN 'recorded'"
            rejected = (
                " LEFT JOIN (SELECT DISTINCT key_hi, key_lo FROM rejections) AS x"
                " ON c.key_hi = x.key_hi AND c.key_lo = x.key_lo"
            )
        return (
            f"SELECT c.*, CASE WHEN {invalid} THEN 'invalid' WHEN c.found = 'gone' THEN {gone}{known}{unsent}"
            " WHEN q.key_hi IS NOT NULL THEN 'skipped' WHEN c.found = 'known' THEN 'changed' ELSE c.found END"
            f" AS change, {cause.format(skipped='ELSE q.cause ')}, q.code"
            f" FROM candidates AS c{repeated}{quarantined}{rejected}"
        )

    def cursor_kind(self, types: Mapping[str, str]) -> Kind:
        """Return the kind of the cursor.

        :raises ConfigurationError: the column's type cannot be a cursor's.
        """
        [name] = self.cursor
        if kind := cursor_kind(types[name], self.dialect.name):
            return kind
        raise ConfigurationError(
            f"column {self.sync.cursor!r} cannot be a cursor: its values are read as {types[name]}",
            todo="give a column of dates, time stamps or whole numbers, or cast it in the model",
            sync=self.sync.name,
        )

    #: Rows of the plan that are not sent, and that the next run must read again: the other rows of a duplicate key may
    #: disappear without a change here. Other invalid rows change themselves when they get a key or an identifier.
    open_unsent = "cause = 'duplicate_key'"

    def highest_cursor(self, relation: str, types: Mapping[str, str], now: datetime) -> str:
        """Build the query for the highest value of the cursor that counts, as text; NULL without any."""
        [name] = self.cursor
        latest = Bound.latest(self.cursor_kind(types), now)
        only = f" WHERE {name} <= {latest.literal(self.dialect.name)}" if latest else ""
        return f"SELECT {self.dialect.text(f'MAX({name})', types[name])} FROM {relation}{only}"

    def lowest_cursor(self, relation: str, types: Mapping[str, str], where: str) -> str:
        """Build the query for the lowest value of the cursor among some rows, as text; NULL without any."""
        [name] = self.cursor
        return f"SELECT {self.dialect.text(f'MIN({name})', types[name])} FROM {relation} WHERE {where}"

    def _compare(self, types: Mapping[str, str], repeated: str, *, identified: bool = True) -> str:
        columns = ", ".join(f"m.{name}" for name in (*self.values, *self.cursor))
        if self.hashed:  # only for candidates, as each field costs a digest
            columns += f", {field_hashes.hashes(self.sync, self.dialect, types, model='m')} AS field_hashes"
        if not self.tracked or not self.comparison.compared:
            found = "CASE WHEN m.key_hi IS NULL THEN 'null' ELSE 'added' END" if self.keys else "'added'"
            return (
                f"SELECT {columns}, m.row_key, m.identifiers, m.unnamed, m.key_hi, m.key_lo, m.fingerprint, m.present,"
                f" {found} AS found FROM model AS m"
            )
        differs = ["m.present IS NULL", "s.key_hi IS NULL", "m.fingerprint <> s.fingerprint"]
        names = "m.row_key, m.identifiers"
        if identified or self._identifiers:
            names = ", ".join(f"COALESCE(m.{name}, s.{name}) AS {name}" for name in ("row_key", "identifiers"))
        if self._identifiers:  # recorded before the sync was a mirror
            differs.append("s.identifiers IS NULL")
        if self._named_by:
            differs.append("m.unnamed = 1")
        # part of a model does not show which rows were removed
        join = "LEFT" if self.comparison.low else "FULL"
        join += " JOIN delivered AS s ON m.key_hi = s.key_hi AND m.key_lo = s.key_lo"
        if repeated:
            join += f" LEFT JOIN {repeated} AS d ON m.key_hi = d.key_hi AND m.key_lo = d.key_lo"
            differs.append("d.key_hi IS NOT NULL")
        known = f" WHEN s.fingerprint <> {IN_DOUBT} THEN 'known'" if self.comparison.recorded == "known" else ""
        return (
            f"SELECT {columns}, {names}, COALESCE(m.unnamed, {self._unnamed_before}) AS unnamed,"
            " COALESCE(m.key_hi, s.key_hi) AS key_hi, COALESCE(m.key_lo, s.key_lo) AS key_lo,"
            f" COALESCE(m.fingerprint, {REMOVED}) AS fingerprint, m.present,"
            " CASE WHEN m.present IS NULL THEN 'gone' WHEN m.key_hi IS NULL THEN 'null'"
            f" WHEN s.key_hi IS NULL THEN 'added'{known} ELSE 'changed' END AS found"
            f" FROM model AS m {join} WHERE {' OR '.join(differs)}"
        )

    @property
    def _unnamed_before(self) -> str:
        """SQL that is 1 for a record of the snapshot with a null or blank identifier, else 0."""
        match_on = self.sync.destination.match_on
        if not self._identifiers or not match_on:
            return "0"
        conditions = []
        for name in match_on:
            path = name.split(".")
            value = self.dialect.json_value("s.identifiers", path)
            # A record that was stored before the field was one of match_on lacks it, and is deleted as it was stored.
            key = literal(json.dumps(path[-1], ensure_ascii=False), self.dialect.name)
            has_field = f"REPLACE(s.identifiers, {key}, '') <> s.identifiers"
            conditions.append(f"({has_field} AND {self.dialect.blank(value)})")
        return f"CASE WHEN {' OR '.join(conditions)} THEN 1 ELSE 0 END"

    @property
    def _named_by(self) -> tuple[str, ...]:
        """The columns of ``mapped`` that identify a row at the destination. The plan cannot render templates."""
        match_on = self.sync.destination.match_on
        mapping = enumerate(self.sync.mapping.items())
        return tuple(f"f{at}" for at, (name, field) in mapping if name in match_on and not field_hashes.fixed(field))

    def _key_digest(self, texts: Sequence[str]) -> str:
        """Return SQL for the key's digest; NULL if any part of the key is NULL."""
        digest = self.dialect.digest.format(x=self.dialect.prefix_code(texts))
        nulls = " OR ".join(f"{name} IS NULL" for name in self.keys)
        return f"CASE WHEN {nulls} THEN NULL ELSE {digest} END"


def surplus(*, model_rows: int, snapshot_rows: int, found: Mapping[str, int]) -> int:
    """Return the number of rows that repeat a key of the snapshot, without the first row of each key.

    Every row of the model matches a row of the snapshot, or is ``added`` or ``null``. Every row of the snapshot is
    matched, or is ``gone``. If there are more matches than matched rows of the snapshot, keys are repeated.
    """
    matches = model_rows - found.get("added", 0) - found.get("null", 0)
    return matches - (snapshot_rows - found.get("gone", 0))


def counted(relation: str) -> str:
    """Build the query for the counts of a plan, which is stored as ``relation``."""
    return f"SELECT change, cause, code, COUNT(*) FROM {relation} GROUP BY change, cause, code"


def plan_statement(
    sync: Sync,
    *,
    query: str,
    primary_key: Sequence[str],
    columns: Sequence[Column],
    source: str,
    planner: str,
    comparison: Comparison | None = None,
) -> PlanStatement:
    """Build the plan statement of a sync.

    :param query: the model as one SELECT in the dialect ``source``.
    :param columns: the query's columns.
    :param planner: the dialect in which the statement runs.
    :param comparison: default: the plain comparison.
    :raises ModelNotFoundError: the model lacks columns that the sync uses; names all of them.
    :raises SpecError: the query is not one SELECT, an expression cannot be used, or a required key is missing.
    """
    if not primary_key and sync.mode != "append":
        raise SpecError(
            f"mode {sync.mode} needs a primary key, and neither the sync nor dbt names one",
            todo="set primary_key in the sync, or declare it in dbt (a constraint, or unique and not_null tests)",
            sync=sync.name,
        )
    body = single_select(query, source, sync)
    dialect = DIALECTS[planner]

    # resolve every column that the sync uses, and report all problems at once
    used = UsedColumns(columns)
    keys = [used.column(name) for name in primary_key]
    mapped = [_field(name, field, used, source=source, planner=dialect) for name, field in sync.mapping.items()]
    read = [used.column(name) for name in template_columns(sync)]
    cursor = used.column(sync.cursor) if sync.cursor else ""
    used.check(sync)

    # name the columns of ``mapped``
    targets = {f"k{at}": sql for at, sql in enumerate(keys)} | {f"f{at}": sql for at, sql in enumerate(mapped)}
    targets |= {f"r{at}": sql for at, sql in enumerate(read)}
    if cursor:
        targets["w"] = cursor
    cursor_columns = ("w",) if cursor else ()

    # a model without used columns (constants only) still has rows
    extracted = ", ".join(f"{quoted(name, source)} AS {alias}" for name, alias in used.found.items()) or "1 AS c0"
    return PlanStatement(
        sync=sync,
        dialect=dialect,
        extract=f"SELECT {extracted} FROM (\n{body}\n) AS model{_window(used, cursor, source, comparison)}",
        mapped=f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in targets.items())} FROM extracted",
        keys=tuple(name for name in targets if name.startswith("k")),
        values=tuple(name for name in targets if not name.startswith(("k", "w"))),
        _identifiers=_identifiers(sync, dict(zip(primary_key, keys, strict=True)), mapped),
        tracked=sync.tracked,
        cursor=cursor_columns,
        comparison=comparison or Comparison(),
    )


def _window(used: UsedColumns, cursor: str, source: str, comparison: Comparison | None) -> str:
    if not comparison or not comparison.low:
        return ""
    name = quoted(next(name for name, alias in used.found.items() if alias == cursor), source)
    return f" WHERE {name} >= {Bound.from_text(comparison.low).literal(source)} OR {name} IS NULL"


def _field(name: str, field: object, used: UsedColumns, *, source: str, planner: Dialect) -> str:
    """Return the planner's SQL for a mapped field over ``extracted``; NULL for constants and templates."""
    if isinstance(field, str):
        return used.column(field)
    if isinstance(field, SqlField):
        return expression(f"mapping.{name}.sql", field.sql, used, source=source, planner=planner.name)
    return f"CAST(NULL AS {planner.string})"


def _identifiers(sync: Sync, keys: Mapping[str, str], mapped: Sequence[str]) -> dict[str, Any] | None:
    """Return the fields that a delete sends, nested like a record.

    These are the fields in ``match_on`` and those that map a key column; without such fields, the key columns under
    their own names. None if the mode does not delete removed rows.

    :raises SpecError: ``match_on`` names a field whose value is unknown once the row is removed.
    """
    if sync.mode != "mirror":
        return None
    record: dict[str, Any] = {}
    for at, (name, field) in enumerate(sync.mapping.items()):
        if name not in sync.destination.match_on and (mapped[at] not in keys.values() or field_hashes.fixed(field)):
            continue
        if isinstance(field, TemplateField) or (isinstance(field, ValueField) and isinstance(field.value, dict | list)):
            raise SpecError(
                f"destination.match_on names {name}, whose value is unknown for a removed row",
                todo="match on a column, an expression or a plain constant in mode mirror",
                sync=sync.name,
            )
        *parents, leaf = name.split(".")
        level = record
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = literal(field.value, "duckdb") if isinstance(field, ValueField) else f"f{at}"
    return record or {column: f"k{at}" for at, column in enumerate(keys)}
