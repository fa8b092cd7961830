from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.git.servers import HttpServer, Origin, SshServer, http_server, ssh_server


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A repository with dbt projects in ``analytics`` and ``other/dbt``, a tag, and a second branch."""
    origin = Origin.create(tmp_path / "git")
    origin.commit(
        {
            "README.md": "read me",
            "analytics/dbt_project.yml": "name: analytics\nversion: '1.0'\nprofile: analytics\n",
            "analytics/models/customers.sql": "select 1 as customer_id",
            "other/dbt/dbt_project.yml": "name: other\n",
            "big/data.csv": "x\n" * 10_000,
        },
        "first",
    )
    origin.push("HEAD:refs/heads/release/1.0", "HEAD:refs/heads/develop")
    return origin


@pytest.fixture
def http(origin: Origin) -> Iterator[HttpServer]:
    with http_server(origin.bare.parent, token="s3cr3t/tok:en") as server:
        yield server


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        pytest.skip("sshd is not installed: apt-get install openssh-server")
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server
