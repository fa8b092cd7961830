"""The plan statement: which rows of the model does the destination not have yet? Pure: SQL text in, SQL text out.

Built once for a sync, in the dialect of the planner that runs it, over these relations::

    extracted    the columns that the sync uses, as c0 … cn                       extract, in the source's dialect
    mapped       k0 …, the key; f0 …, the mapped values; r0 …, what templates read; w, the cursor  mapped
    model        values, row_key, identifiers, key_hi, key_lo, fingerprint        model, given the types of mapped
    delivered    key_hi, key_lo, fingerprint, row_key, identifiers                what the destination acknowledged
    candidates   every row that may be a change, what was ``found``, field_hashes compare, one pass over the model
    repeated     keys of several candidates                                       repeated
    rejections   key_hi, key_lo, fingerprint, attempts, first_seen, outcome, code  rejected rows of earlier runs
    quarantined  those of them that are not tried again                           quarantined
    the plan     candidates, the ``change`` that each of them is, ``cause``, ``code``  classify

No name is a reserved word of any of the dialects: ``snapshot`` is one of Redshift's.

``change`` is ``added``, ``changed``, ``removed``; or ``invalid`` (``cause`` is one of
:data:`~airflow_reverse_etl.spec.report.CAUSES`), ``skipped`` (quarantined; ``cause`` is ``given_up`` or
``in_doubt``, ``code`` that of the last rejection), ``forgotten`` (leaves the snapshot without the destination being
asked), ``recorded`` (enters it, or has its fingerprint there replaced, without the destination being asked),
``ignored``. What is compared with what, and what is only recorded, is the
:class:`~airflow_reverse_etl.spec.comparison.Comparison`.

``unnamed`` is 1 for a row of the model, or a record that left it, with a null or blank identifier: a field in
``match_on``. Such a row is a candidate whatever the snapshot has of it; such a record is never deleted.

``compare`` reads the model once, so it can be a stream, and finds repeated keys only among the candidates. A repeated
key whose rows all equal the snapshot is not among them; :func:`surplus` tells that there is one, and then the
comparison must run again over a stored model, with ``repeated`` made from the whole of it (``compare_repeated``). With
a cursor the model is only a part, about which counts say nothing: it is always stored and compared like that.

A key's hash and a row's fingerprint are digests of the *text forms* of values, see
:mod:`airflow_reverse_etl.sql.text_forms`. Fingerprints take the mapped values in the order of the destination fields'
names, and the names, constants and templates themselves: the order of the mapping makes no difference, and a column
that is not mapped neither. Hashes of single fields are a matter of
:mod:`airflow_reverse_etl.sql.statements.field_hashes`.
"""

# ruff: noqa: S608 - building SQL is what this module does; names are quoted, constants are literals

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

#: Fingerprints that no digest is, as none is negative: of a removal, and of a row in doubt.
REMOVED, IN_DOUBT = -1, -2

#: Modes in which a row that may have been written, or not, is recorded as such, so that the next run sends or deletes
#: it whatever the model says then. In the others it is left out of the snapshot, and so is sent again if it is there.
MODES_IN_DOUBT = frozenset({"upsert", "update", "mirror"})


