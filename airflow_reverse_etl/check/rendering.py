"""The SQL of a model that dbt only parsed, as far as its Jinja uses nothing but the functions that are given.

Templates are other people's code. A sandbox keeps them from Python; those that might not end, or whose result might be
out of proportion to their length, are not run at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import nodes

_LONGEST = 1_000_000  # characters of a model's SQL
_FILTERS = ("upper", "lower", "trim", "join", "first", "last", "length", "string", "int")
_METHODS = ("items", "keys", "values")


def render(template: str, **names: str | Callable[..., str | bool]) -> str | None:
    """The text; None where the template uses other names, is wrong, or is not run."""
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    try:
        if len(template) > _LONGEST or not _in_proportion(environment.parse(template)):
            return None
        return environment.from_string(template).render(names)
    except (TemplateError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _in_proportion(tree: nodes.Template) -> bool:
    """No loop in a loop, nothing that calls itself, and no text that is multiplied, doubled or padded."""
    from jinja2 import nodes

    def has(node: nodes.Node, *kinds: type[Any]) -> bool:
        return next(node.find_all(kinds), None) is not None

    if has(tree, nodes.Macro, nodes.CallBlock, nodes.Mul, nodes.Pow, nodes.Mod, nodes.AssignBlock, nodes.With):
        return False
    return not (
        any(
            has(part, nodes.For) or isinstance(part, nodes.For)
            for loop in tree.find_all(nodes.For)
            for part in loop.body
        )
        or any(
            has(assign.node, nodes.Name) or isinstance(assign.node, nodes.Name)
            for assign in tree.find_all(nodes.Assign)
        )
        or any(
            isinstance(call.node, nodes.Getattr) and call.node.attr not in _METHODS
            for call in tree.find_all(nodes.Call)
        )
        or any(used.name not in _FILTERS or has(used, nodes.Filter) for used in tree.find_all(nodes.Filter))
    )
