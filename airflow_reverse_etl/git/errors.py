"""Translation of git's and ssh's error messages into errors that say what to do.

The table was written from git 2.39 and OpenSSH 9.2 in the C locale, in which they always run here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from airflow_reverse_etl.errors import (
    ConfigurationError,
    CredentialsError,
    RepositoryNotFoundError,
    ReverseEtlError,
    RunConflictError,
    TryLaterError,
    UnreachableError,
)
from airflow_reverse_etl.worker_disk import NO_SPACE


class _KnownMessage(NamedTuple):
    pattern: str
    error: type[ReverseEtlError]
    what: str
    todo: str


# The first entry that matches wins, so a specific pattern stands before a general one.
KNOWN_MESSAGES = (
    _KnownMessage(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        CredentialsError,
        "the SSH host key has changed",
        "compare the host key with the fingerprints that the host publishes, then replace the line in known_hosts; a "
        "key that differs from them points to an intercepted connection",
    ),
    _KnownMessage(
        r"Host key verification failed|No \S+ host key is known",
        CredentialsError,
        "the SSH host key is not known",
        "add the line from ssh-keyscan (-p PORT) to known_hosts in the connection's extra, after comparing it with the "
        "fingerprints that the host publishes",
    ),
    _KnownMessage(
        r"incorrect passphrase",
        CredentialsError,
        "the passphrase does not unlock the SSH key",
        "correct private_key_passphrase in the connection's extra",
    ),
    _KnownMessage(
        r"Load key .*(error in libcrypto|invalid format)",
        CredentialsError,
        "the SSH key cannot be read",
        "paste the whole private key again, line breaks included; if it has a passphrase, set private_key_passphrase",
    ),
    _KnownMessage(
        r"bad permissions|UNPROTECTED PRIVATE KEY",
        CredentialsError,
        "the SSH key file can be read by others",
        "run chmod 600 on the key file, or put the key itself into private_key in the connection's extra",
    ),
    _KnownMessage(
        r"(Identity file|Load key) .*(not accessible|No such file)",
        CredentialsError,
        "the SSH key file was not found on this worker",
        "place the key file on every worker, or put the key itself into private_key in the connection's extra",
    ),
    _KnownMessage(
        r"Permission denied \(|Too many authentication failures",
        CredentialsError,
        "the host refused the SSH key",
        "add the public key to the repository as a deploy key, or to the account; for a key with a passphrase, set "
        "private_key_passphrase",
    ),
    _KnownMessage(
        r"\[rejected\].*(fetch first|non-fast-forward)|cannot lock ref|failed to update ref",
        RunConflictError,
        "the branch received another push meanwhile",
        "run the task again: it starts from the branch's new commit",
    ),
    _KnownMessage(
        r"\[remote rejected\]|protected branch|GH006|pre-receive hook declined",
        CredentialsError,
        "the host does not allow pushes to this branch",
        "choose a branch that is not protected, or exempt the account from the branch's rules",
    ),
    _KnownMessage(
        r"marked as read only|not allowed to (push|upload)|Permission to .* denied|does not permit git-receive-pack"
        r"|service not enabled",
        CredentialsError,
        "the credentials may read this repository but not push to it",
        "give the token, the App or the deploy key write access to the repository's contents",
    ),
    _KnownMessage(
        r"Write access to repository not granted",
        CredentialsError,
        "the token has no access to the contents of this repository",
        "give the token access to the repository's contents, which GitHub calls write access even for reading; "
        "a fine-grained token must also list the repository",
    ),
    _KnownMessage(
        r"(CONNECT.*response|HTTP code) 407",
        CredentialsError,
        "the proxy requires a valid user name and password",
        "set the proxy in the connection's extra as http://user:password@host:port",
    ),
    _KnownMessage(
        r"Authentication failed|could not read (Username|Password)|returned error: 401|HTTP Basic: Access denied",
        CredentialsError,
        "the host requires a valid token",
        "put an unexpired token into the connection's password, authorised for SSO where the organisation requires it, "
        "and the token's user name into the login unless it is the host's default",
    ),
    _KnownMessage(
        r"returned error: 403|access denied|Access denied",
        CredentialsError,
        "the credentials are valid but lack the permission",
        "give the token, the App or the deploy key read access to the repository's contents; write access to push",
    ),
    _KnownMessage(
        r"repository '.*' not found|[Rr]epository not found|returned error: 404|does not appear to be a git repository"
        r"|could not be found or you don't have permission",
        RepositoryNotFoundError,
        "the repository does not exist, or the credentials cannot see it",
        "check the repository's URL in the connection, and the token's access if the repository is private",
    ),
    _KnownMessage(
        r"transport '.*' not allowed",
        ConfigurationError,
        "the repository's URL uses a protocol that is not allowed",
        "use https or ssh, or list the protocol in allow_protocols in the connection's extra",
    ),
    _KnownMessage(
        r"invalid value for 'submodule\.|ignoring suspicious submodule|disallowed submodule",
        ConfigurationError,
        "git refuses the repository's .gitmodules",
        "correct .gitmodules in the repository, or remove submodules from the connection's extra",
    ),
    _KnownMessage(
        r"returned error: 30\d|unable to update url base from redirection",
        RepositoryNotFoundError,
        "the repository has moved",
        "put the new URL into the connection",
    ),
    _KnownMessage(
        r"server certificate verification failed|SSL certificate problem|certificate verify",
        UnreachableError,
        "the host's certificate is not trusted",
        "put the authority's certificate, or the path of its file, into ca_certificates in the connection's extra",
    ),
    _KnownMessage(
        NO_SPACE.pattern,
        TryLaterError,
        "the worker's disk is full",
        "make space in the folder of checkouts and in the worker's temporary folder, or set TMPDIR to another one",
    ),
    _KnownMessage(
        r"dubious ownership",
        ConfigurationError,
        "the local repository belongs to another user",
        "let the worker's user own the folder, or serve the repository over https or ssh",
    ),
    _KnownMessage(
        r"Could not resolve|Proxy CONNECT aborted|CONNECT tunnel failed|Connection (refused|timed out|reset)"
        r"|Failed to connect|Couldn't connect|Operation timed out"
        r"|Network is unreachable|No route to host|returned error: (429|5\d\d)|hung up unexpectedly"
        r"|early EOF"
        r"|Empty reply|Connection closed by|git did not end within|RPC failed",
        UnreachableError,
        "the git host did not answer",
        "try again later; if the error persists, check the URL's host and port, and the proxy in the connection's "
        "extra or in the worker's https_proxy",
    ),
)


#: Errors of ``git push`` that mean something else to every other command.
PUSH_MESSAGES = (
    _KnownMessage(
        r"Write access to repository not granted|returned error: 403|[Aa]ccess denied",
        CredentialsError,
        "the credentials may not push to this repository",
        "verify that the account associated with the token has a write role in the repository's settings; a "
        "fine-grained token or an App needs the permission to write the repository's contents",
    ),
)


def git_error(stderr: str, *, command: str = "", **where: object) -> ReverseEtlError:
    """Build the error for git's stderr, from which secrets have been removed. Unknown text is passed on.

    :param command: git's command that failed, such as ``fetch`` or ``push``.
    """
    message = "; ".join(_informative_lines(stderr)) or "no message"
    known_messages = (*PUSH_MESSAGES, *KNOWN_MESSAGES) if command == "push" else KNOWN_MESSAGES
    for known in known_messages:
        if re.search(known.pattern, stderr):
            return known.error(f"{known.what}: {message}", todo=known.todo, **where)
    todo = "try again later; if the error persists, follow git's words"
    return UnreachableError(f"git failed: {message}", todo=todo, **where)


def _informative_lines(stderr: str) -> list[str]:
    """Return the last lines that describe the problem, without git's general advice and ssh's boxes of @."""
    advice = (
        r"Please make sure you have the correct access rights|and the repository exists|^@+$|^\s*$|^hint: |^warning: "
    )
    lines = (line.strip() for line in stderr.splitlines())
    return [line for line in lines if not re.search(advice, line)][-6:]