@dataclass(frozen=True, slots=True)
class PlanStatement:
    """The parts of the plan statement. ``extract`` is in the source's dialect, all else in the planner's.

    :param values: columns that go into the change set: ``f0 …`` and ``r0 …``.
    :param keys: ``k0 …``; empty where the sync has no key.
    :param tracked: whether there is a snapshot to compare with.
    :param cursor: the cursor's column in ``mapped`` and in the candidates, empty where the sync has none. Not sent.
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
        """The model with its hashes. ``types``: of the columns of ``mapped``, in the planner's own words."""
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
        key = [texts[name] for name in self.keys]
        row = self.dialect.prefix_code(
            [
                literal(field_hashes.shape(self.sync), self.dialect.name),
                *(texts[name] for name in field_hashes.values(self.sync)),
            ]
        )
        high, low = self.dialect.high, self.dialect.low
        hashes = (
            f"{high.format(h='key_digest')} AS key_hi, {low.format(h='key_digest')} AS key_lo,"
            f" {low.format(h='row_digest')} AS fingerprint"
        )
        return (
            f"SELECT {names}, row_key, identifiers, unnamed, {hashes}, 1 AS present FROM ("
            f"SELECT {columns.format(key=key[0] if len(key) == 1 else self.dialect.json_array(key))},"
            f" {self._key_digest(key)} AS key_digest, {self.dialect.digest.format(x=row)} AS row_digest"
            " FROM mapped) AS digests"
        )

    @property
    def hashed(self) -> tuple[str, ...]:
        """The column of the candidates with hashes of single fields; empty where the sync keeps none."""
        return ("field_hashes",) if self.sync.track_fields else ()

    @property
    def calculates(self) -> bool:
        """Whether expressions of the author's are part of ``mapped``."""
        return any(isinstance(field, SqlField) for field in self.sync.mapping.values())

    def check_rows(self, *, read: int, mapped: int) -> None:
        """:raises ConfigurationError: ``mapped`` does not have the rows that were read, each once."""
        if read != mapped:
            raise ConfigurationError(
                f"the mapping makes {mapped:,} rows of the {read:,} that were read",
                todo="leave out of its expressions what makes several rows of one, or none: use it in the model",
                sync=self.sync.name,
            )

    def compare(self, types: Mapping[str, str], *, identified: bool = True) -> str:
        """The candidates, in one pass over ``model``.

        :param types: as for ``model``.
        :param identified: whether ``delivered`` may have identifiers, kept for when the sync is a mirror again.
        """
        return self._compare(types, "", identified=identified)

    def compare_repeated(self, types: Mapping[str, str]) -> str:
        """The candidates and, whatever the snapshot says of them, all rows of the keys in ``repeated``."""
        return self._compare(types, "repeated")

    @staticmethod
    def repeated(relation: str) -> str:
        """The keys of several rows of ``candidates`` or ``model``."""
        return (
            f"SELECT key_hi, key_lo FROM {relation} WHERE present = 1 AND key_hi IS NOT NULL"
            " GROUP BY key_hi, key_lo HAVING COUNT(*) > 1"
        )

    def quarantined(self, now: datetime) -> str:
        """The rows that are not tried again as they are: rejected too often or for too long, or maybe written."""
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
        """The plan."""
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
        if "removed" in sent:  # without identifiers, from before the sync was a mirror, nothing can be deleted
            gone = (
                "CASE WHEN c.identifiers IS NULL OR c.unnamed = 1 THEN 'forgotten'"
                " WHEN q.key_hi IS NULL THEN 'removed' ELSE 'skipped' END"
            )
        elif self.sync.mode == "delete":  # a key that comes back is to be deleted again
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
        """What the cursor is. Raises ConfigurationError for a type that cannot be one."""
        [name] = self.cursor
        if kind := cursor_kind(types[name], self.dialect.name):
            return kind
        raise ConfigurationError(
            f"column {self.sync.cursor!r} cannot be a cursor: its values are read as {types[name]}",
            todo="give a column of dates, time stamps or whole numbers, or cast it in the model",
            sync=self.sync.name,
        )

    #: Rows of the plan that are not sent and keep the next run from reading on from above them: of several rows with
    #: one key, the others may go away without a trace. A row gets a key, or an identifier, only by a change of its own.
    open_unsent = "cause = 'duplicate_key'"

    def highest_cursor(self, relation: str, types: Mapping[str, str], now: datetime) -> str:
        """A query for the highest value of the cursor that counts, as text; NULL without any."""
        [name] = self.cursor
        latest = Bound.latest(self.cursor_kind(types), now)
        only = f" WHERE {name} <= {latest.literal(self.dialect.name)}" if latest else ""
        return f"SELECT {self.dialect.text(f'MAX({name})', types[name])} FROM {relation}{only}"

    def lowest_cursor(self, relation: str, types: Mapping[str, str], where: str) -> str:
        """A query for the lowest value of the cursor among some rows, as text; NULL without any."""
        [name] = self.cursor
        return f"SELECT {self.dialect.text(f'MIN({name})', types[name])} FROM {relation} WHERE {where}"

    def _compare(self, types: Mapping[str, str], repeated: str, *, identified: bool = True) -> str:
        columns = ", ".join(f"m.{name}" for name in (*self.values, *self.cursor))
        if self.hashed:  # of candidates only, as it costs a digest for each field
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
        if self._identifiers:  # what was recorded before the sync was a mirror
            differs.append("s.identifiers IS NULL")
        if self._named_by:
            differs.append("m.unnamed = 1")
        # of a part of the model nothing can be said to be gone
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
        """SQL for whether a record of the snapshot has a null or blank identifier."""
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
        """The columns of ``mapped`` that identify a row at the destination. Templates are known only in its record."""
        match_on = self.sync.destination.match_on
        mapping = enumerate(self.sync.mapping.items())
        return tuple(f"f{at}" for at, (name, field) in mapping if name in match_on and not field_hashes.fixed(field))

    def _key_digest(self, texts: Sequence[str]) -> str:
        """NULL where any part of the key is."""
        digest = self.dialect.digest.format(x=self.dialect.prefix_code(texts))
        nulls = " OR ".join(f"{name} IS NULL" for name in self.keys)
        return f"CASE WHEN {nulls} THEN NULL ELSE {digest} END"


