"""The remote side of a conformance suite: a test server, with all powers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_reverse_etl.destinations.registry import create
from airflow_reverse_etl.spec.model import Sync
from airflow_reverse_etl.sync.ports import Destination
from tests.servers.faults import LOST_ANSWER, Fault, in_order
from tests.servers.messages import Reply, Request
from tests.servers.server import Server


class ServerRemote:
    """A test server, and the destination of a sync that goes to it.

    A subclass adds ``bad()``, and overrides what its API answers.

    :param destination: options of ``destination:``; the only field in ``match_on`` is the suite's ``id``.
    :param name: field that is the suite's ``name``.
    """

    refused = Reply.of({"message": "the credentials were refused"}, 401)

    def __init__(
        self, server: Server, destination: Mapping[str, Any], *, name: str = "name", password: str | None = None
    ) -> None:
        self.server = server
        self.destination = destination
        self.name = name
        self.password = password

    def create(self, mode: str) -> Destination:
        sync = Sync.load(
            {
                "name": "rows",
                "model": "rows",
                "source": "warehouse",
                "mode": mode,
                "mapping": {self.destination["match_on"]: "id", self.name: "name"},
                "destination": {"connection": "server", **self.destination},
            }
        )
        connection = self.server.connection(password=self.password)
        return create(sync, connection=connection, lookup=lambda _: connection)

    async def stored(self) -> Mapping[str, str | None]:
        return {key: record.get(self.name) for key, record in self.server.records.held.items()}

    def throttle(self, times: int, seconds: float) -> None:
        self._fault(*[Fault.instead(self.throttled(seconds))] * times)

    def throttled(self, seconds: float) -> Reply:
        return Reply.of({"message": "too many requests"}, 429, Retry_After=f"{seconds:g}")

    def lose_answer(self) -> None:
        self._fault(LOST_ANSWER)

    def revoke(self) -> None:
        self._fault(*[Fault.instead(self.refused)] * 10)

    async def stop(self) -> None:
        await self.server.stop()

    def _fault(self, *faults: Fault) -> None:
        """Spend these faults on the next requests that carry rows; requests for a token are left alone."""
        rule = in_order(faults)

        def fault(number: int, request: Request) -> Fault | None:
            return None if "token" in request.path else rule(number, request)

        self.server.fault = fault
