"""The plan statement, which finds the rows of the model that the destination does not have yet.

It is built once for a sync, in the dialect of the planner that runs it, over these relations::

    relation      columns or rows                                                   made by
    extracted     the columns that the sync uses, as c0 … cn                        extract, in the source's dialect
    mapped        k0 …, the key; f0 …, the mapped values; r0 …, the columns
                  that templates read; w, the cursor                                mapped
    model         values, row_key, identifiers, the digests, fingerprint,
                  fingerprint_before                                                model, given the types of mapped
    delivered     the digests, fingerprint, row_key, identifiers                    the store: acknowledged records
    candidates    rows that may be a change, ``found``, field_hashes                compare, one pass over the model
    rejections    key_hi, key_lo, fingerprint, attempts, first_seen, outcome, code  the store: earlier rejected rows
    the plan      candidates with their ``change``, ``cause`` and ``code``          :mod:`.classification`

No name is a reserved word in any of the dialects; ``snapshot`` is one in Redshift.

Two digests say what is the same. ``key_hi`` and ``key_lo`` are the record's: of the values of ``match_on``, normalised
as the destination compares them; of the primary key without ``match_on``. State, rejections and change sets are
keyed by them. ``row_hi`` and ``row_lo`` are the row's: of the primary key. They exist only if there is ``match_on``
(:attr:`PlanStatement.by_record`).

``found`` is the result of the comparison: ``gone`` (a record that no row of the model names), ``added`` (a record that
is not delivered), ``changed``, ``doubtful`` (delivered or not: the answer was lost), ``known`` (changed, in a
comparison that only records known rows), ``renamed`` (equal, but of another row than before, or without the identifiers
that a delete needs), ``widened`` (equal in the columns that ``"*"`` gave before) and ``same``.

``fingerprint_before`` exists only if the model has other columns than before, and the mapping has a ``"*"``: it covers
the columns of before, those that are gone as NULL. Then every row is a candidate.

``unnamed`` is 1 for a row with a null or blank identifier (a field in ``match_on``). Such a row is always a candidate.

``compare`` reads the model once, so the model can be a stream, and finds repeated keys only among the candidates. A row
is not a candidate if it equals its record. :func:`surplus` counts records with several rows, and :attr:`strays` finds
rows whose primary key another row has that is not a candidate. If there are any, the comparison must run again over a
stored model (``compare_repeated``). With a cursor, only part of the model is read, and counts cannot find repeated
keys: the model is then always stored, and compared with ``compare_repeated``.

A digest is made of the *text forms* of values, see :mod:`airflow_reverse_etl.sql.dialects.planner`. A fingerprint
covers the mapped values in the order of the destination fields' names, plus the names, constants and templates
themselves. The order of the mapping, and columns that are not mapped, make no difference. For hashes of single fields,
see :mod:`airflow_reverse_etl.sql.statements.field_hashes`.
"""

# ruff: noqa: S608 - this module builds SQL; names are quoted, constants are literals

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_reverse_etl.errors import ConfigurationError, SpecError
from airflow_reverse_etl.spec.columns import Column
from airflow_reverse_etl.spec.comparison import Bound, Comparison, Kind, cursor_kind
from airflow_reverse_etl.spec.model import ChangeField, HashField, SqlField, Sync, TemplateField, ValueField, column_of
from airflow_reverse_etl.spec.templates import template_columns
from airflow_reverse_etl.sql.column_types import is_text
from airflow_reverse_etl.sql.dialects.planner import PlannerDialect
from airflow_reverse_etl.sql.dialects.registry import PLANNERS
from airflow_reverse_etl.sql.quoting import literal, quoted
from airflow_reverse_etl.sql.read_only import single_select
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sql.statements.expressions import UsedColumns, expression
from airflow_reverse_etl.sql.templates import fill

#: Fingerprints of a removal and of a row in doubt. Digests are never negative.
REMOVED = -1
IN_DOUBT = -2

#: Modes in which a row in doubt is recorded as such, so that the next run sends or deletes it even if the model's row
#: is unchanged or removed. In other modes the row stays out of the snapshot, and is sent again if the model has it.
MODES_IN_DOUBT = frozenset({"upsert", "update", "mirror"})

#: Columns of the record's digest, and of the row's.
KEY = ("key_hi", "key_lo")
ROW = ("row_hi", "row_lo")


