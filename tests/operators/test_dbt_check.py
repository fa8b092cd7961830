"""The check as a task in real Airflow, with real Git and real dbt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl.check.reports import hosts
from airflow_reverse_etl.check.reports.hosts import for_repository
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.errors import ConfigurationError
from airflow_reverse_etl.operators.dbt_check import DbtModelCheckOperator
from tests.git.servers import Origin

pytestmark = pytest.mark.airflow

SYNC: dict[str, Any] = {
    "name": "customers_to_crm",
    "model": "customers",
    "source": "warehouse",
    "destination": {"type": "http"},
    "mapping": {"email": "email"},
}


@pytest.mark.long
def test_a_breaking_branch_fails_the_task_and_the_report_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    add_connection: Callable[..., None],
    run_dag: Callable[..., Any],
    xcom: Callable[..., Any],
    task_states: Callable[[Any], dict[str, str]],
) -> None:
    from airflow.sdk import DAG

    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    origin = Origin.create(tmp_path / "git")
    project = "name: shop\nversion: '1.0'\nprofile: shop\n"
    sql = "select 1 as customer_id, 'x' as email"
    first = origin.commit({"dbt/dbt_project.yml": project, "dbt/models/customers.sql": sql})
    origin.commit({"dbt/models/customers.sql": sql.replace("email", "mail")})
    add_connection("git_dbt", conn_type="git", host=str(origin.bare), extra={"allow_protocols": ["file"]})

    with DAG("checked", schedule=None) as dag:
        DbtModelCheckOperator(
            task_id="check",
            git_conn_id="git_dbt",
            project_path="dbt",
            base=first,
            head="main",
            syncs=[SYNC],
            report="github",  # the repository is a folder: not being able to tell is no failure of the check
        )
    run = run_dag(dag)

    assert task_states(run) == {"check": "failed"}
    report = xcom(run, "check")
    assert report["conclusion"] == "failed"
    assert [finding["rule"] for finding in report["findings"]] == ["column-missing"]


def test_what_needs_review_fails_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.dbt.projects import keyed, model, side

    sides = [side(model("customers", f"select {{{{ f({n}) }}}}"), *keyed("customers")) for n in (1, 2)]

    def execute(**more: Any) -> dict[str, Any]:
        task = DbtModelCheckOperator(task_id="check", syncs=[SYNC], base="a", head="b", **more)
        found = iter(sides)
        monkeypatch.setattr(DbtModelCheckOperator, "_side", lambda *_, **__: next(found))
        monkeypatch.setattr(
            "airflow_reverse_etl.operators.dbt_check.GitRepositoryHook",
            lambda *_: SimpleNamespace(get_conn=lambda: SimpleNamespace(url="u", head=str)),
        )
        return task.execute({"ti": SimpleNamespace(xcom_push=lambda **_: None)})  # type: ignore[typeddict-item]

    with pytest.raises(AirflowFailException, match="needs review"):
        execute()
    assert execute(allow_review=True)["conclusion"] == "needs review"


@pytest.mark.parametrize(
    ("host", "url", "api", "repository"),
    [
        ("github", "https://github.com/acme/shop.git", "https://api.github.com", "acme/shop"),
        ("github", "git@github.com:acme/shop.git", "https://api.github.com", "acme/shop"),
        ("github", "https://git.acme.example/acme/shop", "https://git.acme.example/api/v3", "acme/shop"),
        ("github", "https://acme.ghe.com/acme/shop", "https://api.acme.ghe.com", "acme/shop"),
        ("gitlab", "ssh://git@gitlab.acme.example:2222/a/b/shop.git", "https://gitlab.acme.example/api/v4", "a/b/shop"),
        ("gitlab", "https://gitlab.acme.example:8443/a/shop.git", "https://gitlab.acme.example:8443/api/v4", "a/shop"),
        ("bitbucket", "https://me@bitbucket.org/acme/shop.git", "https://api.bitbucket.org/2.0", "acme/shop"),
    ],
)
def test_the_api_behind_a_repositorys_url(host: str, url: str, api: str, repository: str) -> None:
    found: Any = for_repository(host, url, token="t", commit="c")
    assert (found.api.url, found.project if host == "gitlab" else found.repository) == (api, repository)


def test_a_deploy_key_cannot_report() -> None:
    with pytest.raises(ConfigurationError, match="token"):
        hosts.for_repository("github", "git@github.com:acme/shop.git", token=None, commit="c")


def test_another_servers_token_does_not_go_to_bitbucket_cloud() -> None:
    with pytest.raises(ConfigurationError, match="Bitbucket Cloud only"):
        hosts.for_repository("bitbucket", "https://git.acme.example/scm/a/shop.git", token="t", commit="c")
