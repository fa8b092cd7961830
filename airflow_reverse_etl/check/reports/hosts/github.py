"""GitHub: a check run with annotations if the token may write one (GitHub Apps, GitHub Actions), else a commit status.

Source: GitHub REST API 2022-11-28: checks/runs, commits/statuses, issues/comments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.reports.github import check_annotations
from airflow_reverse_etl.check.reports.hosts.api import NAME, Api, Route, write_comment
from airflow_reverse_etl.check.reports.markdown import markdown
from airflow_reverse_etl.errors import CredentialsError, RepositoryNotFoundError
from airflow_reverse_etl.git.github_app import GitHubApp

_MAX_ANNOTATIONS = 50  # of one request
_MAX_DESCRIPTION = 140


@dataclass(frozen=True, slots=True)
class GitHub:
    """A commit of a repository ``owner/name``.

    :param details: URL behind the check.
    """

    api: Api
    repository: str
    commit: str
    pull_request: int | None = None
    details: str | None = None

    @classmethod
    def connect(
        cls,
        token: str,
        repository: str,
        commit: str,
        *,
        url: str = "https://api.github.com",
        pull_request: int | None = None,
        details: str | None = None,
        route: Route | None = None,
    ) -> Self:
        """Build a reporter with a token.

        :param url: root of the API; ``https://HOST/api/v3`` for GitHub Enterprise Server.
        """
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        return cls(Api(url.rstrip("/"), headers, route=route or Route()), repository, commit, pull_request, details)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Build a reporter from the variables of a GitHub Actions job.

        In a pull request ``GITHUB_SHA`` is a temporary merge commit, so the branch's own commit is taken from the
        event. CI systems without ``GITHUB_TOKEN`` set ``GITHUB_APP_ID`` and ``GITHUB_APP_PRIVATE_KEY`` instead.
        """
        event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text()) if env.get("GITHUB_EVENT_PATH") else {}
        request = event.get("pull_request") or {}
        repository = env["GITHUB_REPOSITORY"]
        run = env.get("GITHUB_RUN_ID")
        server = env.get("GITHUB_SERVER_URL", "https://github.com")
        return cls.connect(
            env.get("GITHUB_TOKEN") or _app_token(env, f"{server}/{repository}"),
            repository,
            request.get("head", {}).get("sha") or env["GITHUB_SHA"],
            url=env.get("GITHUB_API_URL", "https://api.github.com"),
            pull_request=request.get("number"),
            details=f"{server}/{repository}/actions/runs/{run}" if run else None,
        )

    def publish(self, report: CheckReport, *, review_blocks: bool = True) -> list[str]:
        """See :class:`~airflow_reverse_etl.check.reports.hosts.Reporter`."""
        try:
            done = [self._check_run(report, review_blocks=review_blocks)]
        except (CredentialsError, RepositoryNotFoundError) as error:  # a person's token has no check runs
            done = [self._status(report, review_blocks=review_blocks), f"could not write a check run: {error}"]
        if self.pull_request:
            done.append(self._comment(report))
        return done

    def _check_run(self, report: CheckReport, *, review_blocks: bool) -> str:
        needs_review = "action_required" if review_blocks else "neutral"
        conclusion = {"failed": "failure", "needs review": needs_review, "passed": "success"}[report.conclusion]
        annotations = check_annotations(report)
        output = {"title": report.summary, "summary": markdown(report)}
        run = self.api.call(
            "POST",
            f"/repos/{self.repository}/check-runs",
            json={
                "name": NAME,
                "head_sha": self.commit,
                "status": "completed",
                "conclusion": conclusion,
                "output": {**output, "annotations": annotations[:_MAX_ANNOTATIONS]},
                **({"details_url": self.details} if self.details else {}),
            },
        )
        # Each update adds its annotations to those before.
        for start in range(_MAX_ANNOTATIONS, len(annotations), _MAX_ANNOTATIONS):
            more = {**output, "annotations": annotations[start : start + _MAX_ANNOTATIONS]}
            self.api.call("PATCH", f"/repos/{self.repository}/check-runs/{run['id']}", json={"output": more})
        return f"wrote the check run: {conclusion}"

    def _status(self, report: CheckReport, *, review_blocks: bool) -> str:
        state = "failure" if report.fails(review_blocks=review_blocks) else "success"
        status = {
            "state": state,
            "context": NAME,
            "description": report.summary[:_MAX_DESCRIPTION],
            **({"target_url": self.details} if self.details else {}),
        }
        self.api.call("POST", f"/repos/{self.repository}/statuses/{self.commit}", json=status)
        return f"wrote the commit status: {state}"

    def _comment(self, report: CheckReport) -> str:
        issues = f"/repos/{self.repository}/issues"
        return write_comment(
            self.api,
            f"{issues}/{self.pull_request}/comments",
            markdown(report),
            needed=bool(report.findings),
            shape=lambda text: {"body": text},
            update=f"PATCH {issues}/comments/{{}}",
        )


def _app_token(env: Mapping[str, str], url: str) -> str:
    """Return a token of the GitHub App that the variables name.

    :raises KeyError: names ``GITHUB_TOKEN``, the usual way, if no App is named either.
    """
    if not env.get("GITHUB_APP_ID"):
        return env["GITHUB_TOKEN"]
    return GitHubApp(env["GITHUB_APP_ID"], env["GITHUB_APP_PRIVATE_KEY"]).token(url)
