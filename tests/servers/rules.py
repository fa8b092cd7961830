"""A rule that a test server applies before it carries out a request."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.messages import Reply, Request


class Rule:
    """Base class of limits and credentials. A rule belongs to one server, as it may count."""

    def refuse(self, request: Request, now: float) -> Reply | None:
        """Return the reply to a request that is not carried out, or None.

        :param now: seconds since 1970.
        """
        return None

    def headers(self, request: Request, now: float) -> Mapping[str, str]:
        """Return the headers that this rule adds to the reply, whoever gives it."""
        return {}
