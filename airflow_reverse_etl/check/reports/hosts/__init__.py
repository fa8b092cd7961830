"""The report on a Git host: a status of the commit, and one comment on the pull or merge request.

Later checks update the comment instead of repeating it. A check without findings writes no comment, and updates an
existing one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.errors import ConfigurationError

HOSTS = ("github", "gitlab", "bitbucket")


class Reporter(Protocol):
    """A repository, a commit and an optional pull request on a Git host."""

    def publish(self, report: CheckReport, *, review_blocks: bool = True) -> list[str]:
        """Publish a report and return a line for each thing that was written.

        :param review_blocks: count findings that need review as failures.
        :raises CredentialsError: the host refuses the token.
        :raises UnreachableError: the host does not answer, or limits requests for now.
        """


def from_environment(host: str, environment: Mapping[str, str]) -> Reporter:
    """Build the reporter of a CI job from the variables of GitHub Actions, GitLab CI or Bitbucket Pipelines.

    The token is read from ``GITHUB_TOKEN``, ``GITLAB_TOKEN`` or ``BITBUCKET_TOKEN``. A GitHub App needs
    ``GITHUB_APP_ID`` and ``GITHUB_APP_PRIVATE_KEY`` instead.

    :raises ConfigurationError: a variable is missing.
    """
    from airflow_reverse_etl.check.reports.hosts.bitbucket import Bitbucket
    from airflow_reverse_etl.check.reports.hosts.github import GitHub
    from airflow_reverse_etl.check.reports.hosts.gitlab import GitLab

    try:
        if host == "github":
            return GitHub.from_environment(environment)
        if host == "gitlab":
            return GitLab.from_environment(environment)
        return Bitbucket.from_environment(environment)
    except KeyError as error:
        raise ConfigurationError(
            f"the environment variable {error.args[0]} is not set",
            todo=f"set it in a {host} CI job as the how-to guide shows",
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
    """Build the reporter for a repository, given its URL for git.

    :param verify: True, or the path of a file with certificate authorities. The file must exist until the report is
        published.
    :param proxy: URL of an HTTP proxy; default: the worker's own settings.
    :raises ConfigurationError: no token is given (a deploy key works for git only), or the URL is not one of a
        repository on this host.
    """
    from airflow_reverse_etl.check.reports.hosts.api import Route
    from airflow_reverse_etl.check.reports.hosts.bitbucket import Bitbucket
    from airflow_reverse_etl.check.reports.hosts.github import GitHub
    from airflow_reverse_etl.check.reports.hosts.gitlab import GitLab
    from airflow_reverse_etl.git.github_app import api_and_repository

    server, repository = _split_url(url)
    route = Route(verify, proxy)
    if not token:
        raise ConfigurationError(f"{host} requires a token", todo="put one into the password of the git connection")
    if host == "github":
        api, *_ = api_and_repository(f"{server}/{repository}")
        return GitHub.connect(token, repository, commit, url=api, pull_request=pull_request, route=route)
    if host == "gitlab":
        api = f"{server}/api/v4"
        return GitLab.connect(token, repository, commit, url=api, merge_request=pull_request, route=route)
    # Bitbucket's API has a fixed host, which must not get the token of another server.
    if server != "https://bitbucket.org":
        raise ConfigurationError(
            "reporting is supported for Bitbucket Cloud only", todo="leave report out", repository=url
        )
    return Bitbucket.connect(token, repository, commit, pull_request=pull_request, route=route)


def _split_url(url: str) -> tuple[str, str]:
    """Split a repository's URL into ``https://host`` and ``owner/name``. The API of an ssh host is at https."""
    found = re.fullmatch(r"(?:(https?)://|ssh://)?(?:[^@/]+@)?([^/:]+)(:\d+)?[:/](.+?)(?:\.git)?/?", url)
    if not found:
        raise ConfigurationError("the repository's URL has no owner and name", todo="check the git connection's host")
    scheme, name, port, repository = found.groups()
    # The port of an ssh URL is not the API's.
    if not scheme:
        return f"https://{name.lower()}", repository
    return f"{scheme}://{name.lower()}{port or ''}", repository
