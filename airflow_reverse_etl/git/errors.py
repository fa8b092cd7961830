"""What git and ssh say when something is wrong, and what to do about it.

The table was written from git 2.39 and OpenSSH 9.2 in the C locale, which is the one we run them in; order matters.
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
    UnreachableError,
)


class _Known(NamedTuple):
    pattern: str
    error: type[ReverseEtlError]
    what: str
    todo: str


_KNOWN = (
    _Known(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        CredentialsError,
        "the SSH host key is not the known one",
        "someone may be in between: compare with the fingerprints that the host publishes, and only then replace the "
        "line in known_hosts",
    ),
    _Known(
        r"Host key verification failed|No \S+ host key is known",
        CredentialsError,
        "the SSH host key is not known",
        "add the host's line to known_hosts in the connection's extra: get it with ssh-keyscan (-p PORT), and compare "
        "it with the fingerprints that the host publishes",
    ),
    _Known(
        r"incorrect passphrase",
        CredentialsError,
        "the passphrase does not open the SSH key",
        "set private_key_passphrase in the connection's extra",
    ),
    _Known(
        r"Load key .*(error in libcrypto|invalid format)",
        CredentialsError,
        "the SSH key cannot be read",
        "paste the whole private key again, line breaks included; if it has a passphrase, set private_key_passphrase",
    ),
    _Known(
        r"bad permissions|UNPROTECTED PRIVATE KEY",
        CredentialsError,
        "the SSH key file can be read by others",
        "chmod 600 the key file, or put the key itself into private_key in the connection's extra",
    ),
    _Known(
        r"(Identity file|Load key) .*(not accessible|No such file)",
        CredentialsError,
        "the SSH key file is not on this worker",
        "place it on every worker, or put the key itself into private_key in the connection's extra",
    ),
    _Known(
        r"Permission denied \(|Too many authentication failures",
        CredentialsError,
        "the host refused the SSH key",
        "add its public key to the repository as a deploy key, or to the account; a key with a passphrase needs "
        "private_key_passphrase",
    ),
    _Known(
        r"\[rejected\].*(fetch first|non-fast-forward)|cannot lock ref|failed to update ref",
        RunConflictError,
        "somebody else pushed to the branch",
        "run the task again: it starts from what is there now",
    ),
    _Known(
        r"\[remote rejected\]|protected branch|GH006|pre-receive hook declined",
        CredentialsError,
        "the host does not let this branch be pushed to",
        "choose a branch that is not protected, or exempt the account from its rules",
    ),
    _Known(
        r"marked as read only|not allowed to (push|upload)|Permission to .* denied|does not permit git-receive-pack"
        r"|service not enabled",
        CredentialsError,
        "the credentials may read this repository but not push to it",
        "give the token, the App or the deploy key write access to the repository's contents",
    ),
    _Known(
        r"Write access to repository not granted",
        CredentialsError,
        "the token may not read this repository",
        "give it read access to the repository's contents; a fine-grained token must also list the repository",
    ),
    _Known(
        r"(CONNECT.*response|HTTP code) 407",
        CredentialsError,
        "the proxy wants a valid user name and password",
        "write them into the proxy's URL in the connection's extra: http://user:password@host:port",
    ),
    _Known(
        r"Authentication failed|could not read (Username|Password)|returned error: 401|HTTP Basic: Access denied",
        CredentialsError,
        "the host wants a valid token",
        "put an unexpired token into the connection's password (authorised for SSO where the organisation demands it), "
        "and into the login the user name that belongs to it, if it is not the host's usual one",
    ),
    _Known(
        r"returned error: 403|access denied|Access denied",
        CredentialsError,
        "the host knows the credentials but they may not do this",
        "give the token, the App or the deploy key read access to the repository's contents; write access to push",
    ),
    _Known(
        r"repository '.*' not found|[Rr]epository not found|returned error: 404|does not appear to be a git repository"
        r"|could not be found or you don't have permission",
        RepositoryNotFoundError,
        "there is no such repository, or the credentials cannot see it",
        "check the repository's URL in the connection; hosts also say so when a token may not see a private repository",
    ),
    _Known(
        r"transport '.*' not allowed",
        ConfigurationError,
        "the repository's URL uses a protocol that is not allowed",
        "use https or ssh, or list the protocol in allow_protocols in the connection's extra",
    ),
    _Known(
        r"invalid value for 'submodule\.|ignoring suspicious submodule|disallowed submodule",
        ConfigurationError,
        "git refuses what .gitmodules says",
        "correct it in the repository; until then, leave submodules out of the connection's extra",
    ),
    _Known(
        r"returned error: 30\d|unable to update url base from redirection",
        RepositoryNotFoundError,
        "the repository has moved",
        "put its new URL into the connection",
    ),
    _Known(
        r"server certificate verification failed|SSL certificate problem|certificate verify",
        UnreachableError,
        "the host's certificate is not trusted",
        "put the certificate authority's certificate, or the path of its file, into ca_certificates in the "
        "connection's extra",
    ),
    _Known(
        r"dubious ownership",
        ConfigurationError,
        "the local repository belongs to another user",
        "let the worker's user own the folder, or serve it over https or ssh",
    ),
    _Known(
        r"Could not resolve|Proxy CONNECT aborted|CONNECT tunnel failed|Connection (refused|timed out|reset)"
        r"|Failed to connect|Couldn't connect|Operation timed out"
        r"|Network is unreachable|No route to host|returned error: (429|5\d\d)|hung up unexpectedly"
        r"|early EOF"
        r"|Empty reply|Connection closed by|git did not end within|RPC failed",
        UnreachableError,
        "the git host did not answer",
        "try again later; if it stays, check the URL's host and port, and the proxy: in the connection's extra, or the "
        "worker's https_proxy",
    ),
)


def git_error(stderr: str, **where: object) -> ReverseEtlError:
    """The error for what git wrote to stderr, which must hold no secrets any more. Unknown text is kept whole."""
    said = "; ".join(_told(stderr)) or "git said nothing"
    for known in _KNOWN:
        if re.search(known.pattern, stderr):
            return known.error(f"{known.what}: {said}", todo=known.todo, **where)
    return UnreachableError(f"git failed: {said}", todo="try again later; if it stays, git's words say why", **where)


def _told(stderr: str) -> list[str]:
    """The lines that say something: git pads them with general advice, and ssh draws boxes of @."""
    advice = (
        r"Please make sure you have the correct access rights|and the repository exists|^@+$|^\s*$|^hint: |^warning: "
    )
    lines = (line.strip() for line in stderr.splitlines())
    return [line for line in lines if not re.search(advice, line)][-6:]
