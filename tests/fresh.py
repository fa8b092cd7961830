"""Code in a process of its own, in which nothing is imported yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def python(code: str) -> str:
    """Run code in a process of its own; returns what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
