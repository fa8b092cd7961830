"""Columns → destination fields: from a batch of the change set to the records that are sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_reverse_etl.spec.field_types import is_blank
from airflow_reverse_etl.spec.model import Sync, TemplateField, ValueField
from airflow_reverse_etl.spec.templates import jinja_environment, template_columns

if TYPE_CHECKING:
    import jinja2
    import pyarrow as pa

Record = dict[str, Any]


class RecordBuilder:
    """Builds the records of a sync. Made once for a load, called for each batch.

    Dots in a field's name nest. With ``nulls: omit``, null fields and objects left empty are dropped.
    """

    def __init__(self, sync: Sync) -> None:
        self._template_columns = template_columns(sync)
        self._inputs: list[str] = []
        self._constants: dict[str, Any] = {}
        self._templates: dict[str, tuple[str, jinja2.Template]] = {}
        environment = jinja_environment() if self._template_columns or _has_template(sync) else None
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
        self._records = self._compile(tree, omit=sync.nulls == "omit")

    def _compile(self, tree: Mapping[str, Any], *, omit: bool) -> Callable[..., list[Record]]:
        """One comprehension over the columns: a dict display per row is several times faster than any loop here.

        Names of fields enter the source only as ``repr`` of a string.
        """

        def display(level: Mapping[str, Any]) -> str:
            items = (f"{key!r}: {item if isinstance(item, str) else display(item)}" for key, item in level.items())
            text = "{" + ", ".join(items) + "}"
            return f"_present({text})" if omit else text

        variables = ", ".join(self._inputs)
        rows = f"for ({variables},) in zip({variables})" if self._inputs else "for _ in range(_count)"
        source = f"lambda {', '.join(['_count', *self._inputs])}: [{display(tree)} {rows}]"
        names = {**self._constants, "_present": _present}
        function: Callable[..., list[Record]] = eval(source, names)  # noqa: S307 - built above from reprs only
        return function

    def build(self, batch: pa.RecordBatch) -> tuple[list[Record], dict[int, str]]:
        """Records of rows that were added or changed, and for rows whose template failed: position → message.

        Their record is unusable; the message names the field and the kind of error, never a value.
        """
        failures: dict[int, str] = {}
        columns = [
            self._render(variable, batch, failures)
            if variable in self._templates
            else _in_utc(batch.column(variable)).to_pylist()
            for variable in self._inputs
        ]
        return self._records(batch.num_rows, *columns), failures

    def _render(self, variable: str, batch: pa.RecordBatch, failures: dict[int, str]) -> list[str | None]:
        name, template = self._templates[variable]
        columns = [batch.column(f"r{at}").to_pylist() for at in range(len(self._template_columns))]
        rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else [()] * batch.num_rows
        texts: list[str | None] = []
        for position, row in enumerate(rows):
            try:
                texts.append(template.render(row=dict(zip(self._template_columns, row, strict=True))))
            except Exception as error:  # noqa: BLE001 - author's code: whatever it raises concerns this row only
                failures[position] = f"template of field {name!r} failed: {type(error).__name__}"
                texts.append(None)
        return texts


def identifiers(batch: pa.RecordBatch) -> list[Record]:
    """The records of removed rows: what a delete needs."""
    return [json.loads(text) for text in batch.column("identifiers").to_pylist()]


def unnamed(records: Sequence[Record], names: Sequence[str], *, stored: bool = False) -> Iterator[int]:
    """Find records in which one of these fields is null, blank or missing; yields their positions.

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
    """Instants in UTC, as they are sent: Arrow converts them much faster than anything after it could."""
    import pyarrow as pa

    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return column.cast(pa.timestamp(column.type.unit, "UTC")) if zone not in (None, "UTC") else column


def _has_template(sync: Sync) -> bool:
    return any(isinstance(field, TemplateField) for field in sync.mapping.values())


def _present(level: Record) -> Record:
    return {key: value for key, value in level.items() if value is not None and value != {}}
