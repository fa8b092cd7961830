"""The sync specification, from Python or a YAML file. One definition serves validation and JSON Schema."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.alerts.limits import Alerts
from airflow_reverse_etl.spec.field_types import MAX_DEPTH, Constant, Duration, Limit, Names, constant_problem, is_blank
from airflow_reverse_etl.spec.folders import layers
from airflow_reverse_etl.spec.problems import at_most, problem_text, problems_of, title
from airflow_reverse_etl.spec.yaml_file import Lines, line_of

#: Validates the keys that a destination adds to ``destination:``. Takes that mapping, returns (path, message) problems.
DestinationCheck = Callable[[Mapping[str, Any]], Sequence[tuple[tuple[str, ...], str]]]

Mode = Literal["upsert", "insert", "update", "mirror", "append", "delete", "replace"]
#: Context of a validation that raises pydantic's own error.
_RAW: dict[str, str] = {"errors": "raw"}
#: Most characters of a field's name.
_MAX_NAME = 1_000
_FIX_VALUES = "correct the values below"
_FIX_LINES = "correct the lines below"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableModel(_Strict):
    """A table or view that dbt does not manage."""

    table: Annotated[str, Field(min_length=1, description="schema.table, quoted as the warehouse requires")]


class SqlModel(_Strict):
    """A query."""

    sql: Annotated[str, Field(min_length=1, description="one SELECT statement in the warehouse's dialect")]


class SqlField(_Strict):
    """An expression over the model's columns, evaluated where the plan runs."""

    sql: Annotated[str, Field(min_length=1)]


class HashField(_Strict):
    """A hash of a column's text, made where the plan runs. A null or blank text has none: the value is null."""

    column: Annotated[str, Field(min_length=1)]
    hash: Annotated[
        Literal["sha256"], Field(description="SHA-256 of the text in UTF-8, as lower-case hexadecimal digits")
    ]
    normalize: Annotated[
        Literal["email", "trim"] | None,
        Field(description="change of the text before it is hashed: `trim` it, or, for `email`, also lower its letters"),
    ] = None


class ValueField(_Strict):
    """A constant."""

    value: Constant


class TemplateField(_Strict):
    """A sandboxed Jinja template over ``row``, rendered for each row. Slow: prefer an expression."""

    template: Annotated[str, Field(min_length=1)]


class ChangeValues(_Strict):
    """A constant for each kind of change."""

    added: Annotated[Constant, Field(description="value in the record of an added row")]
    changed: Annotated[Constant, Field(description="value in the record of a changed row")]


class ChangeField(_Strict):
    """A constant that says whether the row was added or changed."""

    change: ChangeValues


class EveryColumn(_Strict):
    """Every column of the model that the mapping does not give a field of its own name."""

    exclude: Annotated[Names, Field(description="columns that are not sent, compared without regard to case")] = ()


#: The key of a mapping that stands for every column. Behind a field and a dot, the columns are nested in that field.
STAR = "*"


def _tag_by_key(*keys: str) -> Callable[[object], str | None]:
    """Build the function that picks a union's member: ``name`` for text, else the first of the keys that is set."""

    def discriminate(value: object) -> str | None:
        if isinstance(value, str):
            return "name"
        for key in keys:
            found = key in value if isinstance(value, Mapping) else hasattr(value, key)
            if found:
                return key
        return None

    return discriminate


_Name = Annotated[str, Field(min_length=1)]
ModelRef = Annotated[
    Annotated[_Name, Tag("name")] | Annotated[TableModel, Tag("table")] | Annotated[SqlModel, Tag("sql")],
    Discriminator(
        _tag_by_key("table", "sql"),
        custom_error_type="model_shape",
        custom_error_message="must be a dbt model's name, {table: schema.name} or {sql: select …}",
    ),
]
FieldSource = Annotated[
    Annotated[_Name, Tag("name")]
    | Annotated[SqlField, Tag("sql")]
    | Annotated[HashField, Tag("column")]
    | Annotated[ValueField, Tag("value")]
    | Annotated[TemplateField, Tag("template")]
    | Annotated[ChangeField, Tag("change")]
    | Annotated[EveryColumn, Tag("exclude")],
    Discriminator(
        _tag_by_key("sql", "column", "value", "template", "change", "exclude"),
        custom_error_type="field_shape",
        custom_error_message="must be a column's name, {sql: …}, {value: …}, {template: …}, "
        '{column: …, hash: sha256}, {change: {added: …, changed: …}}, or "*" for every column',
    ),
]


