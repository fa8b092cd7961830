"""Surroundings of the demo's DAG: a warehouse with raw data, a Git repository with the dbt project, and the CRM."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, Request, build_opener

import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "dbt_project"
CUSTOMERS = 1_200

_RAW = """
create schema raw;
create table raw.customers as
select i as customer_id, 'customer' || i || '@example.com' as email,
    ['Ada', 'Alan', 'Barbara', 'Edsger', 'Grace', 'Ken', 'Radia', 'Tim'][1 + i % 8] as first_name,
    ['DE', 'FR', 'GB', 'JP', 'US'][1 + i % 5] as country, ['free', 'pro', 'team'][1 + i % 3] as plan,
    timestamp '2026-01-01' + to_days((i % 300)::int) as created_at
from range(1, {customers} + 1) numbers(i);
create table raw.orders as
select i as order_id, 1 + i * 7 % {customers} as customer_id,
    (5 + i % 95 + if(i % 97 = 0, 0.4, 0))::decimal(10, 2) as amount,
    timestamp '2026-02-01' + to_hours((i % 5000)::int) as ordered_at
from range({customers} * 3) numbers(i)
"""
_CHANGES = """
insert into raw.customers
select i, 'customer' || i || '@example.com', 'Margaret', 'US', 'pro', timestamp '2026-11-01'
from range(2001, 2006) numbers(i);
insert into raw.customers values (2006, 'throwaway@spam.example', 'Mallory', 'US', 'free', timestamp '2026-11-01');
update raw.customers set plan = 'team' where customer_id between 101 and 108 and plan <> 'team';
delete from raw.customers where customer_id in (7, 77, 777)
"""


class Warehouse:
    """A DuckDB file with the raw tables of a shop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._execute(_RAW.format(customers=CUSTOMERS))

    def change(self) -> None:
        """Add six customers, one with an address that the CRM refuses; change the plan of some, and delete three."""
        self._execute(_CHANGES)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def _execute(self, sql: str) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(sql)


class Repository:
    """A Git repository with the example dbt project in its folder ``analytics``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(PROJECT, path / "analytics", ignore=shutil.ignore_patterns("target", "logs", "dbt_packages"))
        self._git("init", "--quiet", "--initial-branch", "main")
        self.commit("The shop's dbt project")

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file of the project.

        :raises ValueError: the file does not have the text exactly once.
        """
        path = self.path / "analytics" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} has {old!r} {text.count(old)} times instead of once")
        path.write_text(text.replace(old, new))

    def commit(self, message: str) -> str:
        """Commit everything; return the short hash."""
        self._git("add", "--all")
        self._git("-c", "user.name=Demo", "-c", "user.email=demo@example.com", "commit", "--quiet", "-m", message)
        return self._git("rev-parse", "--short", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        # Ignore the user's own configuration, which may ask for signatures, hooks or templates.
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout


@dataclass(frozen=True, slots=True)
class Crm:
    """A client of the CRM, which runs in a process of its own."""

    url: str
    token: str

    @classmethod
    @contextmanager
    def running(cls, data: Path, log: Path) -> Iterator[Crm]:
        """Start the CRM on a free port with a new token; stop it at the end of the block."""
        token = secrets.token_hex(16)
        command = [sys.executable, str(HERE / "crm.py"), "--data", str(data)]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "CRM_TOKEN": token}
            ) as process,
        ):
            try:
                assert process.stdout is not None
                yield cls(process.stdout.readline().strip(), token)
            finally:
                process.terminate()

    def contacts(self) -> dict[str, dict[str, Any]]:
        """Return the CRM's contacts: e-mail address → properties."""
        return {record["email"]: record["properties"] for record in self._get("/v1/contacts")["records"]}

    def counts(self) -> dict[str, int]:
        """Return what the CRM counted since it started: requests, requests answered with 429, rows, rejected rows."""
        counts: dict[str, int] = self._get("/v1/stats")
        return counts

    def _get(self, path: str) -> Any:
        request = Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        with build_opener(ProxyHandler({})).open(request) as reply:  # on this machine, so without a proxy
            return json.load(reply)