def same(left: str, right: str, columns: Sequence[str] = KEY, others: Sequence[str] = ()) -> str:
    """Return the condition that two relations have the same digest.

    :param others: names of the digest's columns in ``right``; default: as in ``left``.
    """
    pairs = zip(columns, others or columns, strict=True)
    return " AND ".join(f"{left}.{name} = {right}.{other}" for name, other in pairs)


@dataclass(frozen=True, slots=True)
class PlanStatement:
    """The parts of the plan statement. ``extract`` is in the source's dialect, everything else in the planner's.

    :param values: columns of the change set: ``f0 …`` and ``r0 …``.
    :param plain: values that are a column of ``extracted`` as it is, and do not identify a record: name → column.
    :param keys: ``k0 …``; empty if the sync has no key.
    :param tracked: there is a snapshot to compare with.
    :param cursor: the cursor's column in ``mapped`` and in the candidates; empty without a cursor. It is not sent.
    :param ignore_case: identifiers that differ only in upper and lower case are equal.
    :param collation: collation that lowers them, and e-mail addresses before they are hashed; empty for the
        database's own.
    :param removes_first: see :class:`~airflow_reverse_etl.sync.ports.Capabilities`.
    :param has_snapshot: the snapshot has rows.
    """

    sync: Sync
    dialect: PlannerDialect
    extract: str
    mapped: str
    plain: Mapping[str, str]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    tracked: bool
    cursor: tuple[str, ...]
    comparison: Comparison
    ignore_case: bool
    collation: str
    removes_first: bool
    has_snapshot: bool
    _identifiers: Mapping[str, Any] | None

    @property
    def by_record(self) -> bool:
        """True if ``match_on`` identifies records. If not, the primary key does, and rows have no second digest."""
        return bool(self.sync.identified_by)

    @property
    def digests(self) -> tuple[str, ...]:
        """The columns of the digests."""
        return (*KEY, *ROW) if self.by_record else KEY

    @property
    def compared(self) -> bool:
        """True if the model is compared with the snapshot."""
        return self.tracked and self.comparison.compared and self.has_snapshot

    def model(self, types: Mapping[str, str]) -> str:
        """Build the query for the model with its hashes.

        :param types: type of each column of ``mapped``, in the planner's own words.
        :raises SpecError: a field in ``match_on`` has a type that a delete could not send as it was sent before.
        """
        self._check_identifiers(types)
        texts = {name: self.dialect.text(name, data_type) for name, data_type in types.items()}
        string = self.dialect.string
        names = ", ".join((*self.values, *self.cursor))
        identifiers = self.dialect.json_record(self._identifiers, types) if self._identifiers else "NULL"
        identifiers = f"CAST({identifiers} AS {string})"

        # the identifiers, normalised once
        named = {f"n{at}": self._normalised(texts[name], types[name]) for at, name in enumerate(self._named_by)}
        source = "mapped"
        if named:
            source = f"(SELECT *, {', '.join(f'{sql} AS {name}' for name, sql in named.items())} FROM mapped) AS named"
        blank = " OR ".join(f"COALESCE({name}, '') = ''" for name in named)
        unnamed = f"CASE WHEN {blank} THEN 1 ELSE 0 END" if blank else "0"
        if not self.keys:
            return fill(
                """
                SELECT {names}, CAST(NULL AS {string}) AS row_key, {identifiers} AS identifiers, {unnamed} AS unnamed,
                CAST(NULL AS BIGINT) AS key_hi, CAST(NULL AS BIGINT) AS key_lo, CAST(NULL AS BIGINT) AS fingerprint,
                1 AS present
                FROM {source}
                """,
                names=names,
                string=string,
                identifiers=identifiers,
                unnamed=unnamed,
                source=source,
            )

        # the primary key: its text, and a digest of all its parts
        key = [texts[name] for name in self.keys]
        row_key = key[0] if len(key) == 1 else self.dialect.json_array(key)
        nulls = " OR ".join(f"{name} IS NULL" for name in self.keys)
        digests = {"row" if self.by_record else "key": self._digest(key, unless=nulls)}

        # the identifier: a digest of its normalised parts
        if self.by_record:
            digests["key"] = self._digest(list(named), unless=blank)

        # the fingerprint: a digest of the mapping's shape and of all values
        shape = literal(field_hashes.shape(self.sync), self.dialect.name)
        values = [texts[name] for name in field_hashes.values(self.sync)]
        fingerprints = {"fingerprint": [shape, *values], **self._fingerprint_before(texts)}

        high = self.dialect.high
        low = self.dialect.low
        hashes = [
            f"{high.format(h=f'{name}_digest')} AS {name}_hi, {low.format(h=f'{name}_digest')} AS {name}_lo"
            for name in digests
        ]
        hashes += [f"{low.format(h=f'{name}_digest')} AS {name}" for name in fingerprints]
        for name, parts in fingerprints.items():
            digests[name] = self.dialect.digest.format(x=self.dialect.prefix_code(parts))
        return fill(
            """
            SELECT {names}, row_key, identifiers, unnamed, {hashes}, 1 AS present
            FROM (
                SELECT {names}, CAST({row_key} AS {string}) AS row_key, {identifiers} AS identifiers,
                {unnamed} AS unnamed, {digests}
                FROM {source}
            ) AS digests
            """,
            names=names,
            hashes=", ".join(hashes),
            row_key=row_key,
            string=string,
            identifiers=identifiers,
            unnamed=unnamed,
            digests=", ".join(f"{sql} AS {name}_digest" for name, sql in digests.items()),
            source=source,
        )

    def _fingerprint_before(self, texts: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the parts of ``fingerprint_before`` by its name; empty if the model has the columns of before."""
        columns = self.comparison.columns_before
        if columns is None:
            return {}
        gone = f"CAST(NULL AS {self.dialect.string})"
        values = [texts[name] if name else gone for name in field_hashes.values_before(self.sync, columns)]
        return {"fingerprint_before": [literal(field_hashes.shape(self.sync, columns), self.dialect.name), *values]}

    @property
    def hashed(self) -> tuple[str, ...]:
        """The candidates' columns with hashes of single fields; empty if the sync does not store them.

        ``hashes_before``, those of the record, exists only if they decide what is sent.
        """
        if self.sync.sends_changed:
            return ("field_hashes", "hashes_before")
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
        return self._compare(types, identified=identified)

    def compare_repeated(self, types: Mapping[str, str]) -> str:
        """Build the query for the candidates, and for all rows of the keys in ``repeated``, changed or not."""
        return self._compare(types, repeated=True)

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

    #: Rows of the plan that are not sent, and that the next run must read again: the other rows of a duplicate may
    #: disappear without a change here. Other invalid rows change themselves when they get a key or an identifier.
    open_unsent = "cause IN ('duplicate_key', 'duplicate_identifier')"

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

    def _compare(self, types: Mapping[str, str], *, identified: bool = True, repeated: bool = False) -> str:
        columns = ", ".join(f"m.{name}" for name in (*self.values, *self.cursor))
        if self.hashed:  # only for candidates, as each field costs a digest
            columns += f", {field_hashes.hashes(self.sync, self.dialect, types, model='m')} AS field_hashes"
        if "hashes_before" in self.hashed:
            before = "s.field_hashes" if self.compared else f"CAST(NULL AS {self.dialect.string})"
            columns += f", {before} AS hashes_before"
        if not self.compared:
            return fill(
                """
                SELECT {columns}, m.row_key, m.identifiers, m.unnamed, {digests}, m.fingerprint, m.present,
                'added' AS found
                FROM model AS m
                """,
                columns=columns,
                digests=", ".join(f"m.{name}" for name in self.digests),
            )
        names = "m.row_key, m.identifiers"
        if identified or self._identifiers:
            names = f"{_of_row('row_key')}, COALESCE(m.identifiers, s.identifiers) AS identifiers"

        # Records of before are known by primary key.
        adopted = self.comparison.adopted
        # Part of a model does not show which records are gone.
        join = "LEFT" if self.comparison.low else "FULL"
        duplicates = []
        if repeated:
            duplicates.append(f"LEFT JOIN repeated AS d ON {same('m', 'd')}")
        if repeated and self.by_record:
            duplicates.append(f"LEFT JOIN repeated_rows AS e ON {same('m', 'e', ROW)}")
        return fill(
            """
            SELECT {columns}, {names}, COALESCE(m.unnamed, 0) AS unnamed, {digests},
            COALESCE(m.fingerprint, {removed}) AS fingerprint, m.present,
            {found} AS found
            FROM model AS m
            {join} JOIN delivered AS s ON {same_record}
            {duplicates}
            {where}
            """,
            columns=columns,
            names=names,
            digests=", ".join(map(_of_row, self.digests)),
            removed=REMOVED,
            found=self._found,
            join=join,
            same_record=same("m", "s", ROW, KEY) if adopted else same("m", "s"),
            duplicates=" ".join(duplicates),
            where="" if adopted else self._only_candidates(repeated=repeated),
        )

    def _only_candidates(self, *, repeated: bool) -> str:
        """Build the WHERE clause that leaves out rows that equal their record."""
        differs = ["m.present IS NULL", "s.key_hi IS NULL", "m.fingerprint <> s.fingerprint"]
        if self._renames:
            differs.append(self._renames)
        if self.by_record:
            differs.append("m.row_hi IS NULL")
        if repeated:
            differs.append("d.key_hi IS NOT NULL")
            if self.by_record:
                differs.append("e.row_hi IS NOT NULL")
        return f"WHERE {' OR '.join(differs)}"

    @property
    def _found(self) -> str:
        """SQL of the result of the comparison."""
        cases = [
            "WHEN m.present IS NULL THEN 'gone'",
            "WHEN s.key_hi IS NULL THEN 'added'",
            f"WHEN s.fingerprint = {IN_DOUBT} THEN 'doubtful'",
        ]
        changed = "WHEN m.fingerprint <> s.fingerprint THEN 'changed'"
        same = "ELSE 'same'"
        if self.comparison.columns_before is not None:
            changed = "WHEN m.fingerprint_before <> s.fingerprint THEN 'changed'"
            same = "ELSE 'widened'"
        if self.comparison.recorded == "known":
            changed = "WHEN m.fingerprint <> s.fingerprint THEN 'known'"
        renamed = f"WHEN {self._renames} THEN 'renamed'" if self._renames else ""
        if self.comparison.adopted:
            cases += [changed, "ELSE 'renamed'"]
        elif self.cursor:
            # The row that had the record before may not have been read, so the record is sent whatever its values.
            cases[2:2] = [renamed]
            cases += [changed, same]
        else:
            cases += [changed, renamed, same]
        return f"CASE {' '.join(filter(None, cases))} END"

    @property
    def _renames(self) -> str:
        """Condition for an equal row whose record must be replaced; empty if such rows do not occur."""
        conditions = []
        if self.by_record:
            conditions += ["m.row_hi <> s.row_hi", "m.row_lo <> s.row_lo", "s.row_hi IS NULL"]
        if self._identifiers:  # recorded before the sync was a mirror
            conditions.append("s.identifiers IS NULL")
        return " OR ".join(conditions)

    @property
    def _named_by(self) -> tuple[str, ...]:
        """The columns of ``mapped`` that identify a record at the destination, by name of the field."""
        fields = self.sync.mapping
        names = [name for name in self.sync.destination.match_on if not field_hashes.fixed(fields[name])]
        positions = {name: f"f{at}" for at, name in enumerate(fields)}
        return tuple(positions[name] for name in sorted(names))

    def _normalised(self, text: str, data_type: str) -> str:
        """Return SQL for a part of the identifier in the form in which the destination compares it."""
        if not is_text(data_type, self.dialect.name):
            return text
        trimmed = self.dialect.trimmed.format(x=text)
        return self.dialect.lowered(trimmed, self.collation) if self.ignore_case else trimmed

    def _digest(self, texts: Sequence[str], *, unless: str) -> str:
        """Return SQL for a digest of several texts; NULL under a condition."""
        digest = self.dialect.digest.format(x=self.dialect.prefix_code(texts))
        return f"CASE WHEN {unless} THEN NULL ELSE {digest} END"

    def _check_identifiers(self, types: Mapping[str, str]) -> None:
        """Refuse identifiers that a delete could not send as an upsert sends them."""
        if not self._identifiers:
            return
        positions = {f"f{at}": name for at, name in enumerate(self.sync.mapping)}
        problems = [
            f"destination.match_on: {positions[column]} is read as {types[column]}: map it as text, "
            f'{{sql: "cast({positions[column]} as varchar)"}}'
            for column in self._named_by
            if not self.dialect.is_identifier(types[column])
        ]
        if problems:
            raise SpecError(
                "a mirror identifies records by text, integers, booleans, dates and UUIDs",
                problems=tuple(problems),
                todo="cast the values listed below",
                sync=self.sync.name,
            )


def _of_row(name: str) -> str:
    """Return SQL for a column of a row of the model, or else of a record that left it."""
    return f"CASE WHEN m.present IS NULL THEN s.{name} ELSE m.{name} END AS {name}"


def surplus(*, model_rows: int, snapshot_rows: int, found: Mapping[str, int]) -> int:
    """Return the number of rows that name a record of the snapshot, without the first row of each record.

    Every row of the model matches a record of the snapshot, or is ``added``. Every record of the snapshot is matched,
    or is ``gone``. If there are more matches than matched records, several rows name one record.
    """
    matches = model_rows - found.get("added", 0)
    return matches - (snapshot_rows - found.get("gone", 0))


def plan_statement(
    sync: Sync,
    *,
    query: str,
    primary_key: Sequence[str],
    columns: Sequence[Column],
    source: str,
    planner: str,
    comparison: Comparison | None = None,
    ignore_case: bool = False,
    collation: str = "",
    removes_first: bool = False,
    has_snapshot: bool = True,
) -> PlanStatement:
    """Build the plan statement of a sync.

    :param query: the model as one SELECT in the dialect ``source``.
    :param columns: the query's columns.
    :param planner: the dialect in which the statement runs.
    :param comparison: default: the plain comparison.
    :param ignore_case: see :class:`PlanStatement`, as ``collation``, ``removes_first`` and ``has_snapshot``.
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
    dialect = PLANNERS[planner]

    # resolve every column that the sync uses, and report all problems at once
    used = UsedColumns(columns)
    keys = [used.column(name) for name in primary_key]
    mapped = [
        _field(name, field, used, source=source, planner=dialect, collation=collation)
        for name, field in sync.mapping.items()
    ]
    # the columns that fields send or hash, and other fields' expressions
    columns_of = map(column_of, sync.mapping.values())
    read_by = [used.column(name) if name else sql for name, sql in zip(columns_of, mapped, strict=True)]
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
        plain={
            f"f{at}": mapped[at]
            for at, (name, field) in enumerate(sync.mapping.items())
            if isinstance(field, str) and name not in sync.destination.match_on
        },
        keys=tuple(name for name in targets if name.startswith("k")),
        values=tuple(name for name in targets if not name.startswith(("k", "w"))),
        _identifiers=_identifiers(sync, dict(zip(primary_key, keys, strict=True)), read_by, planner=planner),
        tracked=sync.tracked,
        cursor=cursor_columns,
        comparison=comparison or Comparison(),
        ignore_case=ignore_case,
        collation=collation,
        removes_first=removes_first,
        has_snapshot=has_snapshot,
    )


