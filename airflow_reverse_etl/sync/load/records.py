"""Records that are sent, built from the columns of a change set."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_reverse_etl.spec.field_types import is_blank
from airflow_reverse_etl.spec.model import (
    ChangeField,
    ChangeValues,
    NullRule,
    NullRules,
    NullValue,
    Sync,
    TemplateField,
    ValueField,
)
from airflow_reverse_etl.spec.templates import jinja_environment, template_columns
from airflow_reverse_etl.sql.statements import field_hashes
from airflow_reverse_etl.sync.load.values import python_values

if TYPE_CHECKING:
    import jinja2
    import pyarrow as pa

Record = dict[str, Any]


class Failure(NamedTuple):
    """The reason why a row has no record."""

    code: str
    message: str


#: Stands for a field that a record lacks.
_LACKS = object()


class RecordBuilder:
    """Builder of a sync's records; made once for a load, and used for each batch.

    Dots in a field's name create nested objects. A null value of a field with ``omit`` is left out, and so is an object
    that is then empty.

    :param nulls: handling of null values, if the sync does not say it.
    :param parse_json: text of a JSON column becomes the value that it stands for, except in ``match_on``, where the
        plan knows a record by the text.
    """

    def __init__(self, sync: Sync, nulls: NullRule = "send", *, parse_json: bool = True) -> None:
        self._parse_json = parse_json
        self._match_on = frozenset(
            f"f{at}" for at, name in enumerate(sync.mapping) if name in sync.destination.match_on
        )
        self._fields = {f"f{at}": _place(name, field) for at, (name, field) in enumerate(sync.mapping.items())}
        self._template_columns = template_columns(sync)
        self._inputs: list[str] = []
        self._templates: dict[str, tuple[str, jinja2.Template]] = {}
        environment = None
        if self._template_columns or _has_template(sync):
            environment = jinja_environment()

        # Build a tree of variable names with the shape of a record.
        tree: dict[str, Any] = {}
        constants: dict[str, Any] = {}
        changes: dict[str, ChangeValues] = {}
        for at, (name, field) in enumerate(sync.mapping.items()):
            variable = f"f{at}"
            if isinstance(field, ValueField):
                constants[variable] = field.value
            elif isinstance(field, ChangeField):
                changes[variable] = field.change
            else:
                self._inputs.append(variable)
                if isinstance(field, TemplateField):
                    assert environment is not None
                    self._templates[variable] = (name, environment.from_string(field.template))
            *parents, leaf = name.split(".")
            level = tree
            for parent in parents:
                level = level.setdefault(parent, {})
            level[leaf] = variable

        # Compile a function for each kind of change.
        rules = null_rules(sync, nulls)
        handling = {f"f{at}": rules[name] for at, name in enumerate(sync.mapping)}
        self._records: dict[str, Callable[..., list[Record]]] = {}
        for change in ("added", "changed"):
            values = constants | {variable: getattr(kinds, change) for variable, kinds in changes.items()}
            self._records[change] = self._compile(tree, values, handling)

    def _compile(
        self, tree: Mapping[str, Any], constants: Mapping[str, Any], nulls: Mapping[str, NullRule]
    ) -> Callable[..., list[Record]]:
        """Compile a comprehension over the columns, as a dict display per row is several times faster than a loop.

        Field names enter its source only as the ``repr`` of a string.
        """

        def may_vanish(item: Any) -> bool:
            return nulls[item] == "omit" if isinstance(item, str) else any(map(may_vanish, item.values()))

        def display(level: Mapping[str, Any]) -> str:
            items = []
            for key, item in level.items():
                value = item if isinstance(item, str) else display(item)
                if isinstance(item, str) and isinstance(nulls[item], NullValue):
                    value = f"{item} if {item} is not None else {item}_null"
                items.append(f"{key!r}: {value}")
            text = "{" + ", ".join(items) + "}"
            kept = tuple(key for key, item in level.items() if not may_vanish(item))
            return text if len(kept) == len(level) else f"_present({text}, {kept!r})"

        variables = ", ".join(self._inputs)
        rows = f"for ({variables},) in zip({variables})" if self._inputs else "for _ in range(_count)"
        source = f"lambda {', '.join(['_count', *self._inputs])}: [{display(tree)} {rows}]"
        instead = {f"{variable}_null": rule.value for variable, rule in nulls.items() if isinstance(rule, NullValue)}
        function: Callable[..., list[Record]] = eval(  # noqa: S307 - built above from reprs only
            source, {**constants, **instead, "_present": _present}
        )
        return function

    def build(self, batch: pa.RecordBatch, change: str = "added") -> tuple[list[Record], dict[int, Failure]]:
        """Build the records of rows.

        :param change: ``added`` or ``changed``, of all these rows.
        :returns: the records, and the failure of each position whose record is unusable. A failure names the field and
            the kind of error, never a value.
        """
        failures: dict[int, Failure] = {}
        columns: list[list[Any]] = []
        for variable in self._inputs:
            if variable in self._templates:
                columns.append(self._render(variable, batch, failures))
            else:
                parse_json = self._parse_json and variable not in self._match_on
                values, problems = python_values(
                    batch.column(variable), batch.schema.field(variable), parse_json=parse_json
                )
                columns.append(values)
                for at, problem in problems.items():
                    failures.setdefault(at, Failure("wrong_value", f"{self._fields[variable]}: {problem}"))
        return self._records[change](batch.num_rows, *columns), failures

    def _render(self, variable: str, batch: pa.RecordBatch, failures: dict[int, Failure]) -> list[str | None]:
        name, template = self._templates[variable]
        columns = [self._read(batch, at, failures) for at in range(len(self._template_columns))]
        rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else [()] * batch.num_rows
        texts: list[str | None] = []
        for position, row in enumerate(rows):
            try:
                texts.append(template.render(row=dict(zip(self._template_columns, row, strict=True))))
            except Exception as error:  # noqa: BLE001 - the DAG author's code: any error concerns this row only
                text = f"template of field {name!r} failed: {type(error).__name__}"
                failures[position] = Failure("template_failed", text)
                texts.append(None)
        return texts

    def _read(self, batch: pa.RecordBatch, at: int, failures: dict[int, Failure]) -> list[Any]:
        """Return the values of a column that templates read."""
        values, problems = python_values(batch.column(f"r{at}"), batch.schema.field(f"r{at}"), parse_json=False)
        for position, problem in problems.items():
            text = f"column {self._template_columns[at]!r}: {problem}"
            failures.setdefault(position, Failure("wrong_value", text))
        return values


def _place(name: str, source: object) -> str:
    """Return the place of a value, for a message."""
    if isinstance(source, str):
        return f"column {source!r}, field {name!r}"
    return f"field {name!r}"


def null_rules(sync: Sync, nulls: NullRule) -> dict[str, NullRule]:
    """Return the handling of null values of each field of the mapping.

    :param nulls: handling of fields for which the sync does not say it.
    """
    given = sync.nulls
    if not isinstance(given, NullRules):
        return dict.fromkeys(sync.mapping, given or nulls)
    default = given.default or nulls
    return {name: given.fields.get(name, default) for name in sync.mapping}


def only_changed(
    sync: Sync, batch: pa.RecordBatch, records: Sequence[Record], *, always: Collection[str]
) -> Iterator[Record]:
    """Yield the records of changed rows with their changed fields only, and whole if these are not known.

    Constants are always sent, too.

    :param batch: the rows, with ``field_hashes`` and ``hashes_before``.
    :param always: fields that every record keeps.
    """
    kept = {name for name, field in sync.mapping.items() if isinstance(field, ValueField | ChangeField)}
    for field in always:
        kept |= {name for name in sync.mapping if name == field or name.startswith(f"{field}.")}
    before = batch.column("hashes_before").to_pylist()
    now = batch.column("field_hashes").to_pylist()
    for record, old, new in zip(records, before, now, strict=True):
        changed = field_hashes.changed(sync, old, new)
        if changed is None:
            yield record
        else:
            wanted = kept.union(changed)
            yield _with_fields(record, [name.split(".") for name in sync.mapping if name in wanted])


def _with_fields(record: Record, paths: Iterable[Sequence[str]]) -> Record:
    """Return a record with some of its fields. A field that it lacks, as its value is null, is left out."""
    found: Record = {}
    for path in paths:
        value = _value(record, path, _LACKS)
        if value is _LACKS:
            continue
        level = found
        for name in path[:-1]:
            level = level.setdefault(name, {})
        level[path[-1]] = value
    return found


def identifiers(batch: pa.RecordBatch) -> list[Record]:
    """Return the records of removed rows: the identifiers that a delete needs."""
    return [json.loads(text) for text in batch.column("identifiers").to_pylist()]


def unnamed(records: Sequence[Record], names: Sequence[str], *, stored: bool = False) -> Iterator[int]:
    """Yield the positions of records in which one of these fields is null, blank or missing.

    :param stored: the records are identifiers as they were stored. They may lack a field that became one of
        ``match_on`` later, and are then deleted by those that they have.
    """
    paths = [name.split(".") for name in names]
    missing = "missing" if stored else None
    for at, record in enumerate(records):
        if any(is_blank(_value(record, path, missing)) for path in paths):
            yield at


def _value(record: Record, path: Sequence[str], missing: Any) -> Any:
    value: Any = record
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return missing
        value = value[name]
    return value


def _has_template(sync: Sync) -> bool:
    return any(isinstance(field, TemplateField) for field in sync.mapping.values())


def _present(level: Record, kept: Sequence[str]) -> Record:
    """Return a level of a record without its nulls and empty objects, except those that are kept."""
    return {key: value for key, value in level.items() if (value is not None and value != {}) or key in kept}
