"""How the documentation is built: `make docs`."""

from __future__ import annotations

from airflow_reverse_etl import __version__

project = "airflow_reverse_etl"
author = "The airflow_reverse_etl authors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx_design", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "Reverse ETL for Airflow"
html_static_path = ["_static"]
html_show_sourcelink = False
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6bcb", "color-brand-content": "#0b6bcb"},
    "dark_css_variables": {"color-brand-primary": "#6db3f8", "color-brand-content": "#6db3f8"},
}
