"""The macros that a node depends on, found by name wherever they are named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Functions of dbt's own Jinja that a macro of the same name replaces.
_BUILT_IN = frozenset({"ref", "source", "config", "var", "env_var"})
# They decide where a model is built, which the rule about relations compares.
_NAMING = re.compile(r"(\w+__)?generate_(schema|alias|database)_name")
_WORD = re.compile(r"\w+")


class Macros:
    """The macros of a project and its packages. Macros of dbt itself change with dbt's version, not with the project.

    :param entries: ``macros`` of the manifest.
    :param adapter: dbt's adapter.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, Any]], adapter: str) -> None:
        dbt_packages = ("dbt", f"dbt_{adapter}", "dbt_postgres", "dbt_spark", "dbt_redshift", "dbt_databricks")
        own = {name: entry for name, entry in entries.items() if name.split(".")[1] not in dbt_packages}
        self.texts = {name: str(entry.get("macro_sql")) for name, entry in own.items()}
        self._ids: dict[str, list[str]] = {}
        for unique_id in own:
            name = unique_id.split(".", 2)[2]
            # A dispatched macro, snowflake__name, is called by its name.
            for called in {name, name.partition("__")[2] or name}:
                self._ids.setdefault(called, []).append(unique_id)
        self._named: dict[str, frozenset[str]] = {}
        of_dbt = _BUILT_IN | {name.split(".", 2)[2] for name in entries if name not in own}
        self._implicit = [
            unique_id
            for called, ids in self._ids.items()
            for unique_id in ids
            if (called in of_dbt or called.startswith("materialization_")) and not _NAMING.fullmatch(called)
        ]

    def named_in(self, texts: Iterable[str]) -> dict[str, str]:
        """Return the text of each macro that texts name, directly or through other macros, by id.

        A name counts wherever it stands: as a call, as a value that is passed on, in quotes. ``context`` can reach any.
        """
        found: dict[str, str] = {}
        queue = list(texts)
        while queue:
            for unique_id in self._named_directly(queue.pop()):
                if unique_id not in found:
                    found[unique_id] = self.texts[unique_id]
                    queue.append(found[unique_id])
        return dict(sorted(found.items()))

    def implicit(self) -> dict[str, str]:
        """Return the text of each macro that replaces one of dbt's, and of those that it names: dbt calls them."""
        replaced = {name: self.texts[name] for name in self._implicit}
        return dict(sorted({**self.named_in(replaced.values()), **replaced}.items()))

    def _named_directly(self, text: str) -> frozenset[str]:
        if not self._ids:
            return frozenset()
        if text not in self._named:
            words = set(_WORD.findall(text))
            called = self._ids if "context" in words else words & self._ids.keys()
            self._named[text] = frozenset(unique_id for name in called for unique_id in self._ids[name])
        return self._named[text]
