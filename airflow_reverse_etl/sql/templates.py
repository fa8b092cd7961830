"""Statements that are written one clause a line, and run as one line."""

from __future__ import annotations


def fill(template: str, **parts: object) -> str:
    """Fill the placeholders of a template and return it in one line.

    Only the template's own line breaks are replaced; the parts stay as they are. A line whose only placeholder is empty
    is left out.
    """
    sql = ""
    for line in template.splitlines():
        clause = line.strip().format(**parts)
        if not clause:
            continue
        is_tight = not sql or sql.endswith("(") or clause.startswith(")")
        sql += clause if is_tight else f" {clause}"
    return sql
