"""The parts that a destination is made of: its options, its setup, its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from airflow_reverse_etl.spec.model import DestinationSpec, Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination


class Strict(BaseModel):
    """A value inside a destination's options: unknown keys are problems."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DestinationOptions(DestinationSpec):
    """Everything under ``destination:``. A destination type subclasses it with the keys that it adds.

    Redeclare ``connection: str`` or ``object: str`` where the type cannot do without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a destination is made from.

    :param options: an instance of the class's ``Options``.
    :param connect: opens a DB-API connection; for destinations that are databases.
    """

    sync: Sync
    options: Any
    connection: ConnectionInfo | None = None
    connect: Callable[[], Any] | None = None

    @property
    def operations(self) -> frozenset[Operation]:
        """What the sync's mode asks of the destination."""
        return frozenset(OPERATIONS[self.sync.mode].values())


class DestinationClass(Protocol):
    """A class that the registry can make a destination of.

    ``needs_match_on``: operations that are impossible without ``match_on``.
    """

    Options: ClassVar[type[DestinationOptions]]
    needs_match_on: ClassVar[frozenset[Operation]]

    def __call__(self, setup: Setup) -> Destination: ...
