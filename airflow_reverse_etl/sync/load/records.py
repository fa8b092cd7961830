"""Records that are sent, built from the columns of a change set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.field_types import is_blank
from airflow_reverse_etl.spec.model import NullValue, Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import jinja_environment, template_columns

if TYPE_CHECKING:
    import jinja2
    import pyarrow as pa

Record = dict[str, Any]


class RecordBuilder:
    """Builder of a sync's records; made once for a load, and used for each batch.

    Dots in a field's name create nested objects. ``nulls: omit`` drops null fields and objects that are then empty.

    :param nulls: handling of null values, if the sync does not say it.
    """

    def __init__(self, sync: Sync, nulls: str | NullValue = "send") -> None:
        self._template_columns = template_columns(sync)
        self._inputs: list[str] = []
        self._constants: dict[str, Any] = {}
        self._templates: dict[str, tuple[str, jinja2.Template]] = {}
        environment = None
        if self._template_columns or _has_template(sync):
            environment = jinja_environment()

        # Build a tree of variable names with the shape of a record.
        tree: dict[str, Any] = {}
        for at, (name, field) in enumerate(sync.mapping.items()):
            variable = f"f{at}"
            if isinstance(field, ValueField):
                self._constants[variable] = field.value
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
        self._records = self._compile(tree, nulls=sync.nulls or nulls)

    def _compile(self, tree: Mapping[str, Any], *, nulls: str | NullValue) -> Callable[..., list[Record]]:
        """Compile a comprehension over the columns, as a dict display per row is several times faster than a loop.

        Field names enter its source only as the ``repr`` of a string.
        """

        instead = nulls if isinstance(nulls, NullValue) else None

        def display(level: Mapping[str, Any]) -> str:
            items = []
            for key, item in level.items():
                value = item if isinstance(item, str) else display(item)
                if instead and isinstance(item, str):
                    value = f"{item} if {item} is not None else _null"
                items.append(f"{key!r}: {value}")
            text = "{" + ", ".join(items) + "}"
            return f"_present({text})" if nulls == "omit" else text

        variables = ", ".join(self._inputs)
        rows = f"for ({variables},) in zip({variables})" if self._inputs else "for _ in range(_count)"
        source = f"lambda {', '.join(['_count', *self._inputs])}: [{display(tree)} {rows}]"
        names = {**self._constants, "_present": _present, "_null": instead and instead.value}
        function: Callable[..., list[Record]] = eval(source, names)  # noqa: S307 - built above from reprs only
        return function

    def build(self, batch: pa.RecordBatch) -> tuple[list[Record], dict[int, str]]:
        """Build the records of added or changed rows.

        :returns: the records, and a message for each position whose template failed. The record at such a position is
            unusable. A message names the field and the kind of error, never a value.
        """
        failures: dict[int, str] = {}
        columns: list[list[Any]] = []
        for variable in self._inputs:
            if variable in self._templates:
                columns.append(self._render(variable, batch, failures))
            else:
                columns.append(_in_utc(batch.column(variable)).to_pylist())
        return self._records(batch.num_rows, *columns), failures

    def _render(self, variable: str, batch: pa.RecordBatch, failures: dict[int, str]) -> list[str | None]:
        name, template = self._templates[variable]
        columns = [batch.column(f"r{at}").to_pylist() for at in range(len(self._template_columns))]
        rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else [()] * batch.num_rows
        texts: list[str | None] = []
        for position, row in enumerate(rows):
            try:
                texts.append(template.render(row=dict(zip(self._template_columns, row, strict=True))))
            except Exception as error:  # noqa: BLE001 - the DAG author's code: any error concerns this row only
                failures[position] = f"template of field {name!r} failed: {type(error).__name__}"
                texts.append(None)
        return texts


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


def _in_utc(column: pa.Array) -> pa.Array:
    """Convert instants to UTC, as they are sent: Arrow does it much faster than Python."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    if zone in (None, "UTC"):
        return column
    return column.cast(pa.timestamp(column.type.unit, "UTC"))


def _has_template(sync: Sync) -> bool:
    return any(isinstance(field, TemplateField) for field in sync.mapping.values())


def _present(level: Record) -> Record:
    return {key: value for key, value in level.items() if value is not None and value != {}}
