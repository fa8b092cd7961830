"""GitLab: a commit status, and a note on the merge request.

Source: GitLab REST API v4: commits ("Set commit pipeline status"), notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from airflow_reverse_etl.check.findings import CheckReport
from airflow_reverse_etl.check.reports.hosts.api import NAME, Api, Route, write_comment
from airflow_reverse_etl.check.reports.markdown import markdown
from airflow_reverse_etl.errors import ConfigurationError

_MAX_DESCRIPTION = 255


@dataclass(frozen=True, slots=True)
class GitLab:
    """A commit of a project, which is given by its id or as ``group/name``."""

    api: Api
    project: str
    commit: str
    merge_request: int | None = None
    details: str | None = None

    @classmethod
    def connect(
        cls,
        token: str,
        project: str,
        commit: str,
        *,
        url: str = "https://gitlab.com/api/v4",
        merge_request: int | None = None,
        details: str | None = None,
        route: Route | None = None,
    ) -> Self:
        """Build a reporter with a token.

        :param token: personal, project or group access token with scope ``api``. A job token may neither write a
            commit status nor a note.
        """
        api = Api(url.rstrip("/"), {"PRIVATE-TOKEN": token}, route=route or Route())
        return cls(api, project, commit, merge_request, details)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Build a reporter from the variables of a GitLab CI job.

        In merged results pipelines ``CI_COMMIT_SHA`` is a temporary commit that is not part of the branch, so the
        branch's own commit is preferred.
        """
        request = env.get("CI_MERGE_REQUEST_IID")
        return cls.connect(
            env["GITLAB_TOKEN"],
            env["CI_PROJECT_ID"],
            env.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or env["CI_COMMIT_SHA"],
            url=env.get("CI_API_V4_URL", "https://gitlab.com/api/v4"),
            merge_request=int(request) if request else None,
            details=env.get("CI_JOB_URL"),
        )

    def publish(self, report: CheckReport, *, review_blocks: bool = True) -> list[str]:
        """See :class:`~airflow_reverse_etl.check.reports.hosts.Reporter`."""
        done = [self._status(report, review_blocks=review_blocks)]
        if self.merge_request:
            done.append(self._comment(report))
        return done

    def _comment(self, report: CheckReport) -> str:
        path = f"{self._project}/merge_requests/{self.merge_request}/notes"
        return write_comment(
            self.api,
            path,
            markdown(report),
            needed=bool(report.findings),
            shape=lambda text: {"body": text},
            update=f"PUT {path}/{{}}",
        )

    @property
    def _project(self) -> str:
        return f"/projects/{quote(self.project, safe='')}"

    def _status(self, report: CheckReport, *, review_blocks: bool) -> str:
        state = "failed" if report.fails(review_blocks=review_blocks) else "success"
        status = {"state": state, "name": NAME, "description": report.summary[:_MAX_DESCRIPTION]}
        if self.details:
            status["target_url"] = self.details
        try:
            self.api.call("POST", f"{self._project}/statuses/{self.commit}", json=status)
        except ConfigurationError as error:
            if "Cannot transition status" not in error.what:  # GitLab's answer if the commit has this state already
                raise
        return f"wrote the commit status: {state}"
