"""A GitHub App's token is requested with a valid signature, cached, renewed in time, and never shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    RepositoryNotFoundError,
    ReverseEtlError,
    UnreachableError,
)
from airflow_reverse_etl.git import github_app
from airflow_reverse_etl.git.credentials import Credentials
from airflow_reverse_etl.git.github_app import GitHubApp, api_and_repository
from airflow_reverse_etl.git.repository import Repository
from tests.git.github import APP, INSTALLATION, PEM, GitHub, github
from tests.git.servers import HttpServer, Origin, git


@pytest.fixture
def host() -> Iterator[GitHub]:
    github_app._tokens.clear()
    with github() as host:
        yield host


def test_installation_is_looked_up_and_the_token_kept(host: GitHub) -> None:
    """Many tasks in one process ask GitHub once, for a token that is good for this repository only."""
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: GitHubApp(APP, PEM).token(host.url), range(8)))
    assert found == {"ghs_s3cret0"}
    assert host.asked == [
        "GET /api/v3/repos/acme/shop/installation", f"POST /api/v3/app/installations/{INSTALLATION}/access_tokens",
    ]  # fmt: skip
    assert host.bodies == [{"repositories": ["shop"]}]


def test_known_installation_is_not_looked_up(host: GitHub) -> None:
    assert GitHubApp(APP, PEM, str(INSTALLATION), narrow=False).token(host.url)
    assert [line.split()[0] for line in host.asked] == ["POST"]
    assert host.bodies == [{}]


@pytest.mark.parametrize(("life", "asked"), [(360, 1), (290, 2)])
def test_renewed_five_minutes_before_it_expires(host: GitHub, life: float, asked: int) -> None:
    host.life = life
    assert len({GitHubApp(APP, PEM).token(host.url) for _ in range(2)}) == asked


@pytest.mark.parametrize("mangle", [str, lambda key: key.replace("\n", "\\n"), lambda key: key.replace("\n", "\r\n")])
def test_key_as_connection_forms_mangle_it(host: GitHub, mangle: type[str]) -> None:
    assert GitHubApp(APP, mangle(PEM)).token(host.url)


@pytest.mark.parametrize(
    ("app", "name", "fault", "error", "words"),
    [
        (GitHubApp("999", PEM), "acme/shop", None, CredentialsError, "belong to one App"),
        (GitHubApp(APP, "no key"), "acme/shop", None, CredentialsError, "whole .pem file"),
        (GitHubApp(APP, PEM), "acme/other", None, RepositoryNotFoundError, "not installed"),
        (GitHubApp(APP, PEM, "1"), "acme/shop", None, RepositoryNotFoundError, "github_installation_id"),
        (GitHubApp(APP, PEM, "678"), "acme/other", None, RepositoryNotFoundError, "at least one repository"),
        (GitHubApp(APP, PEM), "acme/shop", (403, "This installation has been suspended"), CredentialsError, "suspend"),
        (GitHubApp(APP, PEM), "acme/shop", (403, "API rate limit exceeded"), UnreachableError, "try again later"),
        (GitHubApp(APP, PEM), "acme/shop", (502, "Bad gateway"), UnreachableError, "502"),
    ],
)
def test_refusals_say_what_to_do(
    host: GitHub, app: GitHubApp, name: str, fault: tuple[int, str] | None, error: type[ReverseEtlError], words: str
) -> None:
    host.fault = fault
    with pytest.raises(error, match=words) as raised:
        app.token(host.url.replace("acme/shop", name))
    assert "PRIVATE KEY" not in f"{raised.value!s}{raised.value!r}{app!r}"
    assert "no key" not in f"{raised.value!s}{app!r}"


def test_unreachable_host() -> None:
    """No message shows the proxy's password."""
    with pytest.raises(UnreachableError, match="did not answer") as raised:
        GitHubApp(APP, PEM).token("https://127.0.0.1:9/acme/shop", proxy="http://me:pa55word@127.0.0.1:9")
    assert "pa55word" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://github.com/acme/shop.git", "https://api.github.com"),
        ("https://acme.ghe.com/acme/shop", "https://api.acme.ghe.com"),
        ("https://git.acme.org:8443/acme/shop/", "https://git.acme.org:8443/api/v3"),
    ],
)
def test_api_of_each_kind_of_host(url: str, api: str) -> None:
    assert api_and_repository(url) == (api, "acme", "shop")


@pytest.mark.parametrize("url", ["git@github.com:acme/shop", "https://github.com/acme", "https://github.com/a/b/c"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https URL"):
        api_and_repository(url)


def test_git_uses_the_token(
    host: GitHub, origin: Origin, http: HttpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """git sends it as user ``x-access-token``. When the host refuses the token, no message shows it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(github_app, "api_and_repository", lambda _url: api_and_repository(host.url))
    http.token = "ghs_s3cret0"
    repository = Repository(http.url(), Credentials(app=GitHubApp(APP, PEM)), allow_protocols=("http",))
    assert repository.head() == git(origin.work, "rev-parse", "HEAD")
    http.token = "another"
    with pytest.raises(CredentialsError) as raised:
        repository.head()
    for text in (str(raised.value), repr(repository), caplog.text):
        assert "ghs_" not in text
        assert "PRIVATE KEY" not in text
