"""The check told to a Git host, from the Airflow connection to what the host recorded.

Git and API are one https server with a certificate of its own authority, as on an Enterprise host; Bitbucket, which has
no such hosts, is reached by its real names through a proxy. The projects' manifests are given: dbt is tested elsewhere.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_reverse_etl.check.reports.markdown import MARKER
from airflow_reverse_etl.cli.main import main
from airflow_reverse_etl.compat import AirflowFailException
from airflow_reverse_etl.git import github_app
from airflow_reverse_etl.operators.dbt_check import DbtModelCheckOperator
from airflow_reverse_etl.operators.dbt_task import DbtTask
from tests.check import hosts
from tests.check.hosts import TOKEN, Host
from tests.dbt.projects import keyed, manifest, model
from tests.git.github import APP, PEM, GitHub
from tests.git.servers import HttpServer, Origin, certificate, connect_proxy, git, http_server

pytestmark = pytest.mark.airflow

COLUMNS = [f"c{n}" for n in range(60)]
SYNC = (
    "name: people\nmodel: customers\nsource: warehouse\nprimary_key: id\ndestination: {type: http}\nmapping:\n"
    + "".join(f"  {name}: {name}\n" for name in COLUMNS)
)
PREFIX = {hosts.github: "/api/v3", hosts.gitlab: "/api/v4", hosts.bitbucket: "/2.0"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """``acme/shop.git``: ``main`` with 60 columns that a sync uses, ``branch`` without any of them."""
    origin = Origin.create(tmp_path / "git" / "acme")
    for branch, columns in (("branch", []), ("main", COLUMNS)):
        sql = "select " + ", ".join(f"1 as {name}" for name in ["id", *columns])
        text = json.dumps(manifest(model("customers", sql), *keyed("customers")))
        origin.commit({"dbt_project.yml": "name: shop", "manifest.json": text})
        origin.push(f"HEAD:refs/heads/{branch}")
    origin.bare = origin.bare.rename(origin.bare.with_name("shop.git"))
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "people.yaml").write_text(SYNC)
    monkeypatch.setenv("AIRFLOW__REVERSE_ETL__CHECKOUT_FOLDER", str(tmp_path / "checkouts"))
    monkeypatch.setattr(
        DbtTask, "_manifest", lambda _, folder, *__, **___: json.loads((folder / "manifest.json").read_bytes())
    )
    github_app._tokens.clear()
    return origin


@contextmanager
def serving(shop: Origin, kind: Callable[..., Any], host: Host, app: GitHub | None = None) -> Iterator[HttpServer]:
    """Git and API of one host. With an App, its tokens are the only ones."""
    host.sha, folder = git(shop.bare, "rev-parse", "branch"), shop.bare.parents[1]
    if app:
        host.valid = app.valid

    def respond(method: str, url: str, headers: Message, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if app and ("/installation" in url):
            found: Any = app.answer(method, url, headers, json.loads(data) if data else None)
        else:
            found = hosts.answer(kind, host, method, url.removeprefix(PREFIX[kind]), headers, data)
        return found[0], list((found[2] if len(found) == 3 else {}).items()), json.dumps(found[1]).encode()

    pem = certificate(folder / "own.pem", "bitbucket.org", "api.bitbucket.org")
    user = {hosts.gitlab: "oauth2", hosts.bitbucket: "x-token-auth"}.get(kind, "x-access-token")
    with http_server(folder, tls=pem, api=respond, user=user, valid=host.valid) as server:
        host.url = f"https://127.0.0.1:{server.port}{PREFIX[kind]}"
        yield server


Check = Callable[..., dict[str, Any]]
Logged = Callable[[], str]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Logged:
    """Everything that was logged, by Airflow's logging too."""
    caplog.set_level(logging.DEBUG)
    return lambda: "".join([caplog.text, *capsys.readouterr()])


@pytest.fixture
def check(shop: Origin, tmp_path: Path, add_connection: Callable[..., None]) -> Check:
    """Run the operator with a connection of these fields; what it left in XCom."""

    def run(kind: Callable[..., Any], *, head: str = "branch", **fields: Any) -> dict[str, Any]:
        extra = {"ca_certificates": str(tmp_path / "git" / "own.crt"), **fields.pop("extra", {})}
        add_connection("git_dbt", conn_type="git", extra=extra, **fields)
        task = DbtModelCheckOperator(
            task_id="check",
            git_conn_id="git_dbt",
            base="main",
            head=head,
            syncs=str(tmp_path / "syncs"),
            report=kind.__name__,
            pull_request="7",
            deps=False,
        )
        left: dict[str, Any] = {}
        context: Any = {"ti": SimpleNamespace(xcom_push=lambda **pushed: left.update(pushed))}
        try:
            task.execute(context)
        except AirflowFailException:
            assert left["value"]["conclusion"] == "failed"
        return dict(left["value"])

    return run


