"""Options of destination type ``http``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.batch_api import Missing
from airflow_reverse_etl.destinations.http import Action, HttpOptions
from airflow_reverse_etl.destinations.request_bodies import BodyFormat, wrapping
from airflow_reverse_etl.destinations.results import Code, ErrorPaths, Results, Success
from airflow_reverse_etl.destinations.templates import Structure, Template, header_value, path_value
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import Answers


class CallOptions(Strict):
    """Options of a request."""

    method: Annotated[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], Field(description="HTTP method")] = "POST"
    path: Annotated[
        str | None,
        Field(
            description="template with the variables object, operation, run_id and, with rows: single, row and id; "
            "with group_by, row has the fields of group_by"
        ),
    ] = None
    headers: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="names and values of headers; the values are templates, as for path"),
    ]
    rows: Annotated[Literal["single", "batch"], Field(description="number of rows in a request: one or many")] = "batch"
    item: Annotated[
        Any,
        Field(
            description="part of the body for one row: text, lists and objects, in which text is a template with row "
            "and id; default: the record"
        ),
    ] = None
    body: Annotated[
        BodyFormat | None,
        Field(
            description="format of the body; forms hold the fields of one row, or `records` as a JSON array; default: "
            "none for GET, and for DELETE with rows: single, else json"
        ),
    ] = None
    records: Annotated[
        str | None,
        Field(min_length=1, description="field of the body that holds the records; default: the records are the body"),
    ] = None
    envelope: Annotated[
        dict[str, Any], Field(default_factory=dict, description="other fields of the body, with their values")
    ]

    @field_validator("path")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None:
            Template(value, path_value)
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for text in value.values():
            Template(text, header_value)
        return value

    @field_validator("item")
    @classmethod
    def _item(cls, value: Any) -> Any:
        Structure(value)
        return value

    def call_problems(self, group_by: tuple[str, ...] = ()) -> list[str]:
        """Return the options of the request that do not fit together."""
        found = []
        if self.path is None:
            found.append("'path' is required")
        texts = [self.path or "", *self.headers.values()]
        names = frozenset[str]().union(*(Template(text, str).names for text in texts))
        if self.rows == "batch" and "row" in names and not group_by:
            found.append("the variable 'row' needs rows: single, or group_by")
        if self.rows == "batch" and "id" in names:
            found.append("the variable 'id' needs rows: single")
        if self.records and self.body == "ndjson":
            found.append("'records' cannot be used with body: ndjson")
        if self.body in ("form", "multipart") and self.rows == "batch" and not self.records:
            found.append(f"body: {self.body} with rows: batch needs 'records', the field for the records")
        if self.envelope and not self.records:
            found.append("'envelope' needs 'records', the field for the records")
        try:
            wrapping(self.records or "", self.envelope)
        except ValueError as error:
            found.append(str(error))
        return found


class RecordPaths(Strict):
    """Places in a reply of the records that it returns, and of their ids."""

    list: Annotated[
        str, Field(description="path of the list of records in the reply, or of the only one; default: the whole reply")
    ] = ""
    key: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            max_length=1,
            description="path in a record, and the field of the row that has the same value; not needed with rows: "
            "single",
        ),
    ]
    id: Annotated[str, Field(description="path in a record of its id")] = "id"


class FindOptions(CallOptions, RecordPaths):
    """A request that looks up the ids of existing records, before the rows are sent."""

    missing: Annotated[
        Missing | None,
        Field(
            description="handling of a row without a record: send it to the endpoint of `insert`, count it as "
            "delivered (accept), skip it, reject it, or send it without an id; default: accept for delete, skip for "
            "update, insert for upsert"
        ),
    ] = None
    max_batch_rows: Annotated[
        int | None, Field(ge=1, description="maximum number of rows in a request; default: all rows of the batch")
    ] = None
    statuses: Annotated[
        dict[int, Action],
        Field(
            default_factory=dict,
            description="statuses whose meaning differs from the default, and their meaning; skip: no record was found",
        ),
    ]


class ReplyOptions(Strict):
    """Meaning of a reply."""

    results: Annotated[
        Results | None, Field(description="place and format of the outcome of each row in the reply")
    ] = None
    success: Annotated[
        Success | None,
        Field(description="place of a verdict on the whole request in the reply, in addition to its status"),
    ] = None
    reply: Annotated[
        Literal["json", "text"],
        Field(description="format of replies; with text, only the status decides, with json also the body"),
    ] = "json"
    error: Annotated[ErrorPaths, Field(description="paths of the code and message in an error reply")] = ErrorPaths()
    statuses: Annotated[
        dict[int, Action],
        Field(default_factory=dict, description="statuses whose meaning differs from the default, and their meaning"),
    ]
    codes: Annotated[
        dict[Code, Action],
        Field(
            default_factory=dict,
            description="error codes of whole replies, and their meaning, which takes precedence over the status",
        ),
    ]

    def reply_problems(self) -> list[str]:
        """Return the options for the reply that do not fit together."""
        found = []
        if self.reply == "text" and (self.results or self.success):
            found.append("'results' and 'success' cannot be used with reply: text")
        if self.results is None and Action.PARTIAL in (*self.statuses.values(), *self.codes.values()):
            found.append("the meaning 'partial' needs 'results', which name the rows")
        return found


class ThenOptions(CallOptions, ReplyOptions):
    """A further request for the rows that were written. A row that fails here is rejected."""

    when: Annotated[
        str | None,
        Field(description="expression with row and id, {{ … }}: only rows for which it is true are sent; default: all"),
    ] = None

    @field_validator("when")
    @classmethod
    def _when(cls, value: str | None) -> str | None:
        Structure(value)
        return value


class EndpointOptions(CallOptions, ReplyOptions):
    """Options of an endpoint. Under ``operations:`` each key replaces the top-level key of the same name."""

    max_batch_rows: Annotated[
        int | None, Field(ge=1, description="maximum number of rows in a request; default: rate.batch_size, else 100")
    ] = None
    max_batch_bytes: Annotated[int | None, Field(ge=1, description="maximum size of a request body, in bytes")] = None
    atomic: Annotated[
        bool,
        Field(
            description="a refused request has written none of its rows, so that they can be split and sent again even "
            "if the operation is not idempotent"
        ),
    ] = False
    group_by: Annotated[
        tuple[str, ...], Field(description="fields of the record that have the same values in all rows of a request")
    ] = ()
    find: Annotated[
        FindOptions | None, Field(description="request that looks up the ids of existing records first")
    ] = None
    ids: Annotated[
        RecordPaths | None,
        Field(description="place of the ids of written records in the reply, for `then` and `write_ids`"),
    ] = None
    then: Annotated[
        tuple[ThenOptions, ...], Field(description="further requests for the rows that were written, in order")
    ] = ()
    answers: Annotated[
        Answers | None,
        Field(
            description="what a reply confirms: each row (row), the batch (batch), or that the rows are queued "
            "(taken); default: row with results or rows: single, else batch; taken with status 202"
        ),
    ] = None

    @property
    def worth(self) -> Answers:
        """The worth of the endpoint's answers, see :class:`~airflow_reverse_etl.sync.ports.Support`."""
        if self.answers:
            return self.answers
        return "row" if self.results or self.rows == "single" else "batch"

    def problems(self) -> list[str]:
        """Return the options that do not fit together, here and in the requests before and after."""
        found = [*self.call_problems(self.group_by), *self.reply_problems()]
        if self.find:
            found += [f"find: {problem}" for problem in self.find.call_problems()]
            if self.find.rows == "batch" and not self.find.key:
                found.append("find: 'key' is required with rows: batch, as it matches a record with its row")
        for number, then in enumerate(self.then):
            found += [f"then.{number}: {problem}" for problem in (*then.call_problems(), *then.reply_problems())]
        if self.ids and self.rows == "batch" and not self.ids.key:
            found.append("ids: 'key' is required with rows: batch, as it matches a record with its row")
        return found


