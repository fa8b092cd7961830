"""Base classes and protocols of destinations: options, setup, class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from airflow_reverse_etl.destinations.info import Info
from airflow_reverse_etl.spec.model import DestinationSpec, Sync
from airflow_reverse_etl.spec.operations import OPERATIONS, Operation
from airflow_reverse_etl.sync.ports import ConnectionInfo, Destination


class Strict(BaseModel):
    """A value inside a destination's options: unknown keys are problems."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DestinationOptions(DestinationSpec):
    """Everything under ``destination:``. A destination type subclasses it with the keys that it adds.

    Redeclare ``connection: str`` or ``object: str`` in a type that requires them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a destination is made from.

    :param options: an instance of the class's ``Options``.
    :param connection: the Airflow connection that the options name, if they name one.
    :param connect: function that opens a DB-API connection, for destinations that are databases.
    :param lookup: function that returns an Airflow connection as it is now, by its id.
    """

    sync: Sync
    options: Any
    connection: ConnectionInfo | None = None
    connect: Callable[[], Any] | None = None
    lookup: Callable[[str], ConnectionInfo] | None = None

    def address(self, *places: object, server: str = "") -> str:
        """Return a text that describes where the records are, without secrets.

        It has the destination's type, the connection's host and database, and the object. The connection's id is not
        part of it: a connection may be renamed.

        :param places: further parts that the type knows; empty ones are left out.
        :param server: the server, if the type has a better form of it than the connection's host and schema.
        """
        parts: list[object] = [self.options.type]
        if connection := self.connection:
            parts += [server] if server else [connection.host, connection.schema]
            parts += [connection.extra.get(name) for name in ("account", "project", "database")]
        return " ".join(str(part) for part in (*parts, *places, self.options.object) if part)

    @property
    def operations(self) -> frozenset[Operation]:
        """The operations that the sync's mode requires of the destination."""
        return frozenset(OPERATIONS[self.sync.mode].values())


class DestinationClass(Protocol):
    """A class whose instances are destinations.

    :cvar info: what people see of the type.
    :cvar needs_match_on: operations that are impossible without ``match_on``.
    """

    info: ClassVar[Info]
    Options: ClassVar[type[DestinationOptions]]
    needs_match_on: ClassVar[frozenset[Operation]]

    def __call__(self, setup: Setup) -> Destination: ...