class NullValue(_Strict):
    """A value that is sent instead of null, for APIs that clear a field by it."""

    value: Annotated[str | int | float | bool, Field(description="such as an empty text, or #N/A")]


def _nulls_tag(value: object) -> str:
    if isinstance(value, NullRules) or (isinstance(value, Mapping) and "value" not in value):
        return "fields"
    return "value" if isinstance(value, Mapping | NullValue) else "name"


NullRule = Annotated[
    Annotated[Literal["send", "omit"], Tag("name")] | Annotated[NullValue, Tag("value")],
    Discriminator(_nulls_tag),
]


class NullRules(_Strict):
    """A handling of null values for some fields, and one for the others."""

    fields: Annotated[dict[str, NullRule], Field(min_length=1, description="field of the mapping: its handling")]
    default: Annotated[
        NullRule | None,
        Field(description="handling of the other fields; default: as the destination's type clears a field"),
    ] = None


Nulls = Annotated[
    Annotated[Literal["send", "omit"], Tag("name")]
    | Annotated[NullValue, Tag("value")]
    | Annotated[NullRules, Tag("fields")],
    Discriminator(_nulls_tag),
]


class TrackDetails(_Strict):
    """A record of every delivered row, plus a cursor or hashes of single fields."""

    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            description="column of dates, time stamps or whole numbers that grows with every change of a row; rows "
            "that were not accepted and rows without a value are always read again",
        ),
    ] = None
    lag: Annotated[
        Duration | None,
        Field(
            description="time before the highest value of the cursor from which rows are read again, for rows that "
            "arrive late; rows that were delivered and are unchanged are not sent; not for a cursor of numbers",
            exclude_if=lambda value: value is None,
        ),
    ] = None
    fields: Annotated[
        bool,
        Field(description="short hash stored for each mapped value, so that a plan names the changed fields of a row"),
    ] = False

    @model_validator(mode="after")
    def _tracks_something(self) -> TrackDetails:
        if not self.cursor and not self.fields:
            raise ValueError(_TRACK_SHAPE)
        if self.lag is not None and not self.cursor:
            raise ValueError("lag needs a cursor")
        return self


_TRACK_SHAPE = "must be rows, none, {cursor: column}, {fields: true}, or both of these"


def _track_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "name"
    if isinstance(value, Mapping | TrackDetails):
        return "details"
    return None


Track = Annotated[
    Annotated[Literal["rows", "none"], Tag("name")] | Annotated[TrackDetails, Tag("details")],
    Discriminator(_track_tag, custom_error_type="track_shape", custom_error_message=_TRACK_SHAPE),
]


class DestinationSpec(BaseModel):
    """The destination of the rows. Each destination type adds its own keys, see its reference page."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Annotated[str, Field(min_length=1, description="hubspot, salesforce, http, table, file, or another one")]
    connection: Annotated[str | None, Field(description="Airflow connection id")] = None
    object: Annotated[str | None, Field(description="name of the object to write: contacts, schema.table …")] = None
    match_on: Annotated[
        Names, Field(description="destination fields by which the destination recognises a record")
    ] = ()
    compare: Annotated[
        Literal["exact", "ignore_case"] | None,
        Field(
            description="comparison of text in match_on, which the destination must agree with; blanks around it never "
            "count; default: as the destination's type compares",
            exclude_if=lambda value: value is None,
        ),
    ] = None

    @model_validator(mode="after")
    def _options_are_constants(self) -> DestinationSpec:
        for name, value in (self.model_extra or {}).items():
            if problem := constant_problem(value, keys=(str, int)):
                raise ValueError(f"option {name!r} {problem}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the destination's type adds."""
        return dict(self.model_extra or {})


