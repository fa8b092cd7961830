"""Advice on the errors that dbt reports before it runs any node. The patterns match dbt 1.7 to 1.12."""

from __future__ import annotations

import re

_ADVICE = (
    (
        r"Could not find adapter type (\w+)",
        "install dbt-{0} into the environment of dbt_executable, or set another dbt_executable",
    ),
    (
        r"Run \"?dbt deps|packages? specified in packages\.yml|dbt expects \d+ package",
        "install the packages (deps=True of the task), or commit dbt_packages to the repository",
    ),
    (
        r"Failed to resolve '([\w.-]+)'|Could not connect to ([\w.-]+)|hub\.getdbt\.com",
        "allow the package hub in the proxy, or commit dbt_packages to the repository: the hub cannot be reached",
    ),
    (
        r"Env var required but not provided: '(\w+)'",
        "pass the environment variable {0} (--env {0}, or env= of the task); its value matters to relations only",
    ),
    (
        r"Required vars? not found|Required var '(\w+)' not found",
        "set the variable in dbt_project.yml, or in vars= of the task",
    ),
    (
        r"Required version of dbt|Installed version of dbt|require-dbt-version|not compatible with.*dbt version",
        "set dbt_executable to a dbt of the version that the project requires",
    ),
    (
        r"Could not find profile named|does not have a target named|profiles\.yml|[Pp]rofiles.dir",
        "check the project's profiles.yml and the target's name, or set profile_conn_id of the task",
    ),
    (
        r"Credentials in profile",
        "check the connection behind profile_conn_id: the adapter needs a value that the profile lacks",
    ),
    (
        r"Breaking [Cc]hange to [Cc]ontract",
        "give the model a new version, or restore the columns that its contract promises",
    ),
    (
        r"Expected a schema version of",
        "write the state's manifest again with this dbt: another version wrote it",
    ),
    (
        r"time spine",
        "add a time spine model, which the project's semantic models need, or remove the metrics",
    ),
    (
        r"No such option|No such command|Usage: dbt",
        "see dbt --help of dbt_executable, which does not know the command or option",
    ),
)


def advice(text: str) -> str:
    """Return the advice for dbt's error text."""
    for pattern, todo in _ADVICE:
        if found := re.search(pattern, text):
            return todo.format(*(group for group in found.groups() if group))
    return "correct what dbt reports; the same command in a clone of the repository shows the same error"
