"""Which models of a catalog are meant, in the words of dbt's own selectors."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from airflow_reverse_etl.dbt.catalog import Model, names
from airflow_reverse_etl.errors import ConfigurationError

_METHODS = ("tag", "path", "meta", "config.meta", "package")


def select(models: Iterable[Model], selectors: Sequence[str]) -> tuple[Model, ...]:
    """The models that any of the selectors means, in their order.

    A selector is a name (``customers``, ``shop.customers``, ``customers.v2``; with ``*`` as wildcard), ``tag:crm``,
    ``path:models/marts``, ``package:shop``, or ``meta.reverse_etl`` (the key is there and not false), optionally with a
    value: ``meta.owner:ada``. A comma means both: ``tag:crm,path:models/marts``.

    :raises ConfigurationError: a selector that is none of these.
    """
    wanted = [[_parsed(part) for part in selector.split(",")] for selector in selectors]
    return tuple(m for m in models if any(all(_matches(m, *part) for part in parts) for parts in wanted))


def _parsed(text: str) -> tuple[str, str, str]:
    """Method, key, value."""
    method, _, value = text.strip().rpartition(":")
    for prefix in ("config.meta.", "meta."):
        if not method and value.startswith(prefix):
            return "meta", value.removeprefix(prefix), ""
        if method.startswith(prefix):
            return "meta", method.removeprefix(prefix), value
    if (method and method not in _METHODS) or not value or "+" in value or "@" in value:
        raise ConfigurationError(
            f"{text!r} is no selector of models here",
            todo="use a name, tag:…, path:…, package:… or meta.…; there are no graph operators",
        )
    return method or "name", "", value


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
