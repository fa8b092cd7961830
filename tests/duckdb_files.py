"""DuckDB files of tests whose code under test has had them open in this process."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import duckdb


def reopened(file: str | Path) -> Any:
    """Connect to a file that code in this process has closed, of which something may still be to be collected."""
    try:
        return duckdb.connect(str(file))
    except duckdb.ConnectionException:
        gc.collect()
        return duckdb.connect(str(file))
