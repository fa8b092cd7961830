"""Messages of git and ssh become errors that say what to do. Texts: git 2.39, OpenSSH 9.2 and the hosts."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    RepositoryNotFoundError,
    TryLaterError,
    UnreachableError,
)
from airflow_reverse_etl.git.credentials import Credentials, default_user, scrub
from airflow_reverse_etl.git.errors import git_error
from airflow_reverse_etl.http.auth.signatures import restored_pem

SEEN = [
    ("fatal: unable to access 'https://h/x/': Could not resolve host: h", UnreachableError, "proxy"),
    (
        "fatal: unable to access 'https://h/x/': SSL certificate problem: self-signed",
        UnreachableError,
        "ca_certificates",
    ),
    ("fatal: could not read Username for 'https://h': terminal prompts disabled", CredentialsError, "password"),
    ("remote: Invalid username or token.\nfatal: Authentication failed for 'https://h/x/'", CredentialsError, "SSO"),
    ("fatal: unable to access 'https://h/x/': The requested URL returned error: 403", CredentialsError, "read access"),
    (
        "remote: Write access to repository not granted.\nfatal: unable to access 'https://h/x/': returned error: 403",
        CredentialsError,
        "fine-grained token must also list the repository",
    ),
    ("remote: Repository not found.\nfatal: repository 'https://h/x/' not found", RepositoryNotFoundError, "private"),
    ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", RepositoryNotFoundError, "URL"),
    ('Load key "/k": bad permissions\ngit@h: Permission denied (publickey).', CredentialsError, "chmod 600"),
    ('Load key "/k": error in libcrypto\ngit@h: Permission denied (publickey).', CredentialsError, "whole private key"),
    ('Load key "/k": incorrect passphrase supplied to decrypt private key', CredentialsError, "private_key_passphrase"),
    ("Host key verification failed.\nfatal: Could not read from remote repository.", CredentialsError, "ssh-keyscan"),
    ("git@h: Permission denied (publickey).\nfatal: Could not read from remote", CredentialsError, "deploy key"),
    ("fatal: transport 'ext' not allowed", ConfigurationError, "allow_protocols"),
    ("fatal: detected dubious ownership in repository at '/srv/x'", ConfigurationError, "own the folder"),
    (
        "fatal: unable to access 'https://h/': The requested URL returned error: 502",
        UnreachableError,
        "try again later",
    ),
    ("fatal: write error: No space left on device\nfatal: index-pack failed", TryLaterError, "make space"),
    ("an unknown message", UnreachableError, "git's words"),
]


@pytest.mark.parametrize(("stderr", "error", "todo"), SEEN)
def test_messages_become_errors_that_say_what_to_do(stderr: str, error: type[Exception], todo: str) -> None:
    raised = git_error(stderr, connection="git_dbt")
    assert type(raised) is error
    assert todo in raised.todo
    assert "git_dbt" in str(raised)


@pytest.mark.parametrize(
    "stderr",
    [
        "remote: Write access to repository not granted.\nfatal: unable to access 'https://h/x/': returned error: 403",
        "fatal: unable to access 'https://h/x/': The requested URL returned error: 403",
    ],
)
def test_the_advice_depends_on_the_command_that_failed(stderr: str) -> None:
    assert "write role in the repository's settings" in git_error(stderr, command="push").todo
    assert "write role" not in git_error(stderr, command="fetch").todo


def test_general_advice_of_git_is_left_out() -> None:
    text = "@@@@\nPermission denied (publickey).\nPlease make sure you have the correct access rights\n\nhint: x"
    assert git_error(text).what == "the host refused the SSH key: Permission denied (publickey)."


# Without the asterisk, which replaces secrets, and without pieces of the URL that the test writes around them.
PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="*")
SECRETS = st.text(PRINTABLE, min_size=8, max_size=30).filter(lambda secret: secret not in "https://user:@host/x")


@given(SECRETS, st.text(max_size=20), st.text(max_size=20))
def test_scrubbed_text_holds_no_secret(secret: str, before: str, after: str) -> None:
    """The secret appears as it is, quoted for a URL, and as a URL's password."""
    secrets = Credentials(token=secret).secrets
    text = scrub(f"{before}{secret}{after} {quote(secret, safe='')} https://user:{secret}@host/x", secrets)
    assert secret not in text
    assert quote(secret, safe="") not in text
    assert "user" not in text.rpartition("https://")[2]


@pytest.mark.parametrize("user", ["x-access-token", "oauth2", "a", "ab", ""])
def test_a_header_that_a_host_repeats_shows_no_secret(user: str) -> None:
    token = "glpat-s3cr3t/T0ken+"
    encoded = b64encode(f"{user}:{token}".encode()).decode()
    said = f"remote: bad header Authorization: Basic {encoded} ({encoded})\nAuthorization: Bearer {token}"
    shown = scrub(said, Credentials(token=token).secrets)
    assert all(encoded[start : start + 8] not in shown for start in range(16, len(encoded) - 8))
    assert token not in shown


def test_a_line_of_a_private_key_is_a_secret() -> None:
    line = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"
    key = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\n-----END OPENSSH PRIVATE KEY-----\n"
    assert scrub(f"Load key: {line}", Credentials(private_key=key).secrets) == "Load key: ***"


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "pasted"),
    [
        *product(("openssh", "pem", "encrypted"), ("blanks", "two characters", "CRLF")),
        # Without anything between them, nothing would tell where a header of an encrypted key ends.
        *product(("openssh", "pem"), ("nothing",)),
    ],
)
def test_a_key_pasted_into_one_line_works(tmp_path: Path, kind: str, pasted: str) -> None:
    options = {"openssh": [], "pem": ["-m", "PEM"], "encrypted": ["-m", "PEM", "-t", "rsa"]}[kind]
    passphrase = "open sesame" if kind == "encrypted" else ""
    command = ["ssh-keygen", "-q", "-b", "2048", "-t", "rsa", "-N", passphrase, *options, "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    text = (tmp_path / "key").read_text()
    breaks = {"blanks": " ", "nothing": "", "two characters": "\\n", "CRLF": "\r\n"}
    (tmp_path / "pasted").write_text(restored_pem(text.replace("\n", breaks[pasted])))
    (tmp_path / "pasted").chmod(0o600)
    read = ["ssh-keygen", "-y", "-P", passphrase, "-f", str(tmp_path / "pasted")]
    public = subprocess.run(read, check=True, capture_output=True, text=True).stdout
    assert public.split()[:2] == (tmp_path / "key.pub").read_text().split()[:2]


@pytest.mark.parametrize(
    ("host", "token", "user"),
    [
        ("github.com", "ghp_x", "x-access-token"),
        ("git.example.com", "x", "x-access-token"),
        ("gitlab.com", "glpat-x", "oauth2"),
        ("gitlab.example.com", "x", "oauth2"),
        ("bitbucket.org", "ATCTT3x", "x-token-auth"),
        ("bitbucket.org", "ATATT3x", "x-bitbucket-api-token-auth"),
    ],
)
def test_user_name_that_hosts_expect_with_a_token(host: str, token: str, user: str) -> None:
    assert default_user(host, token) == user
