"""The peak memory of a process.

Not ``ru_maxrss``: Linux hands it on to children, so that the one of a small process is that of the pytest around it.
"""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """Most bytes that this process has had in memory since its program started."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
