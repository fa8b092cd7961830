"""Operations: the requests that a batch can make of a destination."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """A request to the destination. Each batch has exactly one operation."""

    UPSERT = "upsert"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


#: Mode → part of the change set → the operation of its rows. Rows of a part without one are not sent.
OPERATIONS: dict[str, dict[str, Operation]] = {
    "upsert": {"added": Operation.UPSERT, "changed": Operation.UPSERT},
    "insert": {"added": Operation.INSERT},
    "update": {"added": Operation.UPDATE, "changed": Operation.UPDATE},
    "mirror": {"added": Operation.UPSERT, "changed": Operation.UPSERT, "removed": Operation.DELETE},
    "append": {"added": Operation.INSERT},
    "delete": {"added": Operation.DELETE},
    "replace": {"added": Operation.INSERT, "changed": Operation.INSERT},
}
