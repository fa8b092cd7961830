"""``reverse-etl errors``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def run_errors(options: argparse.Namespace) -> str:
    """The page of the documentation, of which the package has a copy."""
    from airflow_reverse_etl.errors import ConfigurationError

    page = Path(__file__).parents[1].joinpath("errors.md").read_text(encoding="utf-8")
    name = options.name
    sections = [section for section in re.split(r"(?m)^(?=## )", page) if not name or f"`{name}`" in section]
    if not sections:
        raise ConfigurationError(f"there is no error {name!r}", todo="leave the name out to see them all")
    return "".join(sections).rstrip()