class Guards(_Strict):
    """Limits that a plan must meet before anything is sent. A plan that exceeds one stops the run."""

    min_rows: Annotated[int, Field(ge=0, description="minimum of rows in the model; fewer stop the run")] = 1
    max_removed: Annotated[
        Limit | None,
        Field(
            description="maximum of removed rows, or of their share of the snapshot; more stop the run; default in "
            "mode mirror: 20% of the snapshot or 10 rows, whichever is more; 100% allows any number"
        ),
    ] = None
    max_changes: Annotated[
        Limit | None,
        Field(description="maximum of rows to send, or of their share of the model; more stop the run"),
    ] = None


class FailurePolicy(_Strict):
    """The results that fail the task."""

    max_rejected: Annotated[
        Limit,
        Field(
            description="maximum of rejected and invalid rows, or of their share of the planned rows; more fail the "
            "task"
        ),
    ] = 0
    max_given_up: Annotated[
        Limit,
        Field(
            description="maximum of rows given up, because they were rejected past `retry`, or of their share of the "
            "model's rows; more fail the task"
        ),
    ] = "1%"
    on_unknown: Annotated[
        Literal["resend", "accept", "fail"],
        Field(
            description="handling of rows whose answer was lost, if sending twice is not safe: send again (may "
            "duplicate), count as delivered (may lose), or leave out and fail"
        ),
    ] = "resend"


class RetryPolicy(_Strict):
    """Limits for trying a rejected, unchanged row again in later runs."""

    max_attempts: Annotated[int, Field(ge=1)] = 5
    max_age: Duration = timedelta(days=14)
    missing: Annotated[
        Duration,
        Field(description="in mode update: time after which a row that the destination did not have is sent again"),
    ] = timedelta(days=1)


