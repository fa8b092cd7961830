"""What to do about the errors that dbt reports before it runs anything. The patterns are those of dbt 1.7 to 1.12."""

from __future__ import annotations

import re

_ADVICE = (
    (
        r"Could not find adapter type (\w+)",
        "install dbt-{0} into the environment of dbt_executable, or name another dbt_executable",
    ),
    (
        r"Run \"?dbt deps|packages? specified in packages\.yml|dbt expects \d+ package",
        "let the packages be installed (deps=True), or commit dbt_packages to the repository",
    ),
    (
        r"Failed to resolve '([\w.-]+)'|Could not connect to ([\w.-]+)|hub\.getdbt\.com",
        "the worker cannot reach the package hub: allow it in the proxy, or commit dbt_packages to the repository",
    ),
    (
        r"Env var required but not provided: '(\w+)'",
        "give {0} in env=; for a model sync any value will do, if no relation's name depends on it",
    ),
    (
        r"Required vars? not found|Required var '(\w+)' not found",
        "give it in vars=",
    ),
    (
        r"Required version of dbt|Installed version of dbt|require-dbt-version|not compatible with.*dbt version",
        "name a dbt_executable of the version that the project requires",
    ),
    (
        r"Could not find profile named|does not have a target named|profiles\.yml|[Pp]rofiles.dir",
        "give profile_conn_id, or check the project's profiles.yml and the target's name",
    ),
    (
        r"Credentials in profile",
        "the profile lacks something that the adapter needs: check the connection behind profile_conn_id",
    ),
    (
        r"Breaking [Cc]hange to [Cc]ontract",
        "give the model a new version, or restore the columns that its contract promises",
    ),
    (
        r"Expected a schema version of",
        "the manifest given as state was written by another dbt: make it again with this one",
    ),
    (
        r"time spine",
        "the project's semantic models need a time spine model: add one, or remove the metrics",
    ),
    (
        r"No such option|No such command|Usage: dbt",
        "this dbt does not know the command or option: see dbt --help of dbt_executable",
    ),
)


def advice(text: str) -> str:
    """What the reader should do."""
    for pattern, todo in _ADVICE:
        if found := re.search(pattern, text):
            return todo.format(*(group for group in found.groups() if group))
    return "dbt's own words say what is wrong; the same command in a clone of the repository shows it too"
