"""Git repositories behind Airflow connections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_reverse_etl._airflow import BaseHook, connection_info
from airflow_reverse_etl.errors import CredentialsError

if TYPE_CHECKING:
    from airflow_reverse_etl.dbt.repository import Repository


class GitRepositoryHook(BaseHook):
    """A connection of type ``git``, with the fields that apache-airflow-providers-git gives it.

    ``host`` is the repository's URL (https, ssh or ``git@host:path``), ``login`` the user name (default: the one that
    GitHub, GitLab and Bitbucket expect beside a token), ``password`` the token. Extra:

    * ``private_key`` or ``key_file``, ``private_key_passphrase``: SSH key
    * ``known_hosts`` (lines) or ``known_hosts_file``, ``strict_host_key_checking``: ``yes`` (our default, which is
      stricter than the Git provider's), ``accept-new`` or ``no``
    * ``ssh_port``, ``ssh_config_file``, ``host_proxy_cmd``
    * ``allow_protocols``: list; default ``["https", "ssh"]``. Add ``file`` for repositories on the worker's own disk
    * ``timeout``: seconds that one git command may take; default 300

    What it does not do: GitHub Apps; use a token or a deploy key.

    :param git_conn_id: Airflow connection id.
    """

    conn_name_attr = "git_conn_id"
    default_conn_name = "git_default"

    def __init__(self, git_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.git_conn_id = git_conn_id

    def get_conn(self) -> Repository:
        """The repository with its credentials; opens nothing.

        :raises CredentialsError: the connection is absent or incomplete.
        :raises ConfigurationError: its URL is malformed, or its protocol is not allowed.
        """
        from airflow_reverse_etl.dbt.credentials import Credentials
        from airflow_reverse_etl.dbt.repository import PROTOCOLS, Repository

        info = connection_info(self.git_conn_id)
        extra = info.extra
        self._refuse(extra, host=info.host)
        url, user, token = _without_credentials(info.host or "")
        if ":" not in url:  # a path on this machine
            url = str(Path(url).expanduser().absolute())
        return Repository(
            url,
            credentials=Credentials(
                user=info.login or user,
                token=info.password or token,
                private_key=extra.get("private_key") or None,
                key_file=extra.get("key_file") or None,
                passphrase=extra.get("private_key_passphrase") or None,
                known_hosts=extra.get("known_hosts") or None,
                known_hosts_file=extra.get("known_hosts_file") or None,
                host_key_checking=extra.get("strict_host_key_checking") or "yes",
                ssh_port=int(extra["ssh_port"]) if extra.get("ssh_port") else None,
                ssh_config_file=extra.get("ssh_config_file") or None,
                host_proxy_cmd=extra.get("host_proxy_cmd") or None,
            ),
            allow_protocols=tuple(extra.get("allow_protocols") or PROTOCOLS),
            timeout=float(extra.get("timeout") or 300),
            connection=self.git_conn_id,
        )

    def _refuse(self, extra: dict[str, Any], *, host: str | None) -> None:
        if not host:
            raise CredentialsError(
                "the connection has no repository URL", todo="put it into host", connection=self.git_conn_id
            )
        if extra.get("github_app_id"):
            raise CredentialsError(
                "GitHub Apps are not supported yet",
                todo="use a token (in password) or a deploy key (in private_key)",
                connection=self.git_conn_id,
            )


def _without_credentials(url: str) -> tuple[str, str | None, str | None]:
    """A URL, and the user name and password that were in it, as the Git provider accepts them too."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return url, None, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(parts.username), unquote(parts.password) if parts.password else None
