"""Operator that checks what a change to a dbt project would do to syncs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow_reverse_etl.compat import AirflowFailException, Context, airflow_errors
from airflow_reverse_etl.config import environment
from airflow_reverse_etl.errors import ReverseEtlError
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from airflow_reverse_etl.operators.dbt_task import DbtTask, Syncs, given_syncs
from airflow_reverse_etl.wiring import privacy_policy

if TYPE_CHECKING:
    from airflow_reverse_etl.check.findings import CheckReport, Policy
    from airflow_reverse_etl.check.project.version import ProjectVersion
    from airflow_reverse_etl.git.repository import Repository


class DbtModelCheckOperator(DbtTask):
    """Compare two commits of a dbt project for what syncs use, and fail when the change would break one.

    Fetches both commits, runs ``dbt parse`` on each, without a warehouse and without secrets, and applies the rules of
    ``reverse-etl check``. For a branch's own changes, give as ``base`` the commit that the branch started from.

    Returns the report: ``conclusion`` (``failed``, ``needs review``, ``passed``), ``summary``, ``findings`` … A red
    task leaves it in XCom too.

    The check looks neither at data nor at the warehouse; drift does.

    :param syncs: a folder of YAML files, a file, or syncs; paths are absolute or relative to the DAG file. Syncs in
        models' ``meta.reverse_etl`` are checked as well.
    :param base: branch, tag or commit before the change.
    :param head: the same, after it.
    :param git_conn_id: Airflow connection of type ``git``.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own.
    :param project_path: folder of ``dbt_project.yml``, relative to the repository's root.
    :param policy: ``any_change``, ``breaking`` or ``contract``.
    :param allow_review: what needs review does not fail the task.
    :param report: ``github``, ``gitlab`` or ``bitbucket``: tell it about ``head``, with the connection's token. Where
        that fails it is logged, and changes nothing.
    :param pull_request: its number, for a comment.
    :param profile_conn_id: connection of the warehouse, which says where the models are.
    :param schema: schema that dbt builds in, when the connection does not say or says another.
    :param database: database that it builds in (BigQuery: project, Databricks: catalog), likewise.
    :param target: target of the profile; default: ``[reverse_etl]
        environment``, if that is set.
    :param vars: dbt variables.
    :param env: environment variables for dbt: a mapping, templated and never shown; or names, to pass on the worker's
        own values.
    :param deps: install the project's packages when they are not in the repository.
    :param dbt_executable: path or name of dbt 1.6 or newer, or Fusion.
    :raises AirflowFailException: the change would break a sync, or the check cannot be done as configured.
    :raises AirflowException: a retry may help.
    """

    template_fields: Sequence[str] = (
        "base",
        "head",
        "git_conn_id",
        "repository",
        "project_path",
        "pull_request",
        "profile_conn_id",
        "schema",
        "database",
        "target",
        "vars",
    )
    ui_color = "#f3eede"

    def __init__(
        self,
        *,
        syncs: Syncs,
        base: str,
        head: str,
        git_conn_id: str = "git_default",
        repository: str | None = None,
        project_path: str = ".",
        policy: Policy = "breaking",
        allow_review: bool = False,
        report: Literal["github", "gitlab", "bitbucket"] | None = None,
        pull_request: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.syncs = syncs
        self.base = base
        self.head = head
        self.git_conn_id = git_conn_id
        self.repository = repository
        self.project_path = project_path
        self.policy = policy
        self.allow_review = allow_review
        self.report = report
        self.pull_request = pull_request

    def execute(self, context: Context) -> dict[str, Any]:
        """Check the change; see the class."""
        from airflow_reverse_etl.check.check import check_project
        from airflow_reverse_etl.check.reports.text import text

        with airflow_errors():
            repository = GitRepositoryHook(self.git_conn_id, self.repository).get_conn()
            # Once, at the start: a branch may move on while dbt parses it.
            commits = [repository.head(ref) for ref in (self.base, self.head)]
            base, head = (
                self._side(repository, context, ref=ref, commit=commit)
                for ref, commit in zip((self.base, self.head), commits, strict=True)
            )
            sources, invalid = given_syncs(self, self.syncs)
            today = datetime.now(UTC).date()
            rules = privacy_policy()
            report = check_project(
                sources,
                base,
                head,
                today=today,
                policy=self.policy,
                invalid=invalid,
                privacy=rules,
                environment=environment(),
            )
            told = text(report)
            self.log.info("%s", told)
            self._report(report, repository, commits[1])
        found = report.to_dict()
        context["ti"].xcom_push(key="return_value", value=found)
        if report.conclusion == "failed" or (report.conclusion == "needs review" and not self.allow_review):
            raise AirflowFailException(told)
        return found

    def _side(self, repository: Repository, context: Context, *, ref: str, commit: str) -> ProjectVersion:
        from airflow_reverse_etl.check.project.loader import files_of
        from airflow_reverse_etl.check.project.version import ProjectVersion
        from airflow_reverse_etl.git.repository import project_folder

        path = project_folder(self.project_path)
        folder = self._checkout(repository, context, commit=commit, path=path, ref=ref)
        manifest = self._manifest(folder, context, profile=self._profile())
        about = files_of(manifest, folder, trusted=True)
        return ProjectVersion(manifest, label=f"{ref} ({commit[:8]})", folder=path, **about)

    def _report(self, report: CheckReport, repository: Repository, commit: str) -> None:
        from airflow_reverse_etl.check.reports.hosts import for_repository

        if not self.report:
            return
        try:
            credentials = repository.credentials.for_url(repository.url)
            with credentials.verify() as verify:
                reporter = for_repository(
                    self.report,
                    repository.url,
                    token=credentials.token,
                    commit=commit,
                    pull_request=int(self.pull_request) if self.pull_request else None,
                    verify=verify,
                    proxy=credentials.proxy,
                )
                for line in reporter.publish(report, review_blocks=not self.allow_review):
                    self.log.info("%s: %s", self.report, line)
        except ReverseEtlError as error:
            self.log.warning("Could not report to %s: %s", self.report, error)
