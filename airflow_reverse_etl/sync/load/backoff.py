"""Retry and rate arithmetic. Nothing here sleeps or reads a clock; times are seconds of a monotonic clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    Full jitter spreads the retries of many workers best: AWS Architecture Blog, "Exponential Backoff And Jitter".

    :param first: seconds, upper bound of the first wait.
    :param longest: seconds, upper bound of any wait.
    :param attempts: sends of one batch, including the first, before its rows are left for a later try.
    :param throttles: throttled sends of one batch before its rows are left. They do not count as attempts.
    :param throttled: seconds, least wait after a throttled send whose answer states no time. Most APIs count the
        requests of a second, of ten seconds (HubSpot) or of a minute.
    :param longest_throttled: seconds, upper bound of such a wait.
    """

    first: float = 0.5
    longest: float = 30.0
    attempts: int = 5
    throttles: int = 30
    throttled: float = 10.0
    longest_throttled: float = 60.0
    random: random.Random = field(default_factory=random.Random, repr=False)

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after the ``attempt``-th failed send, counted from 1."""
        bound = min(self.longest, self.first * 2.0 ** min(attempt - 1, 30))
        return self.random.uniform(0.0, bound)

    def wait_throttled(self, attempt: int) -> float:
        """Return the seconds to wait after the ``attempt``-th throttled send, counted from 1."""
        least = min(self.longest_throttled / 2, self.throttled * 2.0 ** min(attempt - 1, 30))
        return self.random.uniform(least, 2 * least)
