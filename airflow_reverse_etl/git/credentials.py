"""Credentials for git: a token, a GitHub App or an SSH key, placed in git's environment for one call only.

A credential helper bound to the repository's host supplies the token, so a redirect or a submodule on another host
never sees the token. The token appears on no command line, in no URL and in no file. A private key from the connection
is written to a file of mode 0600 inside a folder of mode 0700, and deleted when git ends. Sources: git-credential(7),
git-config(7) (``GIT_CONFIG_COUNT``, git 2.31 or newer), ssh(1) (``SSH_ASKPASS_REQUIRE``, OpenSSH 8.4 or newer).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.git.github_app import GitHubApp
from airflow_reverse_etl.http.auth.signatures import restored_pem
from airflow_reverse_etl.http.redaction import secret_forms

#: Setting of the connection → value of ssh's StrictHostKeyChecking. ``ask`` becomes ``yes``: nobody could answer.
HOST_KEY_CHECKING = {"yes": "yes", "ask": "yes", "accept-new": "accept-new", "no": "no", "off": "no"}

_HELPER = """!f() { test "$1" = get && printf 'username=%s\\npassword=%s\\n' "$RETL_GIT_USER" "$RETL_GIT_TOKEN"; }; f"""
_ASKPASS = """#!/bin/sh\nprintf '%s\\n' "$RETL_SSH_PASSPHRASE"\n"""

