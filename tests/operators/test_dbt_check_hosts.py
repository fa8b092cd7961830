"""The check told to a Git host, from the Airflow connection to what the host recorded.

Git and API are one https server with a certificate of its own authority, as on an Enterprise host; Bitbucket, which has
no such hosts, is reached by its real names through a proxy. The projects' manifests are given: dbt is tested elsewhere.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl.check.reports.markdown import MARKER
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.git import github_app
from airflow_reverse_etl.operators.dbt_task import DbtTask
from tests.check import hosts
from tests.check.hosts import TOKEN, Host
from tests.git.github import APP, PEM, GitHub
from tests.git.servers import Origin, connect_proxy, git
from tests.operators.check_hosts import COLUMNS, Check, Logged, app_fields, serving

pytestmark = pytest.mark.airflow


@pytest.mark.long
def test_a_github_app_from_its_connection_to_the_check_run(acme_shop: Origin, check: Check, logged: Logged) -> None:
    """On an Enterprise host: a signed request for a token of one repository, a clone with it, a check run with all
    annotations, 50 for each request, and one comment however often it is run."""
    app, host = GitHub(), Host(comments=dict.fromkeys(range(1, 6), "nice work"))
    with serving(acme_shop, hosts.github, host, app) as server:
        for head in ("branch", "branch", "main"):
            host.sha = git(acme_shop.bare, "rev-parse", head)
            check(hosts.github, head=head, **app_fields(server))
    assert (app.bodies, len(app.tokens)) == ([{"repositories": ["shop"]}], 1)
    assert [run["conclusion"] for run in host.runs] == ["failure", "failure", "success"]
    notes = host.runs[0]["output"]["annotations"]
    assert {note["message"].split()[1] for note in notes} == set(COLUMNS)
    # The syncs are not in the repository: the model is where GitHub can show it.
    assert {note["path"] for note in notes} == {"models/customers.sql"}
    assert len([r for r in host.requests if r[0] == "PATCH" and "check-runs" in r[1]]) == 2
    assert list(host.comments) == [1, 2, 3, 4, 5, 6]
    assert host.comments[6].startswith(MARKER)
    assert "nothing changes" in host.comments[6]
    said = logged()
    assert "github: updated the comment" in said
    assert "ghs_" not in said
    assert "PRIVATE KEY" not in said


@pytest.mark.long
def test_a_token_that_expires_between_the_clone_and_the_report_is_renewed(
    acme_shop: Origin, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, host, clock = GitHub(life=600), Host(), time.time
    parse = DbtTask._manifest

    def slow_parse(*arguments: Any, **more: Any) -> Any:
        app.clock += 301
        monkeypatch.setattr(github_app, "time", SimpleNamespace(time=lambda: clock() + app.clock))
        return parse(*arguments, **more)

    monkeypatch.setattr(DbtTask, "_manifest", slow_parse)
    with serving(acme_shop, hosts.github, host, app) as server:
        check(hosts.github, **app_fields(server))
        assert not app.valid(app.tokens[0])
        assert app.valid(app.tokens[-1])
    assert host.runs[0]["conclusion"] == "failure"


@pytest.mark.long
@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (["checks"], ["wrote the commit status: failure", "checks=write", "wrote a comment"]),
        (["pull_requests"], ["wrote the check run: failure", "could not write the comment", "pull_requests=write"]),
        (["checks", "statuses"], ["Could not report to github", "statuses=write"]),
    ],
)
def test_a_missing_permission_is_named_and_what_is_allowed_is_done(
    acme_shop: Origin, check: Check, logged: Logged, lacks: list[str], said: list[str]
) -> None:
    """The check's own outcome is the same."""
    host = Host(lacks=lacks)
    with serving(acme_shop, hosts.github, host, GitHub()) as server:
        assert check(hosts.github, **app_fields(server))["conclusion"] == "failed"
    log = logged()
    assert [words for words in said if words not in log] == []
    assert (bool(host.runs), bool(host.statuses)) == ("checks" not in lacks, lacks == ["checks"])


@pytest.mark.long
def test_a_gitlab_token_from_its_connection_to_the_note(acme_shop: Origin, check: Check) -> None:
    host = Host(comments={1: "nice work", 2: f"{MARKER}\nof a token that was replaced"}, foreign=[2])
    with serving(acme_shop, hosts.gitlab, host) as server:
        for head in ("branch", "branch", "main"):
            host.sha = git(acme_shop.bare, "rev-parse", head)
            check(hosts.gitlab, head=head, host=server.url("acme/shop.git"), login="oauth2", password=TOKEN)
    assert [status["state"] for status in host.statuses] == ["failed", "success"]
    assert list(host.comments) == [1, 2, 3]
    assert "nothing changes" in host.comments[3]


@pytest.mark.long
def test_a_bitbucket_token_from_its_connection_to_the_build_status(acme_shop: Origin, check: Check) -> None:
    """Through the connection's proxy, which wants a password, to names that the certificate is for."""
    host = Host(comments={1: "nice work"})
    with serving(acme_shop, hosts.bitbucket, host) as server:
        host.url = "https://api.bitbucket.org/2.0"
        ports = dict.fromkeys(["bitbucket.org", "api.bitbucket.org"], server.port)
        with connect_proxy(ports, password="pr0xy-s3cret") as proxy:
            for head in ("branch", "branch", "main"):
                host.sha = git(acme_shop.bare, "rev-parse", head)
                url = "https://bitbucket.org/acme/shop.git"
                check(hosts.bitbucket, head=head, host=url, password=TOKEN, extra={"proxy": proxy})
    (status,) = host.statuses
    assert (status["state"], status["key"]) == ("SUCCESSFUL", "reverse-etl-check")
    assert status["url"] == f"https://bitbucket.org/acme/shop/commits/{host.sha}"
    assert list(host.comments) == [1, 2]
    assert "nothing changes" in host.comments[2]


def test_the_command_line_reports_with_an_app(
    acme_shop: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a CI system that has no token of GitHub's. Syncs in the repository are shown at their lines."""
    app, host = GitHub(), Host()
    monkeypatch.chdir(tmp_path)
    for name in ("main", "branch"):
        (tmp_path / f"{name}.json").write_text(git(acme_shop.bare, "show", f"{name}:manifest.json"))
    event = tmp_path / "event.json"
    with serving(acme_shop, hosts.github, host, app) as server:
        event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": host.sha}}}))
        environment = {
            "GITHUB_SERVER_URL": f"https://127.0.0.1:{server.port}",
            "GITHUB_API_URL": host.url,
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_SHA": "x",
            "GITHUB_APP_ID": APP,
            "GITHUB_APP_PRIVATE_KEY": PEM,
            "REQUESTS_CA_BUNDLE": str(tmp_path / "git" / "own.crt"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GITHUB_TOKEN", raising=False)
        arguments = ["check", "--base", "main.json", "--head", "branch.json", "--syncs", "syncs", "--report", "github"]
        assert main(arguments) == 1
        assert "wrote the check run: failure" in capsys.readouterr().err
        monkeypatch.delenv("GITHUB_APP_PRIVATE_KEY")
        assert main(arguments) == 1
        assert "GITHUB_APP_PRIVATE_KEY is not set" in capsys.readouterr().err
    notes = host.runs[0]["output"]["annotations"]
    assert (len(notes), notes[0]["path"], notes[0]["start_line"]) == (60, "syncs/people.yaml", 7)
