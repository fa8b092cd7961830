"""A connection of type ``git`` becomes a repository; incomplete ones say what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_reverse_etl.dbt.credentials import Credentials
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.hooks.git import GitRepositoryHook

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
        ({"host": "https://h/x", "extra": {"github_app_id": "1"}}, "use a token"),
        ({"host": "git@h:x", "extra": {"private_key": "k", "key_file": "f"}}, "keep one of them"),
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
