"""The text of SQL with Jinja, without comments and extra white space: equal texts mean the same to dbt."""

from __future__ import annotations

import re

# Signs of quoting rules that differ between databases: there, the text stays as it is.
_AMBIGUOUS = re.compile(r"""\\['"]|'''|\"""|\$\$|\$\w*\$|//|(?<!\{)#(?!\})|\{%-?\s*raw""")
_JINJA = r"\{\{.*?\}\}|\{%.*?%\}"
_TOKENS = re.compile(
    rf"""
    (?P<jinja>{_JINJA})
    | (?P<comment>\{{\#.*?\#\}} | --[^\n]* | /\*.*?\*/)
    | (?P<quoted>'(?:{_JINJA}|[^'])*' | "(?:{_JINJA}|[^"])*" | `[^`]*`)
    | (?P<space>\s+)
    """,
    re.DOTALL | re.VERBOSE,
)


def significant(code: str) -> str:
    """Return SQL without comments, and with one space for any white space between its words.

    Text in quotes and Jinja stay as they are, and so do comments with Jinja, which dbt runs.
    """
    if _AMBIGUOUS.search(code):
        return code.strip()
    words: list[str] = []
    end = 0
    for token in _TOKENS.finditer(code):
        words.append(code[end : token.start()])
        words.append(_shortened(token))
        end = token.end()
    words.append(code[end:])
    # A comment next to white space leaves one space.
    kept: list[str] = []
    for word in words:
        if word and not (word == " " and kept[-1:] == [" "]):
            kept.append(word)
    return "".join(kept).strip()


def _shortened(token: re.Match[str]) -> str:
    text = token[0]
    if token["space"]:
        return " "
    runs = re.search(r"\{[{%]", text) and not text.startswith("{#")
    return " " if token["comment"] and not runs else text
