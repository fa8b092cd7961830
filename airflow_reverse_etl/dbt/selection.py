"""Selection of models from a catalog, in the syntax of dbt's own selectors."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from airflow_reverse_etl.dbt.catalog import Model, names
from airflow_reverse_etl.errors import ConfigurationError

_METHODS = ("tag", "path", "meta", "config.meta", "package")


def select(models: Iterable[Model], selectors: Sequence[str]) -> tuple[Model, ...]:
    """Return the models that match any of the selectors, in the order of ``models``.

    A selector is a name (``customers``, ``shop.customers``, ``customers.v2``; with ``*`` as wildcard), ``tag:crm``,
    ``path:models/marts``, ``package:shop``, or ``meta.reverse_etl`` (the key exists and is not false), optionally with
    a value: ``meta.owner:ada``. A comma requires both: ``tag:crm,path:models/marts``.

    :raises ConfigurationError: a selector has another form.
    """
    parsed = [_parse_selector(selector) for selector in selectors]
    return tuple(model for model in models if _matches_any(model, parsed))


def _parse_selector(selector: str) -> list[tuple[str, str, str]]:
    """Return the conditions of a selector, each as method, key and value."""
    return [_parse_condition(text) for text in selector.split(",")]


def _parse_condition(text: str) -> tuple[str, str, str]:
    method, _, value = text.strip().rpartition(":")
    for prefix in ("config.meta.", "meta."):
        if not method and value.startswith(prefix):
            return "meta", value.removeprefix(prefix), ""
        if method.startswith(prefix):
            return "meta", method.removeprefix(prefix), value
    if (method and method not in _METHODS) or not value or "+" in value or "@" in value:
        raise ConfigurationError(
            f"{text!r} is not a supported model selector",
            todo="use a name, tag:…, path:…, package:… or meta.…, without graph operators",
        )
    return method or "name", "", value


def _matches_any(model: Model, selectors: Iterable[Iterable[tuple[str, str, str]]]) -> bool:
    return any(_matches_all(model, conditions) for conditions in selectors)


def _matches_all(model: Model, conditions: Iterable[tuple[str, str, str]]) -> bool:
    return all(_matches(model, *condition) for condition in conditions)


def _matches(model: Model, method: str, key: str, value: str) -> bool:
    if method == "tag":
        return any(fnmatch.fnmatchcase(tag, value) for tag in model.tags)
    if method == "path":
        path = PurePosixPath(model.path)
        return path.match(value) or PurePosixPath(value) in path.parents
    if method == "package":
        return model.package == value
    if method == "meta":
        found = model.meta.get(key)
        return str(found).lower() == value.lower() if value else found not in (None, False)
    return any(fnmatch.fnmatchcase(name, value) for name in names(model))