class Rate(_Strict):
    """The pace of a load. ``None`` is the destination's own default."""

    requests_per_second: Annotated[float | None, Field(gt=0)] = None
    requests_per_day: Annotated[
        int | None,
        Field(
            ge=1,
            description="requests in any 24 hours, or from the hour at which the destination's type begins a day, of "
            "everything that uses the connection; default: the destination's own, for most no limit",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        Field(ge=1, le=1000, description="number of requests in flight; default: the destination's own, for most 8"),
    ] = None
    batch_size: Annotated[int | None, Field(ge=1, description="number of rows in one request")] = None


class TaskOptions(_Strict):
    """The sync's tasks in Airflow, where ``sync_group`` or ``reverse_etl_dag`` makes them from a folder."""

    schedule: Annotated[
        str | None,
        Field(
            min_length=1,
            description="cron expression or preset, such as `@hourly`; `reverse_etl_dag` makes a DAG for each schedule",
        ),
    ] = None
    pool: Annotated[str | None, Field(min_length=1, description="pool of the tasks")] = None
    retries: Annotated[int | None, Field(ge=0, description="number of further tries of each task")] = None
    partitions: Annotated[
        int, Field(ge=1, description="maximum of tasks that load at the same time; with more than 1, a task group")
    ] = 1
    approve: Annotated[bool, Field(description="a person approves each plan before it is sent; makes a task group")] = (
        False
    )
    gate: Annotated[bool, Field(description="the gate of the group applies to the sync, if its model is dbt's")] = True


class Sync(_Strict):
    """A named, declarative specification: model → destination object.

    For the guarantees of a run, see :mod:`airflow_reverse_etl.sync.run`.

    :raises SpecError: the values are invalid; lists *all* problems.
    """

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$",
            description="identifier of the sync and its state; a renamed sync sends everything again",
        ),
    ]
    model: ModelRef
    source: Annotated[str, Field(min_length=1, description="Airflow connection id of the warehouse")]
    primary_key: Annotated[
        Names | None, Field(description="column, or list of columns; default: the key found in dbt")
    ] = None
    destination: DestinationSpec
    mode: Mode = "upsert"
    mapping: Annotated[
        dict[str, FieldSource],
        Field(
            min_length=1,
            description='destination field: column; dots in a field nest; `"*": "*"`, or `"*": {exclude: [column]}`, '
            "maps every other column to a field of its name",
        ),
    ]
    track: Annotated[
        Track,
        Field(
            description="record of deliveries: `rows`, every delivered row; `{cursor: column}`, the same, but only "
            "rows that changed since are read; `{fields: true}`, also a short hash of each field, so that a plan names "
            "the changed fields; `none`, no record: every row is sent in every run"
        ),
    ] = "rows"
    send: Annotated[
        Literal["all", "changed"],
        Field(
            description="fields of a changed row that are sent: `all` of them, or only those that changed, for an API "
            "that bills fields or that others write to; see [Only changed fields](#only-changed-fields)",
            exclude_if=lambda value: value == "all",
        ),
    ] = "all"
    initial: Annotated[
        Literal["send", "baseline"],
        Field(description="behaviour of the first run: send every row, or record all as delivered without sending"),
    ] = "send"
    on_mapping_change: Annotated[
        Literal["resync", "keep"],
        Field(
            description="behaviour after a change of the mapping, or of the fields by which rows or records are "
            "recognised: send every row again, or keep delivered rows as they are and send only new ones"
        ),
    ] = "resync"
    on_destination_change: Annotated[
        Literal["stop", "resync", "keep"],
        Field(
            description="behaviour if the destination is another place than the one that the state describes: stop, "
            "send every row to the new place and delete nothing there, or keep the state as it is"
        ),
    ] = "stop"
    nulls: Annotated[
        Nulls | None,
        Field(
            description="handling of null values: send null, leave the field out (`omit`), or send another value that "
            "clears a field (`{value: …}`); `{fields: {phone: omit}, default: send}` says it field by field; default: "
            "as the destination's type clears a field, for most by null"
        ),
    ] = None
    guards: Guards = Guards()
    failure: FailurePolicy = FailurePolicy()
    retry: RetryPolicy = RetryPolicy()
    rate: Rate = Rate()
    drift: Annotated[
        Literal["ignore", "warn", "fail"],
        Field(description="reaction if the used columns, their table or the key tests changed since the last run"),
    ] = "warn"
    write_ids: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*){0,2}$",
            description="table in the source's database, as `schema.table`, that receives the destination's own id of "
            "each record; see [Ids of records](#ids-of-records)",
        ),
    ] = None
    planner: Annotated[Literal["auto", "warehouse", "local"], Field(description="engine that runs the comparison")] = (
        "auto"
    )
    alerts: Annotated[
        Alerts | None,
        Field(
            description="limits from which on `SyncNotifier` reports that the sync needs attention (warning) or is "
            "failing (critical); default: attention for every row that is not delivered"
        ),
    ] = None
    templated: Annotated[
        bool,
        Field(
            description="Airflow renders `{{ … }}` in `source`, `destination.connection` and the SQL of `model`, as in "
            "an operator's arguments, when a task begins; see [Templates](#templates)",
            exclude_if=lambda value: not value,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Field(
            description="runs plan and check the guards, and send and record nothing; meant for an environment",
            exclude_if=lambda value: not value,
        ),
    ] = False
    after: Annotated[
        Names,
        Field(
            description="name of a sync, or a list of names: in a folder's tasks, this sync runs after they succeeded",
            exclude_if=lambda value: not value,
        ),
    ] = ()
    airflow: Annotated[
        TaskOptions,
        Field(
            description="the sync's tasks in Airflow, where they are made from a folder",
            exclude_if=lambda value: value == TaskOptions(),
        ),
    ] = TaskOptions()
    environments: Annotated[
        dict[str, dict[str, Any] | None],
        Field(
            description="name of an environment: what differs in it, with the keys of a sync; `[reverse_etl] "
            "environment` chooses one; see [Environments](#environments)",
            exclude_if=lambda value: not value,
        ),
    ] = {}
    #: The sync as its author wrote it, if this is a copy with the model's columns.
    _written: Sync | None = PrivateAttr(None)

    @field_validator("primary_key")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("must name at least one column, each once")
        return value

    @field_validator("mapping", mode="before")
    @classmethod
    def _star(cls, value: object) -> object:
        """Read ``"*": "*"`` as every column."""
        if not isinstance(value, Mapping):
            return value
        return {name: _star_or_field(str(name), field) for name, field in value.items()}

    @field_validator("mapping")
    @classmethod
    def _no_overlap(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if problem := _name_problem(name):
                raise ValueError(problem)
            if isinstance(value[name], EveryColumn) != _is_star(name) or value[name] == STAR:
                raise ValueError(f'field {name!r}: write "*": "*", or "*": {{exclude: [column]}}, for every column')
            parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
            clash = next((parent for parent in parents if parent in value), None)
            if clash:
                raise ValueError(f"field {clash!r} cannot be a value and hold {name!r} as well")
        stars = [name for name in value if _is_star(name)]
        if len(stars) > 1:
            raise ValueError(f"{' and '.join(map(repr, stars))} both map every column: keep one of them")
        return value

    @model_validator(mode="after")
    def _nulls_are_mapped(self) -> Sync:
        named = self.nulls.fields if isinstance(self.nulls, NullRules) else {}
        missing = [name for name in named if name not in self.mapping]
        if missing and not self.star:
            raise ValueError(f"nulls.fields names {', '.join(missing)}, which mapping does not define")
        return self

    @model_validator(mode="after")
    def _match_on_is_mapped(self) -> Sync:
        missing = [name for name in self.destination.match_on if name not in self.mapping]
        if missing and not self.star:
            raise ValueError(f"destination.match_on names {', '.join(missing)}, which mapping does not define")
        constants = {name: field.value for name, field in self.mapping.items() if isinstance(field, ValueField)}
        blank = [name for name in self.destination.match_on if name in constants and is_blank(constants[name])]
        if blank:
            raise ValueError(f"destination.match_on names {', '.join(blank)}, whose constant is null or blank")
        self._check_identifier()
        return self

    def _check_identifier(self) -> None:
        """Check that the plan can tell the records of two rows apart."""
        match_on = self.destination.match_on
        fields = {name: self.mapping.get(name) for name in match_on}  # a column that "*" gives has none yet
        templates = [name for name, field in fields.items() if isinstance(field, TemplateField)]
        if templates and self.tracked:
            raise ValueError(
                f"destination.match_on names {', '.join(templates)}, a template, which the plan cannot compute: "
                "write it as an expression, {sql: …}"
            )
        changes = [name for name, field in fields.items() if isinstance(field, ChangeField)]
        if changes:
            raise ValueError(f"destination.match_on names {', '.join(changes)}, which differs with the kind of change")
        if match_on and self.mode != "append" and all(isinstance(field, ValueField) for field in fields.values()):
            raise ValueError("destination.match_on names constants only, so all rows would be one record")

    @model_validator(mode="after")
    def _templates_are_rendered(self) -> Sync:
        if self.templated:
            return self
        found = [name for name, text in self._templates().items() if name != "model.sql" and _is_template(text)]
        if found:
            raise ValueError(f"{' and '.join(found)}: {{{{ … }}}} is rendered only if the sync has templated: true")
        return self

    @model_validator(mode="after")
    def _track_fits(self) -> Sync:
        if self.mode in ("mirror", "replace") and (self.cursor or self.track == "none"):
            reason = "without a record, removed rows cannot be found"
            if self.cursor:
                reason = "a cursor cannot see removed rows"
            raise ValueError(f"mode {self.mode} needs track: rows: {reason}")
        if self.mode == "replace" and self.sends_changed:
            raise ValueError("mode replace sends whole records; it has no use for send: changed")
        if self.mode == "replace" and self.guards.max_changes is not None:
            raise ValueError("mode replace sends every row; use guards.max_removed instead of max_changes")
        if self.mode == "append" and self.cursor:
            raise ValueError("mode append sends every row of the model in every run; it has no use for a cursor")
        if self.mode == "append" and self.track_fields and not self.sends_changed:
            raise ValueError("mode append keeps no record, and so cannot keep hashes of fields")
        if not self.tracked:
            reason = "mode append" if self.mode == "append" else "track: none"
            if self.send == "changed":
                raise ValueError(f"send: changed compares with what was delivered, and {reason} keeps no record")
            if self.initial != "send":
                raise ValueError(f"initial: {self.initial} records rows, and {reason} keeps no record")
            if self.on_mapping_change != "resync":
                raise ValueError(f"on_mapping_change: {self.on_mapping_change} needs a record, and {reason} keeps none")
        return self

    @model_validator(mode="after")
    def _has_json(self) -> Sync:
        try:
            self.model_dump_json()
        except PydanticSerializationError:
            raise ValueError("a text has half of a character (a surrogate), which no JSON can have") from None
        return self

    # last, so that the other validators run inside it
    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Raise a SpecError with every problem, unless :meth:`load` asked for pydantic's error to add places."""
        try:
            return handler(values)
        except ValidationError as error:
            if info.context is _RAW:
                raise
            problems = [problem_text(where, message) for where, message in problems_of(error, _known_keys)]
            name = values.get("name") if isinstance(values, Mapping) else None
            raise SpecError(title(len(problems)), problems=at_most(problems), todo=_FIX_VALUES, sync=name) from None

    def _templates(self) -> dict[str, str]:
        """Return the texts that may be templates of Airflow: key → text."""
        found = {"source": self.source}
        if self.destination.connection is not None:
            found["destination.connection"] = self.destination.connection
        if isinstance(self.model, SqlModel):
            found["model.sql"] = self.model.sql
        return found

    @property
    def to_render(self) -> dict[str, str]:
        """The texts that :meth:`rendered` changes: key → text. Empty unless the sync is ``templated``."""
        return {name: text for name, text in self._templates().items() if self.templated and _is_template(text)}

    def rendered(self, render: Callable[[str], str]) -> Sync:
        """Return a copy whose connection names and SQL are rendered; the sync itself if there is nothing to render.

        :param render: makes the text of a template.
        :raises SpecError: a text is empty then.
        """
        texts = {name: render(text) for name, text in self.to_render.items()}
        if not texts:
            return self
        values = self.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"templated": False}
        for name, text in texts.items():
            parent, _, key = name.rpartition(".")
            holder = values[parent] if parent else values
            holder[key] = text
        return type(self).model_validate(values)

    @property
    def tracked(self) -> bool:
        """True if deliveries are recorded. If not, every run sends every valid row."""
        return self.mode != "append" and self.track != "none"

    @property
    def identified_by(self) -> tuple[str, ...]:
        """The fields in ``match_on`` that tell the records of two rows apart, sorted.

        Empty if the primary key identifies the record, or if the plan has no use for identifiers (mode ``append``).
        """
        sources = {name: self.mapping.get(name) for name in self.destination.match_on}
        if self.mode == "append" or any(isinstance(source, TemplateField) for source in sources.values()):
            return ()
        return tuple(sorted(name for name, source in sources.items() if not isinstance(source, ValueField)))

    @property
    def hashes_emails(self) -> bool:
        """True if a field is a hash of an e-mail address, whose letters the plan lowers."""
        return any(isinstance(field, HashField) and field.normalize == "email" for field in self.mapping.values())

    @property
    def star(self) -> str | None:
        """The key of the mapping that stands for every column; None without one, and in a copy with the columns."""
        return next((name for name in self.mapping if _is_star(name)), None)

    @property
    def as_written(self) -> Sync:
        """The sync as its author wrote it, with the ``"*"``."""
        return self._written or self

    @property
    def every_column(self) -> dict[str, str]:
        """The fields that the ``"*"`` gave, each with its column, in the model's order."""
        if self._written is None:
            return {}
        return {name: str(column) for name, column in self.mapping.items() if name not in self._written.mapping}

    def with_columns(self, columns: Sequence[str], *, folds_to_upper: bool = False) -> Sync:
        """Return a copy with the model's columns in the place of the ``"*"``; the sync itself without one.

        A column whose field the mapping names already is left out.

        :param columns: names of the model's columns, in its order.
        :param folds_to_upper: the warehouse writes names in upper case. Their fields are in lower case.
        :raises SpecError: ``exclude`` names unknown columns, or the mapping is not valid with the columns.
        """
        if self.star is None:
            return self
        every = cast(EveryColumn, self.mapping[self.star])
        excluded = {name.lower() for name in every.exclude}
        if unknown := excluded - {name.lower() for name in columns}:
            raise SpecError(
                title(1),
                problems=(f"mapping.{self.star}.exclude: the model lacks {', '.join(sorted(unknown))}",),
                todo=_FIX_VALUES,
                sync=self.name,
            )
        wanted = [name for name in columns if name.lower() not in excluded]
        prefix = self.star.removesuffix(STAR)
        fields = [(prefix + (name.lower() if folds_to_upper and name.isupper() else name), name) for name in wanted]
        return self.with_fields([(field, name) for field, name in fields if field not in self.mapping])

    def with_fields(self, given: Iterable[Any]) -> Sync:
        """Return a copy with some fields in the place of the ``"*"``; the sync itself without one.

        :param given: pairs of a field and its column, as the items of :attr:`every_column`.
        :raises SpecError: the mapping is not valid with these fields.
        """
        if self.star is None:
            return self
        mapping: dict[str, Any] = {}
        for name, field in self.mapping.items():
            if name == self.star:
                mapping |= dict(given)
            else:
                mapping[name] = field
        copy = type(self).model_validate({**dict(self), "mapping": mapping})
        copy._written = self
        return copy

    @property
    def cursor(self) -> str | None:
        """The column whose highest value is where the next run begins to read the model."""
        return self.track.cursor if isinstance(self.track, TrackDetails) else None

    @property
    def cursor_lag(self) -> timedelta:
        """The time before the cursor's highest value from which the next run reads the model."""
        lag = self.track.lag if isinstance(self.track, TrackDetails) else None
        return lag or timedelta()

    @property
    def track_fields(self) -> bool:
        """True if hashes of single fields are stored: :mod:`airflow_reverse_etl.sql.statements.field_hashes`."""
        return self.sends_changed or (isinstance(self.track, TrackDetails) and self.track.fields)

    @property
    def sends_changed(self) -> bool:
        """True if only the changed fields of a changed row are sent."""
        return self.send == "changed"

    @classmethod
    def load(
        cls,
        source: Sync | Mapping[str, Any] | str | Path,
        *,
        check: DestinationCheck | None = None,
        environment: str = "",
    ) -> Sync:
        """Load a sync from a dict or the path of a YAML file; accept a sync as well.

        A file is read over the defaults of its folders.

        :param check: validates the destination's own keys, so that their problems are reported with the others.
        :param environment: which of the sync's ``environments`` counts; empty for the sync as it is without one.
        :raises SpecError: lists all problems, each with ``file:line`` if the source is a file.
        """
        if isinstance(source, Sync) and not source.environments:
            return cls._checked(source, source.model_dump(), check, {})
        if isinstance(source, Sync | Mapping):
            given = source.model_dump(exclude_unset=True) if isinstance(source, Sync) else source
            values, _, problems = layers.in_environment(given, {}, environment, _known_keys)
            return cls._checked(None, values, check, {}, problems=problems)
        return cls.load_file(Path(source), check=check, environment=environment)[0]

    @classmethod
    def load_file(
        cls, path: Path, *, check: DestinationCheck | None = None, environment: str = ""
    ) -> tuple[Sync, Lines]:
        """Load a sync from a YAML file over the defaults of its folders, together with the line of each of its keys.

        :raises SpecError: lists all problems, each with ``file:line``.
        """
        given, at = layers.read_layers(path)
        values, lines, problems = layers.in_environment(given, at, environment, _known_keys)
        return cls._checked(None, values, check, lines, path, problems=problems), lines

    @classmethod
    def _checked(
        cls,
        sync: Sync | None,
        values: Mapping[str, Any],
        check: DestinationCheck | None,
        lines: Lines,
        path: Path | None = None,
        *,
        problems: Iterable[layers.Problem] = (),
    ) -> Sync:
        """Return the sync, or raise the problems of its values and of its destination's keys together.

        :param problems: those that are known already.
        """
        found = list(problems)
        if sync is None:
            try:
                sync = cls.model_validate(values, context=_RAW)
            except ValidationError as error:
                found += problems_of(error, _known_keys)

        # let the destination check its own keys; a common key may be None
        destination = values.get("destination")
        if check and isinstance(destination, Mapping):
            common = set(DestinationSpec.model_fields)
            given = {key: value for key, value in destination.items() if value is not None or key not in common}
            found += [(("destination", *where), message) for where, message in check(given)]
        if not found and sync is not None:
            return sync

        texts = [problem_text(where, message, line_of(lines, where), path) for where, message in found]
        todo = _FIX_LINES if path else _FIX_VALUES
        raise SpecError(
            title(len(texts)),
            problems=at_most(texts),
            todo=todo,
            sync=values.get("name"),
            file=path,
        )

    @property
    def digest(self) -> str:
        """Hash of everything that decides which records are sent, and how. Guards, rates and policies do not count."""
        sync = self if self.nulls is not None else self.model_copy(update={"nulls": "send"})
        content = sync.model_dump_json(
            include={"model", "primary_key", "destination", "mode", "mapping", "nulls", "track", "send"}
        )
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of a sync file, for editors."""
        schema = cls.model_json_schema()
        definitions = schema["$defs"]
        keys = {key: value for key, value in schema["properties"].items() if key not in layers.FIXED}
        # An environment adds to the destination of the sync, whose type it need not repeat.
        keys["destination"] = {**definitions["DestinationSpec"], "required": []}
        definitions["Environment"] = {"type": "object", "properties": keys, "additionalProperties": False}
        chosen = [{"$ref": "#/$defs/Environment"}, {"type": "null"}]
        schema["properties"][layers.ENVIRONMENTS]["additionalProperties"] = {"anyOf": chosen}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Reverse ETL sync",
            **{key: value for key, value in schema.items() if key != "title"},
        }


def column_of(source: object) -> str | None:
    """Return the column that a field of the mapping sends or hashes; None for other kinds of fields."""
    if isinstance(source, HashField):
        return source.column
    return source if isinstance(source, str) else None


def _name_problem(name: str) -> str:
    """Return why a name cannot be that of a field; empty if it can."""
    if len(name) > _MAX_NAME:
        return f"field {name[:40]!r}… has more than {_MAX_NAME:,} characters"
    parts = name.split(".")
    if len(parts) > MAX_DEPTH:
        return f"field {name[:40]!r}… nests more than {MAX_DEPTH} levels deep"
    return "" if all(parts) else f"field {name!r} has an empty part between dots"


def _is_template(text: str) -> bool:
    """Return whether Airflow would render a text."""
    return "{{" in text or "{%" in text


def _is_star(name: str) -> bool:
    return name == STAR or name.endswith(f".{STAR}")


def _star_or_field(name: str, field: object) -> object:
    return EveryColumn() if field == STAR and _is_star(name) else field


def _known_keys(where: Sequence[str]) -> list[str]:
    """Return the keys that a specification may have at a path."""
    shapes: dict[str, list[type[BaseModel]]] = {
        "": [Sync],
        "model": [TableModel, SqlModel],
        "mapping": [SqlField, HashField, ValueField, TemplateField, ChangeField, EveryColumn],
        "nulls": [NullValue, NullRules],
        "track": [TrackDetails],
        "guards": [Guards],
        "failure": [FailurePolicy],
        "retry": [RetryPolicy],
        "rate": [Rate],
        "airflow": [TaskOptions],
    }
    parent = where[0] if where else ""
    return [name for shape in shapes.get(parent, []) for name in shape.model_fields]
