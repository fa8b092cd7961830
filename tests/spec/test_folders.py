"""The layers of a sync file: defaults of its folders, the file, and the environment that is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.folders.reading import load_known, read_syncs
from airflow_reverse_etl.spec.model import Sync

DEFAULTS = """
source: warehouse
destination: {type: http, connection: crm, path: /people}
guards: {max_removed: 5%}
environments:
  dev: {destination: {connection: sandbox}, dry_run: true}
  prod:
"""
PEOPLE = """
name: people
model: people
destination: {type: http, connection: own, object: people}
guards: {min_rows: 7}
mapping: {email: email}
environments:
  dev: {guards: {min_rows: 0}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sync in ``syncs/crm``, whose defaults are in ``syncs``, in a repository."""
    folder = tmp_path / "repository" / "syncs" / "crm"
    folder.mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    (tmp_path / "defaults.yaml").write_text("source: of_another_repository\nplanner: local\n")
    (folder.parent / "defaults.yaml").write_text(DEFAULTS)
    (folder / "people.yaml").write_text(PEOPLE)
    return folder / "people.yaml"


def test_a_sync_has_the_defaults_of_its_folders_up_to_the_root_of_its_repository(file: Path) -> None:
    sync = Sync.load(file)
    assert (sync.source, sync.planner) == ("warehouse", "auto")
    assert (sync.guards.max_removed, sync.guards.min_rows) == ("5%", 7)
    assert (sync.destination.connection, sync.destination.options) == ("own", {"path": "/people"})
    assert sync.environments == {}
    assert [source.sync for source in read_syncs(file.parents[1])[0]] == [sync]


def test_an_environment_of_the_folder_beats_what_the_file_says_without_one(file: Path) -> None:
    """A connection in a file cannot lead a test to production."""
    dev = Sync.load(file, environment="dev")
    assert (dev.destination.connection, dev.dry_run, dev.guards.min_rows) == ("sandbox", True, 0)
    prod = Sync.load(file, environment="prod")
    assert prod == Sync.load(file)
    with pytest.raises(
        SpecError, match=r"environments: lacks 'stagin', which \[reverse_etl\] environment names"
    ) as error:
        Sync.load(file, environment="stagin")
    assert "add `stagin: {}` if nothing differs in it" in str(error.value)


def test_an_environment_is_chosen_for_a_sync_in_python_too() -> None:
    values = {"name": "a", "model": "a", "source": "w", "mapping": {"a": "a"}, "destination": {"type": "http"}}
    values["environments"] = {"dev": {"source": "d", "destination": {"type": "file", "url": "/x"}}}
    for source in (values, Sync(**values)):
        dev = Sync.load(source, environment="dev")
        assert (dev.source, dev.destination.type, dev.environments) == ("d", "file", {})


def test_problems_name_the_file_and_line_of_their_layer(file: Path) -> None:
    defaults = file.parents[1] / "defaults.yaml"
    defaults.write_text(
        "source: warehouse\nguards:\n  max_remove: 5%\nenvironments:\n  dev:\n    conection: x\n    name: y\n"
    )
    with pytest.raises(SpecError) as error:
        Sync.load(file)
    assert error.value.problems[0].startswith(f"{defaults}:6: environments.dev.conection: unknown key")
    assert error.value.problems[1:] == (
        f"{defaults}:7: environments.dev.name: is the same in all environments",
        f"{defaults}:3: guards.max_remove: unknown key; did you mean 'max_removed'?",
    )
    defaults.write_text("# nothing but a comment\n")
    with pytest.raises(SpecError, match="source: is required"):
        Sync.load(file)
    defaults.write_text("name: people\n")
    with pytest.raises(SpecError, match="defaults are those of several syncs"):
        Sync.load(file)


def test_a_changed_file_or_changed_defaults_are_read_again(file: Path) -> None:
    assert load_known(file)[0].guards.min_rows == 7
    file.write_text(PEOPLE.replace("min_rows: 7", "min_rows: 17"))
    assert load_known(file)[0].guards.min_rows == 17
    (file.parents[1] / "defaults.yaml").write_text(DEFAULTS.replace("source: warehouse", "source: other"))
    assert load_known(file)[0].source == "other"
