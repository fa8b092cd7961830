"""How the documentation is built: `make docs`."""

from __future__ import annotations

from airflow_reverse_etl import __version__

project = "airflow_reverse_etl"
author = "The airflow_reverse_etl authors"
copyright = author
release = version = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"airflow_reverse_etl {release}"