def _window(used: UsedColumns, cursor: str, source: str, comparison: Comparison | None) -> str:
    if not comparison or not comparison.low:
        return ""
    name = quoted(next(name for name, alias in used.found.items() if alias == cursor), source)
    return f" WHERE {name} >= {Bound.from_text(comparison.low).literal(source)} OR {name} IS NULL"


def _field(name: str, field: object, used: UsedColumns, *, source: str, planner: PlannerDialect, collation: str) -> str:
    """Return the planner's SQL for a mapped field over ``extracted``; NULL for constants and templates."""
    if isinstance(field, str):
        return used.column(field)
    if isinstance(field, SqlField):
        return expression(f"mapping.{name}.sql", field.sql, used, source=source, planner=planner.name)
    if isinstance(field, HashField):
        return planner.hashed(used.column(field.column), field.normalize, collation=collation)
    return f"CAST(NULL AS {planner.string})"


def _identifiers(sync: Sync, keys: Mapping[str, str], read_by: Sequence[str], *, planner: str) -> dict[str, Any] | None:
    """Return the fields that a delete sends, nested like a record.

    These are the fields in ``match_on`` and those that map or hash a key column; without such fields, the key columns
    under their own names. None if the mode does not delete removed rows.

    :param keys: column of the primary key: its alias.
    :param read_by: for each field, the alias of the column that it sends or hashes.
    :raises SpecError: ``match_on`` names a field whose value is unknown once the row is removed.
    """
    if sync.mode != "mirror":
        return None
    record: dict[str, Any] = {}
    for at, (name, field) in enumerate(sync.mapping.items()):
        if name not in sync.destination.match_on and (read_by[at] not in keys.values() or field_hashes.fixed(field)):
            continue
        if isinstance(field, TemplateField | ChangeField) or (
            isinstance(field, ValueField) and isinstance(field.value, dict | list)
        ):
            raise SpecError(
                f"destination.match_on names {name}, whose value is unknown for a removed row",
                todo="match on a column, an expression or a plain constant in mode mirror",
                sync=sync.name,
            )
        *parents, leaf = name.split(".")
        level = record
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = literal(field.value, planner) if isinstance(field, ValueField) else f"f{at}"
    return record or {column: f"k{at}" for at, column in enumerate(keys)}
