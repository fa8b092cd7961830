"""A check's outcome, told to the Git host: a status on the commit, and one comment on the pull or merge request.

The comment is updated by later checks, not repeated; a check without findings writes none, unless one is there already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.errors import ConfigurationError

HOSTS = ("github", "gitlab", "bitbucket")


class Reporter(Protocol):
    """One repository, commit and, maybe, pull request on a Git host."""

    def publish(self, report: CheckReport, *, review_blocks: bool = True) -> list[str]:
        """Tell it; a line for each thing that was done.

        :param review_blocks: what needs review counts as failed.
        :raises CredentialsError: the token is refused. :raises UnreachableError: try later.
        """


def from_environment(host: str, environment: Mapping[str, str]) -> Reporter:
    """The reporter for a CI job, as GitHub Actions, GitLab CI and Bitbucket Pipelines describe it to their jobs.

    The token is in ``GITHUB_TOKEN``, ``GITLAB_TOKEN`` or ``BITBUCKET_TOKEN``; a GitHub App's id and key may be in
    ``GITHUB_APP_ID`` and ``GITHUB_APP_PRIVATE_KEY`` instead.

    :raises ConfigurationError: a variable is missing.
    """
    from airflow_reverse_etl.check.reports.hosts.bitbucket import Bitbucket
    from airflow_reverse_etl.check.reports.hosts.github import GitHub
    from airflow_reverse_etl.check.reports.hosts.gitlab import GitLab

    try:
        if host == "github":
            return GitHub.from_environment(environment)
        return (GitLab if host == "gitlab" else Bitbucket).from_environment(environment)
    except KeyError as error:
        raise ConfigurationError(
            f"the environment variable {error.args[0]} is not set",
            todo=f"run this in a {host} CI job, and give it a token; see the how-to guide",
        ) from None


def for_repository(
    host: str,
    url: str,
    *,
    token: str | None,
    commit: str,
    pull_request: int | None = None,
    verify: bool | str = True,
    proxy: str | None = None,
) -> Reporter:
    """The reporter for a repository's URL, as git uses it.

    :param verify: True, or the path of a file with certificate authorities; it must be there until all is told.
    :param proxy: URL of an HTTP proxy; default: the worker's own settings.
    :raises ConfigurationError: there is no token (a deploy key is good for git only), or the URL names no repository
        of this host.
    """
    from airflow_reverse_etl.check.reports.hosts.api import Route
    from airflow_reverse_etl.check.reports.hosts.bitbucket import Bitbucket
    from airflow_reverse_etl.check.reports.hosts.github import GitHub
    from airflow_reverse_etl.check.reports.hosts.gitlab import GitLab
    from airflow_reverse_etl.git.github_app import api_and_repository

    server, repository = _place(url)
    route = Route(verify, proxy)
    if not token:
        raise ConfigurationError(f"{host} wants a token", todo="put one into the password of the git connection")
    if host == "github":
        api, *_ = api_and_repository(f"{server}/{repository}")
        return GitHub.connect(token, repository, commit, url=api, pull_request=pull_request, route=route)
    if host == "gitlab":
        api = f"{server}/api/v4"
        return GitLab.connect(token, repository, commit, url=api, merge_request=pull_request, route=route)
    if server != "https://bitbucket.org":  # its API is elsewhere, and must not get another server's token
        raise ConfigurationError("only Bitbucket Cloud can be told", todo="leave report out", repository=url)
    return Bitbucket.connect(token, repository, commit, pull_request=pull_request, route=route)


def _place(url: str) -> tuple[str, str]:
    """``https://host`` and ``owner/name`` of a repository's URL. Where git uses ssh, the API is at https."""
    found = re.fullmatch(r"(?:(https?)://|ssh://)?(?:[^@/]+@)?([^/:]+)(:\d+)?[:/](.+?)(?:\.git)?/?", url)
    if not found:
        raise ConfigurationError("the repository's URL has no owner and name", todo="check the git connection's host")
    scheme, name, port, repository = found.groups()
    return f"{scheme or 'https'}://{name.lower()}{port or '' if scheme else ''}", repository