def surplus(*, model_rows: int, snapshot_rows: int, found: Mapping[str, int]) -> int:
    """How many rows of the model, beyond the first, share a key that is in the snapshot.

    Every row of the model matched a row of the snapshot, or is ``added`` or ``null``; every row of the snapshot was
    matched, or is ``gone``. More matches than matched rows of the snapshot means repeated keys.
    """
    matches = model_rows - found.get("added", 0) - found.get("null", 0)
    return matches - (snapshot_rows - found.get("gone", 0))


def counted(relation: str) -> str:
    """A query for the counts that :func:`make_plan` takes, of the relation ``the plan``."""
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
    :param columns: what the query has.
    :param planner: the dialect that the statement is run in.
    :param comparison: how to compare; default: the plain comparison.
    :raises ModelNotFoundError: naming every column that the sync uses and the model lacks.
    :raises SpecError: the query is not one SELECT, an expression cannot be used, or a key is needed and missing.
    """
    if not primary_key and sync.mode != "append":
        raise SpecError(
            f"mode {sync.mode} needs a primary key, and neither the sync nor dbt names one",
            todo="set primary_key in the sync, or declare it in dbt (a constraint, or unique and not_null tests)",
            sync=sync.name,
        )
    body = single_select(query, source, sync)
    dialect = DIALECTS[planner]
    used = UsedColumns(columns)
    keys = [used.column(name) for name in primary_key]
    mapped = [_field(name, field, used, source=source, planner=dialect) for name, field in sync.mapping.items()]
    read = [used.column(name) for name in template_columns(sync)]
    cursor = used.column(sync.cursor) if sync.cursor else ""
    used.check(sync)
    targets = {f"k{at}": sql for at, sql in enumerate(keys)} | {f"f{at}": sql for at, sql in enumerate(mapped)}
    targets |= {f"r{at}": sql for at, sql in enumerate(read)}
    if cursor:
        targets["w"] = cursor
    # a model of which no column is used (constants only) still has rows
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
        cursor=("w",) if cursor else (),
        comparison=comparison or Comparison(),
    )


def _window(used: UsedColumns, cursor: str, source: str, comparison: Comparison | None) -> str:
    if not comparison or not comparison.low:
        return ""
    name = quoted(next(name for name, alias in used.found.items() if alias == cursor), source)
    return f" WHERE {name} >= {Bound.from_text(comparison.low).literal(source)} OR {name} IS NULL"


def _field(name: str, field: object, used: UsedColumns, *, source: str, planner: Dialect) -> str:
    """The planner's SQL for a mapped field over ``extracted``; NULL for what is not a column's business."""
    if isinstance(field, str):
        return used.column(field)
    if isinstance(field, SqlField):
        return expression(f"mapping.{name}.sql", field.sql, used, source=source, planner=planner.name)
    return f"CAST(NULL AS {planner.string})"


def _identifiers(sync: Sync, keys: Mapping[str, str], mapped: Sequence[str]) -> dict[str, Any] | None:
    """What a delete needs to name a row: the fields in ``match_on``, and those that map a key column.

    Nested as records are. Where neither gives any field, the key columns under their own names.
    """
    if sync.mode != "mirror":
        return None
    record: dict[str, Any] = {}
    for at, (name, field) in enumerate(sync.mapping.items()):
        if name not in sync.destination.match_on and (mapped[at] not in keys.values() or field_hashes.fixed(field)):
            continue
        if isinstance(field, TemplateField) or (isinstance(field, ValueField) and isinstance(field.value, dict | list)):
            raise SpecError(
                f"destination.match_on names {name}, which cannot be known of a row that is gone",
                todo="match on a column, an expression or a plain constant in mode mirror",
                sync=sync.name,
            )
        *parents, leaf = name.split(".")
        level = record
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = f"f{at}" if not isinstance(field, ValueField) else literal(field.value, "duckdb")
    return record or {column: f"k{at}" for at, column in enumerate(keys)}
