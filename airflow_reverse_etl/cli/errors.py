"""The command ``reverse-etl errors``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def run_errors(options: argparse.Namespace) -> str:
    """Return the page about errors, or its sections about one error. The package contains a copy of the page."""
    from airflow_reverse_etl.errors import ConfigurationError

    page = Path(__file__).parents[1].joinpath("errors.md").read_text(encoding="utf-8")
    name = options.name
    sections = re.split(r"(?m)^(?=## )", page)
    if name:
        sections = [section for section in sections if f"`{name}`" in section]
    if not sections:
        raise ConfigurationError(f"error {name!r} not found", todo="leave the name out to list all errors")
    return "".join(sections).rstrip()
