"""Git repositories behind Airflow connections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_reverse_etl.compat import BaseHook, field_behaviour, form_widgets
from airflow_reverse_etl.connections import async_connection_info, connection_info
from airflow_reverse_etl.errors import ConfigurationError, CredentialsError, ReverseEtlError
from airflow_reverse_etl.provider import GIT_CONNECTION

if TYPE_CHECKING:
    from airflow_reverse_etl.git.credentials import Credentials
    from airflow_reverse_etl.git.github_app import GitHubApp
    from airflow_reverse_etl.git.repository import Repository
    from airflow_reverse_etl.sync.ports import ConnectionInfo


class GitRepositoryHook(BaseHook):
    """A connection to a Git repository, of type ``git`` or ``reverse_etl_git``.

    ``git`` has the fields of apache-airflow-providers-git. ``reverse_etl_git`` has the same fields, and its own form
    and test.

    ``host`` is the repository's URL (https, ssh or ``git@host:path``), ``login`` the user name (default: the one that
    GitHub, GitLab and Bitbucket expect next to a token), ``password`` the token. Extra:

    * ``private_key`` or ``key_file``, ``private_key_passphrase``: SSH key
    * ``known_hosts`` (lines) or ``known_hosts_file``, ``strict_host_key_checking``: ``yes`` (our default, which is
      stricter than the Git provider's), ``accept-new`` or ``no``
    * ``ssh_port``, ``ssh_config_file``, ``host_proxy_cmd``
    * ``github_app_id``, with the App's ``private_key`` or ``key_file``; ``github_installation_id`` (default: looked up)
    * ``ca_certificates``: PEM text or a file's path, for a host with a certificate of one's own authority
    * ``proxy``: URL of an HTTP proxy for https; default: the worker's ``https_proxy``
    * ``submodules``: true fetches submodules too
    * ``allow_protocols``: list; default ``["https", "ssh"]``. Add ``file`` for repositories on the worker's own disk
    * ``timeout``: seconds that one git command may take; default 300

    :param git_conn_id: Airflow connection id.
    :param repository: another repository on the connection's host, as its URL or as ``owner/name``; default: the
        connection's own. One token, key or GitHub App serves many repositories.
    """

    conn_name_attr = "git_conn_id"
    default_conn_name = "git_default"
    conn_type = GIT_CONNECTION["connection-type"]
    hook_name = GIT_CONNECTION["hook-name"]

    def __init__(self, git_conn_id: str = default_conn_name, repository: str | None = None) -> None:
        super().__init__()
        self.git_conn_id = git_conn_id
        self.repository = repository

    def get_conn(self) -> Repository:
        """Return the repository with its credentials. Nothing is opened.

        :raises CredentialsError: the connection does not exist, or is incomplete.
        :raises ConfigurationError: its URL is malformed, its protocol is not allowed, or the repository is on another
            host.
        """
        return _repository(connection_info(self.git_conn_id), self.repository)

    async def async_conn(self) -> Repository:
        """Return the repository from inside an event loop, such as the triggerer's."""
        return _repository(await async_connection_info(self.git_conn_id), self.repository)

    def test_connection(self, ref: str = "HEAD") -> tuple[bool, str]:
        """Read the ref, and try whether the repository may be pushed to.

        :returns: False if the host, host key, authentication, repository, branch or rights are wrong; and a message.
        """
        from airflow_reverse_etl.git.push import may_push

        try:
            repository = self.get_conn()
            commit = repository.head(ref)
            pushes = may_push(repository)
        except ReverseEtlError as error:
            return False, str(error)
        rights = "may read and push" if pushes else "may read, may not push"
        return True, f"{ref} is at {commit[:12]}; {rights}"

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's behaviour, for Airflow 3.1. Later versions read the provider information themselves."""
        return field_behaviour(GIT_CONNECTION)

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's additional fields, for Airflow 3.1."""
        return form_widgets(GIT_CONNECTION)


def _repository(info: ConnectionInfo, repository: str | None) -> Repository:
    from airflow_reverse_etl.git.repository import PROTOCOLS, Repository

    extra = info.extra
    if not info.host:
        raise CredentialsError("the connection has no repository URL", todo="put it into host", connection=info.conn_id)
    url, user, token = _without_credentials(info.host)
    url = _on_same_host(url, repository, info.conn_id)
    if ":" not in url:  # a path on this machine
        url = str(Path(url).expanduser().absolute())
    return Repository(
        url,
        credentials=_credentials(info, url, user=user, token=token),
        allow_protocols=tuple(extra.get("allow_protocols") or PROTOCOLS),
        submodules=_true(extra.get("submodules")),
        timeout=float(extra.get("timeout") or 300),
        connection=info.conn_id,
    )


def _credentials(info: ConnectionInfo, url: str, *, user: str | None, token: str | None) -> Credentials:
    from airflow_reverse_etl.git.credentials import Credentials

    extra = {name: value for name, value in info.extra.items() if value not in (None, "")}
    app = _app(info, extra, url)
    return Credentials(
        user=info.login or user,
        token=info.password or token,
        private_key=None if app else extra.get("private_key"),
        key_file=None if app else extra.get("key_file"),
        passphrase=None if app else extra.get("private_key_passphrase"),
        known_hosts=extra.get("known_hosts"),
        known_hosts_file=extra.get("known_hosts_file"),
        host_key_checking=extra.get("strict_host_key_checking", "yes"),
        ssh_port=int(extra["ssh_port"]) if "ssh_port" in extra else None,
        ssh_config_file=extra.get("ssh_config_file"),
        host_proxy_cmd=extra.get("host_proxy_cmd"),
        app=app,
        ca_certificates=extra.get("ca_certificates"),
        proxy=extra.get("proxy"),
    )


def _app(info: ConnectionInfo, extra: dict[str, Any], url: str) -> GitHubApp | None:
    from airflow_reverse_etl.git.github_app import GitHubApp, api_and_repository

    if "github_app_id" not in extra:
        return None
    if info.password:
        raise CredentialsError(
            "both a token and a GitHub App are given", todo="leave the password empty", connection=info.conn_id
        )
    key = extra.get("private_key")
    if not key and (file := extra.get("key_file")):
        try:
            key = Path(file).read_text(encoding="utf-8")
        except OSError:
            raise CredentialsError(
                "the GitHub App's key file is not on this worker",
                todo="place it on every worker, or put the key itself into private_key in the connection's extra",
                connection=info.conn_id,
                file=file,
            ) from None
    if not key:
        raise CredentialsError(
            "the GitHub App has no key", todo="put the App's .pem into private_key", connection=info.conn_id
        )
    api_and_repository(url)
    installation = extra.get("github_installation_id")
    return GitHubApp(
        str(extra["github_app_id"]),
        key,
        str(installation) if installation else None,
        narrow=not _true(extra.get("submodules")),  # submodules may be repositories of their own
    )


def _on_same_host(url: str, repository: str | None, conn_id: str) -> str:
    """Return the URL of another repository on the host of a connection's URL, whose credentials it gets.

    :raises ConfigurationError: the repository is on another host.
    """
    if not repository or repository == url:
        return url
    # https://host, ssh://git@host or git@host
    host = re.match(r"[a-zA-Z+]+://[^/]+|[^/:]+(?=:)", url)
    if host:
        start = host[0] + ("/" if "://" in host[0] else ":")
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", repository) and ".." not in repository:
            return start + repository
        if repository.startswith(start):
            return repository
    # A path on this machine: the file's owner decides who may read it.
    elif ":" not in repository and repository.startswith("/"):
        return repository
    raise ConfigurationError(
        "the repository is not on the host of the connection, whose credentials it would get",
        todo="write it as owner/name, or as a URL that begins like the connection's, or use another connection",
        connection=conn_id,
    )


def _true(value: object) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def _without_credentials(url: str) -> tuple[str, str | None, str | None]:
    """Split a URL from the user name and password in it, which the Git provider accepts, too."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return url, None, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(parts.username), unquote(parts.password) if parts.password else None
