"""Sandboxed Jinja for paths and headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

#: Variables that a template may use. ``row`` is the record to be sent, if the request carries a single one.
NAMES = frozenset({"object", "operation", "run_id", "row"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BadValueError(ValueError):
    """A row's value is not allowed where a template puts it. The text never contains the value."""


def path_value(value: object) -> str:
    """Return a value for a path or query, percent-encoded so that it always stays one segment.

    :raises BadValueError: the value is null, empty, ``.`` or ``..``.
    """
    text = _text(value)
    if text in ("", ".", ".."):
        raise BadValueError("a value in the path is empty, '.' or '..'")
    return quote(text, safe="")


def header_value(value: object) -> str:
    """Return a value for a header.

    :raises BadValueError: the value is null, or has control characters.
    """
    text = _text(value)
    if _CONTROL.search(text):
        raise BadValueError("a value in a header has control characters")
    return text


def _text(value: object) -> str:
    if value is None:
        raise BadValueError("a value in the path or a header is null")
    return str(value)


class Template:
    """A text with ``{{ … }}``.

    :param finalize: function that converts each inserted value to text.
    :ivar names: variables that the template uses.
    :raises ValueError: the template is not valid, or uses an unknown variable.
    """

    def __init__(self, text: str, finalize: Callable[[object], str]) -> None:
        from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def checked(value: object) -> str:
            if isinstance(value, Undefined):
                raise BadValueError("the row has no field that the path or a header uses")
            return finalize(value)

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=checked)
        try:
            self.names = frozenset(meta.find_undeclared_variables(environment.parse(text)))
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise ValueError(f"is not a valid template: {error.message}") from None
        if unknown := self.names - NAMES:
            raise ValueError(f"uses {', '.join(sorted(unknown))}; known: {', '.join(sorted(NAMES))}")

    def render(self, **values: Any) -> str:
        """Return the text with the values inserted.

        :raises BadValueError: a value is not allowed, is missing, or makes the template fail.
        """
        from jinja2 import TemplateError

        try:
            return self._template.render(values)
        except BadValueError:
            raise
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise BadValueError(f"the template of the path or a header failed: {type(error).__name__}") from None
