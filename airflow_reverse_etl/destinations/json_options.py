"""Options of destination type ``http``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.http import Action, HttpOptions
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.results import Code, Results
from airflow_reverse_etl.destinations.templates import Template, header_value, path_value
from airflow_reverse_etl.spec.operations import Operation
from airflow_reverse_etl.sync.ports import Answers


class ErrorPaths(Strict):
    """Paths of the code and message in a reply with an error status; by default, the usual ones are tried."""

    code: Annotated[str | None, Field(description="dotted path of the error's code")] = None
    message: Annotated[str | None, Field(description="dotted path of the error's message")] = None


class Success(Strict):
    """Verdict of a reply on all rows of its request."""

    path: Annotated[str, Field(min_length=1, description="dotted path in the reply")]
    value: Annotated[
        Any,
        Field(
            description="value, or list of values, that means that the rows were written; any other value refuses them"
        ),
    ]


class EndpointOptions(Strict):
    """Options of an endpoint. Under ``operations:`` each key replaces the top-level key of the same name."""

    method: Annotated[Literal["POST", "PUT", "PATCH", "DELETE"], Field(description="HTTP method")] = "POST"
    path: Annotated[
        str | None,
        Field(description="template with the variables object, operation, run_id and, with rows: single, row"),
    ] = None
    headers: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="names and values of headers; the values are templates, as for path"),
    ]
    rows: Annotated[Literal["single", "batch"], Field(description="number of rows in a request: one or many")] = "batch"
    body: Annotated[
        Literal["json", "ndjson", "none"] | None,
        Field(description="format of the body; default: none for DELETE with rows: single, else json"),
    ] = None
    records: Annotated[
        str | None,
        Field(min_length=1, description="field of the body that holds the records; default: the records are the body"),
    ] = None
    envelope: Annotated[
        dict[str, Any], Field(default_factory=dict, description="other fields of the body, with their values")
    ]
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


class JsonApiOptions(HttpOptions, EndpointOptions):
    """Options of destination type ``http``."""

    operations: Annotated[
        dict[Operation, EndpointOptions],
        Field(
            default_factory=dict,
            description="options that differ for one operation; required for delete",
        ),
    ]
    max_batch_rows: Annotated[int | None, Field(ge=1, description="maximum number of rows in a request")] = None
    max_batch_bytes: Annotated[int | None, Field(ge=1, description="maximum size of a request body, in bytes")] = None
    idempotent: Annotated[
        tuple[Literal["upsert", "insert", "update", "delete"], ...],
        Field(description="operations that have the same result when sent twice as when sent once"),
    ] = ("upsert", "update", "delete")
    idempotency_header: Annotated[
        str | None, Field(description="header for a key by which the API recognises a repeated request")
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

    @model_validator(mode="after")
    def _check_endpoints(self) -> Self:
        endpoints = self.endpoints()
        if not endpoints:
            raise ValueError("'path' is required, here or under 'operations'")
        for operation, endpoint in endpoints.items():
            texts = [endpoint.path or "", *endpoint.headers.values()]
            if endpoint.rows == "batch" and any("row" in Template(text, str).names for text in texts):
                raise ValueError(f"{operation}: the variable 'row' needs rows: single")
            if endpoint.records and endpoint.body == "ndjson":
                raise ValueError(f"{operation}: 'records' cannot be used with body: ndjson")
            if endpoint.reply == "text" and (endpoint.results or endpoint.success):
                raise ValueError(f"{operation}: 'results' and 'success' cannot be used with reply: text")
            if endpoint.results is None and Action.PARTIAL in (*endpoint.statuses.values(), *endpoint.codes.values()):
                raise ValueError(f"{operation}: the meaning 'partial' needs 'results', which name the rows")
            if endpoint.envelope and not endpoint.records:
                raise ValueError(f"{operation}: 'envelope' needs 'records', the field for the records")
            wrapping(endpoint.records, endpoint.envelope)
        return self


def wrapping(records: str | None, envelope: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the bytes of a body before and after its records.

    :raises ValueError: the envelope already has a value at the place of the records.
    """
    if not records:
        return b"", b""
    mark = "@records@"
    body = {**envelope}
    # Descend to the records' place on copies of the objects, which are shared with the options.
    level = body
    *parents, leaf = records.split(".")
    for parent in parents:
        inner = level.pop(parent, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"envelope: {parent!r} must be an object, as the records go inside it")
        copy = {**inner}
        level[parent] = copy
        level = copy
    if leaf in level:
        raise ValueError(f"envelope: {records!r} already has a value, but the records go there")
    # Encode the body with a mark for the records, and cut it there.
    level[leaf] = mark
    before, _, after = dumps(body).partition(dumps(mark))
    return before, after
