"""The meaning of HTTP statuses for the rows of a request."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Action(StrEnum):
    """Consequence of a reply's status for the rows of its request."""

    ACCEPT = "accept"  # written
    REJECT = "reject"  # every row refused as it is
    REFUSE = "refuse"  # nothing written because of some row: the engine splits the batch to find that row
    CONFLICT = "conflict"  # as refuse, but the row may pass later: another record has a unique value of it
    RETRY = "retry"  # nothing written, may be sent again
    THROTTLE = "throttle"  # nothing written, too many requests: wait as long as the reply asks, else 10 seconds or more
    UNKNOWN = "unknown"  # maybe written
    PARTIAL = "partial"  # some rows were written, and the reply names them or the others
    SKIP = "skip"  # the destination has no such row
    CREDENTIALS = "credentials"  # stop: the credentials were refused
    CONFIGURATION = "configuration"  # stop: no row can succeed before the configuration is corrected


#: The usual meaning of a status, or of its first digit for a status that is not listed.
#:
#: With 408, 423, 425, 429 and 503 the request was not carried out. With 500, 502 and 504 it may have been.
ACTIONS: Mapping[int, Action] = {
    2: Action.ACCEPT,
    3: Action.CONFIGURATION,
    4: Action.REFUSE,
    5: Action.UNKNOWN,
    401: Action.CREDENTIALS,
    402: Action.CONFIGURATION,
    403: Action.CREDENTIALS,
    404: Action.CONFIGURATION,
    405: Action.CONFIGURATION,
    406: Action.CONFIGURATION,
    407: Action.CONFIGURATION,
    408: Action.RETRY,
    409: Action.CONFLICT,
    410: Action.CONFIGURATION,
    411: Action.CONFIGURATION,
    415: Action.CONFIGURATION,
    421: Action.RETRY,
    423: Action.RETRY,
    425: Action.RETRY,
    426: Action.CONFIGURATION,
    429: Action.THROTTLE,
    501: Action.CONFIGURATION,
    503: Action.RETRY,
    505: Action.CONFIGURATION,
}


def action_of(status: int, *tables: Mapping[int, Action]) -> Action:
    """Return the first table's entry for a status, else the first table's entry for its first digit."""
    for key in (status, status // 100):
        for table in tables:
            if key in table:
                return table[key]
    return Action.UNKNOWN
