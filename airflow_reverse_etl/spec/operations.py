"""Operations: what a batch asks of the destination."""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """What a batch asks of the destination. A batch has exactly one operation."""

    UPSERT = "upsert"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


#: What each part of the change set asks of the destination.
OPERATIONS: dict[str, dict[str, Operation]] = {
    "upsert": {"added": Operation.UPSERT, "changed": Operation.UPSERT},
    "insert": {"added": Operation.INSERT},
    "update": {"added": Operation.UPDATE, "changed": Operation.UPDATE},
    "mirror": {"added": Operation.UPSERT, "changed": Operation.UPSERT, "removed": Operation.DELETE},
    "append": {"added": Operation.INSERT},
    "delete": {"added": Operation.DELETE},
}