def app_fields(server: HttpServer, **extra: Any) -> dict[str, Any]:
    return {"host": server.url("acme/shop.git"), "extra": {"github_app_id": APP, "private_key": PEM, **extra}}


def test_a_github_app_from_its_connection_to_the_check_run(shop: Origin, check: Check, logged: Logged) -> None:
    """On an Enterprise host: a signed request for a token of one repository, a clone with it, a check run with all
    annotations, 50 for each request, and one comment however often it is run."""
    app, host = GitHub(), Host(comments=dict.fromkeys(range(1, 6), "nice work"))
    with serving(shop, hosts.github, host, app) as server:
        for head in ("branch", "branch", "main"):
            host.sha = git(shop.bare, "rev-parse", head)
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


def test_a_token_that_expires_between_the_clone_and_the_report_is_renewed(
    shop: Origin, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, host, clock = GitHub(life=600), Host(), time.time
    parse = DbtTask._manifest

    def slow_parse(*arguments: Any, **more: Any) -> Any:
        app.clock += 301
        monkeypatch.setattr(github_app, "time", SimpleNamespace(time=lambda: clock() + app.clock))
        return parse(*arguments, **more)

    monkeypatch.setattr(DbtTask, "_manifest", slow_parse)
    with serving(shop, hosts.github, host, app) as server:
        check(hosts.github, **app_fields(server))
        assert not app.valid(app.tokens[0])
        assert app.valid(app.tokens[-1])
    assert host.runs[0]["conclusion"] == "failure"


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (["checks"], ["wrote the commit status: failure", "checks=write", "wrote a comment"]),
        (["pull_requests"], ["wrote the check run: failure", "could not write the comment", "pull_requests=write"]),
        (["checks", "statuses"], ["Could not report to github", "statuses=write"]),
    ],
)
def test_a_missing_permission_is_named_and_what_is_allowed_is_done(
    shop: Origin, check: Check, logged: Logged, lacks: list[str], said: list[str]
) -> None:
    """The check's own outcome is the same."""
    host = Host(lacks=lacks)
    with serving(shop, hosts.github, host, GitHub()) as server:
        assert check(hosts.github, **app_fields(server))["conclusion"] == "failed"
    log = logged()
    assert [words for words in said if words not in log] == []
    assert (bool(host.runs), bool(host.statuses)) == ("checks" not in lacks, lacks == ["checks"])


def test_a_gitlab_token_from_its_connection_to_the_note(shop: Origin, check: Check) -> None:
    host = Host(comments={1: "nice work", 2: f"{MARKER}\nof a token that was replaced"}, foreign=[2])
    with serving(shop, hosts.gitlab, host) as server:
        for head in ("branch", "branch", "main"):
            host.sha = git(shop.bare, "rev-parse", head)
            check(hosts.gitlab, head=head, host=server.url("acme/shop.git"), login="oauth2", password=TOKEN)
    assert [status["state"] for status in host.statuses] == ["failed", "success"]
    assert list(host.comments) == [1, 2, 3]
    assert "nothing changes" in host.comments[3]


def test_a_bitbucket_token_from_its_connection_to_the_build_status(shop: Origin, check: Check) -> None:
    """Through the connection's proxy, which wants a password, to names that the certificate is for."""
    host = Host(comments={1: "nice work"})
    with serving(shop, hosts.bitbucket, host) as server:
        host.url = "https://api.bitbucket.org/2.0"
        ports = dict.fromkeys(["bitbucket.org", "api.bitbucket.org"], server.port)
        with connect_proxy(ports, password="pr0xy-s3cret") as proxy:
            for head in ("branch", "branch", "main"):
                host.sha = git(shop.bare, "rev-parse", head)
                url = "https://bitbucket.org/acme/shop.git"
                check(hosts.bitbucket, head=head, host=url, password=TOKEN, extra={"proxy": proxy})
    (status,) = host.statuses
    assert (status["state"], status["key"]) == ("SUCCESSFUL", "reverse-etl-check")
    assert status["url"] == f"https://bitbucket.org/acme/shop/commits/{host.sha}"
    assert list(host.comments) == [1, 2]
    assert "nothing changes" in host.comments[2]


def test_the_command_line_reports_with_an_app(
    shop: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a CI system that has no token of GitHub's. Syncs in the repository are shown at their lines."""
    app, host = GitHub(), Host()
    monkeypatch.chdir(tmp_path)
    for name in ("main", "branch"):
        (tmp_path / f"{name}.json").write_text(git(shop.bare, "show", f"{name}:manifest.json"))
    event = tmp_path / "event.json"
    with serving(shop, hosts.github, host, app) as server:
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
