"""A connection of type ``git`` becomes a repository; incomplete ones say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.git.credentials import Credentials
from airflow_reverse_etl.git.github_app import GitHubApp
from airflow_reverse_etl.hooks.git import GitRepositoryHook
from tests.git.github import APP, PEM, github
from tests.git.servers import PASSPHRASE, HttpServer, Origin, SshServer, certificate, connect_proxy, git, http_server

pytestmark = pytest.mark.airflow


def repository(add_connection: Callable[..., None], **fields: Any) -> Any:
    add_connection("git_test", conn_type="git", **fields)
    return GitRepositoryHook("git_test").get_conn()


def test_token(add_connection: Callable[..., None]) -> None:
    found = repository(add_connection, host="https://github.com/org/repo.git", login="me", password="t0ken")
    assert (found.url, found.connection) == ("https://github.com/org/repo.git", "git_test")
    assert found.credentials == Credentials(user="me", token="t0ken")
    assert "t0ken" not in repr(found)


def test_credentials_inside_the_url_are_taken_out(add_connection: Callable[..., None]) -> None:
    """The Git provider accepts them there; git must not see them."""
    found = repository(add_connection, host="https://me:t0%2Fken@host:8443/org/repo")
    assert found.url == "https://host:8443/org/repo"
    assert found.credentials == Credentials(user="me", token="t0/ken")


@pytest.mark.parametrize(
    ("own", "other", "url"),
    [
        ("https://github.com/org/repo.git", "team/other", "https://github.com/team/other"),
        ("https://github.com", "https://github.com/team/other.git", "https://github.com/team/other.git"),
        ("https://me:t0ken@github.com/org/repo", "team/a/b", "https://github.com/team/a/b"),
        ("git@host:org/repo", "team/other", "git@host:team/other"),
        ("git@host:org/repo", "git@host:team/other", "git@host:team/other"),
        ("ssh://git@host:22/org/repo", "team/other", "ssh://git@host:22/team/other"),
        ("https://github.com/org/repo", None, "https://github.com/org/repo"),
    ],
)
def test_one_connection_serves_the_repositories_of_its_host(
    add_connection: Callable[..., None], own: str, other: str | None, url: str
) -> None:
    add_connection("git_test", conn_type="git", host=own)
    assert GitRepositoryHook("git_test", other).get_conn().url == url


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("https://github.com/org/repo", "https://github.com.evil.example/org/repo"),
        ("https://github.com/org/repo", "https://github.com:x@evil.example/org/repo"),
        ("https://github.com/org/repo", "http://github.com/org/repo"),
        ("https://github.com/org/repo", "/etc/passwd"),
        ("https://github.com/org/repo", "../../x"),
        ("git@host:org/repo", "git@evil:org/repo"),
        ("git@host:org/repo", "ssh://git@host/org/repo"),
        ("ssh://git@host/org/repo", "ssh://git@host:x@evil/org/repo"),
    ],
)
def test_no_other_host_gets_the_credentials_of_a_connection(
    add_connection: Callable[..., None], own: str, other: str
) -> None:
    add_connection("git_test", conn_type="git", host=own)
    with pytest.raises(ConfigurationError, match="not on the host of the connection"):
        GitRepositoryHook("git_test", other).get_conn()


def test_every_ssh_field_of_the_git_provider(add_connection: Callable[..., None]) -> None:
    extra = {
        "key_file": "/keys/id", "private_key_passphrase": "p", "strict_host_key_checking": "accept-new",
        "known_hosts_file": "/keys/known", "ssh_config_file": "/keys/config", "host_proxy_cmd": "nc %h %p",
        "ssh_port": "2222", "private_key": "",
    }  # fmt: skip
    found = repository(add_connection, host="git@host:org/repo", extra=extra)
    assert found.credentials == Credentials(
        key_file="/keys/id", passphrase="p", host_key_checking="accept-new", known_hosts_file="/keys/known",
        ssh_config_file="/keys/config", host_proxy_cmd="nc %h %p", ssh_port=2222,
    )  # fmt: skip


def test_hosts_must_be_known_unless_said_otherwise(add_connection: Callable[..., None]) -> None:
    found = repository(
        add_connection, host="git@host:org/repo", extra={"private_key": "k", "known_hosts": "h ssh-rsa A"}
    )
    with Credentials(known_hosts="h ssh-rsa A").environment(found.url) as environment:
        assert "StrictHostKeyChecking=yes" in environment["GIT_SSH_COMMAND"]
    assert found.credentials.host_key_checking == "yes"


def test_local_repositories_only_where_allowed(add_connection: Callable[..., None]) -> None:
    with pytest.raises(ConfigurationError, match="allow_protocols"):
        repository(add_connection, host="file:///srv/repo.git")
    allowed = {"allow_protocols": ["file"]}
    assert repository(add_connection, host="file:///srv/repo.git", extra=allowed).url == "file:///srv/repo.git"
    assert repository(add_connection, host="~/repo", extra=allowed).url == str(Path("~/repo").expanduser())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "put it into host"),
        ({"host": "https://h/x/y", "extra": {"github_app_id": "1"}}, "the App's .pem"),
        ({"host": "https://h/x/y", "password": "t", "extra": {"github_app_id": "1"}}, "leave the password empty"),
        ({"host": "https://h/x/y", "extra": {"github_app_id": "1", "key_file": "/no/key"}}, "not on this worker"),
        ({"host": "git@h:x", "extra": {"private_key": "k", "key_file": "f"}}, "remove one of them"),
        ({"host": "git@h:x", "extra": {"strict_host_key_checking": "maybe"}}, "accept-new"),
        ({"host": "https://h/x", "password": "a\nb"}, "as one line"),
    ],
)
def test_what_is_missing_or_wrong(add_connection: Callable[..., None], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(CredentialsError, match=words):
        repository(add_connection, **fields)


def test_absent_connection() -> None:
    with pytest.raises(CredentialsError, match="git_nowhere"):
        GitRepositoryHook("git_nowhere").get_conn()


def test_github_app_with_the_git_providers_fields(add_connection: Callable[..., None], tmp_path: Path) -> None:
    """The key is the App's then, and no SSH key; it may be in a file."""
    (tmp_path / "app.pem").write_text("-----BEGIN RSA PRIVATE KEY-----")
    extra = {"github_app_id": 1, "github_installation_id": 2, "key_file": str(tmp_path / "app.pem")}
    found = repository(add_connection, host="https://github.com/org/repo.git", extra=extra)
    assert found.credentials == Credentials(app=GitHubApp("1", "-----BEGIN RSA PRIVATE KEY-----", "2"))
    assert "BEGIN" not in repr(found)
    with pytest.raises(ConfigurationError, match="https URL"):
        repository(add_connection, host="git@github.com:org/repo.git", extra=extra)


