"""Options of destination type ``http``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from airflow_reverse_etl.destinations.base import Strict
from airflow_reverse_etl.destinations.http import Action, HttpOptions
from airflow_reverse_etl.destinations.json_encoding import dumps
from airflow_reverse_etl.destinations.results import Results
from airflow_reverse_etl.destinations.templates import Template, header_value, path_value
from airflow_reverse_etl.spec.operations import Operation


class ErrorWords(Strict):
    """Where a reply with an error status has its code and message; by default, the usual places."""

    code: Annotated[str | None, Field(description="dotted path of the error's code")] = None
    message: Annotated[str | None, Field(description="dotted path of the error's message")] = None


class Success(Strict):
    """What the reply as a whole says of all rows of its request."""

    path: Annotated[str, Field(min_length=1, description="dotted path in the reply")]
    value: Annotated[
        Any, Field(description="value, or list of values, that says the rows were written; any other refuses them")
    ]


class EndpointOptions(Strict):
    """One endpoint. Under ``operations:`` each key replaces the one of the same name above it."""

    method: Annotated[Literal["POST", "PUT", "PATCH", "DELETE"], Field(description="HTTP method")] = "POST"
    path: Annotated[
        str | None, Field(description="template; over object, operation, run_id and, for one row a request, row")
    ] = None
    headers: Annotated[dict[str, str], Field(default_factory=dict, description="templates, as for path")]
    rows: Annotated[Literal["single", "batch"], Field(description="one row a request, or many")] = "batch"
    body: Annotated[
        Literal["json", "ndjson", "none"] | None,
        Field(description="default: none for DELETE of a single row, json for all else"),
    ] = None
    records: Annotated[
        str | None,
        Field(min_length=1, description="field of the body for the records; default: they are the body"),
    ] = None
    envelope: Annotated[
        dict[str, Any], Field(default_factory=dict, description="what else the body has, beside the records")
    ]
    results: Annotated[Results | None, Field(description="where the reply says what became of each row")] = None
    success: Annotated[
        Success | None,
        Field(description="where the reply says what became of the request as a whole, beside its status"),
    ] = None
    reply: Annotated[
        Literal["json", "text"],
        Field(description="text: a reply's status alone decides, whatever its body is; json: its body counts as well"),
    ] = "json"
    error: Annotated[ErrorWords, Field(description="where an error reply has its code and message")] = ErrorWords()
    statuses: Annotated[
        dict[int, Action], Field(default_factory=dict, description="status: what it means, where not the usual")
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


class JsonApiOptions(HttpOptions, EndpointOptions):
    """Options of destination type ``http``."""

    operations: Annotated[
        dict[Operation, EndpointOptions],
        Field(default_factory=dict, description="what is different for one operation; needed for delete"),
    ]
    max_batch_rows: Annotated[int | None, Field(ge=1, description="most rows in a request")] = None
    max_batch_bytes: Annotated[int | None, Field(ge=1, description="most bytes in a request body")] = None
    idempotent: Annotated[
        tuple[Literal["upsert", "insert", "update", "delete"], ...],
        Field(description="operations that may be sent twice with the result of once"),
    ] = ("upsert", "update", "delete")
    idempotency_header: Annotated[
        str | None, Field(description="header that carries a key by which the API recognises what it has seen")
    ] = None

    def endpoints(self) -> dict[Operation, EndpointOptions]:
        """The endpoint of each operation that has one. ``delete`` has none of its own accord."""
        keys = set(EndpointOptions.model_fields)
        base = {name: getattr(self, name) for name in self.model_fields_set & keys}
        found = {}
        for operation in Operation:
            own = self.operations.get(operation)
            if own is None and operation is Operation.DELETE:
                continue
            values = {name: getattr(own, name) for name in own.model_fields_set} if own else {}
            merged = EndpointOptions(**base | values)
            if merged.path is not None:
                found[operation] = merged
        return found

    @model_validator(mode="after")
    def _sound(self) -> Self:
        endpoints = self.endpoints()
        if not endpoints:
            raise ValueError("give a path, or operations with one")
        for operation, endpoint in endpoints.items():
            texts = [endpoint.path or "", *endpoint.headers.values()]
            if endpoint.rows == "batch" and any("row" in Template(text, str).names for text in texts):
                raise ValueError(f"{operation}: 'row' can be used in path and headers only with rows: single")
            if endpoint.records and endpoint.body == "ndjson":
                raise ValueError(f"{operation}: ndjson has no field for the records")
            if endpoint.reply == "text" and (endpoint.results or endpoint.success):
                raise ValueError(f"{operation}: results and success are read from JSON, not with reply: text")
            if endpoint.envelope and not endpoint.records:
                raise ValueError(f"{operation}: with an envelope, 'records' must name the field for the records")
            wrapping(endpoint.records, endpoint.envelope)
        return self


def wrapping(records: str | None, envelope: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The bytes of a body before and after its records.

    :raises ValueError: the envelope has something else where the records go.
    """
    if not records:
        return b"", b""
    mark = "@records@"
    body = {**envelope}
    level, (*parents, leaf) = body, records.split(".")
    for parent in parents:
        inner = level.pop(parent, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"envelope has a value at {parent!r}, inside which the records go")
        level[parent] = level = {**inner}
    if leaf in level:
        raise ValueError(f"envelope has a value at {records!r}, where the records go")
    level[leaf] = mark
    before, _, after = dumps(body).partition(dumps(mark))
    return before, after
