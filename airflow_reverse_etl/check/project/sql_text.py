"""The text of SQL with Jinja, without comments and extra white space: equal texts mean the same to dbt."""

from __future__ import annotations

import re

# Signs of quoting rules that differ between databases: there, the text stays as it is.
_AMBIGUOUS = re.compile(r"""\\['"]|'''|\"""|\$\$|\$\w*\$|//|(?<!\{)#(?!\})|\{%-?\s*raw""")
_JINJA = r"\{\{.*?\}\}|\{%.*?%\}"
# dbt runs Jinja in comments of SQL, which therefore stay.
_NO_JINJA = r"(?!\{[{%])"
_COMMENT = rf"\{{\#.*?\#\}} | --(?:{_NO_JINJA}[^\n])*+(?=\n|\Z) | /\*(?:(?!\*/){_NO_JINJA}.)*+\*/"
_TOKENS = re.compile(
    rf"""
    # A single space between words is the most frequent one by far, and stays: it is not matched at all.
    (?P<gap>(?:[^\S ] | {_COMMENT} | [ ](?=\s) | [ ](?=\{{\#|--|/\*)) (?:\s | {_COMMENT})*+)
    | {_JINJA}
    | --[^\n]* | /\*.*?\*/
    | '(?:{_JINJA}|[^'])*' | "(?:{_JINJA}|[^"])*" | `[^`]*`
    """,
    re.DOTALL | re.VERBOSE,
)


def significant(code: str) -> str:
    """Return SQL without comments, and with one space for any white space between its words.

    Text in quotes and Jinja stay as they are, and so do comments with Jinja, which dbt runs.
    """
    if _AMBIGUOUS.search(code):
        return code.strip()
    return _TOKENS.sub(lambda token: " " if token["gap"] else token[0], code).strip()