def test_settings_beside_the_credentials(add_connection: Callable[..., None]) -> None:
    extra = {"ca_certificates": "/ca.pem", "proxy": "http://p:1", "submodules": "true", "timeout": 5}
    found = repository(add_connection, host="https://h/org/repo", extra=extra)
    assert found.credentials == Credentials(ca_certificates="/ca.pem", proxy="http://p:1")
    assert (found.submodules, found.timeout) == (True, 5)


async def test_from_an_event_loop(add_connection: Callable[..., None]) -> None:
    add_connection("git_test", conn_type="git", host="https://h/org/repo", password="t0ken")
    assert await GitRepositoryHook("git_test").async_conn() == GitRepositoryHook("git_test").get_conn()
    with pytest.raises(CredentialsError, match="git_nowhere"):
        await GitRepositoryHook("git_nowhere").async_conn()


# -- the connection test, on real servers ----------------------------------------------------------------------------


@pytest.fixture
def tried(add_connection: Callable[..., None]) -> Callable[..., tuple[bool, str]]:
    """Test a connection over http with these fields; ``ref`` may be given."""

    def run(ref: str = "HEAD", **fields: Any) -> tuple[bool, str]:
        extra = {"allow_protocols": ["http", "ssh", "https"], **fields.pop("extra", {})}
        add_connection("git_test", conn_type="reverse_etl_git", extra=extra, **fields)
        return GitRepositoryHook("git_test").test_connection(ref)

    return run


