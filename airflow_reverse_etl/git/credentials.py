"""How git proves who it is: a token, a GitHub App or an SSH key, in git's environment for one call and nowhere else.

A token is answered by a credential helper that is bound to the repository's host, so a redirect or a submodule on
another host never sees it; it is on no command line, in no URL and in no file. A key written into the connection is in
a file of mode 0600 inside a folder of mode 0700 for as long as git runs. Facts: git-credential(7), git-config(7)
(``GIT_CONFIG_COUNT``, git 2.31 or newer), ssh(1) (``SSH_ASKPASS_REQUIRE``, OpenSSH 8.4 or newer).
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
from urllib.parse import quote, urlsplit

from airflow_reverse_etl.errors import CredentialsError
from airflow_reverse_etl.git.github_app import GitHubApp

#: What ssh(1) calls it; nobody is there to be asked.
HOST_KEY_CHECKING = {"yes": "yes", "ask": "yes", "accept-new": "accept-new", "no": "no", "off": "no"}

_HELPER = """!f() { test "$1" = get && printf 'username=%s\\npassword=%s\\n' "$RETL_GIT_USER" "$RETL_GIT_TOKEN"; }; f"""
_ASKPASS = """#!/bin/sh\nprintf '%s\\n' "$RETL_SSH_PASSPHRASE"\n"""

# What the content of a repository, or the worker's own git configuration, could otherwise make git do.
_SAFE_CONFIG = {
    "core.symlinks": "false",  # a link out of the tree becomes a small text file
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
    """Who git is towards one host. ``repr`` shows no secret. With nothing set, git goes as the worker's user.

    :param user: user name for https; default: the one the host expects beside a token.
    :param token: password or access token for https.
    :param app: GitHub App to get a token from, instead of ``token``.
    :param ca_certificates: of the authorities that the host's certificate may come from: PEM text, or a file's path.
    :param proxy: URL of an HTTP proxy for https; default: the worker's own settings.
    :param private_key: SSH private key, its text. Not together with ``key_file``.
    :param key_file: path of an SSH private key.
    :param passphrase: of either key.
    :param known_hosts: lines of a known_hosts file. Neither this nor ``known_hosts_file``: the worker user's own.
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
            raise CredentialsError("both private_key and key_file are given", todo="keep one of them")
        if self.host_key_checking not in HOST_KEY_CHECKING:
            raise CredentialsError(
                f"strict_host_key_checking is {self.host_key_checking!r}",
                todo=f"use one of {', '.join(HOST_KEY_CHECKING)}",
            )
        if any(re.search(r"[\x00-\x1f]", text) for text in (self.user or "", self.token or "")):
            raise CredentialsError("user name or token holds a line break", todo="paste it again, as one line")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must never be shown, longest first."""
        proxy = urlsplit(self.proxy).password if self.proxy else None
        found = [s for s in (self.token, self.passphrase, self.private_key, proxy) if s]
        return tuple(sorted({*found, *(quote(s, safe="") for s in found)}, key=len, reverse=True))

    def for_url(self, url: str) -> Credentials:
        """The same with the App's token for this repository, got from GitHub where there is none that still holds."""
        if not self.app:
            return self
        with self.verify() as verify:
            token = self.app.token(url, verify=verify, proxy=self.proxy)
        return replace(self, user="x-access-token", token=token, app=None)

    @contextmanager
    def verify(self) -> Iterator[bool | str]:
        """What requests is told to trust the host's certificate by; a file behind it is gone when the context ends."""
        with tempfile.TemporaryDirectory(prefix="reverse_etl-ca-") as folder:
            yield self._ca_file(Path(folder)) or True

    @contextmanager
    def environment(self, url: str) -> Iterator[dict[str, str]]:
        """Environment variables for git to reach ``url``; files behind them are gone when the context ends."""
        with tempfile.TemporaryDirectory(prefix="reverse_etl-git-") as name:
            folder = Path(name)
            if urlsplit(url).scheme in ("http", "https"):
                yield {**_SAFE_ENVIRONMENT, **self._web_environment(url, folder)}
            else:
                yield {**_SAFE_ENVIRONMENT, **_git_config(_SAFE_CONFIG), **self._ssh_environment(folder)}

    def key_trouble(self, environment: Mapping[str, str]) -> str:
        """What ssh-keygen says against the key: ssh itself tells a wrong passphrase as a plain refusal."""
        command = shlex.split(environment.get("GIT_SSH_COMMAND", ""))
        if "-i" not in command:
            return ""
        key = command[command.index("-i") + 1]
        passed = {**environment, "PATH": os.environ.get("PATH", os.defpath)}
        done = subprocess.run(
            ["ssh-keygen", "-y", "-f", key],
            env=passed,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # or it would ask on a terminal, where there is one
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stderr if done.returncode else ""

    def _web_environment(self, url: str, folder: Path) -> dict[str, str]:
        config = {**_SAFE_CONFIG, **({"http.proxy": self.proxy} if self.proxy else {})}
        ca_file = self._ca_file(folder)
        trust = {"GIT_SSL_CAINFO": ca_file} if ca_file else {}  # a variable of the worker's would beat a setting
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
                "the file with certificate authorities is not on this worker",
                todo="place it on every worker, or put its text into ca_certificates in the connection's extra",
                file=text,
            )
        return text or None

    def _ssh_environment(self, folder: Path) -> dict[str, str]:
        environment = {}
        if self.passphrase:
            askpass = _private_file(folder / "askpass", _ASKPASS, mode=0o700)
            # DISPLAY: versions before 8.4 only ask when there is one.
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
            key = str(_private_file(folder / "key", _normalised_key(self.private_key)))
        if key:
            command += ["-i", key]
            options["IdentitiesOnly"] = "yes"
        if self.known_hosts:
            options["UserKnownHostsFile"] = str(_private_file(folder / "known_hosts", self.known_hosts.strip() + "\n"))
        if self.ssh_port:
            command += ["-p", str(self.ssh_port)]
        return command + [part for name, value in options.items() if value for part in ("-o", f"{name}={value}")]


def default_user(host: str, token: str) -> str:
    """The user name that the host expects beside an access token (vendors' documentation; GitHub takes any)."""
    if "bitbucket" in host:  # Atlassian's API tokens begin so; repository access tokens do not
        return "x-bitbucket-api-token-auth" if token.startswith("ATATT") else "x-token-auth"
    return "oauth2" if "gitlab" in host else "x-access-token"


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """The text without secrets, and without user names and passwords inside URLs."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return re.sub(r"(?<=://)[^/\s@]*@", "***@", text)


def _git_config(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as environment variables: above every configuration file, and on no command line."""
    numbered = enumerate(settings.items())
    pairs = {
        f"GIT_CONFIG_{part}_{n}": text
        for n, item in numbered
        for part, text in zip(("KEY", "VALUE"), item, strict=True)
    }
    return {"GIT_CONFIG_COUNT": str(len(settings)), **pairs}


def _normalised_key(key: str) -> str:
    """A key as ssh wants it: connection forms and JSON often turn its line ends into CRLF or a literal ``\\n``."""
    text = key.replace("\\n", "\n").replace("\r\n", "\n").strip() + "\n"
    if not text.startswith("-----BEGIN "):
        raise CredentialsError(
            "the SSH private key is not a PEM or OpenSSH key",
            todo="paste the whole file, from -----BEGIN to the end; the public key (.pub) does not help here",
        )
    return text


def _private_file(path: Path, text: str, *, mode: int = 0o600) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    return path
