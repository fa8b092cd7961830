"""Faults of a test server, as values: how much of a request it carries out, what it answers, where it cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from tests.servers.messages import Reply, Request


class Cut(StrEnum):
    """Place at which the server ends the connection instead of completing its answer."""

    CLOSE = "close"  # before the first byte
    RESET = "reset"  # before the first byte, with a TCP reset
    HEAD = "head"  # in the middle of the headers
    BODY = "body"  # in the middle of a body whose length was announced
    CHUNK = "chunk"  # in the middle of a body in chunks
    SHORT = "short"  # in the middle of a body that only the end of the connection ends: looks complete
    GARBAGE = "garbage"  # bytes that are not HTTP, then the end
    SILENCE = "silence"  # never: no byte comes until the client gives up


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    :param writes: records that are written before the rest of the request is abandoned; None for all.
    :param reply: function of the API's own reply that returns the one to send.
    :param cut: place at which the answer is cut off.
    """

    writes: int | None = None
    reply: Callable[[Reply], Reply] | None = None
    cut: Cut | None = None

    @classmethod
    def instead(cls, reply: Reply, *, writes: int | None = 0) -> Fault:
        """Make a fault that answers something else, by default without carrying out anything."""
        return cls(writes, lambda _: reply)


#: Decides on the fault of a request by its number, counted from 1, and content.
FaultRule = Callable[[int, Request], Fault | None]

#: The request never arrives, as far as its effect goes.
LOST_REQUEST = Fault(writes=0, cut=Cut.CLOSE)
#: The request is carried out, and its answer is lost.
LOST_ANSWER = Fault(cut=Cut.CLOSE)


def no_fault(number: int, request: Request) -> Fault | None:
    """Let every request succeed."""
    return None


def in_order(faults: Iterable[Fault | None]) -> FaultRule:
    """Make a rule that spends these faults on the first requests, one on each; None leaves a request alone."""
    waiting = iter(faults)
    return lambda number, request: next(waiting, None)
