"""The sync specification: what a DAG author or a YAML file says. One definition gives validation and JSON Schema."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.field_types import Duration, Limit, Names, is_blank
from airflow_reverse_etl.spec.problems import problem_text, problems_of, title
from airflow_reverse_etl.spec.yaml_file import Lines, line_of, read_yaml

#: Validates what a destination adds to ``destination:``. Gets that mapping, gives problems as (path, message).
DestinationCheck = Callable[[Mapping[str, Any]], Sequence[tuple[tuple[str, ...], str]]]

Mode = Literal["upsert", "insert", "update", "mirror", "append", "delete"]
_RAW: dict[str, str] = {"errors": "raw"}
_FIX_VALUES = "correct the values below"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableModel(_Strict):
    """A table or view that dbt does not manage."""

    table: Annotated[str, Field(min_length=1, description="schema.table, quoted as the warehouse wants it")]


class SqlModel(_Strict):
    """A query."""

    sql: Annotated[str, Field(min_length=1, description="one SELECT statement in the warehouse's dialect")]


class SqlField(_Strict):
    """An expression over the model's columns, evaluated where the plan runs."""

    sql: Annotated[str, Field(min_length=1)]


class ValueField(_Strict):
    """A constant."""

    value: Any


class TemplateField(_Strict):
    """A sandboxed Jinja template over ``row``: the slow way, when nothing else will do."""

    template: Annotated[str, Field(min_length=1)]


def _shape(*keys: str) -> Callable[[object], str | None]:
    def discriminate(value: object) -> str | None:
        if isinstance(value, str):
            return "name"
        if isinstance(value, Mapping):
            return next((key for key in keys if key in value), None)
        return next((key for key in keys if hasattr(value, key)), None)

    return discriminate


_Name = Annotated[str, Field(min_length=1)]
ModelRef = Annotated[
    Annotated[_Name, Tag("name")] | Annotated[TableModel, Tag("table")] | Annotated[SqlModel, Tag("sql")],
    Discriminator(
        _shape("table", "sql"),
        custom_error_type="model_shape",
        custom_error_message="must be a dbt model's name, {table: schema.name} or {sql: select …}",
    ),
]
FieldSource = Annotated[
    Annotated[_Name, Tag("name")]
    | Annotated[SqlField, Tag("sql")]
    | Annotated[ValueField, Tag("value")]
    | Annotated[TemplateField, Tag("template")],
    Discriminator(
        _shape("sql", "value", "template"),
        custom_error_type="field_shape",
        custom_error_message="must be a column's name, {sql: …}, {value: …} or {template: …}",
    ),
]


class TrackDetails(_Strict):
    """Every row that was delivered is remembered, and something more."""

    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            description="column of dates, time stamps or whole numbers that grows with every change of a row; rows "
            "that were not accepted are read again whatever it says, and rows without a value always",
        ),
    ] = None
    fields: Annotated[
        bool,
        Field(
            description="keep a short hash of each mapped value, so that a plan names the fields of a changed row that "
            "changed"
        ),
    ] = False

    @model_validator(mode="after")
    def _says_something(self) -> TrackDetails:
        if not self.cursor and not self.fields:
            raise ValueError(_TRACK_SHAPE)
        return self


_TRACK_SHAPE = "must be rows, none, {cursor: column}, {fields: true}, or both of these"
Track = Annotated[
    Annotated[Literal["rows", "none"], Tag("name")] | Annotated[TrackDetails, Tag("details")],
    Discriminator(
        lambda value: (
            "name" if isinstance(value, str) else "details" if isinstance(value, Mapping | TrackDetails) else None
        ),
        custom_error_type="track_shape",
        custom_error_message=_TRACK_SHAPE,
    ),
]


class DestinationSpec(BaseModel):
    """Where rows go. Each destination type adds keys of its own, see its reference page."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Annotated[str, Field(min_length=1, description="http, table, file, or a registered type")]
    connection: Annotated[str | None, Field(description="Airflow connection id")] = None
    object: Annotated[str | None, Field(description="what is written there: contacts, schema.table …")] = None
    match_on: Annotated[Names, Field(description="destination fields by which the destination recognises a row")] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The keys that this destination's type adds."""
        return dict(self.model_extra or {})


class Guards(_Strict):
    """May this plan be sent? Checked before anything is. A guard that is not met stops the run."""

    min_rows: Annotated[int, Field(ge=0, description="fewer model rows than this stop the run")] = 1
    max_removed: Annotated[
        Limit | None,
        Field(
            description="more removed rows than this, of the snapshot, stop the run; default in mode mirror: 20% of "
            "the snapshot or 10 rows, whichever is more; 100% allows any number"
        ),
    ] = None
    max_changes: Annotated[
        Limit | None, Field(description="more rows to send than this, of the model, stop the run")
    ] = None