# Closes what a repository's content, or the worker's own git configuration, could otherwise make git do.
_SAFE_CONFIG = {
    "core.symlinks": "false",  # a link that leaves the tree becomes a small text file
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "transfer.credentialsInUrl": "die",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.version": "2",
}
_SAFE_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_SSH_VARIANT": "ssh",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for one Git host. ``repr`` shows no secret. With nothing set, git acts as the worker's user.

    :param user: user name for https; default: the name that the host expects with a token.
    :param token: password or access token for https.
    :param app: GitHub App that issues a token, instead of ``token``.
    :param ca_certificates: certificate authorities to trust for the host: PEM text, or a file's path.
    :param proxy: URL of an HTTP proxy for https; default: the worker's own settings.
    :param private_key: text of an SSH private key. Not together with ``key_file``.
    :param key_file: path of an SSH private key.
    :param passphrase: passphrase of either key.
    :param known_hosts: lines of a known_hosts file; default without ``known_hosts_file``: the worker user's own file.
    :param host_key_checking: ``yes`` (host must be known), ``accept-new`` (trust on first use), or ``no``.
    """

    user: str | None = None
    token: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    key_file: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    known_hosts: str | None = None
    known_hosts_file: str | None = None
    host_key_checking: str = "yes"
    ssh_port: int | None = None
    ssh_config_file: str | None = None
    host_proxy_cmd: str | None = None
    app: GitHubApp | None = None
    ca_certificates: str | None = None
    proxy: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.private_key and self.key_file:
            raise CredentialsError("both private_key and key_file are given", todo="remove one of them")
        if self.host_key_checking not in HOST_KEY_CHECKING:
            raise CredentialsError(
                f"strict_host_key_checking is {self.host_key_checking!r}",
                todo=f"use one of {', '.join(HOST_KEY_CHECKING)}",
            )
        if any(re.search(r"[\x00-\x1f]", text) for text in (self.user or "", self.token or "")):
            raise CredentialsError(
                "the user name or token contains a line break",
                todo="paste the user name and the token as one line each",
            )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return everything that must never be shown; :func:`scrub` removes other forms of it as well."""
        proxy_password = urlsplit(self.proxy).password if self.proxy else None
        candidates = (self.token, self.passphrase, self.private_key, proxy_password)
        return tuple(secret for secret in candidates if secret)

    def for_url(self, url: str) -> Credentials:
        """Return the credentials with the App's token for a repository. Asks GitHub unless a valid token is cached."""
        if not self.app:
            return self
        with self.verify() as verify:
            token = self.app.token(url, verify=verify, proxy=self.proxy)
        return replace(self, user="x-access-token", token=token, app=None)

    @contextmanager
    def verify(self) -> Iterator[bool | str]:
        """Yield the value for requests' ``verify``. A temporary CA file is deleted when the context exits."""
        with tempfile.TemporaryDirectory(prefix="reverse_etl-ca-") as folder:
            yield self._ca_file(Path(folder)) or True

    @contextmanager
    def environment(self, url: str) -> Iterator[dict[str, str]]:
        """Yield environment variables for git to reach ``url``. Temporary files are deleted when the context exits."""
        with tempfile.TemporaryDirectory(prefix="reverse_etl-git-") as name:
            folder = Path(name)
            if urlsplit(url).scheme in ("http", "https"):
                yield {**_SAFE_ENVIRONMENT, **self._web_environment(url, folder)}
            else:
                yield {**_SAFE_ENVIRONMENT, **_git_config(_SAFE_CONFIG), **self._ssh_environment(folder)}

    def key_problem(self, environment: Mapping[str, str]) -> str:
        """Return ssh-keygen's error for the key, if any. ssh itself reports a wrong passphrase as a plain refusal."""
        command = shlex.split(environment.get("GIT_SSH_COMMAND", ""))
        if "-i" not in command:
            return ""
        key = command[command.index("-i") + 1]
        passed = {**environment, "PATH": os.environ.get("PATH", os.defpath)}
        done = subprocess.run(
            ["ssh-keygen", "-y", "-f", key],
            env=passed,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # without a terminal, ssh-keygen cannot prompt
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stderr if done.returncode else ""

    def _web_environment(self, url: str, folder: Path) -> dict[str, str]:
        config = dict(_SAFE_CONFIG)
        if self.proxy:
            config["http.proxy"] = self.proxy
        # GIT_SSL_CAINFO, not http.sslCAInfo: a variable in the worker's environment would override the setting.
        ca_file = self._ca_file(folder)
        trust = {"GIT_SSL_CAINFO": ca_file} if ca_file else {}
        if not self.token:
            return {**_git_config(config), **trust}
        parts = urlsplit(url)
        config[f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}.helper"] = _HELPER
        user = self.user or default_user(parts.hostname or "", self.token)
        return {**_git_config(config), **trust, "RETL_GIT_USER": user, "RETL_GIT_TOKEN": self.token}

    def _ca_file(self, folder: Path) -> str | None:
        text = (self.ca_certificates or "").replace("\\n", "\n")
        if "-----BEGIN " in text:
            return str(_private_file(folder / "ca.pem", text.strip() + "\n"))
        if text and not Path(text).is_file():
            raise CredentialsError(
                "the file of certificate authorities was not found on this worker",
                todo="place the file on every worker, or put its text into ca_certificates in the connection's extra",
                file=text,
            )
        return text or None

    def _ssh_environment(self, folder: Path) -> dict[str, str]:
        environment = {}
        if self.passphrase:
            askpass = _private_file(folder / "askpass", _ASKPASS, mode=0o700)
            # OpenSSH before 8.4 uses SSH_ASKPASS only when DISPLAY is set.
            environment = {
                "SSH_ASKPASS": str(askpass),
                "SSH_ASKPASS_REQUIRE": "force",
                "DISPLAY": ":0",
                "RETL_SSH_PASSPHRASE": self.passphrase,
            }
        return {**environment, "GIT_SSH_COMMAND": shlex.join(self._ssh_command(folder))}

    def _ssh_command(self, folder: Path) -> list[str]:
        options = {
            "StrictHostKeyChecking": HOST_KEY_CHECKING[self.host_key_checking],
            "PreferredAuthentications": "publickey",  # a passphrase is never offered as the account's password
            "ConnectTimeout": "30",
            "BatchMode": None if self.passphrase else "yes",
            "ProxyCommand": self.host_proxy_cmd,
            "UserKnownHostsFile": self.known_hosts_file,
        }
        command = ["ssh", "-F", self.ssh_config_file or os.devnull]
        key = self.key_file
        if self.private_key:
            key = str(_private_file(folder / "key", _normalize_key(self.private_key)))
        if key:
            command += ["-i", key]
            options["IdentitiesOnly"] = "yes"
        if self.known_hosts:
            options["UserKnownHostsFile"] = str(_private_file(folder / "known_hosts", self.known_hosts.strip() + "\n"))
        if self.ssh_port:
            command += ["-p", str(self.ssh_port)]
        for name, value in options.items():
            if value:
                command += ["-o", f"{name}={value}"]
        return command


def default_user(host: str, token: str) -> str:
    """Return the user name that the host's documentation demands with an access token. GitHub accepts any name."""
    if "bitbucket" in host:
        # Atlassian's API tokens begin with ATATT; repository access tokens do not.
        return "x-bitbucket-api-token-auth" if token.startswith("ATATT") else "x-token-auth"
    return "oauth2" if "gitlab" in host else "x-access-token"


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Remove secrets from a text, in any form, with user names and passwords of URLs and headers."""
    found = {form for secret in secrets for form in secret_forms(secret, text) if len(form) > 2}
    for form in sorted(found, key=len, reverse=True):
        text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
    # A header holds the user's name, too, encoded together with the token.
    text = re.sub(r"\b(Basic|Bearer|token)(\s+|%20)[\w+/=.*~%-]{8,}", r"\1 ***", text, flags=re.IGNORECASE)
    return re.sub(r"(?<=://)[^/\s@]*@", "***@", text)


def _git_config(settings: Mapping[str, str]) -> dict[str, str]:
    """Return git settings as environment variables, which override configuration files and show on no command line."""
    environment = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        environment[f"GIT_CONFIG_KEY_{number}"] = name
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def _normalize_key(key: str) -> str:
    """Restore the line ends that ssh expects."""
    text = restored_pem(key)
    if not text.startswith("-----BEGIN "):
        raise CredentialsError(
            "the SSH private key is not a PEM or OpenSSH key",
            todo="paste the whole private key file, from -----BEGIN to the end, not the public key (.pub)",
        )
    return text


def _private_file(path: Path, text: str, *, mode: int = 0o600) -> Path:
    """Write a new file that nobody else can read from its first moment on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    return path
