"""An API of rows that answers in any of the shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.messages import Reply, Request
from tests.servers.server import Server
from tests.servers.shapes import Results, RowResult


class RowsApi(Server):
    """Rows with an ``id``: ``/rows/<operation>`` with ``{"records": […]}``, or one row at ``…/<id>``, by any method.

    :param shape: function that makes the reply.
    :param atomic: a request with a bad row writes nothing; without it, the other rows.
    :param until_bad: a request writes the rows before its first bad one, and no other.
    :param bad: ids of rows that are refused.
    """

    def __init__(
        self,
        shape: Callable[[Results], Reply],
        *,
        atomic: bool = False,
        until_bad: bool = False,
        bad: Collection[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self._shape = shape
        self._atomic = atomic
        self._until_bad = until_bad
        self.bad = bad

    def answer(self, request: Request) -> Reply:
        match request.segments:
            case ["rows", operation]:
                return self._write(Operation(operation), request.json["records"])
            case ["rows", operation, key]:
                return self._write(Operation(operation), [{**(request.json or {}), "id": key}])
        return Reply(404)

    def _write(self, operation: Operation, records: list[dict[str, Any]]) -> Reply:
        codes = [self._problem(operation, _id(record)) for record in records]
        if self._until_bad:
            codes = [next(filter(None, codes[: at + 1]), "") for at in range(len(codes))]
        for code, record in zip(codes, records, strict=True):
            if not code and not (self._atomic and any(codes)):
                self.records.write(operation, _id(record), record)
        return self._shape([RowResult(at, _id(records[at]), code) for at, code in enumerate(codes)])

    def _problem(self, operation: Operation, key: str) -> str:
        if key in self.bad:
            return "INVALID"
        missing = operation in (Operation.UPDATE, Operation.DELETE) and key not in self.records.held
        return "NOT_FOUND" if missing else ""


def _id(record: dict[str, Any]) -> str:
    return str(record["id"])