class AccountOptions(Strict):
    """A request that tells which account the credentials belong to."""

    path: Annotated[str, Field(min_length=1, description="path below the base URL, requested with GET")]
    value: Annotated[str, Field(min_length=1, description="dotted path in the reply of the account's id")]


class JsonApiOptions(HttpOptions, EndpointOptions):
    """Options of destination type ``http``."""

    operations: Annotated[
        dict[Operation, EndpointOptions],
        Field(
            default_factory=dict,
            description="options that differ for one operation; required for delete",
        ),
    ]
    idempotent: Annotated[
        tuple[Literal["upsert", "insert", "update", "delete"], ...],
        Field(
            description="operations that have the same result when sent twice as when sent once; default: without an "
            "upsert that creates what its look-up does not find"
        ),
    ] = ("upsert", "update", "delete")
    idempotency_header: Annotated[
        str | None, Field(description="header for a key by which the API recognises a repeated request")
    ] = None
    account: Annotated[
        AccountOptions | None,
        Field(
            description="request that tells which account the credentials belong to; a sync whose credentials are "
            "those of another account then stops"
        ),
    ] = None

    def endpoints(self) -> dict[Operation, EndpointOptions]:
        """Return the options of each operation that has an endpoint. ``delete`` has one only under ``operations``."""
        keys = set(EndpointOptions.model_fields)
        top_level = {name: getattr(self, name) for name in self.model_fields_set & keys}
        found = {}
        for operation in Operation:
            own = self.operations.get(operation)
            if own is None and operation is Operation.DELETE:
                continue
            values = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
            merged = EndpointOptions(**top_level | values)
            if merged.path is not None:
                found[operation] = merged
        return found

    def is_idempotent(self, operation: Operation) -> bool:
        """Return True if an operation may be sent twice. An idempotency key makes the API recognise every request.

        A search often lags behind what was written. An upsert that creates what its look-up does not find may then
        create a record twice, so it counts as idempotent only where the options say so.
        """
        if self.idempotency_header:
            return True
        if operation is Operation.UPSERT and "idempotent" not in self.model_fields_set and self._creates_missing():
            return False
        return operation in self.idempotent

    def _creates_missing(self) -> bool:
        """Return True if an upsert sends what its look-up does not find to the endpoint of ``insert``."""
        endpoints = self.endpoints()
        upsert = endpoints.get(Operation.UPSERT)
        if upsert is None or upsert.find is None or Operation.INSERT not in endpoints:
            return False
        return upsert.find.missing in {None, "insert"}

    @model_validator(mode="after")
    def _check_endpoints(self) -> Self:
        endpoints = self.endpoints()
        if not endpoints:
            raise ValueError("'path' is required, here or under 'operations'")
        for operation, endpoint in endpoints.items():
            problems = endpoint.problems()
            if endpoint.then and not self.is_idempotent(operation):
                problems.append(
                    "'then' needs an operation that `idempotent` lists, as a row that fails there is sent again"
                )
            if endpoint.find and endpoint.find.missing == "insert" and Operation.INSERT not in endpoints:
                problems.append("find: missing: insert needs an endpoint for insert")
            if problems:
                raise ValueError(f"{operation}: {problems[0]}")
        return self
