"""A folder with a sync, its model in DuckDB, and files as its destination; the program runs there as a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.process import Calls, Program
from tests.duckdb_files import reopened

#: A sync without its destination.
CONTACTS: dict[str, Any] = {
    "name": "contacts",
    "model": {"table": "customers"},
    "source": "warehouse",
    "primary_key": "id",
    "mapping": {"id": "id", "email": "email", "plan": "plan"},
}


class Desk:
    """A folder in which a person uses the program.

    :param folder: the current folder. ``state`` in it is the state URL, ``out`` has the files of the destination.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._warehouse = folder / "warehouse.duckdb"
        connection = json.dumps({"conn_type": "duckdb", "host": str(self._warehouse)})
        self.environment = {
            "AIRFLOW_CONN_WAREHOUSE": connection,
            "AIRFLOW__REVERSE_ETL__STATE_URL": str(folder / "state"),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            **environment,
        }
        self.sql(
            "CREATE TABLE customers AS SELECT * FROM (VALUES (1, 'ada@x.org', 'free'), (2, 'bo@x.org', 'pro'),"
            " (3, 'cy@x.org', 'free')) AS t (id, email, plan)"
        )
        self.sync()

    @property
    def program(self) -> Calls:
        """The program's commands, run in this process."""
        return Calls(self.folder, **self.environment)

    @property
    def process(self) -> Program:
        """The program as a process."""
        return Program(self.folder, **self.environment)

    def sql(self, statement: str) -> None:
        """Run SQL in the warehouse."""
        with reopened(self._warehouse) as connection:
            connection.execute(statement)

    def sync(self, name: str = "contacts", **values: Any) -> Path:
        """Write a sync's file; its destination is files unless the values say otherwise."""
        destination = {"type": "file", "url": str(self.folder / "out"), "format": "jsonl"}
        spec = {**CONTACTS, "name": name, "destination": destination, **values}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    def sent(self) -> list[dict[str, Any]]:
        """The lines of all files of the destination."""
        files = sorted((self.folder / "out").rglob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path, airflow_db: None) -> Desk:
    return Desk(tmp_path)
