"""An API of rows that answers in any of the shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from airflow_reverse_etl.spec.operations import Operation
from tests.servers.messages import Reply, Request
from tests.servers.server import Server
from tests.servers.shapes import Results, RowResult


class RowsApi(Server):
    """Rows with an ``id``: ``POST /rows/<operation>`` with ``{"records": […]}``, or one row at ``…/<id>``.

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
        match request.method, request.segments:
            case "POST", ["rows", operation]:
                return self._write(Operation(operation), request.json["records"])
            case "POST", ["rows", operation, key]:
                return self._write(Operation(operation), [{**(request.json or {}), "id": key}])
        return Reply(404)

    def _write(self, operation: Operation, records: list[dict[str, Any]]) -> Reply:
        bad = [_id(record) in self.bad for record in records]
        if self._until_bad:
            bad = [any(bad[: at + 1]) for at in range(len(bad))]
        writes_nothing = self._atomic and any(bad)
        results = []
        for position, record in enumerate(records):
            code = "INVALID" if bad[position] else ""
            if not code and not writes_nothing and not self.records.write(operation, _id(record), record):
                code = "NOT_FOUND"
            results.append(RowResult(position, _id(record), code))
        return self._shape(results)


def _id(record: dict[str, Any]) -> str:
    return str(record["id"])