def test_connection_over_http(origin: Origin, http: HttpServer, tried: Callable[..., tuple[bool, str]]) -> None:
    """Authentication, repository, branch, rights and host are told apart."""
    good = {"host": http.url(), "password": http.token}
    assert tried(**good)[0]
    assert "may read and push" in tried(**good)[1]
    git(origin.bare, "config", "http.receivepack", "false")
    assert tried(**good) == (True, f"HEAD is at {git(origin.work, 'rev-parse', 'HEAD')[:12]}; may read, may not push")
    for words, answer in {
        "requires a valid token": tried(host=http.url(), password="expired"),
        "the repository does not exist": tried(host=http.url("nope.git"), password=http.token),
        "no branch or tag 'nope'": tried("nope", **good),
        "did not answer": tried(host="http://127.0.0.1:9/origin.git", password="t0ken"),
    }.items():
        assert answer[0] is False
        assert words in answer[1]
        assert str(http.token) not in answer[1]
    http.status = 403
    assert "lack the permission" in tried(**good)[1]


def test_connection_to_a_host_of_ones_own_authority_behind_a_proxy(
    origin: Origin, tried: Callable[..., tuple[bool, str]], tmp_path: Path
) -> None:
    """With the right certificate and the proxy's password it goes through; each of them wrong is told by name."""
    pem = certificate(tmp_path / "own.pem", "git.acme.example")
    ours, others = pem.with_suffix(".crt").read_text(), certificate(tmp_path / "x.pem").with_suffix(".crt").read_text()
    with (
        http_server(origin.bare.parent, tls=pem, token="t0ken") as server,
        connect_proxy({"git.acme.example": server.port}, password="pa55word") as proxy,
    ):
        fields: dict[str, Any] = {"host": "https://git.acme.example/origin.git", "password": "t0ken"}
        good, said = tried(**fields, extra={"ca_certificates": ours, "proxy": proxy})
        assert good, said
        for words, extra in {
            "certificate is not trusted": {"ca_certificates": others, "proxy": proxy},
            "the proxy requires a valid user name and password": {"proxy": proxy.replace("pa55word", "wrong")},
            "did not answer": {"proxy": "http://127.0.0.1:9"},
        }.items():
            good, said = tried(**fields, extra={"ca_certificates": ours, **extra})
            assert not good
            assert words in said
            assert "pa55word" not in said


@pytest.mark.long
def test_connection_over_ssh(origin: Origin, sshd: SshServer, tried: Callable[..., tuple[bool, str]]) -> None:
    """Unknown and changed host keys, refused key, passphrase, key file, repository, branch, rights, host."""
    host = sshd.url(origin.bare)
    known = {"known_hosts": sshd.known_hosts}
    assert tried(host=host, extra={**known, "private_key": sshd.key("user")})[0]
    assert "host key is not known" in tried(host=host, extra={"private_key": sshd.key("user"), "known_hosts": "#"})[1]
    assert "refused the SSH key" in tried(host=host, extra={**known, "private_key": sshd.key("stranger")})[1]
    locked = {**known, "private_key": sshd.key("locked")}
    assert tried(host=host, extra={**locked, "private_key_passphrase": PASSPHRASE})[0]
    assert "may read and push" in tried(host=host, extra={**known, "key_file": str(sshd.folder / "user")})[1]
    forged = sshd.known_hosts.replace(sshd.key("host.pub"), sshd.key("stranger.pub"))
    right = {**known, "private_key": sshd.key("user")}
    for words, answer in {
        "the passphrase does not unlock": tried(host=host, extra={**locked, "private_key_passphrase": "wrong"}),
        "host key has changed": tried(host=host, extra={**right, "known_hosts": forged}),
        "key file was not found on this worker": tried(host=host, extra={**known, "key_file": "/no/key"}),
        "the repository does not exist": tried(host=host + "-not", extra=right),
        "no branch or tag 'nope'": tried("nope", host=host, extra=right),
        "did not answer": tried(host="ssh://git@127.0.0.1:9/x.git", extra=right),
    }.items():
        assert not answer[0]
        assert words in answer[1]


def test_connection_of_a_github_app(tried: Callable[..., tuple[bool, str]]) -> None:
    """An App that is not installed on the repository says so."""
    with github() as host:
        extra = {"github_app_id": APP, "private_key": PEM}
        good, said = tried(host=host.url.replace("shop", "other"), extra=extra)
    assert not good
    assert "not installed on this repository" in said
