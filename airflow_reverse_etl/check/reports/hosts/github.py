"""GitHub: a check run with annotations where the token may (GitHub Apps, GitHub Actions), else a commit status.

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

_PER_REQUEST = 50  # annotations
_DESCRIPTION = 140


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
        """:param url: of the API; of GitHub Enterprise Server: ``https://HOST/api/v3``."""
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        return cls(Api(url.rstrip("/"), headers, route=route or Route()), repository, commit, pull_request, details)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """In a pull request ``GITHUB_SHA`` is a merge commit that nobody sees: the event names the branch's own.

        Instead of ``GITHUB_TOKEN``: ``GITHUB_APP_ID`` and ``GITHUB_APP_PRIVATE_KEY``, for CI systems without one.
        """
        event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text()) if env.get("GITHUB_EVENT_PATH") else {}
        request = event.get("pull_request") or {}
        repository, run = env["GITHUB_REPOSITORY"], env.get("GITHUB_RUN_ID")
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
            done = [self._status(report, review_blocks=review_blocks), f"in place of a check run: {error}"]
        if self.pull_request:
            done.append(self._comment(report))
        return done

    def _check_run(self, report: CheckReport, *, review_blocks: bool) -> str:
        needs_review = "action_required" if review_blocks else "neutral"
        conclusion = {"failed": "failure", "needs review": needs_review, "passed": "success"}[report.conclusion]
        notes = check_annotations(report)
        output = {"title": report.summary, "summary": markdown(report)}
        run = self.api.call(
            "POST",
            f"/repos/{self.repository}/check-runs",
            json={
                "name": NAME,
                "head_sha": self.commit,
                "status": "completed",
                "conclusion": conclusion,
                "output": {**output, "annotations": notes[:_PER_REQUEST]},
                **({"details_url": self.details} if self.details else {}),
            },
        )
        for start in range(_PER_REQUEST, len(notes), _PER_REQUEST):
            more = {**output, "annotations": notes[start : start + _PER_REQUEST]}
            self.api.call("PATCH", f"/repos/{self.repository}/check-runs/{run['id']}", json={"output": more})
        return f"wrote the check run: {conclusion}"

    def _status(self, report: CheckReport, *, review_blocks: bool) -> str:
        bad = report.conclusion == "failed" or (report.conclusion == "needs review" and review_blocks)
        status = {
            "state": "failure" if bad else "success",
            "context": NAME,
            "description": report.summary[:_DESCRIPTION],
            **({"target_url": self.details} if self.details else {}),
        }
        self.api.call("POST", f"/repos/{self.repository}/statuses/{self.commit}", json=status)
        return f"wrote the commit status: {status['state']}"

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
    """KeyError names what every job should have where there is no App either."""
    if not env.get("GITHUB_APP_ID"):
        return env["GITHUB_TOKEN"]
    return GitHubApp(env["GITHUB_APP_ID"], env["GITHUB_APP_PRIVATE_KEY"]).token(url)
