"""Bitbucket Cloud: a build status, and a comment on the pull request.

Source: Bitbucket Cloud REST API 2.0: commit statuses (build), pull request comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.reports.hosts.api import NAME, Api, Route, write_comment
from airflow_reverse_etl.check.reports.markdown import markdown

_MAX_COMMENT = 30_000  # characters of a comment, below the limit
_MAX_DESCRIPTION = 255


@dataclass(frozen=True, slots=True)
class Bitbucket:
    """A commit of a repository ``workspace/name``.

    :param details: URL behind the build status, which must have one.
    """

    api: Api
    repository: str
    commit: str
    details: str
    pull_request: int | None = None

    @classmethod
    def connect(
        cls,
        token: str,
        repository: str,
        commit: str,
        *,
        url: str = "https://api.bitbucket.org/2.0",
        pull_request: int | None = None,
        details: str | None = None,
        route: Route | None = None,
    ) -> Self:
        """Build a reporter with a token.

        :param token: repository access token with the scopes ``repository:write`` and ``pullrequest:write``.
        :param details: default: the page of the commit.
        """
        details = details or f"https://bitbucket.org/{repository}/commits/{commit}"
        api = Api(url.rstrip("/"), {"Authorization": f"Bearer {token}"}, route=route or Route())
        return cls(api, repository, commit, details, pull_request)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Build a reporter from the variables of a Bitbucket Pipelines job.

        Pipelines does not set ``BITBUCKET_API_URL``; it is read so that requests can go through a gateway.
        """
        request = env.get("BITBUCKET_PR_ID")
        number = env.get("BITBUCKET_BUILD_NUMBER")
        repository = env["BITBUCKET_REPO_FULL_NAME"]
        return cls.connect(
            env["BITBUCKET_TOKEN"],
            repository,
            env["BITBUCKET_COMMIT"],
            url=env.get("BITBUCKET_API_URL", "https://api.bitbucket.org/2.0"),
            pull_request=int(request) if request else None,
            details=f"https://bitbucket.org/{repository}/pipelines/results/{number}" if number else None,
        )

    def publish(self, report: CheckReport, *, review_blocks: bool = True) -> list[str]:
        """See :class:`~airflow_reverse_etl.check.reports.hosts.Reporter`."""
        failed = report.fails(review_blocks=review_blocks)
        status = {
            "key": NAME.replace(" ", "-"),
            "name": NAME,
            "state": "FAILED" if failed else "SUCCESSFUL",
            "url": self.details,
            "description": report.summary[:_MAX_DESCRIPTION],
        }
        self.api.call("POST", f"/repositories/{self.repository}/commit/{self.commit}/statuses/build", json=status)
        done = [f"wrote the build status: {status['state']}"]
        if self.pull_request:
            done.append(self._comment(report))
        return done

    def _comment(self, report: CheckReport) -> str:
        path = f"/repositories/{self.repository}/pullrequests/{self.pull_request}/comments"
        return write_comment(
            self.api,
            path,
            markdown(report, limit=_MAX_COMMENT),
            needed=bool(report.findings),
            shape=lambda text: {"content": {"raw": text}},
            update=f"PUT {path}/{{}}",
        )
