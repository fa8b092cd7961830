"""Log lines for the events of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds between two lines about progress.
PROGRESS_SECONDS = 5.0


class LogObserver:
    """Observer that writes each event as a line, and progress every few seconds.

    Events have counts and codes, never values of rows.

    :param write: logs a line.
    :param warn: logs a line that is a warning. Default: ``write``.
    """

    _TEXTS = {  # noqa: RUF012 - a constant, never written
        "planned": (
            "%(sync)s: of %(rows)s rows, %(added)s added, %(changed)s changed, %(removed)s removed, "
            "%(invalid)s invalid, %(skipped)s skipped"
        ),
        "note": "%(sync)s: %(text)s",
        "warning": "%(sync)s: %(text)s",
        "progress": "%(sync)s: %(settled)s of %(total)s rows settled, %(rejected)s rejected, %(requests)s requests",
        "batch_left": "%(sync)s: %(rows)s rows left for a later try: the destination did not accept them",
        "folded": "%(sync)s: the rows that the unfinished run %(run_id)s delivered are now part of the snapshot",
        "discarded": "%(sync)s: discarded the unfinished run %(run_id)s: the snapshot of its plan is lost",
        "committed": "%(sync)s: committed run %(run_id)s",
    }

    def __init__(self, write: Callable[[str], object], warn: Callable[[str], object] | None = None) -> None:
        self._write = write
        self._warn = warn or write
        self._next_progress = time.monotonic()

    def event(self, name: str, **facts: Any) -> None:
        if name == "progress":
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
        # An integer has its thousands separated.
        shown = {key: f"{value:,}" if isinstance(value, int) else value for key, value in facts.items()}

        # An event without a text is written as its facts.
        text = self._TEXTS.get(name)
        if text is None:
            text = name + "".join(f" {key}=%({key})s" for key in shown)
        write = self._warn if name == "warning" else self._write
        write(text % shown if shown else text)
