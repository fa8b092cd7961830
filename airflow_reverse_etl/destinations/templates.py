"""Sandboxed Jinja for paths and headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from jinja2 import Environment

#: Variables that a template may use. ``row`` is the record to be sent, if the request carries a single one, and ``id``
#: the id of its record at the destination, if it was looked up or is in a reply.
NAMES = frozenset({"object", "operation", "run_id", "row", "id"})
#: A template that is nothing but one expression.
_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*", re.DOTALL)
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
        from jinja2 import TemplateSyntaxError, Undefined, meta

        def checked(value: object) -> str:
            if isinstance(value, Undefined):
                raise BadValueError("the row has no field that the path or a header uses")
            return finalize(value)

        environment = _sandbox(finalize=checked)
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
        return _evaluated(self._template.render, values, "of the path or a header")  # type: ignore[no-any-return]


class Structure:
    """A value, such as a JSON object, in which text may be a template.

    A template that is one expression keeps the type of its value: ``"{{ row.age }}"`` is a number. Any other one gives
    text.

    :raises ValueError: a template is not valid, or uses an unknown variable.
    """

    def __init__(self, value: Any) -> None:
        self._render = _compiled(value)

    def render(self, **values: Any) -> Any:
        """Return the value with its templates replaced.

        :raises BadValueError: the row lacks a field, or a template fails.
        """
        return self._render(values)


def names_in(value: Any) -> frozenset[str]:
    """Return the variables that the templates in a value use."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return frozenset[str]().union(*map(names_in, value))
    return Template(value, str).names if isinstance(value, str) else frozenset()


def _compiled(value: Any) -> Callable[[dict[str, Any]], Any]:
    if isinstance(value, Mapping):
        fields = {str(name): _compiled(inner) for name, inner in value.items()}
        return lambda values: {name: render(values) for name, render in fields.items()}
    if isinstance(value, list | tuple):
        items = [_compiled(inner) for inner in value]
        return lambda values: [render(values) for render in items]
    if not isinstance(value, str) or "{{" not in value:
        return lambda _: value
    template = Template(value, str)
    if (found := _EXPRESSION.fullmatch(value)) is None:
        return lambda values: template.render(**values)
    return _expression(found.group(1))


def _expression(text: str) -> Callable[[dict[str, Any]], Any]:
    from jinja2 import Undefined

    compiled = _sandbox().compile_expression(text, undefined_to_none=False)

    def evaluate(values: dict[str, Any]) -> Any:
        found = _evaluated(compiled, values, "of an item")
        if isinstance(found, Undefined):
            raise BadValueError("the row has no field that the template of an item uses")
        return found

    return evaluate


def _sandbox(**options: Any) -> Environment:
    """Return the environment of all templates: they see no more than the values that they are given."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, **options)


def _evaluated(function: Callable[[dict[str, Any]], Any], values: dict[str, Any], what: str) -> Any:
    """Return a template's value, or raise BadValueError, whatever its author's code raises."""
    from jinja2 import TemplateError

    try:
        return function(values)
    except BadValueError:
        raise
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadValueError(f"the template {what} failed: {type(error).__name__}") from None
