"""Small files under the state URL, in a folder and in object storage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.stores.files import StateFiles, reachable
from tests.s3 import Bucket


@pytest.fixture(params=["folder", "file url", "object storage"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StateFiles:
    if request.param == "object storage":
        bucket = request.getfixturevalue("bucket")
        return StateFiles(f"{bucket.url}/with space", bucket.options)
    folder = tmp_path / "with space"
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


def test_a_file_is_created_once(files: StateFiles) -> None:
    assert files.create("a/b.json", b"first")
    assert not files.create("a/b.json", b"second")
    assert files.read("a/b.json") == b"first"
    assert files.list("a") == ["b.json"]


def test_parts_of_a_file_are_read(files: StateFiles) -> None:
    assert files.open("a/b") is None
    files.write("a/b", bytes(range(256)) * 10_000)
    file = files.open("a/b")
    assert file is not None
    with file:
        assert file.size() == 2_560_000
        file.seek(2_000_001)
        assert file.read(3) == b"\x81\x82\x83"
        assert file.read() == (bytes(range(256)) * 10_000)[2_000_004:]


def test_times_are_those_of_the_files_below_a_folder(files: StateFiles) -> None:
    assert files.times("a") == {}
    files.write("a/b", b"")
    files.write("a/c/d", b"")
    files.write("ab/c", b"")
    times = files.times("a")
    assert sorted(times) == ["b", "c/d"]
    assert all(abs(datetime.now(UTC) - time) < timedelta(seconds=60) for time in times.values())


def test_sizes_are_those_of_the_files_below_a_folder(files: StateFiles) -> None:
    assert files.sizes("a") == {}
    files.write("a/b", b"")
    files.write("a/c/d", b"four")
    files.write("ab/c", b"x")
    assert files.sizes("a") == {"b": 0, "c/d": 4}


@pytest.mark.parametrize("to_bucket", [True, False])
def test_a_file_is_copied_to_another_place(
    files: StateFiles, tmp_path: Path, bucket: Bucket, *, to_bucket: bool
) -> None:
    target = StateFiles(f"{bucket.url}/copy", bucket.options) if to_bucket else StateFiles(str(tmp_path / "copy"))
    content = b"x" * 10_000_000
    files.write("a/b", content)
    files.copy("a/b", target)
    assert target.read("a/b") == files.read("a/b") == content
    assert target.list("a") == ["b"]


def _read_part(files: StateFiles) -> None:
    file = files.open("a/b")
    assert file is not None
    with reachable(files.url):
        file.read(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda files: files.read("a/b"),
        lambda files: files.exists("a/b"),
        lambda files: files.write("a/b", b""),
        lambda files: files.write("a/b", b"x" * 6_000_000),
        lambda files: files.create("a/c", b""),
        lambda files: files.list("a"),
        lambda files: files.times("a"),
        lambda files: files.sizes("a"),
        lambda files: files.delete("a"),
        lambda files: files.download("a/b", Path("/dev/null")),
        lambda files: files.upload(Path("/dev/null"), "a/b"),
        lambda files: files.open("a/b"),
        _read_part,
    ],
)
def test_an_object_storage_that_refuses_is_unreachable(bucket: Bucket, call: Callable[[StateFiles], object]) -> None:
    files = StateFiles(f"{bucket.url}/state", bucket.options)
    files.write("a/b", b"x")
    bucket.dial(refuses=503, only="GET" if call is _read_part else None)
    with pytest.raises(UnreachableError, match=r"the state storage failed: .*503") as caught:
        call(files)
    assert not re.search(r"\x1b|Debug source|s3cret", str(caught.value))
    assert caught.value.__suppress_context__, "no traceback of the library"


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
