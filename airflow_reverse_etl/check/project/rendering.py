"""Rendering of a model's Jinja after ``dbt parse``, with nothing but a few given functions.

Templates are untrusted code. A sandbox keeps them away from Python. Templates that might not terminate, or whose
result might be much longer than they are, are not rendered at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

_MAX_LENGTH = 1_000_000  # characters of a model's SQL
_FILTERS = ("upper", "lower", "trim", "join", "first", "last", "length", "string", "int")
_METHODS = ("items", "keys", "values")


def render(template: str, **names: str | Callable[..., str | bool]) -> str | None:
    """Render a template. Returns None if it uses other names, is invalid, or is not safe to render."""
    from jinja2 import TemplateError

    environment = _environment()
    try:
        if len(template) > _MAX_LENGTH:
            return None
        tree = environment.parse(template)
        simple = _of_calls(tree, names)
        if simple is not None:
            return simple
        return environment.from_string(tree).render(names) if _is_bounded(tree) else None
    except (TemplateError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _of_calls(tree: nodes.Template, names: Mapping[str, str | Callable[..., str | bool]]) -> str | None:
    """Render a template of text and of calls with constants, such as ``ref('a')``. Jinja would compile it first.

    :returns: None for any other template.
    """
    from jinja2 import nodes

    texts: list[str] = []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            return None
        for part in statement.nodes:
            if isinstance(part, nodes.TemplateData):
                texts.append(part.data)
                continue
            call = _constant_call(part)
            function = names.get(call[0]) if call else None
            if call is None or function is None or isinstance(function, str):
                return None
            texts.append(str(function(*call[1], **call[2])))
    return "".join(texts)


def _constant_call(part: nodes.Node) -> tuple[str, list[Any], dict[str, Any]] | None:
    """Return name and arguments of a function's call if all arguments are constants."""
    from jinja2 import nodes

    if not isinstance(part, nodes.Call) or not isinstance(part.node, nodes.Name) or part.dyn_args or part.dyn_kwargs:
        return None
    values = [*part.args, *(pair.value for pair in part.kwargs)]
    constants = [value.value for value in values if isinstance(value, nodes.Const)]
    if len(constants) < len(values):
        return None
    at = len(part.args)
    names = [pair.key for pair in part.kwargs]
    return part.node.name, constants[:at], dict(zip(names, constants[at:], strict=True))


@cache
def _environment() -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, cache_size=0)


def _is_bounded(tree: nodes.Template) -> bool:
    """Return False for nested loops, recursion, and text that is multiplied, doubled or padded."""
    from jinja2 import nodes

    def has(node: nodes.Node, *kinds: type[Any]) -> bool:
        return next(node.find_all(kinds), None) is not None

    # Recursion, and operators and blocks that repeat text.
    if has(tree, nodes.Macro, nodes.CallBlock, nodes.Mul, nodes.Pow, nodes.Mod, nodes.AssignBlock, nodes.With):
        return False
    # Loops in loops.
    for loop in tree.find_all(nodes.For):
        if any(isinstance(part, nodes.For) or has(part, nodes.For) for part in loop.body):
            return False
    # Variables made from other variables, which may double each time.
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.node, nodes.Name) or has(assign.node, nodes.Name):
            return False
    # Methods such as ``ljust``.
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr not in _METHODS:
            return False
    # Filters such as ``center``, and chains of filters.
    return not any(used.name not in _FILTERS or has(used, nodes.Filter) for used in tree.find_all(nodes.Filter))
