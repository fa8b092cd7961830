"""The machine's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pendulum


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return pendulum.now("UTC")

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
