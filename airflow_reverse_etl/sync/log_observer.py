"""What happens in a run, as lines of a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds between two lines about progress.
PROGRESS_SECONDS = 5.0


class LogObserver:
    """Writes what happens as lines, progress every few seconds. It is given counts and codes only, never rows.

    :param write: takes a line.
    :param warn: takes a line that is a warning; default: ``write``.
    """

    _TEXTS = {  # noqa: RUF012 - a constant, never written
        "planned": (
            "%(sync)s: of %(rows)s rows, %(added)s added, %(changed)s changed, %(removed)s removed, "
            "%(invalid)s invalid, %(skipped)s skipped"
        ),
        "note": "%(sync)s: %(text)s",
        "warning": "%(sync)s: %(text)s",
        "progress": "%(sync)s: %(settled)s of %(total)s rows settled, %(rejected)s rejected, %(requests)s requests",
        "batch_left": "%(sync)s: %(rows)s rows left for a later try: the destination does not take them",
        "folded": "%(sync)s: what the unfinished run %(run_id)s had delivered is now part of the snapshot",
        "given_up": "%(sync)s: the unfinished run %(run_id)s was made for a snapshot that is lost, and is given up",
        "asked_to_wait": "%(sync)s: the destination asks to wait %(seconds)s seconds; the rest is left to a retry",
        "committed": "%(sync)s: run %(run_id)s is committed",
    }

    def __init__(self, write: Callable[[str], object], warn: Callable[[str], object] | None = None) -> None:
        self._write, self._warn = write, warn or write
        self._next_progress = time.monotonic()

    def event(self, name: str, **facts: Any) -> None:
        if name == "progress":
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
        shown = {key: f"{value:,}" if isinstance(value, int) else value for key, value in facts.items()}
        text = self._TEXTS.get(name)
        if text is None:
            text = name + "".join(f" {key}=%({key})s" for key in shown)
        write = self._warn if name == "warning" else self._write
        write(text % shown if shown else text)