class FailurePolicy(_Strict):
    """What turns the task red."""

    max_rejected: Annotated[
        Limit, Field(description="more rejected or invalid rows than this, of the planned ones, fail the task")
    ] = 0
    max_given_up: Annotated[
        Limit,
        Field(description="more rows that were rejected past `retry` than this, of the model's rows, fail the task"),
    ] = "1%"
    on_unknown: Annotated[
        Literal["resend", "accept", "fail"],
        Field(
            description="rows sent whose answer was lost, where sending twice is not safe: send again (may duplicate), "
            "count as delivered (may lose), or leave out and fail"
        ),
    ] = "resend"


class RetryPolicy(_Strict):
    """How long a rejected row is tried again in later runs, while it stays unchanged."""

    max_attempts: Annotated[int, Field(ge=1)] = 5
    max_age: Duration = timedelta(days=14)


class Rate(_Strict):
    """How fast. ``None`` is the destination's own default."""

    requests_per_second: Annotated[float | None, Field(gt=0)] = None
    concurrency: Annotated[int, Field(ge=1, le=1000, description="requests in flight")] = 8
    batch_size: Annotated[int | None, Field(ge=1, description="rows in one request")] = None


class Sync(_Strict):
    """A named, declarative spec: model → destination object.

    Guarantees nothing by itself; see :mod:`airflow_reverse_etl.sync.run`.

    :raises SpecError: with *all* problems, when constructed from invalid values.
    """

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$",
            description="identifies the sync and its state: rename it and everything is sent again",
        ),
    ]
    model: ModelRef
    source: Annotated[str, Field(min_length=1, description="Airflow connection id of the warehouse")]
    primary_key: Annotated[Names | None, Field(description="column, or list of them; default: what dbt knows")] = None
    destination: DestinationSpec
    mode: Mode = "upsert"
    mapping: Annotated[
        dict[str, FieldSource], Field(min_length=1, description="destination field: column; dots in a field nest")
    ]
    track: Annotated[
        Track,
        Field(
            description="what is remembered: `rows`, every row that was delivered; `{cursor: column}`, the same, but "
            "only rows that changed since are read; `{fields: true}`, a short hash of each field beside every row, so "
            "that a plan names the fields that changed; `none`, nothing: every row goes out in every run"
        ),
    ] = "rows"
    initial: Annotated[
        Literal["send", "baseline"],
        Field(description="the first run sends every row, or records them as delivered without sending"),
    ] = "send"
    on_mapping_change: Annotated[
        Literal["resync", "keep"],
        Field(
            description="after a change of the mapping or the primary key: send every row again, or take those "
            "that were delivered as they are and send new ones only"
        ),
    ] = "resync"
    nulls: Annotated[Literal["send", "omit"], Field(description="send null, or leave the field out")] = "send"
    guards: Guards = Guards()
    failure: FailurePolicy = FailurePolicy()
    retry: RetryPolicy = RetryPolicy()
    rate: Rate = Rate()
    drift: Annotated[
        Literal["ignore", "warn", "fail"],
        Field(description="when the columns it uses, their table or its key tests changed since the last run"),
    ] = "warn"
    planner: Annotated[Literal["auto", "warehouse", "local"], Field(description="where the comparison runs")] = "auto"

    @field_validator("primary_key")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("must name at least one column, each once")
        return value

    @field_validator("mapping")
    @classmethod
    def _no_overlap(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not all(name.split(".")):
                raise ValueError(f"field {name!r} has an empty part between dots")
            parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
            clash = next((parent for parent in parents if parent in value), None)
            if clash:
                raise ValueError(f"field {clash!r} cannot be a value and hold {name!r} as well")
        return value

    @model_validator(mode="after")
    def _match_on_is_mapped(self) -> Sync:
        missing = [name for name in self.destination.match_on if name not in self.mapping]
        if missing:
            raise ValueError(f"destination.match_on names {', '.join(missing)}, which mapping does not define")
        constants = {name: field.value for name, field in self.mapping.items() if isinstance(field, ValueField)}
        blank = [name for name in self.destination.match_on if name in constants and is_blank(constants[name])]
        if blank:
            raise ValueError(f"destination.match_on names {', '.join(blank)}, whose constant is null or blank")
        return self

    @model_validator(mode="after")
    def _track_fits(self) -> Sync:
        if self.mode == "mirror" and (self.cursor or self.track == "none"):
            what = (
                "a cursor cannot see removed rows" if self.cursor else "without a record nothing is known to be removed"
            )
            raise ValueError(f"mode mirror needs track: rows: {what}")
        if self.mode == "append" and self.cursor:
            raise ValueError("mode append sends every row of the model in every run; it has no use for a cursor")
        if self.mode == "append" and self.track_fields:
            raise ValueError("mode append keeps no record, and so no hashes of fields")
        if not self.tracked:
            why = "mode append" if self.mode == "append" else "track: none"
            if self.initial != "send":
                raise ValueError(f"initial: {self.initial} records rows, and {why} keeps no record")
            if self.on_mapping_change != "resync":
                raise ValueError(f"on_mapping_change: {self.on_mapping_change} needs a record, and {why} keeps none")
        return self

    # the last of the validators, so that the others run inside it
    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Raise our error with every problem, unless :meth:`load` asked for pydantic's to add places to it."""
        try:
            return handler(values)
        except ValidationError as error:
            if info.context is _RAW:
                raise
            problems = tuple(problem_text(where, message) for where, message in problems_of(error, _known_keys))
            name = values.get("name") if isinstance(values, Mapping) else None
            raise SpecError(title(len(problems)), problems=problems, todo=_FIX_VALUES, sync=name) from None

    @property
    def tracked(self) -> bool:
        """Whether what was delivered is remembered. If not, every valid row goes out in every run."""
        return self.mode != "append" and self.track != "none"

    @property
    def cursor(self) -> str | None:
        """The column from whose highest value on the model is read."""
        return self.track.cursor if isinstance(self.track, TrackDetails) else None

    @property
    def track_fields(self) -> bool:
        """Whether hashes of single fields are remembered, see
        :mod:`airflow_reverse_etl.sql.statements.field_hashes`.
        """
        return isinstance(self.track, TrackDetails) and self.track.fields

    @classmethod
    def load(cls, source: Sync | Mapping[str, Any] | str | Path, *, check: DestinationCheck | None = None) -> Sync:
        """A sync from itself, a dict, or the path of a YAML file.

        :param check: validates the destination's own keys, so that their problems are reported with the others.
        :raises SpecError: with all problems, each with ``file:line`` where the source is a file.
        """
        if isinstance(source, Sync):
            return cls._checked(source, source.model_dump(), check, {})
        if isinstance(source, Mapping):
            return cls._checked(None, dict(source), check, {})
        return cls.load_file(Path(source), check=check)[0]

    @classmethod
    def load_file(cls, path: Path, *, check: DestinationCheck | None = None) -> tuple[Sync, Lines]:
        """A sync from a YAML file, and the line of each of its keys.

        :raises SpecError: with all problems, each with ``file:line``.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(
                f"cannot read the sync file: {error.strerror}",
                todo="give the path of a YAML file, relative to the DAG file or absolute",
                file=path,
            ) from None
        values, lines = read_yaml(text, path)
        return cls._checked(None, values, check, lines, path), lines

    @classmethod
    def _checked(
        cls,
        sync: Sync | None,
        values: dict[str, Any],
        check: DestinationCheck | None,
        lines: Lines,
        path: Path | None = None,
    ) -> Sync:
        problems: list[tuple[tuple[str, ...], str]] = []
        if sync is None:
            try:
                sync = cls.model_validate(values, context=_RAW)
            except ValidationError as error:
                problems += problems_of(error, _known_keys)
        destination = values.get("destination")
        if check and isinstance(destination, Mapping):
            known = set(DestinationSpec.model_fields)
            problems += [
                (("destination", *where), message)
                for where, message in check({k: v for k, v in destination.items() if v is not None or k not in known})
            ]
        if not problems and sync is not None:
            return sync
        texts = tuple(problem_text(where, message, line_of(lines, where), path) for where, message in problems)
        raise SpecError(
            title(len(texts)),
            problems=texts,
            todo="correct the lines below" if path else _FIX_VALUES,
            sync=values.get("name"),
            file=path,
        )

    @property
    def digest(self) -> str:
        """Changes when what is sent, or how, changes; not when guards, rates or policies do."""
        what = self.model_dump_json(
            include={"model", "primary_key", "destination", "mode", "mapping", "nulls", "track"}
        )
        return hashlib.sha256(what.encode()).hexdigest()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of a sync file, for editors."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Reverse ETL sync",
            **{key: value for key, value in cls.model_json_schema().items() if key != "title"},
        }


def _known_keys(where: Sequence[str]) -> list[str]:
    shapes: dict[str, list[type[BaseModel]]] = {
        "": [Sync],
        "model": [TableModel, SqlModel],
        "mapping": [SqlField, ValueField, TemplateField],
        "track": [TrackDetails],
        "guards": [Guards],
        "failure": [FailurePolicy],
        "retry": [RetryPolicy],
        "rate": [Rate],
    }
    return [name for shape in shapes.get(where[0] if where else "", []) for name in shape.model_fields]
