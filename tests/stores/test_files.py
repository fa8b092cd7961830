"""Small files under the state URL, in a folder and in object storage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.stores.files import StateFiles
from tests.stores.conftest import as_object_storage


@pytest.fixture(params=["folder", "file url", "object storage"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StateFiles:
    folder = tmp_path / "with space"
    if request.param == "object storage":
        folder.mkdir()
        return as_object_storage(StateFiles(str(folder)), folder)
    return StateFiles(str(folder) if request.param == "folder" else folder.as_uri())


def test_what_was_written_is_read_and_listed_until_it_is_deleted(files: StateFiles) -> None:
    assert files.read("a/b.json") is None
    assert files.list("a") == []
    files.write("a/b.json", b"old")
    files.write("a/b.json", b"new")
    files.write("a/c/d.json", b"x" * 10_000_000)
    assert files.read("a/b.json") == b"new"
    assert files.read("a/c/d.json") == b"x" * 10_000_000
    assert files.list("a") == ["b.json", "c"]
    files.delete("a/c")
    assert files.read("a/c/d.json") is None
    files.delete("a/b.json")
    assert files.read("a/b.json") is None
    files.delete("a/b.json")
    files.delete("never/was")


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StateFiles(str(tmp_path))
    files.write("a.json", b"old")

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write("a.json", b"new")
    monkeypatch.undo()
    assert files.read("a.json") == b"old"
    assert files.list("") == ["a.json"]


def test_children_have_absolute_urls(tmp_path: Path) -> None:
    assert StateFiles("state").child("a/b") == f"{Path.cwd()}/state/a/b"
    assert StateFiles(tmp_path.as_uri()).child("a") == f"{tmp_path}/a"
    assert StateFiles("s3://bucket/prefix/").child("a") == "s3://bucket/prefix/a"


def test_a_url_without_a_bucket_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no bucket"):
        StateFiles("s3:///prefix")


def test_storage_that_fails_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UnreachableError, match="state storage failed"):
        StateFiles(str(tmp_path / "file")).write("a/b", b"")
